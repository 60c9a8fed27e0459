import dataclasses
import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from dmgan_runtime.errors import BundleError, DataError, SettingsError
from dmgan_runtime.tokenizer import Tokenizer
from dmgan_train.cli import main
from dmgan_train.evaluation.bundle_source import BundleSource, open_source
from dmgan_train.evaluation.image_source import RunSource
from dmgan_train.evaluation.metrics.evaluate import Plan, evaluate
from dmgan_train.evaluation.metrics.protocol import read_evaluation, table
from dmgan_train.evaluation.metrics.r_precision import RPrecision, read_encoders
from tests.dmgan_train.data.drawing import write_metadata
from tests.dmgan_train.evaluation.metrics.network import flat_network

CPU = torch.device("cpu")


def invoke(*arguments: object):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def quick(monkeypatch):
    """The command with a feature network that needs no time."""
    monkeypatch.setattr("dmgan_train.evaluation.metrics.features.load_features", lambda *_: flat_network())


def test_a_number_comes_with_its_protocol(run, images, quick, tmp_path) -> None:
    output = tmp_path / "results.json"
    options = ("--images", 30, "--split", "train", "--seed", 4, "--truncation", 0.5, "-o", output)
    result = invoke("evaluate", run.root, "--data", images, "--metrics", "is,fid,diversity,retrieval", *options)
    assert result.exit_code == 0, result.output
    evaluation = read_evaluation(output)
    assert list(evaluation.results) == ["is", "fid", "diversity", "retrieval"]
    shared = evaluation.protocol
    assert shared["model"]["kind"] == "run"
    assert shared["model"]["gan_steps"] == 4
    assert "EMA 0.99" in shared["model"]["weights"]
    assert shared["data"] == {"name": images.name, "source": "image_folder", "split": "train", "pictures": 8}
    assert shared["truncation"] == 0.5
    assert shared["seed"].startswith("4;")
    assert shared["versions"].keys() >= {"dmgan", "torch", "torchmetrics"}
    for name in ("is", "fid", "diversity"):
        assert evaluation.results[name].protocol["features"]["weights_sha256"] == "0" * 64
    assert evaluation.results["fid"].protocol["generated_images"] == 30
    assert evaluation.results["fid"].protocol["real_images"] == 8
    for line in table(evaluation.results.values()):
        assert line in result.output
    for name in ("is", "fid"):  # few images are few, where the numbers stand too
        assert (
            f"caution, {evaluation.results[name].name}: {evaluation.results[name].protocol['caution']}" in result.output
        )


def test_a_bundle_is_measured_as_its_run_is(run, bundle, images, tmp_path, quick) -> None:
    values = []
    for model in (run.root, bundle):
        output = tmp_path / f"{model.name}-{len(values)}.json"
        result = invoke("evaluate", model, "--data", images, "--metrics", "fid,is", "--images", 40, "-o", output)
        assert result.exit_code == 0, result.output
        values.append(read_evaluation(output))
    ours, theirs = values
    assert theirs.protocol["model"]["kind"] == "bundle"
    assert "onnxruntime" in theirs.protocol["model"]["engine"]
    for name in ("fid", "is"):  # a level of 255 may be rounded the other way
        assert theirs.results[name].value == pytest.approx(ours.results[name].value, rel=0.01)


def test_runs_and_bundles_generate_the_same_pictures_whatever_the_batch(run, bundle) -> None:
    captions, seeds = ["a red square", "this square is blue", "a green square on white"], [5, 2**40, 7]
    with open_source(bundle, CPU) as served:
        there = served.generate(captions, seeds).int()
    source = RunSource(run, CPU)
    here = source.generate(captions, seeds).int()
    alone = torch.cat([source.generate([one], [seed]) for one, seed in zip(captions, seeds, strict=True)]).int()
    assert here.shape == (3, 3, 32, 32)
    assert (here - there).abs().max() <= 1
    assert (here - alone).abs().max() <= 1
    assert (here[0] - here[1]).abs().max() > 1


