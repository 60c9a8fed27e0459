"""`python -m dmgan_train prepare`: makes data sets that training reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click

from dmgan_runtime.cli.common import DmganGroup
from dmgan_train.progress import Progress


@click.group(cls=DmganGroup)
def prepare() -> None:
    """Make a data set: the emoji drawings, or painted birds."""


@prepare.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--count", type=click.IntRange(40, 1_000_000), default=3000, help="Pictures.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, help="The same seed paints the same pictures.")
def synthetic(folder: Path, count: int, seed: int) -> None:
    """Paint birds into DIR, with captions in CUB's language and files in CUB's layout."""
    from dmgan_train.data.prepare.synthetic import paint_dataset

    with _progress("painting", "picture") as progress:
        paint_dataset(folder, count=count, seed=seed, progress=progress)
    click.echo(f"{folder}: {count:,} painted birds with ten captions each")


@prepare.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--style",
    "styles",
    type=click.Choice(["3d", "flat"]),
    multiple=True,
    help="A style to draw every emoji in; repeatable.  [default: all]",
)
@click.option(
    "--tarball",
    "tarballs",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    help="An npm package that is here already: of a style, or of the names; repeatable.  [default: fetched with"
    " `npm pack`]",
)
@click.option("--resolution", type=click.IntRange(16, 256), default=256, help="Side of the pictures in pixels.")
def emoji(folder: Path, styles: tuple[str, ...], tarballs: tuple[Path, ...], resolution: int) -> None:
    """Make an image folder of the Fluent emoji drawings (MIT) in DIR.

    The drawings come from the npm packages @lobehub/fluent-emoji-3d and @lobehub/fluent-emoji-flat, names and keywords
    from emojibase-data.
    """
    from dmgan_train.data.prepare.emoji import STYLES, prepare_emoji

    with _progress("drawing", "emoji") as progress:
        count = prepare_emoji(
            folder,
            styles=tuple(dict.fromkeys(styles)) or STYLES,
            tarballs=tarballs or None,
            resolution=resolution,
            progress=progress,
        )
    click.echo(f"{folder}: {count.train:,} drawings to train on, {count.test:,} held out, {count.concepts:,} concepts")


@contextmanager
def _progress(description: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A callback of (done, total) that shows a bar, from the first call on: only then is the total known."""
    with ExitStack() as stack:
        bar: Progress | None = None
        shown = 0

        def show(done: int, total: int) -> None:
            nonlocal bar, shown
            bar = bar or stack.enter_context(Progress(total, description, unit))
            bar.update(done - shown)
            shown = done

        yield show
