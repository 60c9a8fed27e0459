import json
import re
import shutil

import pytest
from click.testing import CliRunner

from dmgan_runtime.errors import CheckpointError
from dmgan_train.cli import main
from dmgan_train.evaluation.metrics.protocol import Evaluation, MetricResult, detail_rows
from dmgan_train.evaluation.report import read_curves, smooth
from dmgan_train.run_folder import RunFolder


@pytest.fixture
def own(run, tmp_path) -> RunFolder:
    """A copy of the run that a test may change."""
    ignored = shutil.ignore_patterns("*.pt", "tensorboard")
    return RunFolder(shutil.copytree(run.root, tmp_path / "run", ignore=ignored))


def page(run: RunFolder) -> str:
    result = CliRunner().invoke(main, ["report", str(run.root)])
    assert result.exit_code == 0, result.output
    return (run.root / "report.html").read_text()


def test_the_page_holds_everything_and_fetches_nothing(own) -> None:
    details = {"test": {"generated": {"lab": {"queries": 8, "class_at_1": 37.5}}}}
    fid = MetricResult(name="FID (x)", value=12.345, better="lower", definition="d", protocol={"n": 3}, details=details)
    Evaluation(results={"fid": fid}, protocol={"seed": "<0>"}).write(own.root / "metrics" / "first.json")
    html = page(own)
    assert html.count("data:image/png;base64,") == 1
    assert html.count("<svg") == html.count("</svg>") > 5
    for expected in ("12.35", "37.5", "first.json", "discriminator_32", "batch_size", "squares", "&lt;0&gt;"):
        assert expected in html
    assert re.findall(r'(?:src|href)="(?!#|data:)', html) == []
    assert not re.search(r"<script|@import|url\((?!#)", html)


def test_a_run_that_has_barely_begun_has_a_page(own) -> None:
    own.log_file.unlink()
    shutil.rmtree(own.samples)
    html = page(own)
    assert "Nothing logged yet" in html
    assert "None drawn yet" in html
    assert "dmgan_train evaluate" in html


def test_a_cut_last_line_is_left_out_and_a_broken_one_is_named(own) -> None:
    lines = own.log_file.read_text().splitlines()
    own.log_file.write_text("\n".join(lines) + '\n{"phase": "ga')
    assert set(read_curves(own)) == {"damsm", "gan"}
    for odd in ('{"phase": "ga', "[]", '{"phase": "gan"}', '{"phase": "gan", "step": "4"}', "[" * 100_000):
        own.log_file.write_text(odd + "\n" + "\n".join(lines))
        with pytest.raises(CheckpointError, match=r"line 1: is no entry of a log, .*; remove it"):
            read_curves(own)


def test_curves_are_what_was_logged(own) -> None:
    entries = [json.loads(line) for line in own.log_file.read_text().splitlines()]
    curves = {curve.name: curve for curve in read_curves(own)["gan"]}
    assert curves["damsm"].values == [entries[1]["damsm"]]
    assert curves["damsm"].steps == [4]
    assert not {"phase", "step", "epoch"} & curves.keys()


def test_smoothing_neither_shifts_nor_shrinks() -> None:
    assert smooth([1.0, 5.0]) == [1.0, 5.0]
    line = [float(value) for value in range(100)]
    assert smooth(line)[10:-10] == pytest.approx(line[10:-10])
    assert smooth([3.0] * 100) == pytest.approx([3.0] * 100)


def test_nested_numbers_become_rows() -> None:
    details = {"a": {"b": {"x": 1, "y": 2.0}, "c": {"x": 3}}, "z": 4}
    assert detail_rows(details) == [("", {"z": 4}), ("a / b", {"x": 1, "y": 2.0}), ("a / c", {"x": 3})]


def test_what_is_no_run_is_refused(tmp_path) -> None:
    result = CliRunner().invoke(main, ["report", str(tmp_path)])
    assert result.exit_code == 2
    assert "not a run folder" in result.output
