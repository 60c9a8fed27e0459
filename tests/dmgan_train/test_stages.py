"""The number of stages is a setting: a pyramid of five and a generator of one, trained and looked at as a whole."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from dmgan_train.checkpoint import load_checkpoint
from dmgan_train.cli import main
from dmgan_train.evaluation.figures.sheet import LEGIBLE_SIDE
from dmgan_train.evaluation.image_source import RunSource
from dmgan_train.run_folder import RunFolder
from tests.dmgan_train.evaluation.metrics.network import flat_network
from tests.dmgan_train.test_fit import assert_same
from tests.training import train_small, train_until

CAPTION = "a red square on white"
WIDTHS = ("model.generator_channels=2", "gan.batch_size=2", "damsm.steps=2")
TO_PAPERS_SIDE = ("model.base_resolution=16", "model.stages=5")
OWN = {
    1: (*WIDTHS, "model.base_resolution=32", "model.stages=1", "gan.warm_up_steps=[2]"),
    5: (*WIDTHS, *TO_PAPERS_SIDE, "gan.warm_up_steps=[1, 0, 1, 0, 1]"),
}
LOSSES = ("gan.reconstruction_weight=10", "gan.perceptual_weight=1", "gan.augmentation=true", "gan.r1_weight=1")
LENGTH = ("gan.r1_every=2", "gan.steps=5", "gan.epochs=9", "gan.checkpoint_every=1")


def overrides(stages: int) -> tuple[str, ...]:
    return (*OWN[stages], *LOSSES, *LENGTH)


@pytest.fixture(scope="module", params=OWN)
def stages(request) -> int:
    return request.param


@pytest.fixture(scope="module")
def trained(stages, images, tmp_path_factory) -> RunFolder:
    """A run of so many stages, warmed up and trained for some steps; do not change it."""
    return train_small(images, tmp_path_factory.mktemp("stages") / f"{stages}", *overrides(stages))


def invoke(*arguments: object):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def sides(stages: int) -> list[int]:
    return [32] if stages == 1 else [16, 32, 64, 128, 256]


def test_a_run_of_any_stages_leaves_losses_and_pictures_of_all(trained, stages) -> None:
    last = json.loads(trained.log_file.read_text().splitlines()[-1])
    for side in sides(stages):
        assert {f"discriminator_{side}", f"generator_{side}", f"r1_{side}", f"fake_accuracy_{side}"} <= last.keys()
    with Image.open(trained.samples / "step-0000005.png") as sheet:
        assert sheet.width >= 2 * stages * sides(stages)[-1]


def test_cut_in_the_warm_up_and_after_it_it_comes_to_the_same_weights(trained, stages, images, tmp_path) -> None:
    for step in (1, 4):
        train_until(step, images, tmp_path / "run", *overrides(stages))
    again = train_small(images, tmp_path / "run", *overrides(stages))
    assert_same(load_checkpoint(again.checkpoint("gan"), "gan"), load_checkpoint(trained.checkpoint("gan"), "gan"))


def test_it_is_sampled_and_measured_and_reported(trained, stages, images, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("dmgan_train.evaluation.metrics.features.load_features", lambda *_: flat_network())
    picture, results, page = (tmp_path / name for name in ("sample.png", "results.json", "report.html"))
    for arguments in (
        ("sample", trained.root, CAPTION, "-o", picture),
        ("evaluate", trained.root, "--data", images, "--metrics", "is", "--images", 20, "-o", results),
        ("report", trained.root, "-o", page),
    ):
        result = invoke(*arguments)
        assert result.exit_code == 0, result.output
    with Image.open(picture) as drawn:
        assert drawn.width > stages * sides(stages)[-1]
    assert json.loads(results.read_text())["protocol"]["resolution"] == sides(stages)[-1]
    assert "response gate" in page.read_text() or stages == 1


def test_its_explanation_has_every_stage(trained, stages) -> None:
    (generation,) = RunSource(trained, torch.device("cpu")).explain([CAPTION], [3])
    assert list(generation.stages) == sides(stages)
    assert generation.image is generation.stages[sides(stages)[-1]]
    assert list(generation.attention) == list(generation.gates) == sides(stages)[1:]


def test_its_stages_are_a_figure(trained, stages, tmp_path) -> None:
    result = invoke("figure", "stages", trained.root, CAPTION, "-o", tmp_path / "stages.png")
    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "stages.png") as picture:
        assert stages * LEGIBLE_SIDE < picture.height < (stages + 1) * LEGIBLE_SIDE


def test_the_words_of_its_refinements_are_a_figure_if_it_has_any(trained, stages, tmp_path) -> None:
    output: Path = tmp_path / "words.png"
    result = invoke("figure", "words", trained.root, CAPTION, "-o", output)
    if stages == 1:
        assert result.exit_code == 2
        assert "this model has one stage" in result.output
        assert not output.exists()
    else:
        assert result.exit_code == 0, result.output
        with Image.open(output) as picture:
            assert picture.height > (stages - 1) * LEGIBLE_SIDE