def test_less_truncation_is_less_noise(run) -> None:
    spreads = []
    for truncation in (0.1, 1.0):
        images = RunSource(run, CPU, truncation).generate(["a red square"] * 4, [1, 2, 3, 4]).float()
        spreads.append(float(images.std(dim=0).mean()))
    assert spreads[0] < spreads[1]


def test_the_explanation_of_a_run_is_that_of_its_bundle(run, bundle) -> None:
    (ours,) = RunSource(run, CPU).explain(["a red square zebra"], [3])
    with open_source(bundle, CPU) as served:
        (theirs,) = served.explain(["a red square zebra"], [3])
    assert (ours.words, ours.unknown_words) == (theirs.words, theirs.unknown_words)
    assert list(ours.stages) == list(theirs.stages)
    assert ours.attention.keys() == theirs.attention.keys()
    for side, attention in ours.attention.items():
        assert attention == pytest.approx(theirs.attention[side], abs=1e-4)
        assert ours.gates[side].writing == pytest.approx(theirs.gates[side].writing, abs=1e-4)
        assert ours.gates[side].response == pytest.approx(theirs.gates[side].response, abs=1e-4)


def test_results_lie_beside_the_run_unless_told_otherwise(run, images, quick, tmp_path) -> None:
    """Under the names of what differs: seed, data, weights of the feature network."""
    copy, others = shutil.copytree(run.root, tmp_path / "run"), shutil.copytree(images, tmp_path / "cub")
    (weights := tmp_path / "weights.pth").touch()
    for options in (
        ("--data", images),
        ("--data", images, "--seed", 7),
        ("--data", others),
        ("--data", others, "--feature-weights", weights),
    ):
        result = invoke("evaluate", copy, "--metrics", "is", "--images", 20, *options)
        assert result.exit_code == 0, result.output
    usual = "step-0000004-test-efficientnet_lite2-is-images-20"
    names = ("", "-on-cub", "-on-cub-weights-00000000", "-seed-7")
    assert sorted(file.stem for file in (copy / "metrics").iterdir()) == [f"{usual}{name}" for name in names]
    assert json.loads((copy / "metrics" / f"{usual}.json").read_text())["results"]["is"]["protocol"]


def test_only_captions_that_training_used_are_generated_from(run, images) -> None:
    """A run on the first captions of each picture is not asked for the others."""
    source, asked = RunSource(run, CPU), set()
    source.data = msgspec.structs.replace(source.data, captions_per_image=1)
    generate = source.generate
    source.generate = lambda captions, seeds: asked.update(captions) or generate(captions, seeds)
    measured = evaluate(source, flat_network(), None, Plan(("is",), images, images=40))
    assert measured.protocol["captions_per_image"] == 1
    assert asked == {"a blue square on white"}


