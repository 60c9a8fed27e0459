"""`training`: images a second of one whole GAN step, ours against the order of work of the published code."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import click
import msgspec

from benchmarks.contenders import select
from benchmarks.options import PRESETS, choose_device, default_output, device_options, limits_options, look_around
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
from benchmarks.turns import Limits, take_turns
from benchmarks.worker import Worker
from dmgan_runtime.backends.base import check_threads
from dmgan_runtime.cli.common import DmganCommand
from dmgan_runtime.errors import DmganError

IMAGES_PER_SECOND = "images_per_second"
PLAIN = "plain-fp32"
_MEASURE: Measure = "training"
_WARM_UPS = 2


class Loop(msgspec.Struct, frozen=True, kw_only=True):
    """A way to train.

    Attributes:
        order: `plain`, the published code's order of work, or `dmgan`, ours.
        precision: `tf32` is what PyTorch does with fp32 on a GPU unless it is told not to.
        compiled: Whether `torch.compile` compiles the networks.
    """

    order: str
    precision: str
    compiled: bool = False

    @property
    def name(self) -> str:
        """Names it in files and on the command line."""
        return "-".join([self.order, *(["compile"] if self.compiled else []), self.precision])

    @property
    def label(self) -> str:
        """Names it for people."""
        if self.order == "plain":
            return "plain loop, as published"
        return "dmgan_train, compiled" if self.compiled else "dmgan_train"


def loops(device: str) -> list[Loop]:
    """Those that may be had on a kind of device, the plain one in fp32 first."""
    precisions = ("fp32", "bf16") if device == "cpu" else ("fp32", "tf32", "bf16")
    plain = [Loop(order="plain", precision=precision) for precision in precisions if precision != "bf16"]
    ours = [Loop(order="dmgan", precision=precision) for precision in precisions]
    return plain + ours + [Loop(order="dmgan", precision=each.precision, compiled=True) for each in ours]


@click.command(cls=DmganCommand)
@click.option("--preset", type=click.Choice(PRESETS), default="birds", help="The networks' shape.")
@click.option("--batch", type=click.IntRange(2), show_default="the preset's", help="Images a step.")
@click.option("--only", metavar="NAME,...", show_default="all", help="Only these loops, and the plain one in fp32.")
@device_options(_MEASURE)
@limits_options
def training(
    preset: str,
    batch: int | None,
    only: str | None,
    device: str,
    threads: int | None,
    output: Path | None,
    limits: Limits,
) -> None:
    """Time whole training steps against a plain loop in the published order of work."""
    chosen = choose_device(device)
    environment = look_around(chosen)
    wanted = select(loops(chosen), only.split(",") if only else (), PLAIN)
    result = measure_training(environment, preset, batch, wanted, chosen, check_threads(threads), limits)
    publish(result, output or default_output(_MEASURE, chosen))


def measure_training(
    environment: Environment,
    preset: str,
    batch: int | None,
    wanted: Sequence[Loop],
    device: str,
    threads: int,
    limits: Limits,
) -> BenchmarkResult:
    """Everybody in turn, a step each: discriminators, generator, averaged weights. Images and weights are random.

    Args:
        environment: Where this is.
        preset: Whose settings.
        batch: Images a step; None takes the preset's.
        wanted: The loops to try, the plain one first.
        device: `cpu` or `cuda:N`.
        threads: CPU threads.
        limits: How many steps.
    """
    samples: dict[str, list[float]] = defaultdict(list)
    entries, absences, workers, facts = [], [], {}, {}
    with ExitStack() as stack:
        for loop in wanted:
            click.echo(f"opening {loop.name} ...", err=True)
            try:
                worker = stack.enter_context(Worker(_make_trainer, loop, preset, batch, device, threads))
                for _ in range(_WARM_UPS):
                    worker.call("time")
                facts = worker.call("facts")
            except DmganError as error:
                if loop.name == PLAIN:
                    raise
                click.echo(f"without {loop.name}: {error}", err=True)
                absences.append(Absence(contender=loop.name, reason=str(error)))
                continue
            workers[loop.name] = worker
            entries.append(_entry(loop, facts["version"], device, threads))
        turns = {name: partial(_turn, worker, samples[name]) for name, worker in workers.items()}
        failures = take_turns(turns, limits)
    absences += [Absence(contender=name, reason=reason) for name, reason in failures.items()]
    size = facts["batch"]
    return BenchmarkResult(
        schema_version=SCHEMA_VERSION,
        measure=_MEASURE,
        environment=environment,
        subject=SubjectEntry(name=preset, weights="random", resolution=facts["resolution"]),
        settings={"batch": size, "rounds": limits.rounds, "seconds": limits.seconds},
        entries=tuple(entries),
        series=tuple(
            Series(
                contender=name,
                measure=IMAGES_PER_SECOND,
                unit="images/s",
                samples=tuple(size / seconds for seconds in values),
                batch=size,
            )
            for name, values in samples.items()
            if values
        ),
        absences=tuple(absences),
    )


def _turn(worker: Worker, samples: list[float]) -> None:
    samples.append(worker.call("time"))


def _entry(loop: Loop, version: str, device: str, threads: int) -> Entry:
    return Entry(
        name=loop.name,
        label=loop.label,
        engine=loop.order,
        version=version,
        device=device,
        precision=loop.precision,
        threads=threads,
    )


def _make_trainer(*arguments: Any) -> object:
    from benchmarks.trainer import Trainer  # PyTorch: only in the process that needs it

    return Trainer(*arguments)
