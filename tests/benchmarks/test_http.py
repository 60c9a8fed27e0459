"""The measure of HTTP, with a real server."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from benchmarks.cli import main
from benchmarks.contender import BundleFolder
from benchmarks.http import Http, Transport
from benchmarks.report import render
from benchmarks.results import read_result
from dmgan_runtime.errors import EngineError


def test_http_is_measured_beside_python(tmp_path) -> None:
    output = tmp_path / "http.json"
    arguments = [
        "http",
        "--device",
        "cpu",
        "--threads",
        "1",
        "--rounds",
        "1",
        "--clients",
        "2",
        "--turn",
        "0.1",
        "-o",
        str(output),
    ]
    said = CliRunner().invoke(main, arguments)
    assert said.exit_code == 0, said.output
    result = read_result(output)
    assert [(entry.name, entry.version != "") for entry in result.entries] == [("python", True), ("http", True)]
    assert {(each.contender, each.figure, each.clients) for each in result.series} == {
        (name, *figure) for name in ("python", "http") for figure in (("end_to_end", None), ("images_per_second", 2))
    }
    assert not result.absences
    assert "| a PNG | precision | p50, ms | p95 | p99 | speed | images/s, 2 clients |" in render(result)
    (panel,) = Http.panels(result)
    assert [bar.entry.label for bar in panel.bars] == ["Python", "HTTP"]


def test_a_server_that_does_not_start_says_why(tmp_path) -> None:
    asked = Transport("fp32", "cpu", 1, "onnxruntime", served=True)
    with pytest.raises(EngineError, match=r"dmgan-serve did not start: .*no such bundle"):
        asked.open(BundleFolder(tmp_path / "nothing"))
