"""The options that the commands share."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click

from benchmarks.contenders import Contender, candidates, select
from benchmarks.environment import describe_environment, share_libraries
from benchmarks.results import Environment, Measure
from benchmarks.subject import Subject, SubjectSource, prepare_subject
from benchmarks.turns import Limits
from dmgan_runtime.backends.base import check_threads
from dmgan_runtime.backends.gpus import find_gpus
from dmgan_runtime.errors import BackendError

CACHE = Path(".cache") / "benchmarks"
RESULTS = Path("benchmarks") / "results"
PRESETS = ("birds", "coco", "emoji", "tiny")

Command = TypeVar("Command", bound=Callable[..., Any])


class Prepared(NamedTuple):
    """What a command measures, and where."""

    environment: Environment
    subject: Subject
    contenders: list[Contender]


class SubjectOptions(NamedTuple):
    """What was asked for.

    Attributes:
        source: Where the weights come from.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        threads: CPU threads for one operator; None takes all.
        only: Names of contenders; empty takes all.
        cache: Where subjects are kept.
        output: The result's file.
    """

    source: SubjectSource
    device: str
    threads: int | None
    only: tuple[str, ...]
    cache: Path
    output: Path

    def prepare(self) -> Prepared:
        """Looks at the machine before it works, then makes or finds the subject.

        Raises:
            DmganError: if the device is not there, a name is unknown, or the subject cannot be made.
        """
        environment = look_around(self.device)
        contenders = select(candidates(self.device, check_threads(self.threads)), self.only)
        return Prepared(environment, prepare_subject(self.source, self.cache, self.device), contenders)


def look_around(device: str) -> Environment:
    """The machine before it works, with a warning if others use it.

    Raises:
        BackendError: if the device is not there.
    """
    share_libraries()
    environment = describe_environment(device)
    if environment.was_busy:
        busy = environment.busy_before
        click.echo(f"warning: others use {busy} CPUs of this machine; its times will say little", err=True)
    return environment


class _Numbers(click.ParamType[tuple[int, ...]]):
    name = "N,N,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        try:
            numbers = tuple(int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is no list of numbers; write them as 1,4,16", param, ctx)
        if min(numbers) < 1:
            self.fail(f"{value!r} holds a number under 1", param, ctx)
        return numbers


NUMBERS = _Numbers()


def choose_device(asked: str) -> str:
    """`auto` is the first GPU where there is one, else the CPU."""
    if asked == "cuda":
        return "cuda:0"
    if asked != "auto":
        return asked
    try:
        return "cuda:0" if find_gpus() else "cpu"
    except BackendError:
        return "cpu"


def device_options(measure: Measure) -> Callable[[Command], Command]:
    """`--device`, `--threads` and `--output`, whose default names the measure and the device."""
    return _options(
        click.option("--device", default="auto", metavar="[auto|cpu|cuda[:N]]", help="Where to run."),
        click.option("--threads", type=click.IntRange(1), show_default="all", help="CPU threads for one operator."),
        click.option(
            "-o",
            "--output",
            type=click.Path(dir_okay=False, path_type=Path),
            show_default=f"{RESULTS}/{measure}-DEVICE.json",
            help="The result; its table and plot are written beside it.",
        ),
    )


def default_output(measure: Measure, device: str) -> Path:
    """Where a result goes if nothing else was asked for."""
    return RESULTS / f"{measure}-{device.partition(':')[0]}.json"


def subject_options(measure: Measure) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The options that become one `SubjectOptions`."""
    folder = click.Path(exists=True, file_okay=False, path_type=Path)
    declare = _options(
        click.option(
            "--preset",
            type=click.Choice(PRESETS),
            default="birds",
            help="Random weights of this shape, exported once and kept. birds is the paper's.",
        ),
        click.option("--run", type=folder, help="The weights of a trained run, instead."),
        click.option("--bundle", type=folder, help="What was exported from --run.  [default: it is exported]"),
        click.option("--only", metavar="NAME,...", help="Only these contenders, and the reference.  [default: all]"),
        click.option("--cache", type=click.Path(path_type=Path), default=CACHE, help="Where exports are kept."),
        device_options(measure),
    )

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(command)
        def run(
            preset: str,
            run: Path | None,
            bundle: Path | None,
            only: str | None,
            cache: Path,
            device: str,
            threads: int | None,
            output: Path | None,
            **own: Any,
        ) -> None:
            if bundle is not None and run is None:
                raise click.UsageError("--bundle needs the --run that it was exported from")
            chosen = choose_device(device)
            source = SubjectSource(preset=preset, run=str(run) if run else None, bundle=str(bundle) if bundle else None)
            names = tuple(only.split(",")) if only else ()
            where = output or default_output(measure, chosen)
            command(options=SubjectOptions(source, chosen, threads, names, cache, where), **own)

        declared: Callable[..., Any] = declare(run)
        return declared

    return decorate


def batches_option(default: str) -> Callable[[Command], Command]:
    """`--batches`."""
    return _options(click.option("--batches", type=NUMBERS, default=default, help="Images at once."))


def limits_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--rounds` and `--seconds` as one `Limits`."""

    @click.option("--rounds", type=click.IntRange(1), default=100, help="Turns of everybody, for each batch size.")
    @click.option(
        "--seconds", type=click.FloatRange(0), default=300, help="No new round after so long, but at least three."
    )
    @wraps(command)
    def run(rounds: int, seconds: float, **own: Any) -> None:
        command(limits=Limits(rounds, seconds, least=min(3, rounds)), **own)

    return run


def _options(*decorators: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def decorate(command: Any) -> Any:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate
