"""What is looked at while the generator learns."""

import json
import shutil

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dmgan_runtime.errors import CheckpointError, SettingsError
from dmgan_train import monitor
from dmgan_train.checkpoint import load_encoders, load_model
from dmgan_train.evaluation.bundle_source import open_source
from dmgan_train.evaluation.metrics.r_precision import Encoders
from dmgan_train.fit import read_data
from dmgan_train.models import GeneratorNetwork, GeneratorOutput
from dmgan_train.monitor import HeldOut, gate_means, held_out_slice
from dmgan_train.run_folder import RunFolder
from dmgan_train.settings import Settings
from export.sources import read_model
from tests.training import small_settings, train_small


@pytest.fixture(scope="module")
def watched(images, tmp_path_factory) -> RunFolder:
    """A run that was looked at every other step, judged against two captions instead of 99."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dmgan_train.monitor.MISMATCHED", 2)
        every = ("gan.sample_every=2", "gan.snapshot_every=2")
        return train_small(images, tmp_path_factory.mktemp("watched") / "run", *every)


def test_tensorboard_has_pictures_losses_gates_and_accuracies(watched) -> None:
    events = EventAccumulator(str(watched.tensorboard / "gan")).Reload()
    tags = events.Tags()
    assert tags["images"] == ["gan/samples"]
    assert [event.step for event in events.Images("gan/samples")] == [2, 4]
    expected = {"discriminator_8", "generator_32", "discriminator_gradient", "generator_gradient", "r_precision"}
    expected |= {f"{kind}_accuracy_{side}" for kind in ("real", "fake", "mismatched") for side in (8, 16, 32)}
    expected |= {f"{kind}_gate_{side}" for kind in ("writing", "response") for side in (16, 32)}
    assert {f"gan/{name}" for name in expected} <= set(tags["scalars"])


def test_accuracies_and_gates_are_shares(watched) -> None:
    entries = [json.loads(line) for line in watched.log_file.read_text().splitlines()]
    (entry,) = [entry for entry in entries if entry["phase"] == "gan" and "damsm" in entry]
    shares = {name: value for name, value in entry.items() if "accuracy" in name or "gate" in name}
    assert len(shares) == 13
    assert all(0 <= share <= 1 for share in shares.values())
    judged = [entry for entry in entries if "r_precision" in entry]
    assert [entry["step"] for entry in judged] == [2, 4]
    assert all(0 <= entry["r_precision"] <= 100 for entry in judged)


def test_too_few_captions_are_not_judged(run, images) -> None:
    data = read_data(images, None, small_settings())
    judge = Encoders(*load_encoders(run), data.tokenizer, 7, "squares")
    assert held_out_slice(data.test, judge) is None
    assert held_out_slice(None, judge) is None


def test_judging_draws_nothing_from_the_runs_random_numbers(run, images, monkeypatch) -> None:
    monkeypatch.setattr("dmgan_train.monitor.MISMATCHED", 2)
    data = read_data(images, None, small_settings())
    held_out = HeldOut(data.test, Encoders(*load_encoders(run), data.tokenizer, 7, "squares"))
    generator = load_model(run).generator
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first = held_out.r_precision(generator, 3)
    assert torch.equal(torch.rand(1), expected)
    assert held_out.r_precision(generator, 3) == first


def test_a_warm_up_is_judged_and_shown_by_the_stages_that_it_trains(images, tmp_path, monkeypatch) -> None:
    sides = []
    to_levels = monitor.to_levels
    monkeypatch.setattr("dmgan_train.monitor.MISMATCHED", 2)
    monkeypatch.setattr(monitor, "to_levels", lambda each: [to_levels(each), sides.append(each.shape[-1])][0])
    own = ("gan.reconstruction_weight=1", "gan.warm_up_steps=[1, 1, 1]", "gan.steps=4", "gan.sample_every=1")
    run = train_small(images, tmp_path / "run", *own)
    assert list(dict.fromkeys(sides)) == [8, 16, 32]
    widths = []
    for path in sorted(run.samples.glob("*.png")):
        with Image.open(path) as sheet:
            widths.append(sheet.width)
    assert widths == sorted(widths)
    assert widths[0] < widths[-1]


def test_gates_leave_padding_out() -> None:
    spec = Settings().model.__replace__(base_resolution=8, generator_channels=4)
    generator = GeneratorNetwork(spec)
    lengths = torch.tensor([1, 3])
    words = torch.randn(2, spec.text_features, 5)
    sentence = torch.randn(2, spec.text_features)
    noise = torch.randn(2, spec.noise_features), torch.randn(2, spec.condition_features)
    with torch.no_grad():
        output: GeneratorOutput = generator(sentence, words, lengths, *noise)
    gate = output.memories[0].writing_gate
    expected = (gate[0, :1].mean() + gate[1, :3].mean()) / 2
    means = gate_means(output.memories, lengths)
    torch.testing.assert_close(means["writing_gate_16"], expected)
    assert set(means) == {f"{kind}_gate_{side}" for kind in ("writing", "response") for side in (16, 32)}


def test_a_snapshot_is_the_generator_of_its_step(watched, images, tmp_path) -> None:
    assert watched.snapshots() == [2, 4]
    short = train_small(images, tmp_path / "short", "gan.steps=2")
    early, then = load_model(watched, 2), load_model(short)
    assert early.steps == then.steps == 2
    for name, value in then.generator.state_dict().items():
        assert torch.equal(early.generator.state_dict()[name], value)
    assert read_model(watched, "early", "CC0-1.0", 2).provenance["gan_steps"] == 2
    with open_source(watched.root, torch.device("cpu"), step=2) as source:
        assert source.steps == 2


def test_a_snapshot_that_is_not_there_names_those_that_are(watched, run, bundle) -> None:
    with pytest.raises(CheckpointError, match=r"no snapshot of step 3; there are: 2, 4"):
        load_model(watched, 3)
    with pytest.raises(CheckpointError, match=r"there are: none; set gan.snapshot_every"):
        load_model(run, 3)
    with pytest.raises(SettingsError, match="a bundle holds one generator"):
        open_source(bundle, torch.device("cpu"), step=2)


def test_snapshots_may_begin_later(run, images, tmp_path) -> None:
    folder = RunFolder(shutil.copytree(run.root, tmp_path / "run"))
    train_small(images, folder.root, "gan.snapshot_every=3", "gan.steps=6", "gan.epochs=9")
    assert folder.snapshots() == [6]
