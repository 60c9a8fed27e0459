"""One page about a run that opens from disk: settings, provenance, curves, samples and metrics, all inside the file."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from importlib import resources
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import msgspec
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from dmgan_runtime.errors import CheckpointError
from dmgan_train.evaluation.metrics.protocol import Evaluation, detail_rows, read_evaluation
from dmgan_train.run_folder import RunFolder, write_whole

_SHEETS = 6
_NOT_MEASURED = {"phase", "step", "epoch"}


class Curve(NamedTuple):
    """One logged value over the steps."""

    name: str
    steps: list[int]
    values: list[float]


class Plot(NamedTuple):
    """Curves that belong together, drawn."""

    title: str
    svg: Markup


class Sheet(NamedTuple):
    """A picture of fixed captions, as a data address."""

    name: str
    address: str


def write_report(run: RunFolder, output: Path) -> None:
    """Writes the page.

    Args:
        run: A run that has begun.
        output: The HTML file; replaced if it is there.

    Raises:
        CheckpointError: if this is no run folder.
        DataError: if a file under `metrics/` holds no results.
    """
    settings = run.settings()
    curves = read_curves(run)
    evaluations = [(path.name, read_evaluation(path)) for path in sorted((run.root / "metrics").glob("*.json"))]
    template = _environment().from_string(
        resources.files("dmgan_train.evaluation").joinpath("report.html.j2").read_text(encoding="utf-8")
    )
    page = template.render(
        name=run.root.resolve().name,
        settings=msgspec.to_builtins(settings),
        provenance=run.provenance(),
        progress={phase: own[0].steps[-1] for phase, own in curves.items()},
        phases={phase: [_plot(title, group) for title, group in _groups(own).items()] for phase, own in curves.items()},
        sheets=[_embed(path) for path in _spread(sorted(run.samples.glob("*.png")), _SHEETS)],
        evaluations=[(name, one, to_json(one)) for name, one in evaluations],
        detail_rows=detail_rows,
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    write_whole(output, page.encode())


def read_curves(run: RunFolder) -> dict[str, list[Curve]]:
    """The logged values of each phase, in order of appearance.

    Raises:
        CheckpointError: if the log is damaged other than by a cut last line.
    """
    phases: dict[str, dict[str, Curve]] = {}
    entries = list(run.log_entries())
    for number, line, entry in entries:
        if entry is None:
            if number == entries[-1][0]:  # a run that is being written, or was killed
                continue
            raise CheckpointError(f"{run.log_file}, line {number}: is no entry of a log, {line[:80]!r}; remove it")
        curves = phases.setdefault(entry["phase"], {})
        for name, value in entry.items():
            if name not in _NOT_MEASURED and isinstance(value, int | float):
                curve = curves.setdefault(name, Curve(name, [], []))
                curve.steps.append(entry["step"])
                curve.values.append(float(value))
    return {phase: list(curves.values()) for phase, curves in phases.items()}


def _groups(curves: Sequence[Curve]) -> dict[str, list[Curve]]:
    """Curves whose names differ only in the resolution at their end share a plot."""
    groups: dict[str, list[Curve]] = {}
    for curve in curves:
        groups.setdefault(re.sub(r"_\d+$", "", curve.name).replace("_", " "), []).append(curve)
    return groups


def _plot(title: str, curves: Sequence[Curve]) -> Plot:
    with mpl.rc_context({"svg.fonttype": "none", "font.size": 9, "svg.hashsalt": "dmgan"}):
        figure = Figure(figsize=(4.4, 2.6), layout="constrained")
        axes = figure.subplots()
        for curve in curves:
            (line,) = axes.plot(curve.steps, curve.values, alpha=0.3, linewidth=0.8)
            axes.plot(curve.steps, smooth(curve.values), color=line.get_color(), linewidth=1.5, label=curve.name)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        if len(curves) > 1:
            axes.legend(frameon=False)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = stream.getvalue()
    return Plot(title, Markup(svg[svg.index("<svg") :]))  # noqa: S704 - matplotlib's own, of numbers and escaped names


def smooth(values: Sequence[float]) -> list[float]:
    """Centred means over a twelfth of the values: a curve that neither lags nor hides where it went."""
    reach = len(values) // 24
    sums = [0.0, *accumulate(values)]
    ranges = [(max(0, at - reach), min(len(values), at + reach + 1)) for at in range(len(values))]
    return [(sums[last] - sums[first]) / (last - first) for first, last in ranges]


def _spread(paths: Sequence[Path], count: int) -> list[Path]:
    """The first, the last, and some evenly between."""
    if len(paths) <= count:
        return list(paths)
    return [paths[round(position * (len(paths) - 1) / (count - 1))] for position in range(count)]


def _embed(path: Path) -> Sheet:
    return Sheet(path.stem, "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode())


def to_json(value: Evaluation) -> str:
    """Indented JSON, for a reader."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def _environment() -> Environment:
    return Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
