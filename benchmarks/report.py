"""A result as files: JSON, a table and a plot."""

from __future__ import annotations

import re
from pathlib import Path

import click

from benchmarks.environment import measure_others
from benchmarks.plot import draw
from benchmarks.results import BenchmarkResult, read_result
from benchmarks.table import summary, tables
from dmgan_runtime.cli.common import DmganCommand
from dmgan_runtime.errors import DataError

_BLOCK = re.compile(
    r"(?P<begin><!-- benchmarks: (?P<name>[\w.-]+)(?P<form> summary)? -->\n).*?(?P<end><!-- end -->)", re.DOTALL
)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def keep(result: BenchmarkResult, output: Path) -> None:
    """Writes a result as FILE.json alone."""
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(result.to_json())


def publish(result: BenchmarkResult, output: Path) -> None:
    """Writes a result as FILE.json, FILE.md and FILE.png, and prints its summary."""
    result = result.__replace__(environment=result.environment.__replace__(busy_after=measure_others()))
    keep(result, output)
    output.with_suffix(".md").write_text(tables(result), encoding="utf-8")
    draw(result, output.with_suffix(".png"))
    click.echo(summary(result))
    click.echo(f"{output}: written, with {output.with_suffix('.md').name} and {output.with_suffix('.png').name}")


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
            click.echo(tables(result))
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
    draw(read_result(result), picture)
    click.echo(f"{picture}: written")


def rewrite(text: str, results: dict[str, BenchmarkResult]) -> str:
    """A text with the tables of some results, by name; other tables in it stay as they are."""

    def replace(found: re.Match[str]) -> str:
        if found["name"] not in results:
            return found[0]
        write = summary if found["form"] else tables
        return f"{found['begin']}{write(results[found['name']])}{found['end']}"

    return _BLOCK.sub(replace, text)


def places(text: str) -> set[str]:
    """The names of the results whose tables a text holds."""
    return {found["name"] for found in _BLOCK.finditer(text)}
