from __future__ import annotations

import itertools
import json
import shutil
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from dmgan_train.fit import read_data
from dmgan_train.run_folder import RunFolder
from dmgan_train.settings import Settings, differences, resolve_settings
from scripts.recipes import JUDGE_SEED, VARIANTS, main, only
from tests.dmgan_train.evaluation.metrics.network import flat_network
from tests.training import SMALL


def _settings(name: str) -> Settings:
    recipe, changes = VARIANTS[name]
    return resolve_settings("tiny", recipe=recipe, overrides=list(changes))


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_differs_from_its_recipe_in_what_it_names(name: str) -> None:
    recipe, changes = VARIANTS[name]
    assert set(differences(_settings(recipe), _settings(name))) == {change.partition("=")[0] for change in changes}


def test_fewer_pictures_are_evenly_spread(images: Path) -> None:
    data = read_data(images, None, resolve_settings("tiny"))
    few = only(3, data)
    assert len(few.train) == 3
    assert few.train.examples[0] == data.train.examples[0]
    assert few.train.examples[-1] == data.train.examples[-1]
    assert replace(few, train=data.train) == data
    assert only(None, data) is data
    assert only(len(data.train) + 1, data) is data


def test_every_variant_is_offered() -> None:
    help_text = CliRunner().invoke(main, ["--help"]).output
    assert all(name in help_text for name in VARIANTS)


@pytest.fixture(scope="module")
def captioned(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images, held out ones too with captions enough for R-precision."""
    folder = shutil.copytree(images, tmp_path_factory.mktemp("captioned") / "squares")
    texts = map(" ".join, itertools.permutations(("a", "red", "green", "blue", "square", "on", "white"), 3))
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    lines = [line | {"captions": list(itertools.islice(texts, 36 if line["split"] == "test" else 2))} for line in lines]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_recipes_are_compared_over_seeds_and_the_same_command_goes_on(
    captioned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scripts.recipes.load_features", lambda *_: flat_network())
    flags = [flag for override in SMALL if "gan.steps" not in override for flag in ("--set", override)]
    out = tmp_path / "out"
    command = ["--preset", "tiny", "--data", captioned, "--out", out, "--steps", 2, "--images", 20]
    command += ["--variant", "contrastive", "--variant", "r1", "--device", "cpu", *flags]

    def run(*more: object) -> str:
        result = CliRunner().invoke(main, [str(one) for one in (*command, *more)])
        assert result.exit_code == 0, result.output
        return result.output

    assert "One training each" in run()
    before = {path: path.stat().st_mtime_ns for path in out.rglob("checkpoint.pt")}
    output = run("--seeds", 2)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    for folder, seed in ((out, 0), (out / "seed-1", 1)):
        paper, contrastive, r1 = (RunFolder(folder / name) for name in ("paper", "contrastive", "r1"))
        encoders = [run.checkpoint("damsm").read_bytes() for run in (paper, contrastive, r1)]
        assert encoders[0] == encoders[2] != encoders[1]
        settings = contrastive.settings()
        assert (settings.seed, settings.recipe, settings.damsm.contrastive_weight) == (seed, "contrastive", 1.0)
    judge = RunFolder(out / "judge")
    assert (judge.settings().seed, judge.settings().recipe) == (JUDGE_SEED, "paper")
    table = (out / "recipes.md").read_text()
    assert table in output
    assert [line.split(" | ")[0] for line in table.splitlines()[2:5]] == ["| paper", "| contrastive", "| r1"]
    results = json.loads((out / "recipes.json").read_text())
    for name, line in zip(results, table.splitlines()[2:5], strict=True):
        measured = [results[name]["seeds"][seed]["results"] for seed in "01"]
        assert {one["r_precision"]["protocol"]["encoders"]["name"] for one in measured} == {"judge"}
        fid = [one["fid"]["value"] for one in measured]
        assert f"| {statistics.fmean(fid):.4g} +- {statistics.stdev(fid):.2g} |" in line
