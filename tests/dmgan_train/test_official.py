"""The published weights through our networks give what the published code gave, and training goes on from them."""

import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from dmgan_runtime.errors import CheckpointError
from dmgan_train.checkpoint import fingerprint, load_checkpoint, load_model
from dmgan_train.cli import main
from dmgan_train.evaluation.metrics.r_precision import read_encoders, read_judge
from dmgan_train.models import GeneratorNetwork, ImageEncoder, TextEncoder
from dmgan_train.models.inception import InceptionTrunk
from dmgan_train.official import (
    load_official_captions,
    load_official_generator,
    load_official_image_encoder,
    load_official_text_encoder,
)
from dmgan_train.published import digest
from dmgan_train.run_folder import RunFolder
from tests import golden_data
from tests.training import write_images

TOLERANCE = {"atol": 1e-4, "rtol": 0.0}
WIDTHS = load_official_generator(golden_data.FOLDER / "netG.pth").spec


@pytest.fixture(scope="module")
def networks() -> tuple[TextEncoder, GeneratorNetwork]:
    generator = load_official_generator(golden_data.FOLDER / "netG.pth")
    return load_official_text_encoder(golden_data.FOLDER / "text_encoder.pth", generator.spec), generator


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return golden_data.load("outputs.npz")


def check_caption(golden, name, row, text, output) -> None:
    """Compares row `row` of a batch with the golden caption `name`."""
    length = int(golden[f"{name}_length"])
    torch.testing.assert_close(text.words[row, :, :length], golden[f"{name}_word_features"][0], **TOLERANCE)
    assert text.words[row, :, length:].abs().sum() == 0
    torch.testing.assert_close(text.sentence[row], golden[f"{name}_sentence_feature"][0], **TOLERANCE)
    torch.testing.assert_close(output.condition.mean[row], golden[f"{name}_mu"][0], **TOLERANCE)
    torch.testing.assert_close(output.condition.log_variance[row], golden[f"{name}_logvar"][0], **TOLERANCE)
    for image, side in zip(output.images, (64, 128, 256), strict=True):
        stride = image.shape[-1] // golden[f"{name}_image_{side}"].shape[-1]
        expected = golden[f"{name}_image_{side}"][0]
        torch.testing.assert_close(image[row, :, ::stride, ::stride], expected, **TOLERANCE)
    for memory, side in zip(output.memories, (64, 128), strict=True):
        expected = golden[f"{name}_attention_{side}"][0]
        torch.testing.assert_close(memory.attention[row, :length, ::4, ::4], expected, **TOLERANCE)
        assert memory.attention[row, length:].abs().sum() == 0


def generate(networks, golden, names):
    encoder, generator = networks
    columns = ("tokens", "length", "noise", "condition_noise")
    tokens, lengths, noise, condition_noise = (torch.cat([golden[f"{n}_{c}"] for n in names]) for c in columns)
    with torch.inference_mode():
        text = encoder(tokens, lengths)
        return text, generator(text.sentence, text.words, lengths, noise, condition_noise)


@pytest.mark.parametrize("name", golden_data.CAPTIONS)
def test_one_caption_equals_the_published_code(networks, golden, name) -> None:
    check_caption(golden, name, 0, *generate(networks, golden, [name]))


def test_a_batch_of_mixed_lengths_equals_the_captions_one_by_one(networks, golden) -> None:
    text, output = generate(networks, golden, golden_data.CAPTIONS)
    for row, name in enumerate(golden_data.CAPTIONS):
        check_caption(golden, name, row, text, output)


def test_settings_are_inferred_from_the_shapes(networks) -> None:
    spec = networks[1].spec
    assert (spec.generator_channels, spec.text_features, spec.memory_features) == (8, 32, 16)
    assert (spec.residual_blocks, spec.noise_features, spec.resolutions) == (2, 100, (64, 128, 256))


