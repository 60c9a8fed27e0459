"""`startup`: from the start of a process to its first picture in a file."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import click
import msgspec

from benchmarks.contenders import Contender
from benchmarks.first_picture import DONE
from benchmarks.lineup import open_lineup
from benchmarks.options import SubjectOptions, limits_options, subject_options
from benchmarks.report import publish
from benchmarks.results import SCHEMA_VERSION, BenchmarkResult, Environment, Series
from benchmarks.subject import Subject
from benchmarks.turns import Limits, take_turns
from dmgan_runtime.cli.common import DmganCommand
from dmgan_runtime.errors import EngineError

FIRST_IMAGE = "first_image"


@click.command(cls=DmganCommand)
@subject_options("startup")
@limits_options
def startup(options: SubjectOptions, limits: Limits) -> None:
    """Time a process from its start to its first picture."""
    publish(measure_startup(*options.prepare(), limits), options.output)


def measure_startup(
    environment: Environment, subject: Subject, contenders: Sequence[Contender], limits: Limits
) -> BenchmarkResult:
    """Everybody in turn, a new process each time. Files are in the system's cache, compiled kernels in PyTorch's.

    Args:
        environment: Where this is.
        subject: What is generated.
        contenders: Those to try, the reference first.
        limits: How often.
    """
    samples: dict[str, list[float]] = defaultdict(list)
    with open_lineup(subject, contenders) as lineup:
        pass  # shows who can be had, and warms the caches
    with tempfile.TemporaryDirectory() as place:
        turns = {
            name: partial(_turn, subject, contender, Path(place) / "first.png", samples[name])
            for name, contender in lineup.contenders.items()
        }
        for name, reason in take_turns(turns, limits).items():
            lineup.note(name, reason, None)
    return BenchmarkResult(
        schema_version=SCHEMA_VERSION,
        measure="startup",
        environment=environment,
        subject=subject.describe(),
        settings={"rounds": limits.rounds, "seconds": limits.seconds},
        entries=tuple(lineup.entries),
        series=tuple(
            Series(contender=name, measure=FIRST_IMAGE, unit="s", samples=tuple(values), batch=1)
            for name, values in samples.items()
            if values
        ),
        absences=tuple(lineup.absences),
    )


def _turn(subject: Subject, contender: Contender, picture: Path, samples: list[float]) -> None:
    samples.append(start(subject, contender, picture))


def start(subject: Subject, contender: Contender, picture: Path) -> float:
    """Seconds from the start of a process to its first picture.

    Raises:
        EngineError: if it fails.
    """
    command = [sys.executable, "-m", "benchmarks.first_picture", _json(subject), _json(contender), str(picture)]
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        # Its end is not waited for: what an engine does at exit keeps nobody from the picture.
        said = process.stdout.readline()
        seconds = time.perf_counter() - began
        _, errors = process.communicate()
    if said.strip() != DONE:
        raise EngineError(f"the process failed: {''.join(errors.strip().splitlines()[-1:])}")
    return seconds


def _json(value: msgspec.Struct) -> str:
    return msgspec.json.encode(value).decode()
