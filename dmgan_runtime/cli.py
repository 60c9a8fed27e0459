"""`dmgan-generate`: captions to picture files."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import click
from PIL import Image

from dmgan_runtime import images
from dmgan_runtime.commands import DmganCommand
from dmgan_runtime.generator import Generator
from dmgan_runtime.results import Generation

_LEGIBLE_SIDE = 192


@click.command(cls=DmganCommand, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("captions", nargs=-1, required=True, metavar="CAPTION...")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("out.png"),
    show_default=True,
    help="Where to write: .png, .jpg or .webp. A missing folder is made, an old file replaced.",
)
@click.option(
    "-n",
    "--n",
    "images_per_caption",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Images for each caption, with the seeds SEED, SEED + 1, ...",
)
@click.option("--seed", type=click.IntRange(0, 2**64 - 1), show_default="random", help="Seed of the first image.")
@click.option("--resolution", type=click.IntRange(min=1), show_default="largest", help="Stop at this stage's side.")
@click.option(
    "--truncation",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    show_default=True,
    help="Multiplies the noise: less is nearer to the typical image, and less varied.",
)
@click.option("--grid", is_flag=True, help="Write one picture of all images, with their captions.")
@click.option("--stages", is_flag=True, help="Also write each image's stages side by side, to *-stages.*.")
@click.option("--threads", type=click.IntRange(1, 1024), show_default="all CPUs", help="CPU threads.")
def main(
    bundle: Path,
    captions: tuple[str, ...],
    output: Path,
    images_per_caption: int,
    seed: int | None,
    resolution: int | None,
    truncation: float,
    grid: bool,
    stages: bool,
    threads: int | None,
) -> None:
    """Paint each CAPTION with the model in BUNDLE, a folder or .zip.

    One image is written to OUTPUT. Several are numbered, with as many digits as the last needs: out-1.png,
    out-2.png, ..., all images of the first caption before those of the second. With --grid there is one file
    whatever the number. Every line of output is a file, its caption and its seed.

    Exit status: 0, 2 for a mistake in what was asked, 1 for other trouble.
    """
    images.check_format(output)
    with Generator.open(bundle, threads=threads) as generator:
        total = len(captions) * images_per_caption
        with click.progressbar(length=total, label=f"Images to paint: {total}", file=sys.stderr) as bar:
            generations = generator.generate(
                captions,
                seed=seed,
                images_per_caption=images_per_caption,
                resolution=resolution,
                truncation=truncation,
                progress=lambda done, _: bar.update(done - bar.pos),
            )
    _warn(generations[::images_per_caption])
    parts = [generations] if grid else [[generation] for generation in generations]
    for path, part in zip(_numbered(output, len(parts)), parts, strict=True):
        images.save(_captioned(part) if grid else part[0].image, path)
        _report(path, part)
        if stages:
            staged = path.with_stem(f"{path.stem}-stages")
            images.save(_side_by_side(part), staged)
            _report(staged, part)


def _numbered(output: Path, count: int) -> list[Path]:
    if count == 1:
        return [output]
    digits = len(str(count))
    return [output.with_stem(f"{output.stem}-{number:0{digits}}") for number in range(1, count + 1)]


def _captioned(generations: list[Generation]) -> Image.Image:
    pictures = [images.enlarge(each.image, _legible(each.image.width)) for each in generations]
    return images.grid(pictures, [each.caption for each in generations])


def _side_by_side(generations: list[Generation]) -> Image.Image:
    side = _legible(generations[0].image.width)
    pictures = [images.enlarge(picture, side) for each in generations for picture in each.stages.values()]
    return images.grid(pictures, columns=len(generations[0].stages))


def _legible(side: int) -> int:
    """A whole multiple of a small picture's side that a person can see, and that has room for a caption."""
    return side * math.ceil(_LEGIBLE_SIDE / side)


def _report(path: Path, generations: list[Generation]) -> None:
    for generation in generations:
        click.echo(f"{path}: {generation.caption!r}, seed {generation.seed}")


def _warn(generations: list[Generation]) -> None:
    """Says on stderr which words had no effect."""
    for generation in generations:
        for reason, words in (
            ("the model does not know", generation.unknown_words),
            ("there is no room for", generation.cut_words),
        ):
            if words:
                listed = ", ".join(map(repr, words))
                click.echo(f"warning: {generation.caption!r}: {reason} {listed}; left out", err=True)
