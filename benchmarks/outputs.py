"""`outputs`: what it costs to fetch attention and gates beside the images."""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import click

from benchmarks.lineup import hide_path
from benchmarks.options import (
    CACHE,
    PRESETS,
    batches_option,
    choose_device,
    default_output,
    device_options,
    limits_options,
    look_around,
)
from benchmarks.report import publish
from benchmarks.results import (
    SCHEMA_VERSION,
    Absence,
    BenchmarkResult,
    Entry,
    Environment,
    Measure,
    Series,
    SubjectEntry,
)
from benchmarks.samplers import read_captions
from benchmarks.subject import SubjectSource, prepare_subject
from benchmarks.turns import Calls, Limits, calls_per_turn, take_turns
from benchmarks.worker import Worker
from dmgan_runtime.backends.base import Active, check_threads
from dmgan_runtime.backends.choice import open_backend
from dmgan_runtime.backends.registry import ENGINES
from dmgan_runtime.bundle import Bundle
from dmgan_runtime.cli.common import DmganCommand
from dmgan_runtime.errors import DataError, DmganError
from dmgan_runtime.graphs import EVERYTHING, IMAGE
from dmgan_runtime.manifest import MANIFEST_NAME
from dmgan_runtime.request import Batch

IMAGES, ALL_OUTPUTS = "images", "everything"
_MEASURE: Measure = "outputs"
_WARM_UPS = 3

Samples = dict[tuple[str, str, int], list[float]]
"""By engine, measure and batch."""


@click.command(cls=DmganCommand)
@click.argument("model", metavar="BUNDLE_OR_PRESET")
@batches_option("1,4")
@device_options(_MEASURE)
@limits_options
def outputs(
    model: str, batches: tuple[int, ...], device: str, threads: int | None, output: Path | None, limits: Limits
) -> None:
    """Time every engine with the images alone, and with attention and gates.

    BUNDLE_OR_PRESET is a bundle's folder, or birds, coco, emoji or tiny: random weights of that shape.
    """
    chosen = choose_device(device)
    environment = look_around(chosen)
    folder = (
        Path(prepare_subject(SubjectSource(preset=model), CACHE, chosen).bundle) if model in PRESETS else Path(model)
    )
    result = measure_outputs(environment, folder, batches, chosen, check_threads(threads), limits)
    publish(result, output or default_output(_MEASURE, chosen))


def measure_outputs(
    environment: Environment, folder: Path, batches: Sequence[int], device: str, threads: int, limits: Limits
) -> BenchmarkResult:
    """Every engine in turn, batch size after batch size; in a turn the two ways alternate.

    Args:
        environment: Where this is.
        folder: The bundle's.
        batches: Images at once.
        device: `cpu` or `cuda:N`.
        threads: CPU threads.
        limits: Of each batch size.

    Raises:
        BundleError: if the folder is no bundle.
        DataError: if no engine can be had.
    """
    subject = _describe(folder)
    samples: Samples = defaultdict(list)
    calls: dict[int, Calls] = {}
    entries, absences, workers = [], [], {}

    def note(name: str, error: object, batch: int | None = None) -> None:
        absences.append(Absence(contender=name, reason=hide_path(str(error), folder), batch=batch))
        click.echo(f"without {name}{f' at batch {batch}' if batch else ''}: {absences[-1].reason}", err=True)

    with ExitStack() as stack:
        for engine in ENGINES:
            if engine.device != device.partition(":")[0]:
                continue
            try:
                worker = stack.enter_context(Worker(_Engine, folder, engine.backend, device, threads))
            except DmganError as error:
                note(engine.backend, error)
                continue
            workers[engine.backend] = worker
            entries.append(_entry(engine.label, worker.call("describe")))
        if not workers:
            raise DataError(f"{folder}: no engine can serve it here: {'; '.join(each.reason for each in absences)}")
        for batch in batches:
            times: dict[str, float] = {}
            for name, worker in workers.items():
                try:
                    times[name] = worker.call("warm_up", batch)
                except DmganError as error:
                    note(name, error, batch)
            calls[batch] = calls_per_turn(max(times.values(), default=0.0))
            turns = {name: partial(_turn, workers[name], name, batch, calls[batch], samples) for name in times}
            for name, reason in take_turns(turns, limits).items():
                note(name, reason, batch)
    return BenchmarkResult(
        schema_version=SCHEMA_VERSION,
        measure=_MEASURE,
        environment=environment,
        subject=subject,
        settings={"batches": list(batches), "rounds": limits.rounds, "seconds": limits.seconds},
        entries=tuple(entries),
        series=tuple(
            Series(
                contender=name,
                measure=measure,
                unit="s",
                samples=tuple(values),
                per_turn=calls[batch].counted,
                batch=batch,
            )
            for (name, measure, batch), values in samples.items()
        ),
        absences=tuple(absences),
    )


class _Engine:
    """An engine that has loaded a bundle: what a worker holds."""

    def __init__(self, folder: Path, backend: str, device: str, threads: int) -> None:
        with Bundle(folder) as bundle:
            self._tokenizer, self._manifest = bundle.tokenizer(), bundle.manifest
            self._backend = open_backend(bundle, backend=backend, device=device, threads=threads)

    def describe(self) -> Active:
        return self._backend.active

    def warm_up(self, batch: int) -> float:
        """Seconds of the last of a few calls that fetch everything."""
        return [self._time(batch, EVERYTHING) for _ in range(_WARM_UPS)][-1]

    def time(self, batch: int, calls: Calls) -> dict[str, list[float]]:
        """The seconds of every counted call, the two ways one after the other."""
        ways = {IMAGES: IMAGE, ALL_OUTPUTS: EVERYTHING}
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for call in range(calls.uncounted + calls.counted):
            for name, wanted in ways.items():
                taken = self._time(batch, wanted)
                if call >= calls.uncounted:
                    seconds[name].append(taken)
        return seconds

    def _time(self, batch: int, wanted: Collection[str]) -> float:
        caption = " ".join(self._tokenizer.words[1 : self._manifest.tokenizer.max_words + 1])
        inputs = Batch(*read_captions([caption] * batch, self._tokenizer, self._manifest))
        began = time.perf_counter()
        for _ in self._backend.generate(inputs, self._manifest.model.stages, wanted):
            pass
        return time.perf_counter() - began


def _turn(worker: Worker, name: str, batch: int, calls: Calls, samples: Samples) -> None:
    for measure, seconds in worker.call("time", batch, calls).items():
        samples[name, measure, batch] += seconds


def _entry(label: str, active: Active) -> Entry:
    return Entry(
        name=active.backend,
        label=label,
        engine=active.backend,
        version=active.version,
        device=active.device,
        precision=active.precision,
        threads=active.threads,
    )


def _describe(folder: Path) -> SubjectEntry:
    with Bundle(folder) as bundle:
        manifest = bundle.manifest
    return SubjectEntry(
        name=manifest.name,
        weights="exported",
        manifest_sha256=hashlib.sha256((folder / MANIFEST_NAME).read_bytes()).hexdigest(),
        resolution=manifest.model.resolutions[-1],
    )
