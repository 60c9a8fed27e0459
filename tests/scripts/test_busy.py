"""Engines are timed beside loops that have the CPUs, and the loops end."""

import time
from pathlib import Path

from click.testing import CliRunner

from benchmarks.report import render
from benchmarks.results import read_result
from scripts.busy import busy, main


def cpu_seconds(pid: int) -> float:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11]) / 100


def test_loops_compute_and_end_with_what_they_are_beside() -> None:
    with busy(2) as (first, second):
        began = time.monotonic()
        while min(cpu_seconds(first.pid), cpu_seconds(second.pid)) < 0.2:
            assert time.monotonic() - began < 60
            time.sleep(0.05)
    assert None not in (first.returncode, second.returncode)


def test_the_command_tells_of_each_number_of_loops(tmp_path) -> None:
    output = tmp_path / "busy.json"
    arguments = ["--device", "cpu", "--threads", "1", "--loops", "0,1", "--rounds", "1", "--only", "onnxruntime-fp32-1"]
    result = CliRunner().invoke(main, [*arguments, "-o", str(output)])
    assert result.exit_code == 0, result.output
    read = read_result(output)
    assert {(series.contender, series.figure) for series in read.series} == {
        ("onnxruntime-fp32-1", "alone"),
        ("onnxruntime-fp32-1", "beside_1_loops"),
    }
    assert "ONNX Runtime" in render(read)
