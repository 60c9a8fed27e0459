"""What docs/benchmarks.md tells a reader to type exists."""

import re
import shlex
from pathlib import Path
from typing import get_args

import click
import pytest
from click.testing import CliRunner

from benchmarks import options as options_module
from benchmarks.cli import main
from benchmarks.options import choose_device, default_output
from benchmarks.results import Measure
from dmgan_runtime.backends.gpus import Gpu
from dmgan_runtime.errors import BackendError

ROOT = Path(__file__).parent.parent.parent
IN_DOCUMENT = re.findall(r"^python -m benchmarks (.*?)(?:  .*)?$", (ROOT / "docs" / "benchmarks.md").read_text(), re.M)


@pytest.mark.parametrize("line", IN_DOCUMENT)
def test_a_command_takes_its_arguments(line) -> None:
    name, *arguments = shlex.split(line)
    command = main.commands[name]
    command.make_context(name, arguments)


def test_every_measure_is_told() -> None:
    assert {line.split()[0] for line in IN_DOCUMENT} == set(get_args(Measure))


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_command_explains_itself(name) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0
    assert all(parameter.help for parameter in main.commands[name].params if isinstance(parameter, click.Option))


@pytest.mark.parametrize(
    ("asked", "gpus", "expected"),
    [("auto", 1, "cuda:0"), ("auto", 0, "cpu"), ("cuda", 1, "cuda:0"), ("cpu", 1, "cpu"), ("cuda:1", 2, "cuda:1")],
)
def test_auto_takes_a_gpu_where_there_is_one(asked, gpus, expected, monkeypatch) -> None:
    found = tuple(Gpu(index, "GPU", 90, "13.0") for index in range(gpus))
    monkeypatch.setattr(options_module, "find_gpus", lambda: found)
    assert choose_device(asked) == expected


def test_auto_is_the_cpu_without_a_driver(monkeypatch) -> None:
    def refuse() -> None:
        raise BackendError("no driver")

    monkeypatch.setattr(options_module, "find_gpus", refuse)
    assert choose_device("auto") == "cpu"


def test_results_are_kept_by_measure_and_device() -> None:
    assert default_output("latency", "cuda:0") == Path("benchmarks/results/latency-cuda.json")


@pytest.mark.parametrize("wrong", ["1,x", "0", ""])
def test_batches_are_numbers(wrong) -> None:
    result = CliRunner().invoke(main, ["latency", "--batches", wrong])
    assert result.exit_code == 2
    assert "--batches" in result.output


def test_a_bundle_needs_its_run(tmp_path) -> None:
    result = CliRunner().invoke(main, ["latency", "--bundle", str(tmp_path)])
    assert result.exit_code == 2
    assert "--bundle needs the --run" in result.output