def with_unknown_captions(images: Path, root: Path, count: int) -> Path:
    """The squares, of which some have a caption that the run's vocabulary cannot read, and one has no other."""
    shutil.copytree(images, root)
    lines = [json.loads(line) for line in (root / "metadata.jsonl").read_text().splitlines()]
    for line in lines[:count]:
        line["captions"].append("xylophone quartet")
    lines[0]["captions"] = ["xylophone quartet"]
    (root / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


def test_captions_that_the_model_cannot_read_are_left_out_before_anything_is_generated(run, images, tmp_path) -> None:
    source, asked = RunSource(run, CPU), []
    generate = source.generate
    source.generate = lambda captions, seeds: asked.extend(captions) or generate(captions, seeds)
    few = with_unknown_captions(images, tmp_path / "few", 3)
    judges = read_encoders(run, CPU)._replace(tokenizer=Tokenizer(["<end>", "square"]))
    measured = evaluate(source, flat_network(), judges, Plan(("is", "retrieval"), few, split="train", images=30))
    assert measured.protocol["data"]["pictures"] == 7
    assert len(asked) == 30 + 14 + 8
    many = with_unknown_captions(images, tmp_path / "many", 12)
    asked.clear()
    source.data = msgspec.structs.replace(source.data, broken_limit=3)
    with pytest.raises(DataError, match=r"(?s)at most 3 may be.*no word of the caption 'xylophone quartet' is in"):
        evaluate(source, flat_network(), None, Plan(("is",), many, split="train", images=30))
    other = write_metadata(tmp_path / "other", [{"file_name": "a.png", "text": "xylophone", "split": "test"}])
    with pytest.raises(DataError, match="no caption of the split 'test' has a word of the vocabulary of the model"):
        evaluate(source, flat_network(), None, Plan(("is",), other, images=30))
    assert not asked


def test_missing_pictures_are_found_before_anything_is_generated(run, images, tmp_path) -> None:
    source = RunSource(run, CPU)
    source.generate = lambda *_: pytest.fail("generated")
    root = shutil.copytree(images, tmp_path / "squares")
    for path in root.glob("*.png"):
        path.unlink()
    with pytest.raises(DataError, match="missing"):
        evaluate(source, flat_network(), None, Plan(("is", "retrieval"), root, split="train", images=20))


def test_drawings_of_one_class_are_found_before_anything_is_generated(run, images, tmp_path) -> None:
    root = Path(shutil.copytree(images, tmp_path / "one"))
    lines = [json.loads(line) | {"class": "bird"} for line in (root / "metadata.jsonl").read_text().splitlines()]
    write_metadata(root, lines)
    source = RunSource(run, CPU)
    source.generate = lambda *_: pytest.fail("generated")
    plan = Plan(("is", "retrieval"), root, "image_folder", images=20)
    with pytest.raises(DataError, match="two classes"):
        evaluate(source, flat_network(), None, plan)


def test_data_that_look_like_others_than_it_was_trained_on_must_be_named(run, images) -> None:
    source = RunSource(run, CPU)
    described = source.describe() | {"trained_on": {"source": "coco"}}
    source.describe = lambda: described
    plan = Plan(("is",), images, split="train", images=20)
    with pytest.raises(SettingsError, match=r"looks like image_folder, .* read as coco; pass --source"):
        evaluate(source, flat_network(), None, plan)
    assert evaluate(source, flat_network(), None, dataclasses.replace(plan, data_source="image_folder")).results
    described["trained_on"] = {"source": "emoji"}  # which is read as an image folder
    assert evaluate(source, flat_network(), None, plan).results


def test_a_share_that_was_held_out_is_what_is_measured(run, images, tmp_path) -> None:
    lines = [json.loads(line) for line in (images / "metadata.jsonl").read_text().splitlines()]
    root = shutil.copytree(images, tmp_path / "squares")
    write_metadata(root, [{key: value for key, value in line.items() if key != "split"} for line in lines])
    source = RunSource(run, CPU)
    source.data = msgspec.structs.replace(source.data, held_out=0.25)
    pictures = evaluate(source, flat_network(), None, Plan(("is",), root, images=20)).protocol["data"]["pictures"]
    assert pictures == 3


@pytest.mark.parametrize("content", [b"", b"[]", b'{"results": {}, "protocol": {"a": ' + b"[" * 100_000])
def test_results_that_are_none_are_a_message(tmp_path, content) -> None:
    (tmp_path / "results.json").write_bytes(content)
    with pytest.raises(DataError, match=r"results\.json: holds no results"):
        read_evaluation(tmp_path / "results.json")


def test_the_judges_of_r_precision_must_know_a_caption_too(run, images) -> None:
    judges = read_encoders(run, CPU)._replace(tokenizer=Tokenizer(["<end>", "xylophone"]), name="orchestra")
    with pytest.raises(DataError, match="a word of the vocabulary of orchestra"):
        evaluate(RunSource(run, CPU), flat_network(), judges, Plan(("r_precision",), images, images=20))


def test_a_bundle_knows_how_its_training_data_were_read(run, bundle) -> None:
    with BundleSource(bundle) as source:
        own = run.settings().data
        assert source.data == own


@pytest.mark.parametrize(
    "provenance", [{"gan_steps": "4"}, {"settings": 3}, {"settings": {"data": {"augment": "x"}}}, {"data": []}]
)
def test_a_bundle_with_another_provenance_is_a_message(bundle, tmp_path, provenance) -> None:
    copy = shutil.copytree(bundle, tmp_path / "bundle")
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, "provenance": provenance}))
    with pytest.raises(BundleError, match="its provenance is not what an export writes"):
        BundleSource(copy)


def test_r_precision_of_a_bundle_needs_encoders(run, images) -> None:
    plan = Plan(("r_precision",), images, images=20)
    with pytest.raises(SettingsError, match="--judge"):
        evaluate(RunSource(run, CPU), flat_network(), None, plan)


def test_statistics_stand_for_pictures(run, images, quick, tmp_path) -> None:
    """FID from statistics that were saved is FID from the pictures, and then no picture is read."""
    options, found = ("evaluate", run.root, "--metrics", "fid", "--images", 30, "--split", "train"), []
    statistics, without_pictures = tmp_path / "real.npz", shutil.copytree(images, tmp_path / "squares")
    for path in without_pictures.glob("*.png"):
        path.write_bytes(b"")
    for own in (
        ("--data", images, "--save-statistics", statistics),
        ("--data", without_pictures, "--real-statistics", statistics),
    ):
        result = invoke(*options, *own, "-o", tmp_path / "results.json")
        assert result.exit_code == 0, result.output
        found.append(read_evaluation(tmp_path / "results.json").results["fid"])
        assert "FID may be compared with no published number: the data are not the 2,933" in result.output
    assert found[1].value == pytest.approx(found[0].value, rel=1e-9)
    assert found[1].protocol["real_images"]["statistics"] == "real.npz"
    smaller = ("--data", images, "--real-statistics", statistics, "--resolution", 16)
    result = invoke(*options, *smaller, "-o", tmp_path / "results.json")
    assert result.exit_code == 2
    assert "statistics of pictures of 32 pixels, and the images have 16; pass --resolution 32" in result.output


