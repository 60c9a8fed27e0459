"""The first minutes on a GPU: does it train, does it serve, how fast is it.

    python -m benchmarks.first_contact 1 --out DIR        trains: GPU tests, 50 steps in every precision, benchmark
    python -m benchmarks.first_contact 2 --out DIR        serves the packaged model: GPU tests in fp32 and fp16
    python -m benchmarks.first_contact 3 --out DIR        latency at batches 1, 4, 16 and 64

Each part ends within three minutes: a step has a limit of its own, and what the part has no time left for is not run,
until `--only STEP` asks for it. A step that fails does not stop the next one, unless nothing can work without it. What
is printed goes to part-N.log and a line about each step to part-N.jsonl as soon as it is known, so a part that is cut
off loses only what was running.

Part 1 needs the checkout and PyTorch with CUDA, parts 2 and 3 also onnxruntime-gpu; nothing is installed or downloaded.
Small packages that are missing are named at the start, and only the steps that need them are left out. `--dry-run` goes
through all of it on the CPU with tiny sizes: the same commands, but tests are collected and not run, and what only a
GPU can do is left out.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import IO, NamedTuple

# Nothing of ours and nothing that is installed is imported here: what is missing is found out first.
ROOT = Path(__file__).parent.parent
CACHE = ROOT / ".cache" / "benchmarks"
PART_SECONDS = 170
LEAST_SECONDS = 5
TIMED_OUT = 124  # as `timeout` of the coreutils has it

# What each kind of step imports, by what pip calls it.
PACKAGES = {"PIL": "pillow", "yaml": "pyyaml"}
SERVE = "numpy PIL click msgspec platformdirs onnxruntime"
TRAIN = "numpy PIL click msgspec torch yaml tqdm filelock tensorboard"
TEST_TRAINING = f"{TRAIN} pytest"
TEST_SERVING = f"{SERVE} {TRAIN} pytest hypothesis onnx"
BENCHMARK = f"{TRAIN} platformdirs onnxruntime onnx onnxscript rich matplotlib"


class Step(NamedTuple):
    """One process.

    Attributes:
        name: Names it in the summary.
        command: After the interpreter; `{name}` is replaced by a value of `GPU` or `DRY`, or a folder.
        limit: Seconds; infinite takes what is left of the part's.
        needs: The modules that it imports.
        is_essential: Whether the others are of no use without it.
        on_cpus: Whether a dry run goes through it.
    """

    name: str
    command: str
    limit: float
    needs: str
    is_essential: bool = False
    on_cpus: bool = True


GPU = {
    "device": "cuda",
    "images": 200,
    "lengths": "--set damsm.steps=50 --set gan.steps=50 --set damsm.epochs=1000 --set gan.epochs=1000",
    "pytest": "-m pytest -p no:cacheprovider -W default --durations=5",
    "preset": "birds",
    "train": "--batch 16",
    "loops": "dmgan-fp32,dmgan-tf32,dmgan-bf16",
    "engines": "torch-eager-fp16,onnxruntime-fp32,onnxruntime-fp16",
    "batches": "1,4,16,64",
    "rounds": "--rounds 20 --seconds 4",
}
_SMALL = "model.base_resolution=8 model.generator_channels=4 gan.discriminator_channels=2 damsm.trunk_resolution=32"
_FEW = "damsm.steps=2 gan.steps=2 damsm.batch_size=4 gan.batch_size=4"
DRY = GPU | {
    "device": "cpu",
    "images": 40,
    "lengths": " ".join(f"--set {setting}" for setting in f"{_SMALL} {_FEW}".split()),
    "pytest": "-m pytest -p no:cacheprovider -W default --collect-only",
    "preset": "tiny",
    "train": "--batch 2",
    "loops": "dmgan-fp32",
    "engines": "onnxruntime-fp32",
    "batches": "1,2",
    "rounds": "--rounds 1 --seconds 1 --threads 1",
}
# The whole objective from the first step, and pictures read by processes of their own.
_PAPER = "--preset tiny --recipe paper --set data.cache=false"
_FIT = f"-m dmgan_train fit {_PAPER} --data {{scratch}}/data --device {{device}} {{lengths}} --run {{scratch}}"
_TRAINING_TESTS = "{pytest} tests/dmgan_train/test_gpu.py -k"
_SERVING_TESTS = "{pytest} tests/dmgan_runtime/backends/test_gpu.py -k"
_TRAINING = "-m benchmarks training --preset {preset} --device {device} {train} {rounds}"
_LATENCY = "-m benchmarks latency --preset {preset} --device {device} --cache {cache} --batches {batches} {rounds}"
_SHOW_DEVICE = "import torch; print(torch.__version__, torch.ones(8, device='{device}').sum().item())"
_GENERATE = "from dmgan_runtime.cli.generate import main; main()"
_EXPORT = (
    "import sys; from pathlib import Path; from benchmarks.building import prepare_model;"
    " prepare_model('{preset}', None, None, Path(sys.argv[1]), '{device}')"
)
PARTS = {
    1: (
        Step("device", f'-c "{_SHOW_DEVICE}"', 40, "torch", is_essential=True),
        Step("data", "-m dmgan_train prepare synthetic {scratch}/data --count {images}", 30, TRAIN, is_essential=True),
        Step("fit-fp32", f"{_FIT}/fp32 --set gan.precision=fp32", 60, TRAIN),
        Step("tests", f'{_TRAINING_TESTS} "cuda and not compiled"', 70, TEST_TRAINING),
        Step("fit-bf16", f"{_FIT}/bf16 --set gan.precision=bf16", 60, TRAIN, on_cpus=False),
        Step("fit-fp16", f"{_FIT}/fp16 --set gan.precision=fp16", 60, TRAIN, on_cpus=False),
        Step("training", f"{_TRAINING} --only {{loops}} -o {{out}}/training-{{device}}.json", 60, BENCHMARK),
        Step(
            "fit-compiled", f"{_FIT}/compiled --set gan.precision=bf16 --set gan.compile=true", 60, TRAIN, on_cpus=False
        ),
        Step("tests-compiled", f'{_TRAINING_TESTS} "cuda and compiled"', 90, TEST_TRAINING, on_cpus=False),
        Step(
            "training-compiled",
            f"{_TRAINING} --only dmgan-compile-bf16 -o {{out}}/training-compiled-{{device}}.json",
            120,
            BENCHMARK,
            on_cpus=False,
        ),
    ),
    2: (
        # Not by the tests, which are skipped where the engine cannot be had.
        Step(
            "generate",
            f"-c '{_GENERATE}' 'red heart' --backend onnxruntime --device {{device}} --precision fp32"
            " -o {scratch}/heart.png",
            60,
            SERVE,
            is_essential=True,
        ),
        Step("tests-fp32", f"{_SERVING_TESTS} onnxruntime-cuda-fp32", 80, TEST_SERVING),
        Step("tests-fp16", f"{_SERVING_TESTS} onnxruntime-cuda-fp16", 80, TEST_SERVING, on_cpus=False),
    ),
    3: (
        # The export is kept, so that the part may be run again for the rest.
        Step("export", f'-c "{_EXPORT}" {{cache}}', math.inf, BENCHMARK, is_essential=True),
        Step("latency", f"{_LATENCY} --only {{engines}} -o {{out}}/latency-{{device}}.json", 120, BENCHMARK),
        Step(
            "latency-compiled",
            f"{_LATENCY} --only torch-compile-fp16 -o {{out}}/latency-compiled-{{device}}.json",
            math.inf,
            BENCHMARK,
            on_cpus=False,
        ),
    ),
}


def plan(part: int, values: Mapping[str, object], out: Path, scratch: Path) -> list[Step]:
    """The steps of a part, filled in from `GPU` or `DRY`; results go to one folder, the rest to the other."""
    filled = {
        **values,
        "out": shlex.quote(str(out)),
        "scratch": shlex.quote(str(scratch)),
        "cache": shlex.quote(str(CACHE)),
    }
    steps = [step for step in PARTS[part] if step.on_cpus or values["device"] != "cpu"]
    return [step._replace(command=step.command.format_map(filled)) for step in steps]


class Part:
    """A part that runs: its log, its summary and its time."""

    def __init__(self, number: int, out: Path, seconds: float) -> None:
        """The log and the summary are added to; the seconds are those of all steps together."""
        self._log, self._summary = out / f"part-{number}.log", out / f"part-{number}.jsonl"
        self._ends = time.monotonic() + seconds
        self.failed = False

    def run(self, steps: Sequence[Step]) -> None:
        """Runs what can be run, in order; none if one that the others need has failed."""
        lost = ""
        for step in steps:
            missing = missing_packages(step.needs.split())
            left = self._ends - time.monotonic()
            if lost or missing:
                self._report(step, None, 0, lost or f"needs {', '.join(missing)}")
            elif left < LEAST_SECONDS:
                self._report(step, None, 0, "no time was left; run it with --only")
            else:
                self._run(step, min(step.limit, left))
            if step.is_essential and self.failed:
                lost = f"needs what {step.name} did not show"

    def _run(self, step: Step, limit: float) -> None:
        with self._log.open("a+", encoding="utf-8", errors="replace") as log:
            log.write(f"\n== {step.name}: {step.command}\n")
            log.flush()
            start, began = log.tell(), time.monotonic()
            status = run_limited([sys.executable, *shlex.split(step.command)], limit, log)
            seconds = time.monotonic() - began
            log.seek(start)
            printed = [line.strip() for line in log if line.strip()]
        self._report(step, status, seconds, printed[-1][-300:] if printed else "")

    def _report(self, step: Step, status: int | None, seconds: float, last: str) -> None:
        self.failed |= status != 0
        line = json.dumps({"step": step.name, "status": status, "seconds": round(seconds, 1), "last": last})
        with self._summary.open("a", encoding="utf-8") as summary:
            summary.write(f"{line}\n")
        print(line, flush=True)  # noqa: T201 - this is what it is run for


def run_limited(command: Sequence[str], limit: float, log: IO[str]) -> int:
    """The exit status of a command that is ended, with every process that it started, after so many seconds."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    limited = ["timeout", "--kill-after=1", str(limit), *command]
    began = time.monotonic()
    status = subprocess.run(
        limited, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
    ).returncode
    # What does not end at SIGTERM is killed, and `timeout` itself with it.
    killed = status == -signal.SIGKILL and time.monotonic() - began >= limit
    return TIMED_OUT if killed else status