def test_an_unknown_key_is_named(tmp_path) -> None:
    state = torch.load(golden_data.FOLDER / "netG.pth", weights_only=True)
    state["h_net2.extra.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "netG.pth")
    with pytest.raises(CheckpointError, match=r"h_net2\.extra\.weight"):
        load_official_generator(tmp_path / "netG.pth")


@pytest.mark.parametrize("key", ["h_net3.B.weight", "img_net1.img.0.weight"])
def test_a_missing_key_is_an_error(tmp_path, key) -> None:
    state = torch.load(golden_data.FOLDER / "netG.pth", weights_only=True)
    del state[key]
    torch.save(state, tmp_path / "netG.pth")
    with pytest.raises(CheckpointError, match=r"lacks|Missing"):
        load_official_generator(tmp_path / "netG.pth")


def test_a_text_encoder_is_not_a_generator() -> None:
    with pytest.raises(CheckpointError, match=r"encoder\.weight"):
        load_official_generator(golden_data.FOLDER / "text_encoder.pth")


def test_a_text_encoder_of_another_width_is_refused() -> None:
    spec = load_official_generator(golden_data.FOLDER / "netG.pth").spec.__replace__(text_features=64)
    with pytest.raises(CheckpointError, match="size mismatch"):
        load_official_text_encoder(golden_data.FOLDER / "text_encoder.pth", spec)


def test_a_truncated_file_is_an_error(tmp_path) -> None:
    shutil.copy(golden_data.FOLDER / "netG.pth", tmp_path)
    path = tmp_path / "netG.pth"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_official_generator(path)


def published(**changes: object) -> dict[object, object]:
    return torch.load(golden_data.FOLDER / "netG.pth", weights_only=True) | changes


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({1: torch.zeros(1)}, "something other than a state dict of named tensors"),
        ({"a": 1}, "something other than a state dict of named tensors"),
        ([torch.zeros(1)], "something other than a state dict of named tensors"),
        ({"x" * 100_000: torch.zeros(1)}, "which this published network does not have"),
        (published(**{"ca_net.fc.weight": torch.zeros(())}), "no widths that a generator can have"),
        (published(**{"ca_net.fc.weight": torch.zeros(0, 0)}), "no widths that a generator can have"),
        (published(**{"img_net1.img.0.weight": torch.zeros(3)}), "no widths that a generator can have"),
        (published(**{"ca_net.fc.weight": torch.zeros(1).expand(400_000, 65_536)}), "larger than the file"),
        (published(**{"ca_net.fc.weight": torch.zeros(1, dtype=torch.int64)}), "no widths that a generator can have"),
    ],
)
def test_weights_that_are_none_are_a_short_message(tmp_path, state, message) -> None:
    torch.save(state, tmp_path / "netG.pth")
    with pytest.raises(CheckpointError, match=message) as caught:
        load_official_generator(tmp_path / "netG.pth")
    assert len(str(caught.value)) < 1500


def test_encoders_of_tensors_without_an_axis_are_a_message(tmp_path) -> None:
    torch.save({"encoder.weight": torch.zeros(())}, tmp_path / "text.pth")
    with pytest.raises(CheckpointError, match=r"lacks encoder\.weight"):
        load_official_text_encoder(tmp_path / "text.pth", WIDTHS)
    torch.save({"emb_features.weight": torch.zeros(())}, tmp_path / "image.pth")
    with pytest.raises(CheckpointError, match=r"lacks emb_features\.weight"):
        load_official_image_encoder(tmp_path / "image.pth")


@pytest.mark.parametrize(
    "content",
    [
        [[[1]], [], {0: "<end>"}, {}],
        [[[1]], [], {0: "<end>", 1: 2}, {}],
        [[["a"]], [], {0: "<end>", 1: "a"}, {}],
        [[[[1]]], [], {0: "<end>", 1: "a"}, {}],
        [[1], [], {0: "<end>", 1: "a"}, {}],
        [[], [], {1: "<end>"}, {}],
        [[[1] * 1000] * 1000, [], {0: "<end>", 1: "a"}, {}],  # one list, a thousand times
        [],
        {},
        3,
    ],
)
def test_captions_of_something_else_are_a_message(tmp_path, content) -> None:
    (tmp_path / "captions.pickle").write_bytes(pickle.dumps(content))
    with pytest.raises(CheckpointError, match="is no published captions"):
        load_official_captions(tmp_path / "captions.pickle")


def test_the_vocabulary_is_read_in_order() -> None:
    vocabulary, captions = load_official_captions(golden_data.FOLDER / "captions.pickle")
    assert vocabulary.words[:5] == ("<end>", "this", "bird", "has", "a")
    assert len(vocabulary) == 60
    assert all(word in vocabulary.words for caption in captions for word in caption.split())


