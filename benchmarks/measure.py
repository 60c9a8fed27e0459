"""What a measure is: one object that knows its title, its options, how it is taken, its tables and its plot."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple

import click

from benchmarks.contender import Contender
from benchmarks.plot import Bar, Panel
from benchmarks.pool import Check, Pool
from benchmarks.results import BenchmarkResult, Entry, Series
from benchmarks.tables import (
    UNITS,
    Ratio,
    cell,
    in_unit,
    median,
    paired_ratio,
    show_median,
    show_number,
    show_ratio,
    write_table,
)
from benchmarks.turns import Limits

WARM_UPS = 3
PRESETS = ("birds", "coco", "emoji", "tiny")


class Task(NamedTuple):
    """What is measured of whom.

    Attributes:
        model: What contenders compute; it has a method `describe`.
        contenders: Those to try, the reference first.
        check: Whether they compute the same.
    """

    model: Any
    contenders: Sequence[Contender]
    check: Check


@dataclass(frozen=True)
class Measure(ABC):
    """A measure. Its fields are its settings; what a result of it looks like needs none of them.

    Attributes:
        name: Names it on the command line and in files.
        title: Of its tables and its plot; empty is the name.
        axis: What the plot's axis is labelled; empty is the unit.
        plotted: The figures in the plot; empty takes all.
        task_options: Those of the command that become a `Task`.
        options: Those that become fields.
        limits: When to stop, for each batch size.
    """

    name: ClassVar[str]
    title: ClassVar[str] = ""
    axis: ClassVar[str] = ""
    plotted: ClassVar[Sequence[str]] = ()
    task_options: ClassVar[Sequence[click.Parameter]] = ()
    options: ClassVar[Sequence[click.Option]] = ()

    limits: Limits

    @classmethod
    @abstractmethod
    def prepare(cls, device: str, threads: int, names: Sequence[str], **asked: Any) -> Task:
        """Makes or finds what is measured.

        Args:
            device: `cpu` or `cuda:N`.
            threads: CPU threads.
            names: Of contenders; empty takes all.
            asked: The values of `task_options`.

        Raises:
            DmganError: if it cannot be had.
        """

    @abstractmethod
    def take(self, pool: Pool) -> Iterator[list[Series]]:
        """Measures all contenders in turn; the result so far is written whenever some series are there."""

    @property
    def settings(self) -> dict[str, Any]:
        """What a result tells of its fields."""
        others = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "limits"}
        return {**others, "rounds": self.limits.rounds, "seconds": self.limits.seconds}

    @classmethod
    def tables(cls, result: BenchmarkResult) -> Iterable[str]:
        """The tables, the one that sums it up first: here the median of every figure."""
        for batch in result.batches():
            figures = _figures(result, batch)
            columns = {figure.replace("_", " "): cell(result, show_median, figure, batch) for figure in figures}
            yield write_table(result, UNITS[result.series[0].unit] + _at(batch), columns)

    @classmethod
    def panels(cls, result: BenchmarkResult) -> list[Panel]:
        """The plot: here the median of every figure."""
        axis = cls.axis or UNITS[result.series[0].unit]
        return [
            Panel(figure.replace("_", " ") + _at(batch), axis, cls.bars(result, figure, batch))
            for batch in result.batches()
            for figure in _figures(result, batch)
            if not cls.plotted or figure in cls.plotted
        ]

    @classmethod
    def bars(cls, result: BenchmarkResult, figure: str, batch: int | None) -> list[Bar]:
        """A bar for each contender of whom a figure was measured."""
        found = [(entry, best_series(result, entry, figure, batch)) for entry in result.entries]
        return [cls.bar(result, entry, series) for entry, series in found if series is not None]

    @classmethod
    def bar(cls, result: BenchmarkResult, entry: Entry, series: Series) -> Bar:
        """One bar: here the median."""
        value = in_unit(median(series), series.unit)
        return Bar(entry, value, f"{show_number(value)} {UNITS[series.unit]}")


def best_series(result: BenchmarkResult, entry: Entry, figure: str, batch: int | None) -> Series | None:
    """The series of a contender with the best number of clients."""
    found = [s for s in result.series if (s.contender, s.figure, s.batch) == (entry.name, figure, batch)]
    return max(found, key=median, default=None)


def speed(result: BenchmarkResult, series: Series) -> Ratio | None:
    """How many times as fast as the reference; None of the reference, and where that was not measured."""
    reference = result.find(result.entries[0], series.figure, series.batch, series.clients)
    if reference is None or reference is series:
        return None
    return paired_ratio(reference, series) if series.unit == "s" else paired_ratio(series, reference)


def speed_note(result: BenchmarkResult, series: Series) -> str:
    """Beside a bar; empty if there is none."""
    ratio = speed(result, series)
    return f", {ratio.median:.2f}x" if ratio else ""


def show_speed(result: BenchmarkResult, series: Series) -> str | None:
    """As a cell of a table."""
    return "1" if series.contender == result.entries[0].name else show_ratio(speed(result, series))


def _figures(result: BenchmarkResult, batch: int | None) -> list[str]:
    return list(dict.fromkeys(series.figure for series in result.series if series.batch == batch))


def _at(batch: int | None) -> str:
    return f", batch {batch}" if batch else ""
