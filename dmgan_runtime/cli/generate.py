"""`dmgan-generate`: captions to picture files."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, get_args

import click
from PIL import Image

import dmgan_runtime
from dmgan_runtime.backends.choice import Quality
from dmgan_runtime.bundle import PACKAGED_MODEL, Bundle, packaged_bundle, packaged_models
from dmgan_runtime.cli.captions import check_captions, leave_out_unreadable, read_captions
from dmgan_runtime.cli.common import DmganCommand
from dmgan_runtime.cli.files import MAX_GRID, MAX_IMAGES, STANDARD_OUTPUT, OutputPlan, plan_files
from dmgan_runtime.cli.opening import opening_options
from dmgan_runtime.errors import SettingsError, printable, quoted
from dmgan_runtime.generator import Generator
from dmgan_runtime.image_file import check_size, encode, save
from dmgan_runtime.noise import MAX_SEED, Condition, fresh_seed
from dmgan_runtime.results import Generation
from dmgan_runtime.tokenizer import Encoding
from dmgan_runtime.viz import pictures
from dmgan_runtime.viz.attention import draw_attention, draw_top_words

_LEGIBLE_SIDE = 192
_SHOWN_WORDS = 10
_SHOWN_CAPTIONS = 20
_SHOWN_CHARACTERS = 80


@click.command(cls=DmganCommand, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("captions", nargs=-1, metavar="[CAPTION]...")
@click.option(
    "-b",
    "--bundle",
    type=click.Path(),
    show_default=PACKAGED_MODEL,
    help="The model: a folder or .zip that dmgan-export wrote, or the name of one that comes with dmgan (--list).",
)
@click.option(
    "-f",
    "--file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="UTF-8 text with more captions, one a line; empty lines are left out.",
)
@click.option("--skip-unreadable", is_flag=True, help="Leave out, name and count captions with no known word.")
@click.option(
    "-o",
    "--output",
    default="out.png",
    show_default=True,
    metavar="PATH",
    help="Where to write: a .png, .jpg or .webp file; a folder, which is there or whose name ends in a slash; or - for"
    " standard output. What is missing is made.",
)
@click.option("--overwrite", is_flag=True, help="Replace files that are there already.")
@click.option(
    "-n",
    "--images-per-caption",
    type=click.IntRange(1, MAX_IMAGES),
    default=1,
    show_default=True,
    help="Images for each caption, with the seeds SEED, SEED + 1, ...",
)
@click.option("--seed", type=click.IntRange(0, MAX_SEED), show_default="random", help="Seed of the first image.")
@click.option("--resolution", type=click.IntRange(min=1), show_default="largest", help="Stop at this stage's side.")
@click.option(
    "--truncation",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    show_default=True,
    help="Multiplies the noise: less is nearer to the typical image, and less varied.",
)
@click.option(
    "--condition",
    type=click.Choice(get_args(Condition)),
    help="Generate from a sample of the condition's distribution, or from its mean.  [default: the bundle's own]",
)
@click.option(
    "--grid",
    is_flag=True,
    help=f"Write one picture of all images, at most {MAX_GRID}, with their captions; with -n over 1, a row a caption.",
)
@click.option("--stages", is_flag=True, help="Also write each image's stages side by side, to *-stages.*.")
@click.option(
    "--attention",
    is_flag=True,
    help="Also write where each word was read, to *-attention.*, and the top words of each stage, to *-words.*.",
)
@click.option(
    "--metadata/--no-metadata",
    default=True,
    show_default=True,
    help="Write caption and seed into PNGs too; of a grid, a line for each image.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each image instead of text.")
@click.option("--list", "list_models", is_flag=True, help="Show the models that come with dmgan, and generate nothing.")
@opening_options
@click.version_option(dmgan_runtime.__version__, prog_name="dmgan-generate")
def main(
    captions: tuple[str, ...],
    bundle: str | None,
    file: Path | None,
    skip_unreadable: bool,
    output: str,
    overwrite: bool,
    images_per_caption: int,
    seed: int | None,
    resolution: int | None,
    truncation: float,
    condition: Condition | None,
    grid: bool,
    stages: bool,
    attention: bool,
    metadata: bool,
    as_json: bool,
    list_models: bool,
    backend: str,
    device: str,
    precision: str,
    quality: Quality,
    threads: int | None,
) -> None:
    """Generate an image of each CAPTION; - stands for the lines of standard input.

    One image is written to PATH. Several are numbered, with as many digits as the last needs: out-1.png,
    out-2.png, ..., all images of the first caption before those of the second; in a folder they are named after
    caption and seed too. With --grid there is one file whatever the number. Every line of output is a file, its
    caption and its seed; with --json, an image, its files and what became of the caption's words. They go to standard
    error if the picture goes to standard output.

    Exit status: 0, 2 for a mistake in what was asked, 1 for other trouble.
    """
    if list_models:
        for name in packaged_models():
            with Bundle(packaged_bundle(name)) as packaged:
                click.echo(f"{name}: {packaged.manifest.model.resolutions[-1]} pixels, {packaged.path}")
        return
    sources = read_captions(captions, file)
    seeds = range(first := fresh_seed() if seed is None else seed, first + images_per_caption)
    sheets = ("stages",) * stages + ("attention", "words") * attention
    plan = plan_files(output, [source.caption for source in sources], seeds, grid=grid, sheets=sheets)
    plan.check_place(overwrite=overwrite)
    opening = Generator.open(
        bundle, backend=backend, device=device, precision=precision, quality=quality, threads=threads
    )
    with opening as generator:
        if attention and (resolution or generator.resolutions[-1]) == generator.resolutions[0]:
            raise SettingsError(
                f"--attention: the first stage, of {generator.resolutions[0]} pixels, has no memory; ask for a larger"
                " --resolution of a model that has one"
            )
        tokenizer = generator.tokenizer
        if skip_unreadable and (readable := leave_out_unreadable(sources, generator.encode, tokenizer.takes)):
            sources = readable
        texts = [source.caption for source in sources]
        _warn(texts, check_captions(sources, generator.encode, tokenizer.takes), tokenizer.nearest)
        # In names of files and on grids, whose font has none, emoji are spelled out.
        plan = replace(plan, captions=[tokenizer.spell_out(text) for text in texts])
        plan.check_place(overwrite=overwrite)
        if plan.grid and plan.grid != STANDARD_OUTPUT and images_per_caption > 1:
            # Without the headings, whose height the words decide.
            cell = _legible(resolution or generator.resolutions[-1]) + pictures.MARGIN
            check_size(plan.grid, images_per_caption * cell + pictures.MARGIN, len(texts) * cell)
        generations = generator.generate_iter(
            texts,
            seed=first,
            images_per_caption=images_per_caption,
            resolution=resolution,
            attention=attention,
            truncation=truncation,
            condition=condition,
        )
        _write(generations, plan, images_per_caption, metadata=metadata, as_json=as_json)


def _write(
    generations: Iterable[Generation], plan: OutputPlan, images_per_caption: int, *, metadata: bool, as_json: bool
) -> None:
    """Saves every picture as soon as it is there, and says so; but a grid, of course, at the end."""
    kept = []
    for index, generation in enumerate(_with_progress(generations, plan)):
        files = plan.files(index)
        for kind, path in files.items():
            if path != plan.grid:
                _save(_PICTURES[kind](generation), path, generation.metadata if metadata else None)
        if plan.grid:
            kept.append(generation)
        else:
            _report(files, generation, plan, as_json)
    if plan.grid:
        _save(_grid(kept, plan.captions, images_per_caption), plan.grid, _grid_metadata(kept) if metadata else None)
    for index, generation in enumerate(kept):
        _report(plan.files(index), generation, plan, as_json)


def _save(picture: Image.Image, path: Path, metadata: dict[str, str] | None) -> None:
    if path == STANDARD_OUTPUT:
        click.echo(encode(picture, "PNG", metadata), nl=False)
        return
    try:
        save(picture, path, metadata)
    except OSError as error:
        raise click.ClickException(
            printable(
                f"{path} cannot be written ({error.strerror or error}); pass another --output, or make room there"
            )
        ) from error


def _with_progress(generations: Iterable[Generation], plan: OutputPlan) -> Iterator[Generation]:
    """Shows a bar, unless the lines of output appear on the same terminal and so are the progress."""
    total = plan.count
    hidden = sys.stdout is not None and sys.stdout.isatty() and not plan.grid
    with click.progressbar(
        generations, length=total, label=f"Images to generate: {total}", file=sys.stderr, hidden=hidden
    ) as bar:
        yield from bar


def _stages(generation: Generation) -> Image.Image:
    side = _legible(generation.image.width)
    stages = [pictures.enlarge(picture, side) for picture in generation.stages.values()]
    return pictures.grid(stages, [f"{size} x {size}" for size in generation.stages], columns=len(stages))


_PICTURES: dict[str, Callable[[Generation], Image.Image]] = {
    "image": lambda generation: generation.image,
    "stages": _stages,
    "attention": draw_attention,
    "words": draw_top_words,
}


def _grid(generations: Sequence[Generation], captions: Sequence[str], images_per_caption: int) -> Image.Image:
    """All pictures with their captions, as they are to be shown; if one has several, a row for it, with their seeds."""
    enlarged = [pictures.enlarge(each.image, _legible(each.image.width)) for each in generations]
    if images_per_caption == 1:
        labels = [
            f"{_one_line(caption)} (seed\xa0{each.seed})" for caption, each in zip(captions, generations, strict=True)
        ]
        return pictures.grid(enlarged, labels)
    rows = []
    for start in range(0, len(generations), images_per_caption):
        part = slice(start, start + images_per_caption)
        row = pictures.grid(enlarged[part], [f"seed {each.seed}" for each in generations[part]], images_per_caption)
        rows += [pictures.heading(captions[start // images_per_caption], row.width), row]
    return pictures.stack(rows)


def _grid_metadata(generations: Sequence[Generation]) -> dict[str, str]:
    """Those of every image, a line each."""
    return {
        "Description": "\n".join(_one_line(each.caption) for each in generations),
        "Seed": "\n".join(str(each.seed) for each in generations),
    }


def _one_line(caption: str) -> str:
    return " ".join(caption.split())


def _legible(side: int) -> int:
    """A whole multiple of a small picture's side that a person can see, and that has room for a caption."""
    return side * math.ceil(_LEGIBLE_SIDE / side)


