"""Where pictures go: names that are safe on every file system, and nothing replaced unasked."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dmgan_runtime.errors import SettingsError
from dmgan_runtime.images import check_format
from dmgan_runtime.tokenizer import split_words

MAX_GRID = 256
_MAX_SLUG = 60
_SHOWN = 3


class Plan(NamedTuple):
    """The files that are to be written.

    Attributes:
        images: One a picture, in the order in which they are painted; their names only, if there is a grid.
        grid: The one file of all pictures, or None.
        sheets: The kinds of further pictures for each image, each in a file beside its own.
    """

    images: list[Path]
    grid: Path | None
    sheets: tuple[str, ...]

    def files(self, index: int) -> dict[str, Path]:
        """The files of one image, by what they show."""
        image = self.images[index]
        return {"image": self.grid or image} | {kind: image.with_stem(f"{image.stem}-{kind}") for kind in self.sheets}

    def refuse_existing(self) -> None:
        """Raises a `SettingsError` that names the files that are there already."""
        planned = dict.fromkeys(path for index in range(len(self.images)) for path in self.files(index).values())
        existing = [str(path) for path in planned if path.exists() or path.is_symlink()]
        if existing:
            more = f" and {len(existing) - _SHOWN} more" if len(existing) > _SHOWN else ""
            raise SettingsError(
                f"{', '.join(existing[:_SHOWN])}{more}: there already; pass --overwrite to replace, or another --output"
            )


def plan_files(
    output: str, captions: Sequence[str], seeds: Sequence[int], *, grid: bool, sheets: tuple[str, ...]
) -> Plan:
    """Names every file before anything is painted.

    Args:
        output: A file, which several pictures number: out-1.png, out-2.png; or a folder, which is there or whose name
            ends in a slash: its files are numbered, too, and named after caption and seed.
        captions: At least one.
        seeds: Of the images of each caption.
        grid: Whether all go into one picture.
        sheets: See `Plan`.

    Raises:
        SettingsError: if a file's ending is that of no picture, or a grid would be too large.
    """
    path = Path(output)
    folder = output.endswith(("/", os.sep)) or path.is_dir()
    orders = [(caption, seed) for caption in captions for seed in seeds]
    if grid and len(orders) > MAX_GRID:
        raise SettingsError(
            f"--grid holds at most {MAX_GRID} images, not {len(orders):,}; leave it out, or ask for fewer"
        )
    if not folder:
        check_format(path)
    numbers = [f"{number:0{len(str(len(orders)))}}" for number in range(1, len(orders) + 1)]
    if folder:
        named = zip(numbers, orders, strict=True)
        images = [path / f"{number}-{_slug(caption)}-seed{seed}.png" for number, (caption, seed) in named]
    elif len(orders) == 1:
        images = [path]
    else:
        images = [path.with_stem(f"{path.stem}-{number}") for number in numbers]
    return Plan(images, (path / "grid.png" if folder else path) if grid else None, sheets)


def _slug(caption: str) -> str:
    """A caption as part of a file name: its ASCII words, joined by hyphens."""
    return "-".join(split_words(caption))[:_MAX_SLUG].rstrip("-")