def test_captions_become_the_golden_tokens(golden) -> None:
    vocabulary, _ = load_official_captions(golden_data.FOLDER / "captions.pickle")
    with np.load(golden_data.FOLDER / "outputs.npz") as archive:
        texts = [str(text) for text in archive["caption_text"]]
    for name, text in zip(golden_data.CAPTIONS, texts, strict=True):
        encoding = vocabulary.encode(text, 18)
        assert encoding.tokens.tolist() == golden[f"{name}_tokens"][0].tolist()
        assert encoding.length == int(golden[f"{name}_length"])


def test_another_pickle_is_no_vocabulary(tmp_path) -> None:
    (tmp_path / "captions.pickle").write_bytes(pickle.dumps([1, 2, {"a": 1}]))
    with pytest.raises(CheckpointError, match=r"captions\.pickle"):
        load_official_captions(tmp_path / "captions.pickle")


def test_a_published_image_encoder_loads(tmp_path) -> None:
    ours = ImageEncoder(InceptionTrunk(), 299, 8, freeze_trunk=True)
    published = {}
    for key, value in ours.state_dict().items():
        name = key.replace("to_regions", "emb_features").replace("to_global", "emb_cnn_code").removeprefix("trunk.")
        published[name] = value
    torch.save(published, tmp_path / "image_encoder.pth")
    loaded = load_official_image_encoder(tmp_path / "image_encoder.pth")
    assert all(torch.equal(value, ours.state_dict()[key]) for key, value in loaded.state_dict().items())


def settings_of(**changes: object) -> list[str]:
    text = torch.load(golden_data.FOLDER / "text_encoder.pth", weights_only=True)
    values = {
        "model.generator_channels": WIDTHS.generator_channels,
        "model.text_features": WIDTHS.text_features,
        "model.embedding_features": text["encoder.weight"].shape[1],
        "model.noise_features": WIDTHS.noise_features,
        "model.condition_features": WIDTHS.condition_features,
        "model.memory_features": WIDTHS.memory_features,
        "model.residual_blocks": WIDTHS.residual_blocks,
        "gan.discriminator_channels": 2,
        "gan.batch_size": 2,
        "gan.steps": 1,
    }
    return [text for key, value in (values | changes).items() for text in ("--set", f"{key}={value}")]


@pytest.fixture(scope="module")
def image_encoder(tmp_path_factory):
    ours = ImageEncoder(InceptionTrunk(), 299, WIDTHS.text_features, freeze_trunk=True)
    published = {
        key.replace("to_regions", "emb_features").replace("to_global", "emb_cnn_code").removeprefix("trunk."): value
        for key, value in ours.state_dict().items()
    }
    path = tmp_path_factory.mktemp("published") / "image_encoder.pth"
    torch.save(published, path)
    return path


def adopt(run, image_encoder, *, captions="captions.pickle", settings=()):
    files = {"official-generator": "netG.pth", "official-text-encoder": "text_encoder.pth", "captions": captions}
    flags = [text for name, file in files.items() for text in (f"--{name}", str(golden_data.FOLDER / file))]
    settings = settings or settings_of()
    arguments = ["adopt", *flags, "--official-image-encoder", str(image_encoder), *settings, "--run", str(run)]
    return CliRunner().invoke(main, arguments)


@pytest.fixture
def encoders_folder(image_encoder, tmp_path):
    """The authors' encoders in a folder, as a judge is named."""
    folder = tmp_path / "bird"
    folder.mkdir()
    shutil.copy(image_encoder, folder / "image_encoder200.pth")
    shutil.copy(golden_data.FOLDER / "text_encoder.pth", folder / "text_encoder200.pth")
    shutil.copy(golden_data.FOLDER / "captions.pickle", folder)
    return folder


def test_the_authors_encoders_judge_as_they_were_published(encoders_folder) -> None:
    judge = read_judge(encoders_folder, torch.device("cpu"), max_words=20)
    assert judge.name == "bird"
    assert judge.max_words == 20
    assert judge.taught is None
    assert judge.files == {
        "text encoder": digest(encoders_folder / "text_encoder200.pth"),
        "image encoder": digest(encoders_folder / "image_encoder200.pth"),
    }
    published = torch.load(golden_data.FOLDER / "text_encoder.pth", weights_only=True)
    assert torch.equal(judge.text.embedding.weight, published["encoder.weight"])


