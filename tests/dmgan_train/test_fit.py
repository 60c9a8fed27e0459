"""Training as a whole: what a run leaves behind, and that it goes on from wherever it was cut off."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from dmgan_runtime.errors import CheckpointError, DataError, SettingsError, TrainingError
from dmgan_train.checkpoint import load_checkpoint
from dmgan_train.damsm import DamsmPhase
from dmgan_train.fit import read_data
from dmgan_train.gan import GanPhase
from dmgan_train.loading import load_encoders, load_generator
from dmgan_train.run import RunFolder
from tests.training import SMALL, small_settings, train_small, write_images


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
    assert run.provenance()["data"] == {
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


def test_the_averaged_generator_differs_from_the_last_one(run) -> None:
    state = load_checkpoint(run.checkpoint("gan"), "gan")
    key = "initial.project.0.weight"
    assert not torch.equal(state["average"][f"module.{key}"], state["generator"][key])
    generator, steps = load_generator(run)
    assert steps == 4
    assert torch.equal(generator.state_dict()[key], state["average"][f"module.{key}"])


def test_the_second_phase_leaves_the_encoders_alone(run, images, tmp_path) -> None:
    before = load_checkpoint(run.checkpoint("damsm"), "damsm")["text_encoder"]
    assert_same(dict(before), dict(load_encoders(run)[0].state_dict()))


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


def start(images: Path, run: Path, *overrides: str) -> subprocess.Popen[str]:
    flags = [flag for override in (*SMALL, *overrides) for flag in ("--set", override)]
    command = [sys.executable, "-m", "dmgan_train", "fit", "--preset", "tiny", "--data", images, "--run", run]
    return subprocess.Popen(
        [*map(str, command), "--workers", "0", *flags], text=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_killed_without_warning_it_goes_on_from_the_last_checkpoint(images, tmp_path) -> None:
    long = ("gan.steps=100000", "gan.epochs=100000", "gan.checkpoint_every=2", "gan.sample_every=100000")
    process = start(images, tmp_path / "run", *long)
    run = RunFolder(tmp_path / "run")
    wait_for(run.checkpoint("gan"), process)
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    step = load_checkpoint(run.checkpoint("gan"), "gan")["step"]
    resumed = train_small(images, tmp_path / "run", *long[1:], f"gan.steps={step + 2}")
    assert load_checkpoint(resumed.checkpoint("gan"), "gan")["step"] == step + 2
    steps = [entry["step"] for entry in entries(resumed) if entry["phase"] == "gan"]
    assert steps == sorted(set(steps))


def test_interrupted_it_saves_and_says_so(images, tmp_path) -> None:
    process = start(images, tmp_path / "run", "gan.steps=100000", "gan.epochs=100000", "gan.checkpoint_every=3")
    run = RunFolder(tmp_path / "run")
    wait_for(run.checkpoint("gan"), process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    step = load_checkpoint(run.checkpoint("gan"), "gan")["step"]
    assert f"stopped after step {step:,} of gan and saved" in errors
    assert "Traceback" not in errors


def test_a_loss_that_is_no_number_stops_with_the_step(images, tmp_path, monkeypatch) -> None:
    original = GanPhase._damsm_loss

    def broken(self, images, *rest):
        return original(self, images, *rest) * (float("nan") if self.average.n_averaged == 2 else 1.0)

    monkeypatch.setattr(GanPhase, "_damsm_loss", broken)
    with pytest.raises(TrainingError, match=r"damsm is not a number at step 3 of gan.*learning rate"):
        train_small(images, tmp_path / "run", "gan.checkpoint_every=2")
    assert load_checkpoint(RunFolder(tmp_path / "run").checkpoint("gan"), "gan")["step"] == 2


def test_other_settings_are_refused_by_name(run, images) -> None:
    with pytest.raises(SettingsError, match=r"gan\.ema was 0\.99 and is now 0\.5.*choose another --run"):
        train_small(images, run.root, "gan.ema=0.5")


def test_other_words_are_refused(run, tmp_path) -> None:
    data = write_images(tmp_path / "data")
    (data / "metadata.jsonl").write_text((data / "metadata.jsonl").read_text().replace("square", "box"))
    with pytest.raises(SettingsError, match="other words"):
        train_small(data, run.root)


def test_two_processes_do_not_share_a_run(run, images) -> None:
    with run.locked(), pytest.raises(SettingsError, match="another process trains here"):
        train_small(images, run.root)


def test_too_little_data_names_the_remedy(images, tmp_path) -> None:
    with pytest.raises(DataError, match="batch size"):
        train_small(images, tmp_path / "run", "damsm.batch_size=50")


def test_a_cached_trunk_gives_the_features_of_the_pictures(images) -> None:
    frozen = ("damsm.trunk=efficientnet_lite0", "damsm.trunk_weights=pretrained", "damsm.freeze_trunk=true")
    shape = ("data.augment=none", "damsm.trunk_resolution=64")
    features = []
    for cached in ("true", "false"):
        settings = small_settings(*frozen, *shape, f"damsm.cache_trunk={cached}")
        data = read_data(images, None, settings)
        phase = DamsmPhase(settings, data.train, data.tokenizer, torch.device("cpu"), workers=0)
        batch = next(phase.batches(0))
        assert len(batch.images) == (0 if cached == "true" else 1)
        features.append(phase.image_encoder.eval() and phase._encode_images(batch))
    for with_cache, without in zip(*features, strict=True):
        torch.testing.assert_close(with_cache, without, atol=5e-3, rtol=5e-3)  # half precision
