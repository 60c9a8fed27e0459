"""Results as one picture that can be shown in a talk."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.contenders import TORCH
from benchmarks.environment import ENGINE_PACKAGES
from benchmarks.results import BenchmarkResult, Entry, Measure, Series
from benchmarks.statistics import median, paired_ratio, percentile

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_GREY, _BLUE, _ORANGE, _INK = "#9aa5b1", "#2563a8", "#d97706", "#1f2933"
_DPI = 160
_COLUMNS = 2
_TEXT = 10.5


class Bar(NamedTuple):
    """One bar.

    Attributes:
        entry: Whose.
        value: In the axis's unit.
        text: Beside it.
        far: A high percentile, or None.
        floor: Where the machine's limit lies, or None.
    """

    entry: Entry
    value: float
    text: str
    far: float | None = None
    floor: float | None = None


class Panel(NamedTuple):
    """Bars under one heading."""

    heading: str
    axis: str
    bars: list[Bar]


def draw(result: BenchmarkResult, path: Path) -> None:
    """Writes a result's plot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = _PANELS[result.measure](result)
    columns = min(len(panels), _COLUMNS)
    rows = math.ceil(len(panels) / columns)
    height = rows * (1.3 + 0.42 * max(len(panel.bars) for panel in panels))
    figure = Figure(figsize=(9 if columns == 1 else 7.5 * columns, height + 0.7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    for axis, panel in zip(axes, panels, strict=False):
        _draw_panel(axis, panel)
    figure.suptitle(_title(result), fontsize=14, fontweight="bold", color=_INK, x=0.01, ha="left")
    figure.supxlabel(_footer(result), fontsize=8, color=_INK, x=0.01, ha="left")
    figure.savefig(path, dpi=_DPI)


def _draw_panel(axis: Axes, panel: Panel) -> None:
    names = [f"{bar.entry.label}, {bar.entry.precision}" for bar in panel.bars]
    places = range(len(names))
    colours = [_GREY if bar.entry.engine in (TORCH, "plain") else _BLUE for bar in panel.bars]
    axis.barh(places, [bar.value for bar in panel.bars], height=0.66, color=colours)
    reach = max(max(bar.value, bar.far or 0) for bar in panel.bars)
    gap = reach * 0.015
    for place, bar in zip(places, panel.bars, strict=True):
        if bar.far is not None:
            axis.plot([bar.value, bar.far], [place, place], color=_INK, linewidth=1.2, solid_capstyle="butt")
        if bar.floor is not None:
            axis.plot([bar.floor] * 2, [place - 0.38, place + 0.38], color=_ORANGE, linewidth=2.4)
        end = max(bar.value, bar.far or 0) + gap
        if bar.floor is not None and bar.floor + gap > end:  # else the floor's line would run through the words
            end = bar.floor + gap
        axis.text(end, place, bar.text, va="center", fontsize=_TEXT - 1, color=_INK)
    axis.set_yticks(places, names, fontsize=_TEXT)
    axis.invert_yaxis()
    axis.set_xlim(0, reach * 1.62)
    axis.set_xlabel(panel.axis, fontsize=_TEXT - 1, color=_INK)
    axis.set_title(panel.heading, fontsize=_TEXT + 0.5, color=_INK, loc="left")
    axis.tick_params(axis="y", length=0)
    axis.spines[["top", "right", "left"]].set_visible(False)


def _latency(result: BenchmarkResult) -> list[Panel]:
    panels = []
    for batch in result.batches():
        reference = result.find(result.entries[0].name, "end_to_end", batch)
        bars = []
        for entry, series in _found(result, "end_to_end", batch):
            speed = "" if entry == result.entries[0] else f", {_ratio(reference, series):.1f}x"
            quality = f", {entry.psnr_db:.0f} dB" if entry.psnr_db is not None else ""
            value = median(series.samples) * 1e3
            far = percentile(series.samples, 95)
            floor = series.floor.seconds * 1e3 if series.floor else None
            text = f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f} ms{speed}{quality}"
            bars.append(Bar(entry, value, text, far and far * 1e3, floor))
        line = "line: 95th percentile; " if any(bar.far is not None for bar in bars) else ""
        panels.append(Panel(f"{batch} at once", f"milliseconds; {line}orange: the machine's floor", bars))
    return panels


def _throughput(result: BenchmarkResult) -> list[Panel]:
    panels = []
    for batch in result.batches():
        bars = []
        for entry in result.entries:
            found = [s for s in result.series if (s.contender, s.batch) == (entry.name, batch)]
            if found:
                best = max(found, key=lambda series: median(series.samples))
                value = median(best.samples)
                ceiling = batch / best.floor.operations_s if best.floor else None
                share = f", {value / ceiling:.0%} of the matrix rate" if ceiling else ""
                bars.append(Bar(entry, value, f"{value:,.3g}, {_clients(best.clients)}{share}"))
        panels.append(Panel(f"batch {batch}", "images a second, with the best number of clients", bars))
    return panels


def _clients(count: int | None) -> str:
    return "1 client" if count == 1 else f"{count} clients"


def _bytes(measure: str, heading: str) -> Callable[[BenchmarkResult], list[Panel]]:
    def panels(result: BenchmarkResult) -> list[Panel]:
        made = []
        batches: list[int | None] = [*result.batches()]
        for batch in batches or [None]:
            bars = []
            for entry in result.entries:
                series = result.find(entry.name, measure, batch)
                if series is not None:
                    value = median(series.samples) / 1e6
                    bars.append(Bar(entry, value, f"{value:,.0f} MB"))
            if bars:
                made.append(Panel(heading + (f", batch {batch}" if batch else ""), "megabytes", bars))
        return made

    return panels


def _memory(result: BenchmarkResult) -> list[Panel]:
    return [
        *_bytes("peak_memory", "main memory")(result),
        *_bytes("peak_device_memory", "GPU memory")(result),
    ]


def _size(result: BenchmarkResult) -> list[Panel]:
    return [*_bytes("model", "the model")(result), *_bytes("installed", "packages installed")(result)]


def _startup(result: BenchmarkResult) -> list[Panel]:
    bars = []
    for entry, series in _found(result, "first_image", 1):
        value = median(series.samples)
        bars.append(Bar(entry, value, f"{value:.1f} s", max(series.samples)))
    return [Panel("from the process's start to its first picture", "seconds; line: the longest", bars)]


def _training(result: BenchmarkResult) -> list[Panel]:
    batch = result.batches()[0]
    plain = result.find(result.entries[0].name, "images_per_second", batch)
    bars = []
    for entry, series in _found(result, "images_per_second", batch):
        speed = "" if entry == result.entries[0] else f", {_ratio(series, plain):.2f}x"
        bars.append(Bar(entry, median(series.samples), f"{median(series.samples):,.3g}{speed}"))
    return [Panel(f"whole GAN steps, batch {batch}", "images a second", bars)]


def _outputs(result: BenchmarkResult) -> list[Panel]:
    panels = []
    for batch in result.batches():
        bars = []
        for entry, series in _found(result, "images", batch):
            value = median(series.samples) * 1e3
            times = _ratio(result.find(entry.name, "everything", batch), series)
            bars.append(Bar(entry, value, f"{value:,.3g} ms, everything {times:.3f}x"))
        panels.append(Panel(f"{batch} at once", "milliseconds, images alone", bars))
    return panels


def _found(result: BenchmarkResult, measure: str, batch: int) -> list[tuple[Entry, Series]]:
    pairs = [(entry, result.find(entry.name, measure, batch)) for entry in result.entries]
    return [(entry, series) for entry, series in pairs if series is not None]


def _ratio(above: Series | None, below: Series | None) -> float:
    return paired_ratio(above, below).median if above is not None and below is not None else float("nan")


def _title(result: BenchmarkResult) -> str:
    place = result.environment.gpu or f"{result.environment.cpus} cores of {result.environment.cpu}"
    return f"{_TITLES[result.measure]} ({result.subject.resolution} pixels) on {place}"


def _footer(result: BenchmarkResult) -> str:
    place = result.environment
    parts = [f"{result.subject.name}, {result.subject.weights} weights"]
    parts += [f"{name} {number}" for name, number in place.packages.items() if name in ENGINE_PACKAGES | {TORCH}]
    busy = "  MEASURED ON A BUSY MACHINE" if result.was_disturbed else ""
    return f"{'; '.join(parts)}; {place.time[:10]}{busy}"


_PANELS: dict[Measure, Callable[[BenchmarkResult], list[Panel]]] = {
    "latency": _latency,
    "throughput": _throughput,
    "startup": _startup,
    "memory": _memory,
    "size": _size,
    "training": _training,
    "outputs": _outputs,
}
_TITLES: dict[Measure, str] = {
    "latency": "From caption to pixels",
    "throughput": "Throughput",
    "startup": "Start-up",
    "memory": "Peak memory",
    "size": "Size on disk",
    "training": "Training",
    "outputs": "What fetching costs",
}
