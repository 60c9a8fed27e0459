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
through all of it on the CPU, with tiny sizes.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import IO, NamedTuple

# Nothing of ours and nothing that is installed is imported here: what is missing is found out first.
ROOT = Path(__file__).parent.parent
PART_SECONDS = 170
LEAST_SECONDS = 5
TIMED_OUT = 124  # as `timeout` has it

# What each kind of step imports, by what pip calls it.
PACKAGES = {"PIL": "pillow", "yaml": "pyyaml"}
SERVE = ("numpy", "PIL", "click", "msgspec", "onnxruntime")
TRAIN = ("numpy", "PIL", "click", "msgspec", "torch", "yaml", "tqdm", "filelock", "tensorboard")
TEST_TRAINING = (*TRAIN, "pytest")
TEST_SERVING = (*SERVE, *TRAIN, "pytest", "hypothesis", "onnx")
BENCHMARK = (*TRAIN, "onnxruntime", "onnx", "onnxscript", "rich", "matplotlib", "packaging")


Command = Sequence[str | Path]


class Scale(NamedTuple):
    """How much is done, and where.

    Attributes:
        device: `cuda` or `cpu`.
        images: Of the data set.
        steps: Of each phase of training.
        settings: Overrides of the preset `tiny`.
        precisions: To train in.
        tests: Of training, as pytest's `-k` takes them; those of compiling are apart.
        compiled: Whether to compile; on a CPU that takes minutes.
        preset: Of the benchmarks.
        training_batch: Images of a training step.
        loops: Of the training benchmark, besides the published one.
        engines: Contenders of the latency benchmark, besides PyTorch eager in fp32.
        batches: Images at once.
        rounds: Turns of everybody in a benchmark.
        seconds: No new round of a benchmark after so long.
        patience: Multiplies every limit of time; CPUs that others use too are slow.
    """

    device: str
    images: int
    steps: int
    settings: tuple[str, ...]
    precisions: tuple[str, ...]
    tests: str
    compiled: bool
    preset: str
    training_batch: int
    loops: str
    engines: str
    batches: str
    rounds: int
    seconds: int
    patience: int


GPU = Scale(
    device="cuda",
    images=200,
    steps=50,
    settings=(),
    precisions=("fp32", "bf16", "fp16"),
    tests="cuda and not compiled",
    compiled=True,
    preset="birds",
    training_batch=16,
    loops="dmgan-fp32,dmgan-tf32,dmgan-bf16",
    engines="torch-eager-fp16,onnxruntime-fp32,onnxruntime-fp16",
    batches="1,4,16,64",
    rounds=20,
    seconds=4,
    patience=1,
)
DRY = Scale(
    device="cpu",
    images=40,
    steps=2,
    settings=("model.generator_channels=4", "gan.discriminator_channels=2", "gan.batch_size=4", "damsm.batch_size=6"),
    precisions=("fp32",),
    tests="cpu and fp32 and warm-up",
    compiled=False,
    preset="tiny",
    training_batch=2,
    loops="dmgan-fp32",
    engines="onnxruntime-fp32",
    batches="1,2",
    rounds=1,
    seconds=1,
    patience=10,
)


class Step(NamedTuple):
    """One process.

    Attributes:
        name: Names it in the summary.
        command: After the interpreter.
        limit: Seconds.
        needs: The modules that it imports.
        is_essential: Whether the others are of no use without it.
    """

    name: str
    command: Command
    limit: int
    needs: Sequence[str]
    is_essential: bool = False


def training_steps(scale: Scale, out: Path, scratch: Path) -> list[Step]:
    """Part 1.

    Args:
        scale: How much.
        out: For results.
        scratch: For what nobody looks at afterwards.
    """
    data = scratch / "data"
    check = f"import torch; print(torch.__version__, torch.ones(8, device={scale.device!r}).sum().item())"
    make: Command = ["-m", "dmgan_train", "prepare", "synthetic", data, "--count", str(scale.images)]
    half = [_fit(scale, precision, scratch, precision) for precision in scale.precisions[1:]]
    tests = ["tests/dmgan_train/test_gpu.py", "--durations=5", "-k"]
    steps = [
        Step("device", ["-c", check], 40, ("torch",), is_essential=True),
        Step("data", make, 30, TRAIN, is_essential=True),
        _fit(scale, "fp32", scratch, "fp32"),
        Step("tests", [*_PYTEST, *tests, scale.tests], 70, TEST_TRAINING),
        *half,
        _benchmark(scale, "training", out / "training", _training(scale, scale.loops), 60),
    ]
    if scale.compiled:
        steps += [
            _fit(scale, "compiled", scratch, "bf16", "gan.compile=true"),
            Step("tests-compiled", [*_PYTEST, *tests, f"{scale.device} and compiled"], 90, TEST_TRAINING),
            _benchmark(scale, "training", out / "training-compiled", _training(scale, "dmgan-compile-bf16"), 120),
        ]
    return steps


