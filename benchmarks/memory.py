"""`memory`: the most that a process holds while it opens a model and generates."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import click

from benchmarks.contenders import Contender
from benchmarks.lineup import open_lineup
from benchmarks.options import SubjectOptions, batches_option, limits_options, subject_options
from benchmarks.report import publish
from benchmarks.results import SCHEMA_VERSION, BenchmarkResult, Environment, Series
from benchmarks.subject import Subject
from benchmarks.timed_sampler import TimedSampler
from benchmarks.turns import Limits, take_turns
from benchmarks.worker import Worker
from dmgan_runtime.cli.common import DmganCommand

PEAK_MEMORY, PEAK_DEVICE_MEMORY = "peak_memory", "peak_device_memory"
_CALLS = 3
_POLL_S = 0.002

Samples = dict[tuple[str, str, int], list[float]]
"""By contender, measure and batch."""


@click.command(cls=DmganCommand)
@subject_options("memory")
@batches_option("1,16")
@limits_options
def memory(options: SubjectOptions, batches: tuple[int, ...], limits: Limits) -> None:
    """Measure the peak of main memory, and of the GPU's."""
    publish(measure_memory(*options.prepare(), batches, limits), options.output)


def measure_memory(
    environment: Environment,
    subject: Subject,
    contenders: Sequence[Contender],
    batches: Sequence[int],
    limits: Limits,
) -> BenchmarkResult:
    """Everybody in turn, a new process each time that opens the model and generates three times.

    Args:
        environment: Where this is.
        subject: What is generated.
        contenders: Those to try, the reference first.
        batches: Images at once.
        limits: Of each batch size.
    """
    samples: Samples = defaultdict(list)
    with open_lineup(subject, contenders) as lineup:
        pass  # shows who can be had
    for batch in batches:
        turns = {
            name: partial(_turn, subject, contender, batch, samples) for name, contender in lineup.contenders.items()
        }
        for name, reason in take_turns(turns, limits).items():
            lineup.note(name, reason, batch)
    return BenchmarkResult(
        schema_version=SCHEMA_VERSION,
        measure="memory",
        environment=environment,
        subject=subject.describe(),
        settings={"batches": list(batches), "rounds": limits.rounds, "seconds": limits.seconds},
        entries=tuple(lineup.entries),
        series=tuple(
            Series(contender=name, measure=measure, unit="bytes", samples=tuple(values), batch=batch)
            for (name, measure, batch), values in samples.items()
        ),
        absences=tuple(lineup.absences),
    )


def _turn(subject: Subject, contender: Contender, batch: int, samples: Samples) -> None:
    with _watching(contender.device) as peak, Worker(TimedSampler, subject, contender) as worker:
        worker.call("warm_up", subject.take_captions(batch), _CALLS)
        held = worker.call("peak_memory")
    samples[contender.name, PEAK_MEMORY, batch].append(held)
    if contender.device != "cpu":
        samples[contender.name, PEAK_DEVICE_MEMORY, batch].append(max(peak))


@contextmanager
def _watching(device: str) -> Iterator[list[int]]:
    """Bytes of GPU memory that have been taken since the beginning, polled; all that a process takes, whoever asks.

    Engines do not say what they hold in all, and CUDA's own share is theirs too. Other users of the GPU would be
    counted with them.
    """
    taken = [0]
    if device == "cpu":
        yield taken
        return
    import torch  # only where there is a GPU to ask

    def free() -> int:
        return int(torch.cuda.mem_get_info(torch.device(device))[0])

    before, stop = free(), threading.Event()

    def poll() -> None:
        while not stop.wait(_POLL_S):
            taken.append(before - free())

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        yield taken
    finally:
        stop.set()
        thread.join()
