"""`size`: what has to be shipped and installed to serve."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Sequence
from pathlib import Path

import click
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.contenders import TORCH, Contender
from benchmarks.lineup import open_lineup
from benchmarks.options import SubjectOptions, subject_options
from benchmarks.report import publish
from benchmarks.results import SCHEMA_VERSION, BenchmarkResult, Environment, Series
from benchmarks.subject import Subject
from dmgan_runtime.backends.base import graphs_of
from dmgan_runtime.backends.registry import ENGINES
from dmgan_runtime.bundle import Bundle
from dmgan_runtime.cli.common import DmganCommand

MODEL, INSTALLED = "model", "installed"
_COMMON = ("numpy", "pillow", "click", "msgspec")
_EXTRAS = {"onnxruntime-gpu": "[cuda,cudnn]"}  # with which pip installs them, since they are of no use without


@click.command(cls=DmganCommand)
@subject_options("size")
def size(options: SubjectOptions) -> None:
    """Weigh each engine: the model's files, and the packages that serve them."""
    publish(measure_size(*options.prepare()), options.output)


def measure_size(environment: Environment, subject: Subject, contenders: Sequence[Contender]) -> BenchmarkResult:
    """The bytes of the files that each contender needs.

    Args:
        environment: Where this is.
        subject: What is generated.
        contenders: Those to try.
    """
    with open_lineup(subject, contenders) as lineup:
        pass  # shows who can be had
    series = []
    for name, contender in lineup.contenders.items():
        sizes = {MODEL: model_bytes(subject, contender), INSTALLED: installed_bytes(packages(contender.engine))}
        for measure, value in sizes.items():
            series.append(Series(contender=name, measure=measure, unit="bytes", samples=(float(value),)))
    return BenchmarkResult(
        schema_version=SCHEMA_VERSION,
        measure="size",
        environment=environment,
        subject=subject.describe(),
        settings={},
        entries=tuple(lineup.entries),
        series=tuple(series),
        absences=tuple(lineup.absences),
    )


def model_bytes(subject: Subject, contender: Contender) -> int:
    """What a contender reads of the model: weights in fp32 for PyTorch, else graphs in its precision; and the words."""
    with Bundle(subject.bundle) as bundle:
        words = bundle.manifest.tokenizer.file.bytes
        if contender.engine == TORCH:
            return words + Path(subject.weights).stat().st_size
        graphs = graphs_of(bundle, contender.precision)  # type: ignore[arg-type]
    return words + sum(graph.file.bytes for graph in graphs.values())


def packages(engine: str) -> list[str]:
    """What serving with `torch` or a backend needs, as pip takes it; what does not belong here is not installed."""
    own = [name for row in ENGINES if row.backend == engine for name in row.distributions] or [TORCH]
    return [*_COMMON, *(name + _EXTRAS.get(name, "") for name in own)]


def installed_bytes(requirements: Iterable[str]) -> int:
    """The files of packages and of all that they need, as far as they are installed here.

    Args:
        requirements: As pip takes them, extras included.
    """
    return sum(_files_of(name) for name in closure(requirements))


def closure(requirements: Iterable[str]) -> set[str]:
    """The names of the installed packages that some requirements bring, themselves included."""
    found: set[str] = set()
    seen: set[tuple[str, str]] = set()
    todo = [Requirement(each) for each in requirements]
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        found.add(name)
        for extra in ("", *requirement.extras):
            if (name, extra) not in seen:
                seen.add((name, extra))
                wanted = (Requirement(each) for each in needs)
                todo += [each for each in wanted if each.marker is None or each.marker.evaluate({"extra": extra})]
    return found


def _files_of(name: str) -> int:
    files = importlib.metadata.files(name) or []
    paths = (Path(str(file.locate())) for file in files)
    return sum(path.stat().st_size for path in paths if path.is_file())
