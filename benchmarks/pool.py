"""The contenders that this machine has, each opened in a worker, with the quality of its images."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import click
import numpy as np

from benchmarks.contender import BenchmarkModel, Contender
from benchmarks.machine import measure_matrix_rates
from benchmarks.results import Absence, Entry, Series, Unit
from benchmarks.turns import Limits, take_turns
from benchmarks.worker import Worker, call_in_worker
from dmgan_runtime.errors import DmganError, EngineError
from dmgan_runtime.quality import lowest_psnr
from dmgan_runtime.request import FloatArray

END_TO_END, IMAGES_PER_SECOND = "end_to_end", "images_per_second"
_COMPARED = 4
_LEAST_PSNR = 20.0
_FOLDERS = re.compile(r"(?<![\w/])\.{0,2}/[^\s'\":]*/")

Check = Callable[[Worker], float | None]
"""Raises an `EngineError` if a contender does other work than the first, else returns how near it is, in dB."""


@dataclass
class Pool:
    """Who takes part.

    Attributes:
        model: What they compute.
        contenders: By name, the reference first.
        workers: By name, until they are closed.
        entries: What a result tells of each.
        absences: Who could not be had, or failed later.
        matrix_rates: Operations a second by precision; empty until they are measured.
    """

    model: Any
    contenders: dict[str, Contender] = field(default_factory=dict)
    workers: dict[str, Worker] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    absences: list[Absence] = field(default_factory=list)
    matrix_rates: dict[str, float] = field(default_factory=dict)

    def each(self, batch: int | None, method: str, *arguments: Any) -> dict[str, Any]:
        """Calls a method of everything that workers hold; who fails is noted, and is not among the results."""
        results = {}
        for name, worker in self.workers.items():
            try:
                results[name] = worker.call(method, *arguments)
            except DmganError as error:
                self.note(name, str(error), batch)
        return results

    def sample(
        self,
        names: Iterable[str],
        turn: Callable[[str], Mapping[str, Sequence[float]]],
        unit: Unit,
        limits: Limits,
        batch: int | None = None,
        clients: int | None = None,
    ) -> list[Series]:
        """Lets contenders have a turn, round after round; who fails is noted.

        A turn gets a name, and returns the samples of each figure, as many in every turn.
        """
        samples: dict[tuple[str, str], list[Sequence[float]]] = defaultdict(list)

        def have_turn(name: str) -> None:
            for figure, values in turn(name).items():
                samples[name, figure].append(values)

        for name, reason in take_turns({name: partial(have_turn, name) for name in names}, limits).items():
            self.note(name, reason, batch)
        return [
            Series(
                contender=name,
                figure=figure,
                unit=unit,
                samples=tuple(value for values in turns for value in values),
                per_turn=len(turns[0]),
                batch=batch,
                clients=clients,
                arithmetic_s=self.arithmetic(name, batch or 1).get(figure),
            )
            for (name, figure), turns in samples.items()
        ]

    def note(self, name: str, reason: str, batch: int | None = None) -> None:
        """Records that a contender failed, once: a process that died gives the same reason to all that is asked.

        A result is published, so the folders of paths are left out.
        """
        absence = Absence(contender=name, reason=_FOLDERS.sub("", reason), batch=batch)
        if absence not in self.absences:
            click.echo(f"without {name}{f' at batch {batch}' if batch else ''}: {absence.reason}", err=True)
            self.absences.append(absence)

    def close_workers(self) -> None:
        """Ends the workers, for measures that start new ones; who can be had has been shown."""
        for worker in self.workers.values():
            worker.close()
        self.workers.clear()

    def measure_matrix_rates(self) -> None:
        """Measures the machine in every precision of those who take part, while they wait."""
        click.echo("measuring the machine's matrix rates ...", err=True)
        first, *_ = contenders = list(self.contenders.values())
        precisions = [contender.precision for contender in contenders]
        self.matrix_rates = call_in_worker(measure_matrix_rates, first.device, first.threads, precisions)

    def arithmetic(self, name: str, batch: int) -> dict[str, float]:
        """Seconds of a contender's operations at the matrix rate of its precision: of each graph, and of all."""
        contender = self.contenders[name]
        rate = self.matrix_rates.get(contender.precision)
        if rate is None:
            return {}
        seconds = {role: batch * count / rate for role, count in contender.operations(self.model).items()}
        return seconds | dict.fromkeys((END_TO_END, IMAGES_PER_SECOND), sum(seconds.values()))


@contextmanager
def open_pool(contenders: Sequence[Contender], model: Any, check: Check) -> Iterator[Pool]:
    """Opens all contenders that can be had; the first is the reference.

    Raises:
        DmganError: if the reference cannot be had.
    """
    pool = Pool(model)
    reference, *_ = contenders
    with ExitStack() as stack:
        for contender in contenders:
            click.echo(f"opening {contender.name} ...", err=True)
            try:
                worker = stack.enter_context(Worker(contender.open, model))
                entry = Entry(
                    name=contender.name,
                    label=contender.label,
                    engine=contender.engine,
                    version=worker.call("version"),
                    device=contender.device,
                    precision=contender.precision,
                    threads=contender.threads,
                    psnr_db=check(worker),
                )
            except DmganError as error:
                if contender is reference:
                    raise
                pool.note(contender.name, str(error))
                continue
            pool.contenders[contender.name], pool.workers[contender.name] = contender, worker
            pool.entries.append(entry)
        yield pool


def compare_images(model: BenchmarkModel) -> Check:
    """A check of images against those of the first worker that it is asked of."""
    captions = model.take_captions(_COMPARED)
    reference: list[FloatArray] = []

    def check(worker: Worker) -> float | None:
        images: FloatArray = worker.call("synthesize", captions)
        reference[:] = reference or [images]
        quality = lowest_psnr(images, reference[0])
        if not np.isfinite(images).all() or quality < _LEAST_PSNR:
            raise EngineError(
                f"makes other images than PyTorch ({quality:.0f} dB), so its speed means nothing; if you passed"
                " --bundle, pass the one that was exported from this run"
            )
        return quality if np.isfinite(quality) else None

    return check