def missing_packages(modules: Iterable[str]) -> list[str]:
    """What has to be installed for these modules, as pip calls it."""
    return [PACKAGES.get(name, name) for name in modules if find_spec(name) is None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one part; returns 0 if every step did what it should."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.first_contact", description="The first minutes on a GPU."
    )
    parser.add_argument("part", type=int, choices=PARTS, help="1 trains, 2 serves, 3 measures latency.")
    parser.add_argument("--out", type=Path, help="Where results go.  [default: $OUT, or benchmarks/results/gpu]")
    parser.add_argument("--only", metavar="STEP,...", help="Only these steps, and the essential ones.")
    parser.add_argument(
        "--seconds", type=float, default=PART_SECONDS, help="Of the whole part.  [default: %(default)s]"
    )
    parser.add_argument("--dry-run", action="store_true", help="On the CPU, with tiny sizes.")
    options = parser.parse_args(arguments)
    out = (options.out or Path(os.environ.get("OUT") or ROOT / "benchmarks" / "results" / "gpu")).resolve()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        steps = plan(options.part, DRY if options.dry_run else GPU, out, Path(scratch))
        if options.only:
            wanted = set(options.only.split(","))
            if unknown := sorted(wanted - {step.name for step in steps}):
                parser.error(f"there is no step {unknown[0]!r}; there are {', '.join(step.name for step in steps)}")
            steps = [step for step in steps if step.name in wanted or step.is_essential]
        if missing := missing_packages(dict.fromkeys(name for step in steps for name in step.needs.split())):
            print(f"missing packages: {', '.join(missing)}", flush=True)  # noqa: T201
        patience = 10 if options.dry_run else 1  # CPUs that others use too are slow
        part = Part(options.part, out, options.seconds * patience)
        part.run([step._replace(limit=step.limit * patience) for step in steps])
    return int(part.failed)


if __name__ == "__main__":
    sys.exit(main())
