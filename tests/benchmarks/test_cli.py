"""What docs/benchmarks.md tells a reader to type exists, and a command goes from its options to a written result."""

import re
import shlex
from importlib import import_module
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from benchmarks import generation
from benchmarks.cli import main, make_command
from benchmarks.report import MEASURES
from benchmarks.results import read_result
from tests.benchmarks.fakes import RATES

ROOT = Path(__file__).parent.parent.parent
DOCUMENT = (ROOT / "docs" / "benchmarks.md").read_text()
IN_DOCUMENT = re.findall(r"^python -m (benchmarks \w+|scripts\.\w+)(.*?)(?:  .*)?$", DOCUMENT, re.M)


@pytest.mark.parametrize(("command", "arguments"), IN_DOCUMENT)
def test_a_command_takes_its_arguments(command, arguments, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("BUNDLE", "DIR"):
        (tmp_path / folder).mkdir()
    name = command.split()[-1]
    found = import_module(name).main if name.startswith("scripts") else main.commands[name]
    found.make_context(name, shlex.split(arguments))


def test_every_measure_is_told() -> None:
    assert {command.split()[1] for command, _ in IN_DOCUMENT if " " in command} == {each.name for each in MEASURES}


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_command_explains_itself(name) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0
    assert main.commands[name].help
    assert all(parameter.help for parameter in main.commands[name].params if isinstance(parameter, click.Option))


def test_the_command_measures_in_processes_of_their_own(model, run, bundle, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(generation, "prepare_model", lambda **_: model)
    monkeypatch.setattr("benchmarks.pool.call_in_worker", lambda *_: RATES)
    monkeypatch.chdir(tmp_path)
    arguments = ["--run", str(run.root), "--bundle", str(bundle), "--device", "cpu", "--threads", "1", "--rounds", "1"]
    arguments += ["--only", "onnxruntime-fp32", "--batches", "1"]
    result = CliRunner().invoke(main, ["latency", *arguments])
    assert result.exit_code == 0, result.output
    read = read_result(tmp_path / "benchmarks" / "results" / "latency-cpu.json")
    assert [entry.name for entry in read.entries] == ["torch-eager-fp32", "onnxruntime-fp32"]
    assert {series.figure for series in read.series} == {"end_to_end", *model.operations["as written"]}
    assert read.settings == {"batches": [1], "rounds": 1, "seconds": 300.0}
    assert read.matrix_rates == RATES
    assert read.entries[1].psnr_db is None or read.entries[1].psnr_db > 100


@pytest.mark.parametrize("wrong", ["1,x", "0", ""])
def test_batches_are_numbers(wrong) -> None:
    result = CliRunner().invoke(main, ["latency", "--batches", wrong])
    assert result.exit_code == 2
    assert "--batches" in result.output


def test_a_bundle_needs_its_run(tmp_path) -> None:
    result = CliRunner().invoke(make_command(generation.Latency), ["--bundle", str(tmp_path), "--device", "cpu"])
    assert result.exit_code == 2
    assert "--bundle needs the --run" in result.output