def serving_steps(scale: Scale, out: Path, scratch: Path) -> list[Step]:
    """Part 2; arguments as of `training_steps`."""
    generate = "from dmgan_runtime.cli.generate import main; main()"
    engine = ["--backend", "onnxruntime", "--device", scale.device, "--precision", "fp32"]
    tests = [*_PYTEST, "tests/dmgan_runtime/backends/test_gpu.py", "-k"]
    return [
        # Not by the tests, which are skipped where the engine cannot be had.
        Step(
            "generate",
            ["-c", generate, "red heart", *engine, "-o", scratch / "heart.png"],
            60,
            SERVE,
            is_essential=True,
        ),
        *(
            Step(f"tests-{precision}", [*tests, f"onnxruntime-{scale.device}-{precision}"], 80, TEST_SERVING)
            for precision in scale.precisions
            if precision != "bf16"
        ),
    ]


def latency_steps(scale: Scale, out: Path, scratch: Path) -> list[Step]:
    """Part 3; arguments as of `training_steps`. The export is kept, so that the part may be run again for the rest."""
    cache = scratch if scale.device == "cpu" else Path(".cache", "benchmarks")
    export = (
        "from pathlib import Path; from benchmarks.subject import SubjectSource, prepare_subject;"
        f" prepare_subject(SubjectSource(preset={scale.preset!r}), Path({str(cache)!r}), {scale.device!r})"
    )
    options: Command = ["--batches", scale.batches, "--cache", cache, "--only"]
    steps = [
        Step("export", ["-c", export], PART_SECONDS, BENCHMARK, is_essential=True),
        _benchmark(scale, "latency", out / "latency", [*options, scale.engines], 120),
    ]
    if scale.compiled:
        compiled = [*options, "torch-compile-fp16"]
        steps.append(_benchmark(scale, "latency", out / "latency-compiled", compiled, PART_SECONDS))
    return steps


PARTS = {1: training_steps, 2: serving_steps, 3: latency_steps}
_PYTEST = ("-m", "pytest", "-p", "no:cacheprovider", "-W", "default")


def _fit(scale: Scale, name: str, scratch: Path, precision: str, *settings: str) -> Step:
    lengths = [f"{phase}.{key}" for phase in ("damsm", "gan") for key in (f"steps={scale.steps}", "epochs=1000")]
    overrides = [*scale.settings, *lengths, f"gan.precision={precision}", *settings]
    command: Command = [
        "-m",
        "dmgan_train",
        "fit",
        "--preset",
        "tiny",
        "--data",
        scratch / "data",
        "--run",
        scratch / name,
    ]
    sets = [flag for override in overrides for flag in ("--set", override)]
    return Step(f"fit-{name}", [*command, "--device", scale.device, *sets], 60, TRAIN)


def _training(scale: Scale, loops: str) -> list[str | Path]:
    return ["--batch", str(scale.training_batch), "--only", loops]


def _benchmark(scale: Scale, measure: str, result: Path, options: Command, limit: int) -> Step:
    command: Command = ["-m", "benchmarks", measure, "--preset", scale.preset, "--device", scale.device, *options]
    limits = ["--rounds", str(scale.rounds), "--seconds", str(scale.seconds)]
    output = result.with_name(f"{result.name}-{scale.device}.json")
    return Step(result.name, [*command, *limits, "-o", output], limit, BENCHMARK)


class Part:
    """A part that runs: its log, its summary and its time."""

    def __init__(self, number: int, out: Path, seconds: float) -> None:
        """Args:
        number: 1, 2 or 3.
        out: Where the log and the summary go; they are added to.
        seconds: Of all steps together.
        """
        self._log, self._summary = out / f"part-{number}.log", out / f"part-{number}.jsonl"
        self._ends = time.monotonic() + seconds
        self.failed = False

    def run(self, steps: Sequence[Step]) -> None:
        """Runs what can be run, in order; none if one that the others need has failed."""
        lost = ""
        for step in steps:
            missing = missing_packages(step.needs)
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
            log.write(f"\n== {step.name}: {' '.join(map(str, step.command))}\n")
            log.flush()
            start = log.tell()
            began = time.monotonic()
            status = run_limited([sys.executable, *map(str, step.command)], limit, log)
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
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
    )
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        return TIMED_OUT
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


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
        scale = DRY if options.dry_run else GPU
        steps = PARTS[options.part](scale, out, Path(scratch))
        if options.only:
            wanted = set(options.only.split(","))
            if unknown := sorted(wanted - {step.name for step in steps}):
                parser.error(f"there is no step {unknown[0]!r}; there are {', '.join(step.name for step in steps)}")
            steps = [step for step in steps if step.name in wanted or step.is_essential]
        if missing := missing_packages(dict.fromkeys(name for step in steps for name in step.needs)):
            print(f"missing packages: {', '.join(missing)}", flush=True)  # noqa: T201
        part = Part(options.part, out, options.seconds * scale.patience)
        part.run([step._replace(limit=step.limit * scale.patience) for step in steps])
    return int(part.failed)


if __name__ == "__main__":
    sys.exit(main())
