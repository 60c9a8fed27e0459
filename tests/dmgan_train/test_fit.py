"""Training as a whole: what a run leaves behind, and that it goes on from wherever it was cut off."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from dmgan_runtime.errors import CheckpointError, DataError, SettingsError, TrainingError
from dmgan_train.checkpoint import load_checkpoint, load_model, save_checkpoint
from dmgan_train.cli import main
from dmgan_train.damsm import DamsmPhase
from dmgan_train.data import load_split
from dmgan_train.fit import describe_plan, read_data, with_vocabulary
from dmgan_train.losses import damsm_word_loss
from dmgan_train.run_folder import RunFolder
from tests.dmgan_train import killed_at_a_step
from tests.dmgan_train.data.drawing import write_metadata, write_picture
from tests.training import SMALL, phase_of, small_settings, train_small, train_until, write_images


def entries(run: RunFolder) -> list[dict[str, object]]:
    return [json.loads(line) for line in run.log_file.read_text().splitlines()]


def assert_same(first: object, second: object) -> None:
    """Bit-equal, however deep."""
    assert type(first) is type(second)
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_same(first[key], second[key])
    elif isinstance(first, list):
        for one, other in zip(first, second, strict=True):
            assert_same(one, other)
    else:
        assert first == second


def test_a_run_leaves_what_a_person_needs(run) -> None:
    assert run.settings().gan.steps == 4
    assert "square" in run.vocabulary()
    data = run.provenance()["data"]
    assert len(data.pop("sha256")) == 64
    assert data == {
        "source": "image_folder",
        "name": "squares",
        "images": 8,
        "captions": 16,
        "words": 13,
    }
    phases = [(entry["phase"], entry["step"]) for entry in entries(run)]
    assert phases == [("damsm", 4), ("gan", 4)]
    assert {"discriminator_32", "generator_8", "conditioning", "damsm", "images_per_second"} <= entries(run)[1].keys()
    assert list(run.tensorboard.glob("*/events*"))
    with Image.open(run.samples / "step-0000004.png") as sheet:
        assert sheet.width > 6 * 32


def test_a_run_keeps_the_aliases_of_its_data_whose_names_it_can_read(run) -> None:
    assert run.vocabulary().aliases == {"🟥": "red square", "🟦": "blue square"}
    assert json.loads(run.aliases_file.read_bytes()) == run.vocabulary().aliases


def test_a_run_without_aliases_takes_those_that_are_put_into_its_folder(run, images, tmp_path) -> None:
    folder = RunFolder(shutil.copytree(run.root, tmp_path / "run"))
    folder.aliases_file.unlink()
    data = shutil.copytree(images, tmp_path / "squares")
    (data / "aliases.json").unlink()
    assert folder.vocabulary().aliases == {}
    folder.aliases_file.write_text('{"⬜": "white square", "🦓": "zebra"}')
    train_small(data, folder.root, "gan.steps=5")
    assert folder.vocabulary().aliases == {"⬜": "white square"}


def test_aliases_that_are_none_are_named(images, tmp_path) -> None:
    data = shutil.copytree(images, tmp_path / "squares")
    (data / "aliases.json").write_text('{"red": "blue"}')
    with pytest.raises(DataError, match=r"aliases\.json: cannot be read as aliases \(the alias 'red' is plain text"):
        read_data(data, None, small_settings())


def test_the_averaged_generator_differs_from_the_last_one(run) -> None:
    state = load_checkpoint(run.checkpoint("gan"), "gan")
    key = "initial.project.0.weight"
    assert not torch.equal(state["generator_ema"][f"module.{key}"], state["generator"][key])
    _, generator, steps = load_model(run)
    assert steps == 4
    assert torch.equal(generator.state_dict()[key], state["generator_ema"][f"module.{key}"])


def test_the_versions_that_a_run_began_with_stay(run, images, tmp_path) -> None:
    folder = RunFolder(shutil.copytree(run.root, tmp_path / "run"))
    now = f"dmgan {run.provenance()['dmgan']}, torch {run.provenance()['torch']}"
    began = {**run.provenance(), "torch": "2.8.0"}
    folder.provenance_file.write_text(json.dumps(began))
    for _ in range(2):
        train_small(images, folder.root)
        assert folder.provenance() == {**began, "went_on_with": [now]}
    train_small(images, run.root)
    assert "went_on_with" not in run.provenance()


def copies(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def test_a_step_trains_generator_and_discriminators_and_leaves_the_encoders_alone(run, images) -> None:
    phase = phase_of(run, images)
    frozen = (phase.text_encoder, phase.image_encoder)
    learning = (phase.generator, *phase.discriminators)
    before = [copies(module) for module in (*frozen, *learning)]
    torch.manual_seed(0)
    phase.step(next(phase.batches(0)), 0)
    after = [dict(module.state_dict()) for module in (*frozen, *learning)]
    assert_same(before[:2], after[:2])
    for old, new in zip(before[2:], after[2:], strict=True):
        assert any(not torch.equal(old[name], new[name]) for name in old)


@pytest.mark.parametrize("override", ["gan.augmentation=true", "gan.precision=bf16", "gan.precision=fp16"])
def test_a_step_runs_with_augmentation_and_under_autocast(run, images, override, monkeypatch) -> None:
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}
    monkeypatch.setattr("dmgan_train.gan.autocast_type", lambda precision, _: half.get(precision))
    pairs = "gan.contrastive_weight=0.2"
    phase = phase_of(run, images, pairs, override)
    generated = []
    phase.generator.register_forward_hook(lambda _, __, output: generated.append(output.images[0].dtype))
    torch.manual_seed(0)
    losses = phase.step(next(phase.batches(0)), 0)
    assert all(loss.isfinite() for loss in losses.values())
    assert generated == [half.get(phase.settings.gan.precision, torch.float32)] * 2
    if "precision" in override:
        plain = phase_of(run, images, pairs)
        torch.manual_seed(0)
        expected = plain.step(next(plain.batches(0)), 0)
        for name in ("discriminator_32", "generator_32", "damsm", "contrastive"):
            assert losses[name].item() == pytest.approx(expected[name].item(), rel=0.03)


def test_the_weights_of_the_losses_count(run, images) -> None:
    gradients = []
    for override in ("gan.damsm_weight=0", "gan.damsm_weight=50"):
        phase = phase_of(run, images, override)
        torch.manual_seed(0)
        gradients.append(float(phase.step(next(phase.batches(0)), 0)["generator_gradient"]))
    assert gradients[1] > 2 * gradients[0]


def test_the_average_is_the_papers(run, images) -> None:
    phase = phase_of(run, images)
    batches = phase.batches(0)
    name = "initial.project.0.weight"
    torch.manual_seed(0)
    phase.step(next(batches), 0)
    first = phase.generator.state_dict()[name].clone()  # the first update takes the weights as they are
    phase.step(next(batches), 1)
    expected = 0.99 * first + 0.01 * phase.generator.state_dict()[name]
    torch.testing.assert_close(phase.generator_ema.state_dict()[f"module.{name}"], expected)


def test_encoders_do_not_change_under_a_generator(run, images, tmp_path) -> None:
    with pytest.raises(SettingsError, match=r"damsm\.steps was 4 and is now 8"):
        train_small(images, run.root, "damsm.steps=8", "damsm.epochs=100")
    folder = shutil.copytree(run.root, tmp_path / "run")
    path = RunFolder(folder).checkpoint("damsm")
    state = load_checkpoint(path, "damsm")
    state["text_encoder"]["embedding.weight"] += 1
    save_checkpoint(path, state)
    with pytest.raises(CheckpointError, match="another text encoder"):
        load_model(RunFolder(folder))


def test_other_data_under_the_same_words_is_refused(run, tmp_path) -> None:
    data = write_images(tmp_path / "squares", count=24)
    with pytest.raises(SettingsError, match="'images': 16"):
        train_small(data, run.root)


def test_a_cached_trunk_keeps_pictures_and_captions_together(images, tmp_path) -> None:
    data_root = shutil.copytree(images, tmp_path / "squares")
    (data_root / "0.png").write_bytes(b"broken")
    settings = small_settings(
        "damsm.trunk=efficientnet_lite0",
        "damsm.trunk_weights=pretrained",
        "damsm.freeze_trunk=true",
        "data.augment=none",
        "damsm.trunk_resolution=64",
        "damsm.cache_trunk=true",
    )
    data = read_data(data_root, None, settings)
    phase = DamsmPhase(settings, data.train, data.tokenizer, torch.device("cpu"), workers=0)
    batches = phase.batches(0)
    first = next(batches)  # the split is without what is broken from then on
    taken = {phase._split.examples[index].image.name for index in first.indices}
    assert "0.png" in {example.image.name for example in data.train.examples}
    assert taken
    assert "0.png" not in taken


@pytest.mark.parametrize("cut", [("damsm.steps=2", "gan.steps=1"), ("gan.steps=2",), ("gan.steps=3",)])
def test_interrupted_and_resumed_equals_uninterrupted(run, images, tmp_path, cut) -> None:
    if cut[0].startswith("damsm"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("dmgan_train.fit.load_encoders", lambda _: (_ for _ in ()).throw(CheckpointError("cut")))
            with pytest.raises(CheckpointError, match="cut"):
                train_small(images, tmp_path / "run", "damsm.steps=2")
    else:
        train_small(images, tmp_path / "run", *cut)
    resumed = train_small(images, tmp_path / "run")
    for phase in ("damsm", "gan"):
        assert_same(load_checkpoint(resumed.checkpoint(phase), phase), load_checkpoint(run.checkpoint(phase), phase))


def test_a_finished_run_does_nothing_more(images, run) -> None:
    before = run.checkpoint("gan").stat().st_mtime_ns
    train_small(images, run.root)
    assert run.checkpoint("gan").stat().st_mtime_ns == before


def start(images: Path, run: Path, *overrides: str, workers: int = 0) -> subprocess.Popen[str]:
    flags = [flag for override in (*SMALL, *overrides) for flag in ("--set", override)]
    command = [sys.executable, "-m", "dmgan_train", "fit", "--preset", "tiny", "--data", images, "--run", run]
    return subprocess.Popen(
        [*map(str, command), "--workers", str(workers), *flags],
        text=True,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def fit_arguments(images: Path, run: Path, *overrides: str) -> list[str]:
    flags = [flag for override in (*SMALL, *overrides) for flag in ("--set", override)]
    return ["fit", "--preset", "tiny", "--data", str(images), "--run", str(run), "--workers", "0", *flags]


def test_killed_without_warning_it_goes_on_from_the_last_checkpoint(run, images, tmp_path) -> None:
    """In the fourth step, with a checkpoint every two."""
    killed = RunFolder(tmp_path / "run")
    fit = fit_arguments(images, killed.root, "gan.checkpoint_every=2")
    ended = subprocess.run(
        [sys.executable, "-m", killed_at_a_step.__name__, "3", *fit], capture_output=True, check=False
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert load_checkpoint(killed.checkpoint("gan"), "gan")["step"] == 2
    resumed = train_small(images, killed.root)
    assert_same(load_checkpoint(resumed.checkpoint("gan"), "gan"), load_checkpoint(run.checkpoint("gan"), "gan"))
    assert [entry["step"] for entry in entries(resumed) if entry["phase"] == "gan"] == [4]


@pytest.mark.parametrize(("number", "workers", "status"), [(signal.SIGINT, 0, 130), (signal.SIGTERM, 2, 143)])
def test_interrupted_it_saves_and_says_so(images, tmp_path, number, workers, status) -> None:
    """The whole group is told, and then the process once more: what `timeout` does, the other way round."""
    long = ("gan.steps=100000", "gan.epochs=100000", "gan.checkpoint_every=3")
    process = start(images, tmp_path / "run", *long, workers=workers)
    run = RunFolder(tmp_path / "run")
    wait_for(run.checkpoint("gan"), process)
    os.killpg(process.pid, number)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status
    step = load_checkpoint(run.checkpoint("gan"), "gan")["step"]
    assert f"stopped after step {step:,} of gan and saved" in errors
    assert "Traceback" not in errors


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Of PyTorch; `make test` gives it one."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_cut_in_the_warm_up_and_the_decay_it_comes_to_the_same_weights(
    images, tmp_path, monkeypatch, two_threads, precision
) -> None:
    half = {"fp16": torch.float16}
    monkeypatch.setattr("dmgan_train.gan.autocast_type", lambda precision, _: half.get(precision))
    own = (
        f"gan.precision={precision}",
        "gan.reconstruction_weight=10",
        "gan.warm_up_steps=[2, 1, 0]",
        "gan.warm_up_learning_rate=0.01",
        "gan.augmentation=true",
        "gan.r1_weight=1",
        "gan.r1_every=2",
        "gan.steps=8",
        "gan.epochs=9",
        "gan.decay_steps=4",
        "gan.checkpoint_every=2",
    )
    whole = train_small(images, tmp_path / "whole", *own)
    for step in (2, 6):
        train_until(step, images, tmp_path / "cut", *own)
    again = train_small(images, tmp_path / "cut", *own)
    assert_same(load_checkpoint(again.checkpoint("gan"), "gan"), load_checkpoint(whole.checkpoint("gan"), "gan"))
    assert {"reconstruction", "damsm", "r1_32"} <= entries(whole)[-1].keys()
    with pytest.raises(SettingsError, match=r"gan\.steps was 8 and is now 9"):
        train_small(images, tmp_path / "whole", *own, "gan.steps=9")


def test_the_contrastive_recipe_goes_on_to_the_same_weights(images, tmp_path) -> None:
    """Cut in either phase, as a person would: by the commands."""

    def train(command: str, run: str, *overrides: str) -> RunFolder:
        arguments = [command, "--recipe", "contrastive", *fit_arguments(images, tmp_path / run, *overrides)[1:]]
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, result.output
        return RunFolder(tmp_path / run)

    whole = train("fit", "whole")
    train("pretrain", "cut", "damsm.steps=2")
    train("fit", "cut", "gan.steps=2")
    resumed = train("fit", "cut")
    for phase in ("damsm", "gan"):
        assert_same(load_checkpoint(resumed.checkpoint(phase), phase), load_checkpoint(whole.checkpoint(phase), phase))
        assert "contrastive" in next(entry for entry in entries(whole) if entry["phase"] == phase)
    assert (whole.settings().damsm.contrastive_weight, whole.settings().gan.contrastive_weight) == (1.0, 0.2)


def test_a_loss_that_is_no_number_stops_with_the_step(images, tmp_path, monkeypatch) -> None:
    factors = iter((1.0, 1.0, float("nan"), 1.0))

    def broken(*arguments, **options):
        loss = damsm_word_loss(*arguments, **options)
        return loss._replace(image_to_text=loss.image_to_text * next(factors))

    monkeypatch.setattr("dmgan_train.gan.damsm_word_loss", broken)
    with pytest.raises(TrainingError, match=r"damsm, .* not a number at step 3 of gan.*learning rate"):
        train_small(images, tmp_path / "run", "gan.checkpoint_every=2")
    assert load_checkpoint(RunFolder(tmp_path / "run").checkpoint("gan"), "gan")["step"] == 2


def test_before_a_first_checkpoint_every_setting_may_change(images, tmp_path, monkeypatch) -> None:
    def offline(*_: object) -> None:
        raise CheckpointError("no network")

    with monkeypatch.context() as patch:
        patch.setattr("dmgan_train.damsm.load_trunk_weights", offline)
        with pytest.raises(CheckpointError, match="no network"):
            train_small(images, tmp_path / "run", "data.captions_per_image=1")
    run = RunFolder(tmp_path / "run")
    assert (run.settings().damsm.words, len(run.vocabulary())) == (6, 8)
    train_until(0, images, run.root, "damsm.words=5")
    assert (run.settings().damsm.words, len(run.vocabulary())) == (5, 14)
    with pytest.raises(SettingsError, match=r"damsm\.words was 5 and is now 4"):
        train_small(images, run.root, "damsm.words=4")
    train_small(images, run.root, "damsm.words=5", "gan.ema=0.5")
    assert run.settings().gan.ema == 0.5


def test_a_batch_that_processes_cannot_share_is_found_before_the_first_phase(images, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("dmgan_train.distributed.count", lambda: 3)
    with pytest.raises(SettingsError, match=r"gan\.batch_size is 4, which 3 processes cannot share evenly"):
        train_small(images, tmp_path / "run")
    assert not RunFolder(tmp_path / "run").checkpoint("damsm").exists()


def test_other_settings_are_refused_by_name(run, images) -> None:
    with pytest.raises(SettingsError, match=r"gan\.ema was 0\.99 and is now 0\.5.*choose another folder"):
        train_small(images, run.root, "gan.ema=0.5")


@pytest.mark.parametrize("finished", [None, False])
def test_encoders_are_not_trained_anew_under_a_generator(run, images, tmp_path, finished) -> None:
    folder = RunFolder(shutil.copytree(run.root, tmp_path / "run"))
    path = folder.checkpoint("damsm")
    state = load_checkpoint(path, "damsm")
    path.unlink()
    if finished is not None:
        save_checkpoint(path, {**state, "step": state["step"] - 1})
    with pytest.raises(CheckpointError, match=r"has no finished encoders, .* or remove gan/checkpoint\.pt too"):
        train_small(images, folder.root)
    assert path.exists() == (finished is not None)
    folder.checkpoint("gan").unlink()
    train_small(images, folder.root)
    assert load_checkpoint(path, "damsm")["step"] == state["step"]


def test_a_run_that_is_older_than_the_number_of_stages_goes_on(run, images, tmp_path) -> None:
    folder = RunFolder(shutil.copytree(run.root, tmp_path / "run"))
    kept = folder.settings_file.read_text()
    older = kept.replace("  stages: 3\n", "").replace("warm_up_steps: []", "warm_up_steps: [0, 0, 0]")
    assert len(older) != len(kept)
    folder.settings_file.write_text(older)
    with pytest.raises(SettingsError, match=r"\(model\.stages was 3 and is now 5\); .* choose another folder"):
        train_small(images, folder.root, "model.stages=5")
    resumed = train_small(images, folder.root, "gan.steps=5")
    assert load_checkpoint(resumed.checkpoint("gan"), "gan")["step"] == 5
    assert resumed.settings_file.read_text() == kept.replace("steps: 4\n  batch_size: 4", "steps: 5\n  batch_size: 4")


def test_other_words_are_refused(run, tmp_path) -> None:
    data = write_images(tmp_path / "data")
    (data / "metadata.jsonl").write_text((data / "metadata.jsonl").read_text().replace("square", "box"))
    with pytest.raises(SettingsError, match="other words"):
        train_small(data, run.root)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "[" * 100_000, '{"data": 3}', '{"went_on_with": "x"}', '{"adopted": 1}']
)
def test_a_damaged_provenance_is_named_with_the_remedy(run, images, tmp_path, content) -> None:
    folder = RunFolder(shutil.copytree(run.root, tmp_path / "run"))
    folder.provenance_file.write_text(content)
    with pytest.raises(CheckpointError, match=r"provenance\.json: does not say .*; restore it from a copy, or, unless"):
        train_small(images, folder.root)
    folder.provenance_file.unlink()
    train_small(images, folder.root)
    assert folder.provenance()["data"]["images"] == 8


@pytest.mark.parametrize(
    "state",
    [
        {"optimizer": {"state": 3, "param_groups": []}},
        {"optimizer": []},
        {"text_encoder": [1]},
        {"image_encoder": {1: torch.zeros(1)}},
        {"text_encoder": {"embedding.weight": torch.zeros(())}},
    ],
)
def test_a_state_of_something_else_is_named_with_the_remedy(images, tmp_path, state, run) -> None:
    folder = RunFolder(shutil.copytree(run.root, tmp_path / "run"))
    path = folder.checkpoint("damsm")
    save_checkpoint(path, {**load_checkpoint(path, "damsm"), "step": 2, **state})
    folder.checkpoint("gan").unlink()
    with pytest.raises(
        CheckpointError,
        match=r"(?s)checkpoint\.pt: (is not a state of this run .* from a copy|has no .*choose another)",
    ):
        train_small(images, folder.root)


def test_odd_lines_of_the_log_are_dropped_and_told_of(run, images, tmp_path, caplog) -> None:
    folder = RunFolder(shutil.copytree(run.root, tmp_path / "run"))
    whole = folder.log_file.read_text()
    odd = ["[]", "3", '{"phase": "gan"}', '{"phase": 1, "step": 1}', '{"phase": "gan", "step": "2"}', "[" * 100_000]
    odd += ['{"phase": "gan", "step": ' + "9" * 5000 + "}", "\x00"]
    folder.log_file.write_bytes(("\n".join(odd) + "\n" + whole).encode() + b"\xff\n")
    train_small(images, folder.root, "gan.steps=5")
    assert folder.log_file.read_text().startswith(whole)
    assert len(entries(folder)) == 3
    assert "9 lines are no entries and are dropped, the first is line 1" in caplog.text


def test_captions_that_an_adopted_vocabulary_cannot_read_are_left_out_before_training(run, tmp_path) -> None:
    folder = RunFolder(shutil.copytree(run.root, tmp_path / "run"))
    folder.provenance_file.write_text('{"adopted": {}}')
    lines = [
        {
            "file_name": f"{n}.png",
            "captions": ["a red square", "xylophone"][n % 2 :],
            "split": "test" if n > 3 else None,
        }
        for n in range(8)
    ]
    for n in range(8):
        write_picture(tmp_path / "data" / f"{n}.png")
    (tmp_path / "data" / "aliases.json").write_text('{"🟥": "red square", "🎵": "xylophone"}')
    settings = small_settings("data.broken_limit=4")
    data = read_data(write_metadata(tmp_path / "data", lines), None, settings)
    known = with_vocabulary(data, folder, settings)
    assert [example.key for example in known.train.examples] == ["0.png", "2.png"]
    assert [example.captions for example in known.test.examples] == [("a red square",)] * 2
    assert known.tokenizer.words == folder.vocabulary().words
    assert known.tokenizer.aliases == {"🟥": "red square"}
    with pytest.raises(
        DataError, match=r"(?s)4 of the .*at most 3 may be.*'xylophone' is in the vocabulary of .*vocab"
    ):
        with_vocabulary(data, folder, small_settings("data.broken_limit=3"))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_no_utf8_may_be_held_out(tmp_path) -> None:
    for number in range(4):
        path = tmp_path / os.fsdecode(b"r\xfcd%d.png" % number)
        Image.new("RGB", (8, 8)).save(path)
        path.with_suffix(".txt").write_text("a red square")
    assert len(load_split("image_folder", tmp_path, "train", held_out=0.25)) == 3


def test_a_share_may_be_held_out_of_data_without_a_split(images, tmp_path) -> None:
    lines = [json.loads(line) for line in (images / "metadata.jsonl").read_text().splitlines()]
    root = shutil.copytree(images, tmp_path / "squares")
    write_metadata(root, [{key: value for key, value in line.items() if key != "split"} for line in lines])
    whole = read_data(root, None, small_settings())
    assert (len(whole.train), whole.test) == (12, None)
    plan = describe_plan(small_settings(), whole, None, torch.device("cpu"))
    assert "nothing is held out" in plan
    assert "--set data.held_out=0.05 holds out a share" in plan
    settings = small_settings("data.held_out=0.25")
    data = read_data(root, None, settings)
    assert (len(data.train), len(data.test)) == (9, 3)
    assert {*data.train.examples, *data.test.examples} == {*whole.train.examples}
    again = read_data(root, None, settings)
    assert (again.train, again.test) == (data.train, data.test)
    assert "nothing is held out" not in describe_plan(settings, data, None, torch.device("cpu"))
    assert len(load_split("image_folder", root, "test", held_out=0.001)) == 1
    assert read_data(images, None, settings).train == read_data(images, None, small_settings()).train


@pytest.mark.parametrize("name", ["damsm", "gan"])
def test_a_batch_that_is_too_large_names_its_setting(images, name) -> None:
    settings = small_settings(f"{name}.batch_size=9")
    with pytest.raises(DataError, match=rf"batch of 9 \({name}\.batch_size\); use --set {name}\.batch_size=8 or less"):
        describe_plan(settings, read_data(images, None, settings), None, torch.device("cpu"))


def test_two_processes_do_not_share_a_run(run, images) -> None:
    with run.locked(), pytest.raises(SettingsError, match="another process trains here"):
        train_small(images, run.root)


def test_too_little_data_names_the_remedy(images, tmp_path) -> None:
    with pytest.raises(DataError, match=r"damsm\.batch_size"):
        train_small(images, tmp_path / "run", "damsm.batch_size=50")


def test_pictures_in_memory_change_nothing(images, tmp_path) -> None:
    warm_up = ("gan.reconstruction_weight=10", "gan.warm_up_steps=[1, 1, 1]")  # each stage reads its own
    read, kept = (train_small(images, tmp_path / cache, f"data.cache={cache}", *warm_up) for cache in ("false", "true"))
    for phase in ("damsm", "gan"):
        assert_same(load_checkpoint(kept.checkpoint(phase), phase), load_checkpoint(read.checkpoint(phase), phase))


def test_a_cached_trunk_gives_the_features_of_the_pictures(images) -> None:
    frozen = ("damsm.trunk=efficientnet_lite0", "damsm.trunk_weights=pretrained", "damsm.freeze_trunk=true")
    shape = ("data.augment=none", "damsm.trunk_resolution=64")
    losses = []
    for cached in ("true", "false"):
        pairs = ("damsm.dropout=0", "damsm.contrastive_weight=1")
        settings = small_settings(*frozen, *shape, *pairs, f"damsm.cache_trunk={cached}")
        data = read_data(images, None, settings)
        phase = DamsmPhase(settings, data.train, data.tokenizer, torch.device("cpu"), workers=0)
        batch = next(phase.batches(0))
        assert (batch.images.numel() == 0) == (cached == "true")
        losses.append({name: value.item() for name, value in phase.step(batch, 0).items()})
    assert losses[0] == pytest.approx(losses[1], rel=5e-3)  # half precision