def test_a_run_judges_another_models_images(run, bundle, images, quick, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(RPrecision.__init__, "__defaults__", (4,))  # the squares have few captions
    judge = shutil.copytree(run.root, tmp_path / "judge")
    written = []
    for model, own in ((run.root, ()), (run.root, ("--judge", judge)), (bundle, ("--judge", judge))):
        options = ("--metrics", "r_precision", "--images", 20, "--split", "train", "-o", tmp_path / "results.json")
        result = invoke("evaluate", model, "--data", images, *options, *own)
        assert result.exit_code == 0, result.output
        written.append(read_evaluation(tmp_path / "results.json").results["r_precision"])
    own, by_judge, of_bundle = written
    assert own.value == by_judge.value
    assert of_bundle.value == pytest.approx(own.value, abs=5)  # an image of twenty
    assert own.protocol["caution"] == by_judge.protocol["caution"]
    assert own.protocol["caution"] == "these encoders also taught the generator, as in the paper"
    assert of_bundle.protocol["caution"] == "whether these encoders also taught the generator is not known"
    assert by_judge.protocol["encoders"]["name"] == "judge"


def test_the_mean_condition_has_one_image_for_a_z(run, bundle) -> None:
    """In a run and in its bundle; a protocol says which it was."""
    pictures = {}
    for condition in ("sampled", "mean"):
        source = RunSource(run, CPU, condition=condition)
        with open_source(bundle, CPU, condition=condition) as served:
            assert served.describe()["kind"] == "bundle"
            pictures[condition] = source.generate(["a red square"], [3]).int()
            assert (served.generate(["a red square"], [3]).int() - pictures[condition]).abs().max() <= 1
        assert source.condition == served.condition == condition
        plan = Plan(("is",), Path(run.data_folder() or ""), images=20)
        assert evaluate(source, flat_network(), None, plan).protocol["condition"] == condition
    assert (pictures["mean"] - pictures["sampled"]).abs().max() > 1
    with open_source(bundle, CPU) as served:
        assert served.condition == run.settings().model.condition == "sampled"


def test_images_are_shrunk_as_real_pictures_are(run, bundle, images, quick, tmp_path) -> None:
    source = RunSource(run, CPU, resolution=16)
    (small,), (large,) = source.generate(["a red square"], [3]), RunSource(run, CPU).generate(["a red square"], [3])
    pixels = Image.fromarray(large.permute(1, 2, 0).numpy()).resize((16, 16), Image.Resampling.BILINEAR)
    assert np.array_equal(small.permute(1, 2, 0).numpy(), np.asarray(pixels))
    own, served = shutil.copytree(run.root, tmp_path / "run"), shutil.copytree(bundle, tmp_path / "bundle")
    for model, folder in ((own, own / "metrics"), (served, tmp_path / "bundle-metrics")):
        arguments = ("--data", images, "--metrics", "is", "--images", 20, "--resolution")
        refused = invoke("evaluate", model, *arguments, 24)
        assert "--resolution 24: the model's images can be shrunk to 32, 16, 8, 4, 2\n" in refused.stderr
        assert invoke("evaluate", model, *arguments, 16).exit_code == 0
        (path,) = folder.glob("*-at-16px.json")
        protocol = read_evaluation(path).protocol
        assert (protocol["resolution"], protocol["model"]["largest_image"]) == (16, 32)


def test_results_that_cannot_be_written_are_told_before_anything_is_generated(
    run, images, quick, tmp_path, monkeypatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(RunSource, "generate", None)
    for option in ("-o", "--save-statistics"):
        arguments = ("--metrics", "fid", "--images", 20, option, tmp_path / "file" / "results")
        result = invoke("evaluate", run.root, "--data", images, *arguments)
        assert result.exit_code == 2, result.output
        assert "results cannot be written there" in result.output


def test_a_bundles_results_lie_beside_it_by_its_whole_name(bundle, images, quick, tmp_path, monkeypatch) -> None:
    for version in ("v1.0", "v1.1"):
        copy = shutil.copytree(bundle, tmp_path / f"model-{version}")
        monkeypatch.chdir(copy)
        result = invoke("evaluate", ".", "--data", images, "--metrics", "is", "--images", 20)
        assert result.exit_code == 0, result.output
        assert len(list((tmp_path / f"model-{version}-metrics").glob("*.json"))) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--metrics", "is", "--save-statistics", "real.npz"], "is for FID; add fid to --metrics"),
        (["--metrics", "fid,fit"], "fit: choose from fid, is"),
        (["--metrics", "r_precision"], "leave r_precision out"),
        (["--images", "3"], "3 is not in the range"),
        (["--device", "cuda"], "use --device cpu"),
        (["--source", "coco"], "annotations"),
    ],
)
def test_a_users_mistake_is_a_message_and_exit_code_2(run, images, quick, arguments, message) -> None:
    result = invoke("evaluate", run.root, "--data", images, *arguments)
    assert result.exit_code == 2, result.output
    assert message in result.output


def test_what_is_neither_run_nor_bundle_is_refused(images, quick) -> None:
    result = invoke("evaluate", images, "--data", images)
    assert result.exit_code == 2
    assert "not a run folder" in result.output
    assert not (images / "metrics").exists()


def test_a_missing_package_names_the_extra(run, images, monkeypatch) -> None:
    def missing(*_: object) -> None:
        raise ModuleNotFoundError("No module named 'torchmetrics'", name="torchmetrics")

    monkeypatch.setattr("dmgan_train.evaluation.metrics.features.load_features", missing)
    result = invoke("evaluate", run.root, "--data", images)
    assert result.exit_code == 2
    assert 'pip install "dmgan[evaluate]"' in result.output