def test_a_judge_that_is_not_whole_is_a_message(encoders_folder) -> None:
    shutil.copy(encoders_folder / "text_encoder200.pth", encoders_folder / "text_encoder100.pth")
    with pytest.raises(CheckpointError, match=r"bird: has 2 files text_encoder\*.pth; pass a run"):
        read_judge(encoders_folder, torch.device("cpu"), max_words=20)
    for path in encoders_folder.glob("text_encoder*.pth"):
        path.unlink()
    with pytest.raises(CheckpointError, match=r"bird: has 0 files text_encoder\*.pth; pass a run"):
        read_judge(encoders_folder, torch.device("cpu"), max_words=20)


def test_training_goes_on_from_the_authors_weights(image_encoder, tmp_path) -> None:
    result = adopt(tmp_path / "run", image_encoder)
    assert result.exit_code == 0, result.output
    assert "Next: python -m dmgan_train fit --preset birds --set model.generator_channels=" in result.output
    other = adopt(tmp_path / "other", image_encoder, settings=(*settings_of(), "--recipe", "small-data"))
    assert "Next: python -m dmgan_train fit --preset birds --recipe small-data --set" in other.output
    assert RunFolder(tmp_path / "other").settings().gan.augmentation
    run, data = RunFolder(tmp_path / "run"), write_images(tmp_path / "squares")
    encoder = load_checkpoint(run.checkpoint("damsm"), "damsm")["text_encoder"]
    words = run.vocabulary().words
    common = ["--data", str(data), "--run", str(run.root), "--workers", "0", "--device", "cpu"]
    begun = load_model(run)
    assert begun.steps == 0
    before = CliRunner().invoke(main, ["pretrain", *settings_of(), *common])
    assert "damsm  is finished" in before.output
    metadata = data / "metadata.jsonl"  # and then other data
    metadata.write_text(metadata.read_text().replace("a red", "one red"))
    assert fingerprint(begun.generator) == fingerprint(load_official_generator(golden_data.FOLDER / "netG.pth"))
    result = CliRunner().invoke(main, ["fit", *settings_of(), *common])
    assert result.exit_code == 0, result.output
    state = load_checkpoint(run.checkpoint("gan"), "gan")
    assert state["step"] == 1
    published = load_official_generator(golden_data.FOLDER / "netG.pth").state_dict()
    for name, value in published.items():
        if name.endswith("weight"):
            # One step of Adam moves a weight by its rate at most.
            assert (state["generator"][name] - value).abs().max() <= 2.1e-4, name
    after = load_checkpoint(run.checkpoint("damsm"), "damsm")["text_encoder"]
    assert all(torch.equal(encoder[name], after[name]) for name in encoder)
    assert run.vocabulary().words == words
    adopted = json.loads(run.provenance_file.read_bytes())["adopted"]
    assert adopted["generator"] == {"file": "netG.pth", "sha256": digest(golden_data.FOLDER / "netG.pth")}
    judge = read_encoders(run, torch.device("cpu"))
    assert judge.files["image encoder"] == digest(image_encoder)
    for phase in ("damsm", "gan"):
        run.checkpoint(phase).unlink()
    result = CliRunner().invoke(main, ["fit", *settings_of(), "--set", "damsm.batch_size=2", *common])
    assert "has no finished encoders" in result.stderr
    assert "or adopt them into a new --run" in result.stderr


@pytest.mark.parametrize(
    ("key", "other", "published"), [("residual_blocks", 3, WIDTHS.residual_blocks), ("stages", 5, 3), ("stages", 1, 3)]
)
def test_another_shape_names_the_settings(image_encoder, tmp_path, key, other, published) -> None:
    result = adopt(tmp_path / "run", image_encoder, settings=settings_of(**{f"model.{key}": other}))
    assert result.exit_code == 2
    assert f"another shape than the settings; add --set model.{key}={published}" in result.output
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_overwritten(run, image_encoder, tmp_path) -> None:
    shutil.copytree(run.root, tmp_path / "run")
    result = adopt(tmp_path / "run", image_encoder)
    assert result.exit_code == 2
    assert "is a run already" in result.output
