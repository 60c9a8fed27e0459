import json
import shutil
import statistics
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from dmgan_runtime.errors import CheckpointError, DataError, SettingsError, TrainingError
from dmgan_train.checkpoint import load_checkpoint
from dmgan_train.cli import main
from dmgan_train.data import load_split
from dmgan_train.evaluation import seeds as seeds_module
from dmgan_train.evaluation.ablation import ROWS, ablate
from dmgan_train.evaluation.figures.words import draw_words
from dmgan_train.evaluation.image_source import RunSource
from dmgan_train.evaluation.metrics.evaluate import Plan
from dmgan_train.fit import read_data
from dmgan_train.run_folder import RunFolder
from tests.dmgan_train.evaluation.metrics.network import flat_network
from tests.training import SMALL, small_settings

PLAN_METRICS = ("is", "fid", "diversity")


def run_ablation(images, out, *overrides, seeds=1, metrics=PLAN_METRICS) -> str:
    settings = small_settings("gan.steps=2", "damsm.steps=2", *overrides)
    plan = Plan(metrics, images, "image_folder", images=20)
    data = read_data(images, None, settings)
    return ablate(settings, data, out, flat_network(), plan, torch.device("cpu"), 0, print, seeds)


def test_data_that_cannot_be_measured_are_found_before_a_row_is_trained(images, tmp_path) -> None:
    with pytest.raises(DataError, match="R-precision draws 99 captions"):
        run_ablation(images, tmp_path / "few", metrics=("r_precision",))
    assert [path.name for path in (tmp_path / "few").iterdir()] == ["encoders"]
    gone = Path(shutil.copytree(images, tmp_path / "gone"))
    for example in load_split("image_folder", gone, "test").examples:
        example.image.unlink()
    with pytest.raises(DataError, match="none of the 4 pictures of the split 'test' can be read"):
        run_ablation(gone, tmp_path / "unread")
    assert not (tmp_path / "unread").exists()


@pytest.fixture(scope="module")
def out(images, tmp_path_factory):
    """An ablation of two steps a row; do not change it."""
    folder = tmp_path_factory.mktemp("ablation")
    run_ablation(images, folder)
    return folder


def test_the_rows_are_those_of_table_3_with_one_damsm(out) -> None:
    memories = {}
    encoders = (out / "encoders" / "damsm" / "checkpoint.pt").read_bytes()
    for row in ROWS:
        run = RunFolder(out / row.folder)
        spec = run.settings().model
        memories[row.name] = (spec.memory_writing, spec.memory_response)
        assert run.checkpoint("damsm").read_bytes() == encoders
        assert load_checkpoint(run.checkpoint("gan"), "gan")["step"] == 2
    assert memories == {
        "baseline": ("none", "concatenation"),
        "+M": ("words", "concatenation"),
        "+M+WG": ("gated", "concatenation"),
        "+M+WG+RG": ("gated", "gated"),
    }


def test_the_table_has_every_row_and_metric_and_says_how(out, images) -> None:
    table = (out / "ablation.md").read_text()
    lines = table.splitlines()
    assert lines[0] == "|  | IS (efficientnet_lite2) | FID (efficientnet_lite2) | diversity (efficientnet_lite2) |"
    assert [line.split(" | ")[0] for line in lines[2:6]] == [f"| {row.name}" for row in ROWS]
    assert "2 steps each" in table
    assert "20 images of the split test" in table
    results = json.loads((out / "ablation.json").read_text())
    assert list(results) == [row.name for row in ROWS]
    for row in ROWS:
        assert list(results[row.name]["results"]) == list(PLAN_METRICS)
        assert results[row.name]["protocol"]["model"]["generator_sha256"]
        assert str(images) not in json.dumps(results[row.name])


def test_the_generators_differ(out) -> None:
    results = json.loads((out / "ablation.json").read_text())
    assert len({results[row.name]["results"]["fid"]["value"] for row in ROWS}) == len(ROWS)


def test_every_row_has_its_figure_of_words(out) -> None:
    widths = []
    for row in ROWS:
        source = RunSource(RunFolder(out / row.folder), torch.device("cpu"))
        widths.append(draw_words(source, "a red square on white", seed=0).width)
    assert widths[0] == widths[1] == widths[2] < widths[3]  # only the last has a response gate to show


def test_the_same_call_goes_on_and_repeats_nothing(out, images, monkeypatch) -> None:
    (out / "m-wg" / "metrics" / "ablation.json").unlink()
    before = {file: file.stat().st_mtime_ns for file in out.rglob("checkpoint.pt")}
    table = (out / "ablation.md").read_text()
    measured: list[int] = []
    original = seeds_module.evaluate
    monkeypatch.setattr(seeds_module, "evaluate", lambda *rest: measured.append(1) or original(*rest))
    run_ablation(images, out)
    assert {file: file.stat().st_mtime_ns for file in out.rglob("checkpoint.pt")} == before
    assert len(measured) == 1
    assert (out / "ablation.md").read_text() == table


