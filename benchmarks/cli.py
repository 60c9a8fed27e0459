"""`python -m benchmarks`: measures as commands, from a look at the quiet machine to the written result."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from benchmarks.machine import describe_environment, share_cuda_libraries
from benchmarks.measure import Measure, Task
from benchmarks.pool import open_pool
from benchmarks.report import MEASURES, plot, publish, table
from benchmarks.results import BenchmarkResult, Environment, Series
from benchmarks.turns import Limits
from dmgan_runtime.backends.base import check_threads
from dmgan_runtime.cli.common import DmganCommand
from dmgan_runtime.errors import EngineError
from dmgan_train.devices import choose_device

RESULTS = Path("benchmarks") / "results"
_CONTEXT = {"show_default": True, "help_option_names": ["-h", "--help"], "max_content_width": 110}
_LEAST_ROUNDS = 3


def make_command(measure: type[Measure]) -> click.Command:
    """The command of a measure: its options, and those that all have."""
    common = [
        click.Option(["--only"], metavar="NAME,...", help="Only these contenders, and the reference.  [default: all]"),
        click.Option(["--device"], default="auto", metavar="[auto|cpu|cuda[:N]]", help="Where to run."),
        click.Option(["--threads"], type=click.IntRange(1), show_default="all", help="CPU threads for one operator."),
        click.Option(["--rounds"], type=click.IntRange(1), default=100, help="Turns of each, for each batch size."),
        click.Option(
            ["--seconds"],
            type=click.FloatRange(0),
            default=300.0,
            help=f"No new round after so long, but at least {_LEAST_ROUNDS}.",
        ),
        click.Option(
            ["-o", "--output"],
            type=click.Path(dir_okay=False, path_type=Path),
            show_default=f"{RESULTS}/{measure.name}-DEVICE.json",
            help="The result; its table and plot are written beside it.",
        ),
    ]
    return DmganCommand(
        measure.name,
        params=[*measure.task_options, *measure.options, *common],
        callback=partial(_run, measure),
        help=measure.__doc__,
        context_settings=_CONTEXT,
    )


def _run(
    measure: type[Measure],
    only: str | None,
    device: str,
    threads: int | None,
    rounds: int,
    seconds: float,
    output: Path | None,
    **asked: Any,
) -> None:
    device = str(choose_device(device))
    share_cuda_libraries()
    environment = describe_environment(device)  # before this process works
    if environment.was_busy:
        busy = environment.busy_before
        click.echo(f"warning: others use {busy} CPUs of this machine; its times will mean little", err=True)
    fields = {option.name: asked.pop(option.name) for option in measure.options if option.name}
    task = measure.prepare(device, check_threads(threads), only.split(",") if only else (), **asked)
    output = output or RESULTS / f"{measure.name}-{device.partition(':')[0]}.json"
    measured = measure(limits=Limits(rounds, seconds, least=min(_LEAST_ROUNDS, rounds)), **fields)
    publish(take(measured, task, environment, lambda result: result.write(output)), output)


def take(
    measure: Measure, task: Task, environment: Environment, keep: Callable[[BenchmarkResult], None] = lambda _: None
) -> BenchmarkResult:
    """Opens the contenders and measures them; what comes next may take long or fail, so `keep` gets each result so far.

    Raises:
        DmganError: if the reference cannot be had, or nothing could be measured.
    """
    series: list[Series] = []
    with open_pool(task.contenders, task.model, task.check) as pool:
        for part in measure.take(pool):
            series += part
            result = BenchmarkResult(
                measure=measure.name,
                environment=environment,
                model=task.model.describe(),
                settings=measure.settings,
                entries=tuple(pool.entries),
                series=tuple(series),
                absences=tuple(pool.absences),
                matrix_rates=pool.matrix_rates,
            )
            if series:  # else an earlier result is better than none
                keep(result)
    if not series:
        raise EngineError(f"nothing could be measured: {'; '.join(absence.reason for absence in result.absences)}")
    return result


@click.group(context_settings=_CONTEXT)
def main() -> None:
    """Measure dmgan against what a user would pick instead, and write JSON, a table and a plot."""


for command in (*map(make_command, MEASURES), table, plot):
    main.add_command(command)
