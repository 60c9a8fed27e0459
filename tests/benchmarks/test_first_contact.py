"""The first minutes on a GPU, without one: each part goes through on the CPU, and commands for a GPU can be read."""

import json
import math
import re
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import IO

import click
import pytest

from benchmarks import building, first_contact
from benchmarks.cli import main as benchmarks_main
from benchmarks.contender import select
from benchmarks.first_contact import GPU, PARTS, ROOT, TIMED_OUT, Part, Step, main, plan, run_limited
from benchmarks.generation import find_contenders
from benchmarks.training import find_loops
from dmgan_runtime.cli.generate import main as generate
from dmgan_train.cli import main as train
from dmgan_train.settings import resolve_settings
from tests.dmgan_runtime.backends import test_gpu

COMMANDS = {"benchmarks": benchmarks_main, "dmgan_train": train}


def summary(out: Path, part: int) -> list[dict]:
    return [json.loads(line) for line in (out / f"part-{part}.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def cache(model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache in which the small run stands for the model that would be exported."""
    cache = tmp_path_factory.mktemp("cache")
    shutil.copytree(Path(model.weights).parent, cache / f"tiny-cpu-{building._key('tiny', None, None)[:12]}")
    return cache


def run_here(command: Sequence[str], limit: float, log: IO[str]) -> int:
    """`run_limited`, but what would only import PyTorch once more runs in this process."""
    flag, program, *arguments = command[1:]
    if flag == "-m" and program != "benchmarks":
        return run_limited(command, limit, log)
    with redirect_stdout(log), redirect_stderr(log), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["-c", *arguments])
        try:
            if flag == "-c":
                exec(program, {})
            else:
                benchmarks_main(arguments)
        except SystemExit as end:
            return int(end.code or 0)
    return 0


@pytest.mark.parametrize("part", PARTS)
def test_a_part_goes_through_on_the_cpu(part, cache, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(first_contact, "CACHE", cache)
    monkeypatch.setattr(first_contact, "run_limited", run_here)
    main([str(part), "--out", str(tmp_path), "--dry-run"])
    lines = summary(tmp_path, part)
    assert [line["status"] for line in lines] == [0] * len(lines), (tmp_path / f"part-{part}.log").read_text()
    assert [line["step"] for line in lines] == [step.name for step in PARTS[part] if step.on_cpus]
    # What stands for tests is that some are found by the words that choose them on a GPU.
    found = [line["last"] for line in lines if line["step"].startswith("tests")]
    assert all(re.search(r"^[1-9]\d*/\d+ tests collected", last) for last in found)
    results = {1: "training-cpu", 3: "latency-cpu"}
    assert {path.name for path in tmp_path.iterdir()} == {
        f"part-{part}.log",
        f"part-{part}.jsonl",
        *(f"{results[part]}.{ending}" for ending in ("json", "md", "png") if part in results),
    }


def gpu_steps(tmp_path: Path) -> dict[str, list[str]]:
    (tmp_path / "data").mkdir()
    steps = [step for part in PARTS for step in plan(part, GPU, tmp_path, tmp_path)]
    return {step.name: shlex.split(step.command) for step in steps}


def test_every_command_for_a_gpu_takes_its_arguments(tmp_path) -> None:
    read = {}
    for name, (flag, program, *arguments) in gpu_steps(tmp_path).items():
        if flag == "-c":
            compile(program, name, "exec")
        command: click.Command = COMMANDS.get(program, generate)
        while isinstance(command, click.Group):
            sub, *arguments = arguments
            command = command.commands[sub]
        if program in COMMANDS or name == "generate":
            read[name] = command.make_context(name, arguments).params
    fits = {name: params for name, params in read.items() if name.startswith("fit")}
    settings = {
        name: resolve_settings("tiny", recipe=params["recipe"], overrides=params["overrides"])
        for name, params in fits.items()
    }
    assert {each.gan.steps for each in settings.values()} == {each.damsm.steps for each in settings.values()} == {50}
    assert {name: each.gan.precision for name, each in settings.items()} == {
        "fit-fp32": "fp32",
        "fit-bf16": "bf16",
        "fit-fp16": "fp16",
        "fit-compiled": "bf16",
    }
    assert settings["fit-compiled"].gan.compile
    assert {params["device"] for name, params in read.items() if name != "data"} == {"cuda"}


def test_the_contenders_are_those_that_a_first_look_needs(tmp_path) -> None:
    steps = gpu_steps(tmp_path)
    only = {name: words[words.index("--only") + 1].split(",") for name, words in steps.items() if "--only" in words}
    latency = [*only["latency"], *only["latency-compiled"]]
    assert {each.name for each in select(find_contenders("cuda:0", 1), latency)} == {
        "torch-eager-fp32",
        "torch-eager-fp16",
        "torch-compile-fp16",
        "onnxruntime-fp32",
        "onnxruntime-fp16",
    }
    assert len(select(find_loops("cuda:0", 1), [*only["training"], *only["training-compiled"]])) == 5


def test_the_words_that_choose_tests_are_those_of_tests(tmp_path) -> None:
    steps = {name: words for name, words in gpu_steps(tmp_path).items() if name.startswith("tests")}
    setups = {f"{engine.backend}-{engine.device}-{precision}" for engine, precision in test_gpu.SETUPS}
    assert {steps["tests-fp32"][-1], steps["tests-fp16"][-1]} <= setups
    assert re.search(r"^def test_\w*compiled", (ROOT / steps["tests-compiled"][-3]).read_text(), re.M)


def test_results_are_a_handful_of_files_in_one_folder(tmp_path) -> None:
    for part in PARTS:
        words = [word for step in plan(part, GPU, tmp_path, tmp_path / "s") for word in shlex.split(step.command)]
        outputs = {Path(word) for word in words if word.endswith(".json")}
        assert all(path.parent == tmp_path for path in outputs)
        assert 2 + 3 * len(outputs) <= 8


def test_every_limit_is_within_a_part() -> None:
    limits = {step.limit for part in PARTS.values() for step in part} - {math.inf}
    assert max(limits) <= first_contact.PART_SECONDS < 180


def python(name: str, code: str, limit: int = 60, needs: str = "", is_essential: bool = False) -> Step:
    return Step(name, f"-c {shlex.quote(code)}", limit, needs, is_essential)


def test_a_step_that_fails_or_hangs_does_not_stop_the_next(tmp_path) -> None:
    child = f"import subprocess, time; subprocess.Popen([{sys.executable!r}, '-c', {'import time; time.sleep(600)'!r}])"
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    part = Part(1, tmp_path, 300)
    began = time.monotonic()
    part.run(
        [
            python("fails", "raise SystemExit('no such thing')"),
            python("hangs", f"{child}; print('waiting', flush=True); time.sleep(600)", 10),
            python("stays", f"{deaf}; import time; print('waiting', flush=True); time.sleep(600)", 10),
            python("lacks", "", needs="PIL no_such_package"),
            python("works", "print('done')"),
        ]
    )
    assert time.monotonic() - began < 300
    assert part.failed
    found = [(line["step"], line["status"], line["last"]) for line in summary(tmp_path, 1)]
    assert found == [
        ("fails", 1, "no such thing"),
        ("hangs", TIMED_OUT, "waiting"),
        ("stays", TIMED_OUT, "waiting"),
        ("lacks", None, "needs no_such_package"),
        ("works", 0, "done"),
    ]
    assert "== works: -c 'print('\"'\"'done'\"'\"')'\ndone\n" in (tmp_path / "part-1.log").read_text()


def test_nothing_runs_without_the_device_or_without_time(tmp_path) -> None:
    steps = [python("device", "exit(3)", is_essential=True), python("tests", "")]
    Part(1, tmp_path, 60).run(steps)
    Part(2, tmp_path, 1).run([python("tests", "")])
    assert [line["status"] for line in summary(tmp_path, 1)] == [3, None]
    assert summary(tmp_path, 2)[0]["last"] == "no time was left; run it with --only"


def test_missing_packages_are_named_first(tmp_path, monkeypatch, capsys) -> None:
    missing = ("torch", "msgspec", "yaml")
    monkeypatch.setattr(first_contact, "find_spec", lambda name: None if name in missing else name)
    assert main(["1", "--out", str(tmp_path), "--only", "fit-fp32", "--dry-run"]) == 1
    assert capsys.readouterr().out.startswith("missing packages: torch, msgspec, pyyaml\n")
    assert [line["status"] for line in summary(tmp_path, 1)] == [None] * 3


def test_an_unknown_step_is_refused(tmp_path, capsys) -> None:
    with pytest.raises(SystemExit):
        main(["3", "--out", str(tmp_path), "--only", "warp"])
    assert "there is no step 'warp'; there are export, latency, latency-compiled" in capsys.readouterr().err
