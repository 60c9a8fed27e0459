"""Bars of a result as one picture that can be shown in a talk."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.results import Entry

_GREY, _BLUE, _ORANGE, _INK = "#9aa5b1", "#2563a8", "#d97706", "#1f2933"
_OTHERS = ("torch", "plain")  # what this project is compared with is grey
_DPI = 160
_COLUMNS = 2
_TEXT = 10.5
_TITLE_CHARACTERS = 8  # of an inch
_CHARACTER = 0.0125  # the share of a panel's width that one takes beside a bar


class Bar(NamedTuple):
    """One bar.

    Attributes:
        entry: The contender.
        value: In the axis's unit.
        text: Beside it.
        far: A high percentile, or None.
        line: Where the arithmetic at the machine's matrix rate lies, or None.
    """

    entry: Entry
    value: float
    text: str
    far: float | None = None
    line: float | None = None


class Panel(NamedTuple):
    """Bars under one heading."""

    heading: str
    axis: str
    bars: Sequence[Bar]


def draw(title: str, panels: Sequence[Panel], footer: str, path: Path) -> None:
    """Writes a plot."""
    columns = min(len(panels), _COLUMNS)
    rows = math.ceil(len(panels) / columns)
    height = rows * (1.3 + 0.42 * max(len(panel.bars) for panel in panels))
    width = 9 if columns == 1 else 7.5 * columns
    figure = Figure(figsize=(width, height + 0.7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    for axis, panel in zip(axes, panels, strict=False):
        _draw_panel(axis, panel)
    title = textwrap.fill(title, int(_TITLE_CHARACTERS * width))
    figure.suptitle(title, fontsize=14, fontweight="bold", color=_INK, x=0.01, ha="left")
    figure.supxlabel(footer, fontsize=8, color=_INK, x=0.01, ha="left")
    figure.savefig(path, dpi=_DPI)


def _draw_panel(axis: Axes, panel: Panel) -> None:
    names = [f"{bar.entry.label}, {bar.entry.precision}" for bar in panel.bars]
    colours = [_GREY if bar.entry.engine in _OTHERS else _BLUE for bar in panel.bars]
    axis.barh(range(len(names)), [bar.value for bar in panel.bars], height=0.66, color=colours)
    reach = max(max(bar.value, bar.far or 0) for bar in panel.bars)
    gap = reach * 0.015
    for place, bar in enumerate(panel.bars):
        end = max(bar.value, bar.far or 0) + gap
        if bar.far is not None:
            axis.plot([bar.value, bar.far], [place, place], color=_INK, linewidth=1.2, solid_capstyle="butt")
        if bar.line is not None:
            axis.plot([bar.line] * 2, [place - 0.38, place + 0.38], color=_ORANGE, linewidth=2.4)
            end = max(end, bar.line + gap)  # else the line would run through the words
        axis.text(end, place, bar.text, va="center", fontsize=_TEXT - 1, color=_INK)
    axis.set_yticks(range(len(names)), names, fontsize=_TEXT)
    axis.invert_yaxis()
    axis.set_xlim(0, reach / (1 - _CHARACTER * (4 + max(len(bar.text) for bar in panel.bars))))
    axis.set_xlabel(panel.axis, fontsize=_TEXT - 1, color=_INK, loc="left")
    axis.set_title(panel.heading, fontsize=_TEXT + 0.5, color=_INK, loc="left")
    axis.tick_params(axis="y", length=0)
    axis.spines[["top", "right", "left"]].set_visible(False)