def test_more_seeds_join_what_is_there_and_give_a_spread(out, images, tmp_path, monkeypatch) -> None:
    folder = shutil.copytree(out, tmp_path / "out")
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("checkpoint.pt")}
    single = json.loads((folder / "ablation.json").read_text())
    original, measured = seeds_module.evaluate, []

    def cut(*rest):
        measured.append(1)
        if len(measured) == 3:
            raise TrainingError("cut")
        return original(*rest)

    monkeypatch.setattr(seeds_module, "evaluate", cut)
    with pytest.raises(TrainingError, match="cut"):
        run_ablation(images, folder, seeds=2)
    table = run_ablation(images, folder, seeds=2)
    assert len(measured) == 5  # the four of the second seed, one of them twice
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert (folder / "ablation.md").read_text() == table
    assert "Mean and sample standard deviation of 2 trainings each, with the seeds 0, 1;" in table
    results = json.loads((folder / "ablation.json").read_text())
    for row, line in zip(ROWS, table.splitlines()[2:6], strict=True):
        other = RunFolder(folder / "seed-1" / row.folder)
        assert (other.settings().seed, other.settings().model) == (1, RunFolder(out / row.folder).settings().model)
        assert other.checkpoint("damsm").read_bytes() == RunFolder(folder / "encoders").checkpoint("damsm").read_bytes()
        of_row = results[row.name]
        assert of_row["seeds"]["0"] == single[row.name]
        assert of_row["seeds"]["1"]["protocol"]["model"] != single[row.name]["protocol"]["model"]
        cells = line.strip("| ").split(" | ")[1:]
        for cell, metric in zip(cells, PLAN_METRICS, strict=True):
            values = [of_row["seeds"][seed]["results"][metric]["value"] for seed in "01"]
            assert values[0] != values[1]
            mean, std = sum(values) / 2, statistics.stdev(values)
            assert of_row["results"][metric]["mean"] == pytest.approx(mean)
            assert of_row["results"][metric]["std"] == pytest.approx(std)
            assert of_row["results"][metric]["values"] == dict(zip("01", values, strict=True))
            assert cell == f"{mean:.4g} +- {std:.2g}"


def test_other_settings_are_refused_before_the_encoders_change(out, images) -> None:
    path = RunFolder(out / "encoders").checkpoint("damsm")
    before = path.read_bytes()
    with pytest.raises(SettingsError, match=r"damsm\.steps was 2 and is now 4"):
        run_ablation(images, out, "damsm.steps=4")
    assert path.read_bytes() == before


def test_a_row_with_other_encoders_is_refused(out, images, tmp_path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    with (copy / "m" / "damsm" / "checkpoint.pt").open("ab") as stream:
        stream.write(b"other")
    with pytest.raises(CheckpointError, match="which all runs here share"):
        run_ablation(images, copy)


def test_a_dry_run_shows_the_plan_and_leaves_nothing(images, tmp_path) -> None:
    flags = [flag for override in SMALL for flag in ("--set", override)]
    arguments = ["ablate", "--preset", "tiny", "--data", str(images), "--out", str(tmp_path / "out"), "--dry-run"]
    arguments += ["--recipe", "small-data", "--seeds", "3"]
    result = CliRunner().invoke(main, [*arguments, *flags])
    assert result.exit_code == 0, result.output
    assert "rows   baseline, +M, +M+WG, +M+WG+RG\nseeds  0, 1, 2\n" in result.output
    assert not (tmp_path / "out").exists()


def test_it_goes_on_in_the_precision_that_it_began_with(out, images, monkeypatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    flags = [flag for override in (*SMALL, "gan.precision=auto") for flag in ("--set", override)]
    arguments = ["ablate", "--preset", "tiny", "--data", str(images), "--dry-run", *flags]
    result = CliRunner().invoke(main, [*arguments, "--out", str(out)])
    assert result.output.count("in fp32") == 2, result.output
    result = CliRunner().invoke(main, [*arguments, "--out", str(out / "new")])
    assert result.output.count("in bf16") == 1, result.output


def test_a_model_without_refinement_has_no_rows(images, tmp_path) -> None:
    flags = [flag for override in (*SMALL, "model.stages=1") for flag in ("--set", override)]
    arguments = ["ablate", "--preset", "tiny", "--data", str(images), "--out", str(tmp_path / "out"), "--dry-run"]
    result = CliRunner().invoke(main, [*arguments, *flags])
    assert result.exit_code == 2, result.output
    assert "set model.stages to 2 or more" in result.output
    assert not (tmp_path / "out").exists()


def test_data_without_what_is_measured_are_refused_before_anything_is_trained(images, tmp_path) -> None:
    root = shutil.copytree(images, tmp_path / "squares")
    lines = [json.loads(line) for line in (images / "metadata.jsonl").read_text().splitlines()]
    (root / "metadata.jsonl").write_text("".join(json.dumps(line | {"split": "train"}) + "\n" for line in lines))
    with pytest.raises(SettingsError, match=r"no test split to measure; set data.held_out above 0"):
        run_ablation(root, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_trains_and_prints_the_table(images, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("dmgan_train.evaluation.metrics.features.load_features", lambda *_: flat_network())
    steps = ("gan.steps=1", "damsm.steps=1")
    flags = [flag for override in (*SMALL, *steps) for flag in ("--set", override)]
    arguments = ["ablate", "--preset", "tiny", "--data", images, "--out", tmp_path / "out", "--workers", 0]
    chosen = ["--metrics", "is", "--images", 20]
    result = CliRunner().invoke(main, [str(one) for one in (*arguments, *chosen, *flags)])
    assert result.exit_code == 0, result.output
    assert "| +M+WG+RG |" in result.output
    assert (tmp_path / "out" / "ablation.md").read_text() in result.output