def _report(files: dict[str, Path], generation: Generation, plan: OutputPlan, as_json: bool) -> None:
    if not as_json:
        for path in files.values():
            line = printable(f"{path}: {quoted(generation.caption)}, seed {generation.seed}")
            click.echo(line, err=plan.to_standard_output)
        return
    made: dict[str, Any] = {
        "caption": generation.caption,
        "seed": generation.seed,
        "resolution": generation.image.width,
        "words": generation.words,
        "unknown_words": generation.unknown_words,
        "cut_words": generation.cut_words,
        "files": {kind: str(path) for kind, path in files.items()},
    }
    click.echo(json.dumps(made), err=plan.to_standard_output)


def _warn(texts: Sequence[str], encodings: Sequence[Encoding], nearest: Callable[[str], list[str]]) -> None:
    """Says on stderr which words will have no effect; of many captions, the first."""
    nearest = cache(nearest)
    concerned = [pair for pair in zip(texts, encodings, strict=True) if pair[1].unknown or pair[1].cut]
    for text, encoding in concerned[:_SHOWN_CAPTIONS]:
        caption = text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."
        if encoding.unknown:
            words = dict.fromkeys(encoding.unknown)
            listed = ", ".join(_with_neighbours(word, nearest) for word in list(words)[:_SHOWN_WORDS])
            more = f" and {len(words) - _SHOWN_WORDS} more" if len(words) > _SHOWN_WORDS else ""
            click.echo(f"warning: {quoted(caption)}: the model does not know {listed}{more}; left out", err=True)
        if encoding.cut:
            listed = ", ".join(map(repr, encoding.cut[:_SHOWN_WORDS]))
            more = f" and {len(encoding.cut) - _SHOWN_WORDS} more" if len(encoding.cut) > _SHOWN_WORDS else ""
            click.echo(f"warning: {quoted(caption)}: there is no room for {listed}{more}; left out", err=True)
    if (more_captions := len(concerned) - _SHOWN_CAPTIONS) > 0:
        click.echo(f"warning: words of {more_captions:,} more captions are left out; --json says which", err=True)


def _with_neighbours(word: str, nearest: Callable[[str], list[str]]) -> str:
    neighbours = " or ".join(map(repr, nearest(word)))
    return f"{word!r} (did you mean {neighbours}?)" if neighbours else quoted(word)
