"""`python -m dmgan_train figure`: one command a figure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from PIL import Image

from dmgan_runtime import image_file as images
from dmgan_runtime.cli.common import DmganGroup
from dmgan_train.data import SOURCES
from dmgan_train.devices import choose_device
from dmgan_train.evaluation.image_source import ImageSource, choose_kind, read_split

_MODEL = click.argument("model", metavar="RUN_OR_BUNDLE", type=click.Path(exists=True, path_type=Path))
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_CAPTIONS = click.argument("captions", metavar="CAPTION...", nargs=-1, required=True)
_SEED = click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, help="Draws the noise.")
_TRUNCATION = click.option(
    "--truncation", type=click.FloatRange(0, 1, min_open=True), default=1.0, help="Multiplies the noise; 1 leaves it."
)


@click.group(cls=DmganGroup)
def figure() -> None:
    """Draw a figure of the paper from a RUN or a BUNDLE, as a PNG."""


def _output(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    path = click.Path(dir_okay=False, path_type=Path)
    return click.option("-o", "--output", type=path, default=Path(name), help="The picture to write.")


def _draw(model: Path, truncation: float, output: Path, draw: Callable[[ImageSource], Image.Image]) -> None:
    # Here, because only what opens a bundle needs an engine.
    from dmgan_train.evaluation.bundle_source import open_source

    images.check_format(output)
    with open_source(model, choose_device("auto"), truncation) as source:
        images.save(draw(source), output)
    click.echo(f"{output}: written")


@figure.command()
@_MODEL
@_CAPTIONS
@_SEED
@_TRUNCATION
@_output("stages.png")
def stages(model: Path, captions: tuple[str, ...], seed: int, truncation: float, output: Path) -> None:
    """What each stage makes of each CAPTION (figure 4)."""
    from dmgan_train.evaluation.figures.stages import draw_stages

    _draw(model, truncation, output, lambda source: draw_stages(source, captions, seed))


@figure.command()
@_MODEL
@_CAPTIONS
@_SEED
@_TRUNCATION
@click.option("--count", type=click.IntRange(1, 32), default=6, help="Seeds of each caption: SEED, SEED + 1, ...")
@_output("seeds.png")
def seeds(model: Path, captions: tuple[str, ...], seed: int, truncation: float, count: int, output: Path) -> None:
    """One CAPTION, many seeds (figure 5)."""
    from dmgan_train.evaluation.figures.seeds import draw_seeds

    _draw(model, truncation, output, lambda source: draw_seeds(source, captions, seed, count))


@figure.command()
@_MODEL
@click.argument("caption", metavar="CAPTION")
@_SEED
@_TRUNCATION
@_output("words.png")
def words(model: Path, caption: str, seed: int, truncation: float, output: Path) -> None:
    """Each refinement's five top words and its gates (figure 6).

    A map is bright where a word's share of a pixel is large, scaled to its largest. "write" says how much of a memory
    slot is the word, the rest being the image. The response gate is white where the memory replaces the image.
    """
    from dmgan_train.evaluation.figures.words import draw_words

    _draw(model, truncation, output, lambda source: draw_words(source, caption, seed))


@figure.command()
@_MODEL
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="The data set's folder.",
)
@click.option("--source", type=click.Choice(list(SOURCES)), help="Its kind.  [default: told from its layout]")
@click.option("--split", type=click.Choice(["train", "test"]), default="test", help="Whose pictures and captions.")
@click.option("--rows", type=click.IntRange(1, 64), default=6, help="Real pictures.")
@click.option("--count", type=click.IntRange(1, 32), default=4, help="Images generated from each caption.")
@_SEED
@_TRUNCATION
@_output("real.png")
def real(
    model: Path,
    data: Path,
    source: str | None,
    split: str,
    rows: int,
    count: int,
    seed: int,
    truncation: float,
    output: Path,
) -> None:
    """Real pictures, and what the model generates from their captions."""
    from dmgan_train.evaluation.figures.real import draw_real

    def draw(images: ImageSource) -> Image.Image:
        kind = choose_kind(source, data, images)
        examples = read_split(images, kind, data, "train" if split == "train" else "test")
        return draw_real(images, examples, rows, seed, count)

    _draw(model, truncation, output, draw)
