"""The contenders that this machine has, each opened in a process of its own, with the quality of its images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import click
import msgspec
import numpy as np

from benchmarks.contenders import REFERENCE, TORCH, Contender
from benchmarks.floor import Floor, MachineRates, Work, floor_of, total
from benchmarks.results import Absence, Entry
from benchmarks.subject import Subject
from benchmarks.timed_sampler import TimedSampler
from benchmarks.worker import Worker, call_in_worker
from dmgan_runtime.errors import DmganError, EngineError
from dmgan_runtime.quality import psnr
from dmgan_runtime.request import FloatArray

END_TO_END = "end_to_end"
_COMPARED = 4
_LEAST_PSNR = 20.0


@dataclass
class Lineup:
    """Who takes part.

    Attributes:
        subject: What they generate.
        contenders: By name, the reference first.
        workers: A `TimedSampler` each.
        entries: What a result says of each.
        absences: Who could not be had, or failed later.
    """

    subject: Subject
    contenders: dict[str, Contender] = field(default_factory=dict)
    workers: dict[str, Worker] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    absences: list[Absence] = field(default_factory=list)

    def each(self, action: Callable[[str, Worker], object], batch: int | None = None) -> list[str]:
        """Does something with every worker; one that fails is noted, and not among the names that come back."""
        able = []
        for name, worker in self.workers.items():
            try:
                action(name, worker)
            except DmganError as error:
                self.note(name, str(error), batch)
            else:
                able.append(name)
        return able

    def note(self, name: str, reason: str, batch: int | None) -> None:
        """Says that somebody failed, once: a process that died gives the same reason to everything asked of it."""
        absence = Absence(contender=name, reason=hide_path(reason, Path(self.subject.bundle)), batch=batch)
        if absence in self.absences:
            return
        click.echo(f"without {name}{f' at batch {batch}' if batch else ''}: {absence.reason}", err=True)
        self.absences.append(absence)

    def floors(self, name: str, batch: int, rates: MachineRates) -> dict[str, Floor | None]:
        """What a contender cannot go under, by graph and as `END_TO_END`.

        PyTorch computes the network as it is published, the others what was exported.
        """
        contender = self.contenders[name]
        graphs = self.subject.work(contender.precision, batch, as_written=contender.engine == TORCH)
        work: dict[str, Work] = {**graphs, END_TO_END: total(graphs.values())}
        return {measure: floor_of(part, contender.precision, rates) for measure, part in work.items()}


def hide_path(reason: str, bundle: Path) -> str:
    """A message without the path of a bundle: a result is published, and does not say where files lay."""
    return reason.replace(str(bundle.resolve()), bundle.name).replace(str(bundle), bundle.name)


@contextmanager
def open_lineup(subject: Subject, contenders: Sequence[Contender]) -> Iterator[Lineup]:
    """Opens everybody, and compares their images with the reference's.

    Args:
        subject: What they generate.
        contenders: Those to try, the reference first.

    Raises:
        DmganError: if the reference cannot be had.
    """
    lineup = Lineup(subject)
    captions = subject.take_captions(_COMPARED)
    reference: FloatArray | None = None
    with ExitStack() as stack:
        for contender in contenders:
            if contender.engine != TORCH and contender.precision in subject.lacks:
                lineup.note(contender.name, subject.lacks[contender.precision], None)
                continue
            click.echo(f"opening {contender.name} ...", err=True)
            try:
                worker = stack.enter_context(Worker(TimedSampler, subject, contender))
                images: FloatArray = worker.call("synthesize", captions)
                reference = images if contender.name == REFERENCE else reference
                assert reference is not None
                entry = _entry(contender, worker.call("version"), _quality(images, reference))
            except DmganError as error:
                if contender.name == REFERENCE:
                    raise
                lineup.note(contender.name, str(error), None)
                continue
            lineup.contenders[contender.name] = contender
            lineup.workers[contender.name] = worker
            lineup.entries.append(entry)
        yield lineup


def measure_rates_of(lineup: Lineup) -> MachineRates:
    """The machine's rates in every precision of those who take part, while they wait."""
    click.echo("measuring what the machine can do at most ...", err=True)
    first, *_ = contenders = list(lineup.contenders.values())
    precisions = [contender.precision for contender in contenders]
    rates: MachineRates = call_in_worker(_measure_rates, first.device, first.threads, precisions)
    return rates


def _measure_rates(device: str, threads: int, precisions: Sequence[str]) -> MachineRates:
    from benchmarks.rates import measure_rates  # PyTorch: only in the process that needs it

    return measure_rates(device, threads, precisions)


def _quality(images: FloatArray, reference: FloatArray) -> float | None:
    quality = psnr(images, reference)
    if not np.isfinite(images).all() or quality < _LEAST_PSNR:
        raise EngineError(
            f"makes other images than PyTorch ({quality:.0f} dB), so its speed says nothing; if you passed --bundle,"
            " pass the one that was exported from this run"
        )
    return quality if np.isfinite(quality) else None


def _entry(contender: Contender, version: str, quality: float | None) -> Entry:
    fields = msgspec.structs.asdict(contender)
    del fields["form"]
    return Entry(name=contender.name, label=contender.label, version=version, psnr_db=quality, **fields)
