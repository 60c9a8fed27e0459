"""The first minutes on a GPU, without one: each part goes through on the CPU, and commands for a GPU can be read."""

import json
import sys
import time
from pathlib import Path

import click
import pytest

from benchmarks import first_contact
from benchmarks.cli import main as benchmarks_main
from benchmarks.contenders import candidates, select
from benchmarks.first_contact import GPU, PARTS, TIMED_OUT, Part, Step, main
from benchmarks.training_step import PLAIN, loops
from dmgan_runtime.cli.generate import main as generate
from dmgan_train.cli import main as train
from dmgan_train.settings import resolve_settings

COMMANDS = {"benchmarks": benchmarks_main, "dmgan_train": train}


def summary(out: Path, part: int) -> list[dict]:
    return [json.loads(line) for line in (out / f"part-{part}.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("part", PARTS)
def test_a_part_goes_through_on_the_cpu(part, tmp_path) -> None:
    main([str(part), "--out", str(tmp_path), "--dry-run"])
    lines = summary(tmp_path, part)
    assert [line["status"] for line in lines] == [0] * len(lines), (tmp_path / f"part-{part}.log").read_text()
    results = {1: "training-cpu", 3: "latency-cpu"}
    assert {path.name for path in tmp_path.iterdir()} == {
        f"part-{part}.log",
        f"part-{part}.jsonl",
        *(f"{results[part]}.{ending}" for ending in ("json", "md", "png") if part in results),
    }
    assert "skipped" not in " ".join(line["last"] for line in lines)


def gpu_steps(tmp_path: Path) -> list[Step]:
    (tmp_path / "data").mkdir()
    return [step for part in PARTS.values() for step in part(GPU, tmp_path, tmp_path)]


def test_every_command_for_a_gpu_takes_its_arguments(tmp_path) -> None:
    for step in gpu_steps(tmp_path):
        program, *arguments = map(str, step.command[1:])
        command: click.Command = COMMANDS.get(program, generate)
        while isinstance(command, click.Group):
            name, *arguments = arguments
            command = command.commands[name]
        if program in COMMANDS or step.name == "generate":
            read = command.make_context(step.name, arguments).params
            if step.name.startswith("fit"):
                assert resolve_settings(read["preset"], overrides=read["overrides"]).gan.steps == GPU.steps


def test_the_contenders_are_those_that_a_first_look_needs(tmp_path) -> None:
    only = {}
    for step in gpu_steps(tmp_path):
        if "--only" in step.command:
            only[step.name] = str(step.command[list(step.command).index("--only") + 1]).split(",")
    latency = [*only["latency"], *only["latency-compiled"]]
    assert {each.name for each in select(candidates("cuda:0", 1), latency)} == {
        "torch-eager-fp32",
        "torch-eager-fp16",
        "torch-compile-fp16",
        "onnxruntime-fp32",
        "onnxruntime-fp16",
    }
    assert len(select(loops("cuda:0"), [*only["training"], *only["training-compiled"]], PLAIN)) == 5


def test_results_are_a_handful_of_files_in_one_folder(tmp_path) -> None:
    for part in PARTS.values():
        results = [path for step in part(GPU, tmp_path, tmp_path / "scratch") for path in step.command]
        outputs = {path for path in results if isinstance(path, Path) and path.suffix == ".json"}
        assert all(path.parent == tmp_path for path in outputs)
        assert 2 + 3 * len(outputs) <= 8


def python(name: str, code: str, limit: int = 60, *needs: str, is_essential: bool = False) -> Step:
    return Step(name, ["-c", code], limit, needs, is_essential)


def test_a_step_that_fails_or_hangs_does_not_stop_the_next(tmp_path) -> None:
    child = f"import subprocess, time; subprocess.Popen([{sys.executable!r}, '-c', {'import time; time.sleep(60)'!r}])"
    part = Part(1, tmp_path, 60)
    began = time.monotonic()
    part.run(
        [
            python("fails", "raise SystemExit('no such thing')"),
            python("hangs", f"{child}; print('waiting'); time.sleep(60)", 2),
            python("lacks", "", 60, "PIL", "no_such_package"),
            python("works", "print('done')"),
        ]
    )
    assert time.monotonic() - began < 30
    assert part.failed
    found = [(line["step"], line["status"], line["last"]) for line in summary(tmp_path, 1)]
    assert found == [
        ("fails", 1, "no such thing"),
        ("hangs", TIMED_OUT, "waiting"),
        ("lacks", None, "needs no_such_package"),
        ("works", 0, "done"),
    ]
    log = (tmp_path / "part-1.log").read_text()
    assert "== works: -c print('done')\ndone\n" in log


def test_nothing_runs_without_the_device_or_without_time(tmp_path) -> None:
    steps = [python("device", "exit(3)", is_essential=True), python("tests", "")]
    Part(1, tmp_path, 60).run(steps)
    Part(2, tmp_path, 1).run([python("tests", "")])
    assert [line["status"] for line in summary(tmp_path, 1)] == [3, None]
    assert summary(tmp_path, 2)[0]["last"] == "no time was left; run it with --only"


def test_missing_packages_are_named_first(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(first_contact, "find_spec", lambda name: None if name in ("msgspec", "yaml") else name)
    assert main(["1", "--out", str(tmp_path), "--only", "fit-fp32", "--dry-run"]) == 1
    assert capsys.readouterr().out.startswith("missing packages: msgspec, pyyaml\n")


def test_an_unknown_step_is_refused(tmp_path, capsys) -> None:
    with pytest.raises(SystemExit):
        main(["3", "--out", str(tmp_path), "--only", "warp"])
    assert "there is no step 'warp'; there are export, latency, latency-compiled" in capsys.readouterr().err
