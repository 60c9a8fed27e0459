"""`throughput`: many callers at once, how many images a second they all get."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial

import click

from benchmarks.contenders import Contender
from benchmarks.floor import MachineRates
from benchmarks.lineup import END_TO_END, Lineup, measure_rates_of, open_lineup
from benchmarks.options import NUMBERS, SubjectOptions, batches_option, limits_options, subject_options
from benchmarks.report import publish
from benchmarks.results import SCHEMA_VERSION, BenchmarkResult, Environment, Series
from benchmarks.subject import Subject
from benchmarks.timed_sampler import Served
from benchmarks.turns import Limits, take_turns
from benchmarks.worker import Worker
from dmgan_runtime.cli.common import DmganCommand

IMAGES_PER_SECOND = "images_per_second"
_WARM_UPS = 3


@click.command(cls=DmganCommand)
@subject_options("throughput")
@batches_option("1")
@click.option("--clients", type=NUMBERS, default="1,2,4,8", help="Threads that ask at once.")
@click.option("--turn", "turn_s", type=click.FloatRange(0.01), default=5, help="Seconds of one turn.")
@limits_options
def throughput(
    options: SubjectOptions, batches: tuple[int, ...], clients: tuple[int, ...], turn_s: float, limits: Limits
) -> None:
    """Count images a second when 1 to 8 threads ask at once."""
    result = measure_throughput(*options.prepare(), batches, clients, turn_s, limits)
    publish(result, options.output)


def measure_throughput(
    environment: Environment,
    subject: Subject,
    contenders: Sequence[Contender],
    batches: Sequence[int],
    clients: Sequence[int],
    turn_s: float,
    limits: Limits,
) -> BenchmarkResult:
    """Everybody in turn, for every batch size and number of clients.

    Args:
        environment: Where this is.
        subject: What is generated.
        contenders: Those to try, the reference first.
        batches: Images that each client asks for at once.
        clients: Threads that ask at once.
        turn_s: Seconds of one turn.
        limits: Of each batch size and number of clients.
    """
    series: list[Series] = []
    with open_lineup(subject, contenders) as lineup:
        rates = measure_rates_of(lineup)
        for batch in batches:
            captions = subject.take_captions(batch)
            able = lineup.each(lambda _, worker: worker.call("warm_up", captions, _WARM_UPS), batch)  # noqa: B023
            for count in clients:
                series += _measure(lineup, able, rates, batch, count, turn_s, limits)
            lineup.each(lambda _, worker: worker.call("release"), batch)
    return BenchmarkResult(
        schema_version=SCHEMA_VERSION,
        measure="throughput",
        environment=environment,
        subject=subject.describe(),
        settings={
            "batches": list(batches),
            "clients": list(clients),
            "turn_seconds": turn_s,
            "rounds": limits.rounds,
            "seconds": limits.seconds,
        },
        entries=tuple(lineup.entries),
        series=tuple(series),
        absences=tuple(lineup.absences),
        rates=rates,
    )


def _measure(
    lineup: Lineup, able: Sequence[str], rates: MachineRates, batch: int, clients: int, turn_s: float, limits: Limits
) -> list[Series]:
    captions = lineup.subject.take_captions(batch)
    samples: dict[str, list[float]] = defaultdict(list)

    def turn(name: str, worker: Worker) -> None:
        served: Served = worker.call("serve_clients", captions, clients, turn_s)
        samples[name].append(served.images / served.seconds)

    turns = {name: partial(turn, name, lineup.workers[name]) for name in able}
    click.echo(f"batch {batch}, clients: {clients} ...", err=True)
    for name, reason in take_turns(turns, limits).items():
        lineup.note(name, f"{clients} clients: {reason}", batch)
    return [_series(lineup, name, values, rates, batch, clients) for name, values in samples.items()]


def _series(lineup: Lineup, name: str, values: list[float], rates: MachineRates, batch: int, clients: int) -> Series:
    return Series(
        contender=name,
        measure=IMAGES_PER_SECOND,
        unit="images/s",
        samples=tuple(values),
        batch=batch,
        clients=clients,
        floor=lineup.floors(name, batch, rates)[END_TO_END],
    )
