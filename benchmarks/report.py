"""A result as files: JSON, a table and a plot; and the tables in documents."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import click

from benchmarks.generation import Latency, Memory, Startup, Throughput
from benchmarks.http import Http
from benchmarks.machine import ENGINE_PACKAGES, measure_others
from benchmarks.measure import Measure
from benchmarks.plot import draw
from benchmarks.results import BenchmarkResult, read_result
from benchmarks.training import Training
from dmgan_runtime.cli.common import DmganCommand
from dmgan_runtime.errors import DataError

MEASURES: tuple[type[Measure], ...] = (Latency, Throughput, Startup, Memory, Training, Http)

_BLOCK = re.compile(
    r"(?P<begin><!-- benchmarks: (?P<name>[\w.-]+)(?P<form> summary)? -->\n).*?(?P<end><!-- end -->)", re.DOTALL
)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def publish(result: BenchmarkResult, output: Path) -> None:
    """Writes a result as FILE.json, FILE.md and FILE.png, and prints its summary."""
    result = result.__replace__(environment=result.environment.__replace__(busy_after=measure_others()))
    result.write(output)
    output.with_suffix(".md").write_text(render(result), encoding="utf-8")
    plot_result(result, output.with_suffix(".png"))
    click.echo(summarize(result))
    click.echo(f"{output}: written, with {output.with_suffix('.md').name} and {output.with_suffix('.png').name}")


def render(result: BenchmarkResult) -> str:
    """All tables of a result as Markdown, with where it was measured and what could not be."""
    absences = [
        f"- {each.contender}{f' at batch {each.batch}' if each.batch else ''}: {' '.join(each.reason.split())}"
        for each in result.absences
    ]
    notes = ["\n".join(["Not measured:", "", *absences])] if absences else []
    return "\n\n".join([f"### {_title(result)}", _where(result), *_look(result).tables(result), *notes]) + "\n"


def summarize(result: BenchmarkResult) -> str:
    """The first table alone, with where it was measured."""
    return "\n\n".join([next(iter(_look(result).tables(result))), _where(result)]) + "\n"


def plot_result(result: BenchmarkResult, path: Path) -> None:
    """Writes the plot of a result."""
    place, model = result.environment, result.model
    machine = place.gpu or f"{place.cpus} cores of {place.cpu}"
    parts = [f"{model.name}, {model.weights} weights"]
    parts += [f"{name} {number}" for name, number in place.packages.items() if name in ENGINE_PACKAGES]
    busy = "MEASURED ON A BUSY MACHINE; " if result.was_disturbed else ""
    title = f"{_title(result)} ({model.resolution} pixels) on {machine}"
    draw(title, _look(result).panels(result), f"{busy}{'; '.join(parts)}; {place.time[:10]}", path)


@click.command(cls=DmganCommand)
@click.argument("results", type=_FILE, nargs=-1, required=True)
@click.option("--into", type=_FILE, help="Rewrite the tables in this file.  [default: print them]")
def table(results: tuple[Path, ...], into: Path | None) -> None:
    """Print the tables of RESULTS, or rewrite them where a file has them.

    The table of NAME.json stands between `<!-- benchmarks: NAME -->` and `<!-- end -->`, each alone on a line; after
    `<!-- benchmarks: NAME summary -->` stands the short one.
    """
    read = {path.stem: read_result(path) for path in results}
    if into is None:
        for result in read.values():
            click.echo(render(result))
        return
    text = into.read_text(encoding="utf-8")
    if missing := sorted(read.keys() - places(text)):
        raise DataError(
            f"{into}: has no place for {missing[0]}; write two lines where its table belongs,"
            f" <!-- benchmarks: {missing[0]} --> and <!-- end -->"
        )
    into.write_text(rewrite(text, read), encoding="utf-8")
    click.echo(f"{into}: {', '.join(read)} rewritten")


@click.command(cls=DmganCommand)
@click.argument("result", type=_FILE)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    show_default="RESULT's, as .png",
    help="The picture.",
)
def plot(result: Path, output: Path | None) -> None:
    """Draw the plot of RESULT."""
    picture = output or result.with_suffix(".png")
    plot_result(read_result(result), picture)
    click.echo(f"{picture}: written")


def rewrite(text: str, results: Mapping[str, BenchmarkResult]) -> str:
    """A text with the tables of some results, by name; other tables in it stay as they are."""

    def replace(found: re.Match[str]) -> str:
        if found["name"] not in results:
            return found[0]
        write = summarize if found["form"] else render
        return f"{found['begin']}{write(results[found['name']])}{found['end']}"

    return _BLOCK.sub(replace, text)


def places(text: str) -> set[str]:
    """The names of the results whose tables a text holds."""
    return {found["name"] for found in _BLOCK.finditer(text)}


def _look(result: BenchmarkResult) -> type[Measure]:
    """The measure that knows a result's tables and plot; a script's result has those of every measure."""
    return next((measure for measure in MEASURES if measure.name == result.measure), Measure)


def _title(result: BenchmarkResult) -> str:
    return _look(result).title or result.measure.capitalize()


def _where(result: BenchmarkResult) -> str:
    place, model = result.environment, result.model
    machine = f"{place.gpu} (CUDA {place.cuda}), {place.cpu}" if place.gpu else place.cpu
    versions = ", ".join(f"{name} {number}" for name, number in place.packages.items() if name != "dmgan")
    rounds = max((len(series.samples) // series.per_turn for series in result.series), default=0)
    lines = [
        f"*{model.name} ({model.resolution} pixels, {model.weights} weights); {machine}, {place.cpus} cores,"
        f" {result.entries[0].threads} threads; {versions}; Python {place.python}; {place.time[:10]}, commit"
        f" {place.commit or '-'}; in turns, rounds: {rounds}.*"
    ]
    if result.was_disturbed:
        lines.append(f"**Measured on a busy machine (others used {place.busy_cpus} CPUs): not a result.**")
    return "\n\n".join(lines)
