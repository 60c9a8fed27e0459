"""`latency`: one caller, how long it waits, from caption to pixels and graph by graph."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial

import click

from benchmarks.contenders import Contender
from benchmarks.floor import MachineRates
from benchmarks.lineup import END_TO_END, Lineup, measure_rates_of, open_lineup
from benchmarks.options import SubjectOptions, batches_option, limits_options, subject_options
from benchmarks.report import keep, publish
from benchmarks.results import SCHEMA_VERSION, BenchmarkResult, Environment, Series
from benchmarks.subject import Subject
from benchmarks.turns import Calls, Limits, calls_per_turn, take_turns
from benchmarks.worker import Worker
from dmgan_runtime.cli.common import DmganCommand

_WARM_UPS = 3

Samples = dict[tuple[str, str], list[float]]
"""By contender and measure."""


@click.command(cls=DmganCommand)
@subject_options("latency")
@batches_option("1,4,16,64")
@limits_options
def latency(options: SubjectOptions, batches: tuple[int, ...], limits: Limits) -> None:
    """Time images from caption to pixels, and graph by graph."""
    publish(measure_latency(*options.prepare(), batches, limits, partial(keep, output=options.output)), options.output)


def measure_latency(
    environment: Environment,
    subject: Subject,
    contenders: Sequence[Contender],
    batches: Sequence[int],
    limits: Limits,
    after_batch: Callable[[BenchmarkResult], None] = lambda _: None,
) -> BenchmarkResult:
    """Everybody in turn, batch size after batch size.

    Args:
        environment: Where this is.
        subject: What is generated.
        contenders: Those to try, the reference first.
        batches: Images at once.
        limits: Of each batch size.
        after_batch: Is given the result so far, as the next batch size may take long or fail.
    """
    with open_lineup(subject, contenders) as lineup:
        rates = measure_rates_of(lineup)
        result = BenchmarkResult(
            schema_version=SCHEMA_VERSION,
            measure="latency",
            environment=environment,
            subject=subject.describe(),
            settings={"batches": list(batches), "rounds": limits.rounds, "seconds": limits.seconds},
            entries=tuple(lineup.entries),
            series=(),
            rates=rates,
        )
        for batch in batches:
            series = _measure_batch(lineup, rates, batch, limits)
            result = result.__replace__(series=(*result.series, *series), absences=tuple(lineup.absences))
            after_batch(result)
            lineup.each(lambda _, worker: worker.call("release"), batch)
    return result.__replace__(absences=tuple(lineup.absences))


def _measure_batch(lineup: Lineup, rates: MachineRates, batch: int, limits: Limits) -> list[Series]:
    captions = lineup.subject.take_captions(batch)
    times: dict[str, float] = {}

    def warm_up(name: str, worker: Worker) -> None:
        worker.call("time_graphs", captions)
        times[name] = worker.call("warm_up", captions, _WARM_UPS)

    able = lineup.each(warm_up, batch)
    calls = calls_per_turn(max(times[name] for name in able))
    click.echo(f"batch {batch}: {', '.join(f'{name} {times[name] * 1e3:.1f} ms' for name in able)}", err=True)
    samples: Samples = defaultdict(list)
    turns = {name: partial(_turn, lineup.workers[name], name, captions, calls, samples) for name in able}
    for name, reason in take_turns(turns, limits).items():
        lineup.note(name, reason, batch)
    return [_series(lineup, rates, batch, calls, key, values) for key, values in samples.items()]


def _turn(worker: Worker, name: str, captions: Sequence[str], calls: Calls, samples: Samples) -> None:
    seconds = worker.call("time", captions, calls)
    samples[name, END_TO_END] += seconds  # not before the call: who fails at once must leave no empty series
    for role, seconds in worker.call("time_graphs", captions).items():
        samples[name, role].append(seconds)


def _series(
    lineup: Lineup, rates: MachineRates, batch: int, calls: Calls, key: tuple[str, str], values: list[float]
) -> Series:
    name, measure = key
    return Series(
        contender=name,
        measure=measure,
        unit="s",
        samples=tuple(values),
        per_turn=calls.counted if measure == END_TO_END else 1,
        batch=batch,
        floor=lineup.floors(name, batch, rates)[measure],
    )
