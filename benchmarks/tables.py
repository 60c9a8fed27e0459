"""What samples tell, and Markdown tables of it: a row for each contender, a column for each figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.results import BenchmarkResult, Entry, Series, Unit

UNITS: dict[Unit, str] = {"s": "ms", "bytes": "MB", "images/s": "images/s"}
"""What tables and plots write a unit in."""

_SCALES: dict[Unit, float] = {"s": 1e3, "bytes": 1e-6, "images/s": 1.0}

Cell = Callable[[Entry], str | None]


class Ratio(NamedTuple):
    """How many times as fast as the reference, or as much: the median of the rounds, and their quartiles."""

    median: float
    low: float
    high: float


def median(series: Series) -> float:
    """The median of all samples."""
    return float(np.median(series.samples))


def percentile(series: Series, percent: int) -> float | None:
    """A percentile, linear between samples; None if fewer than one sample lies beyond it.

    The 99th of ten samples is only their largest, so it is not called that.
    """
    if len(series.samples) * (100 - percent) < 100:
        return None
    return float(np.percentile(series.samples, percent))


def paired_ratio(above: Series, below: Series) -> Ratio:
    """One series over another, round by round: what slows both in a round cancels. Only rounds of both are used."""
    rounds = min(len(series.samples) // series.per_turn for series in (above, below))
    medians = [
        np.median(np.reshape(series.samples[: rounds * series.per_turn], (rounds, series.per_turn)), axis=1)
        for series in (above, below)
    ]
    low, middle, high = np.percentile(medians[0] / medians[1], (25, 50, 75))
    return Ratio(float(middle), float(low), float(high))


def write_table(result: BenchmarkResult, head: str, columns: Mapping[str, Cell]) -> str:
    """A table.

    Args:
        result: Its entries are the rows; one of whom nothing was measured is left out.
        head: Over the contenders' names.
        columns: By heading; None is shown as a dash.
    """
    rows: list[Sequence[str]] = [(head, "precision", *columns), ("---", "---", *["---:"] * len(columns))]
    for entry in result.entries:
        cells = [cell(entry) for cell in columns.values()]
        if any(cells):
            rows.append((entry.label, entry.precision, *(cell or "-" for cell in cells)))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def cell(
    result: BenchmarkResult,
    show: Callable[[Series], str | None],
    figure: str,
    batch: int | None = None,
    clients: int | None = None,
) -> Cell:
    """A cell that shows one series of each contender."""

    def write(entry: Entry) -> str | None:
        series = result.find(entry, figure, batch, clients)
        return None if series is None else show(series)

    return write


def in_unit(value: float, unit: Unit) -> float:
    """From what samples are in to what tables and plots are in."""
    return value * _SCALES[unit]


def show_median(series: Series) -> str:
    """In the unit of tables."""
    return show_number(in_unit(median(series), series.unit))


def show_ratio(ratio: Ratio | None) -> str | None:
    """With its quartiles; None stays None."""
    if ratio is None:
        return None
    middle, low, high = (f"{value:.2f}" for value in ratio)
    return f"{middle} ({low} to {high})"


def show_ms(seconds: float | None) -> str | None:
    """Milliseconds; None stays None."""
    return None if seconds is None else show_number(seconds * 1e3)


def show_number(value: float) -> str:
    """Three digits that count, without an exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"
