"""Where pictures go: names that are safe on every file system, and nothing replaced unasked."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dmgan_runtime.errors import SettingsError
from dmgan_runtime.tokenizer import split_words
from dmgan_runtime.viz.pictures import check_format

MAX_GRID = 256
MAX_IMAGES = 1_000_000
_MAX_SLUG = 60
_SHOWN = 3


@dataclass(frozen=True)
class OutputPlan:
    """The files that are to be written. Names are made when they are asked for: there may be a million.

    Attributes:
        path: A file, or the folder of all files.
        folder: Whether `path` is the folder.
        captions: Of the images, in their order.
        seeds: Of the images of each caption.
        grid: The one file of all pictures, or None.
        sheets: The kinds of further pictures for each image, each in a file beside its own.
    """

    path: Path
    folder: bool
    captions: Sequence[str]
    seeds: Sequence[int]
    grid: Path | None
    sheets: tuple[str, ...]

    @property
    def count(self) -> int:
        """How many images are generated."""
        return len(self.captions) * len(self.seeds)

    def image(self, index: int) -> Path:
        """The file of one image, in the order in which they are generated; a name only, if there is a grid."""
        if self.count == 1 and not self.folder:
            return self.path
        number = f"{index + 1:0{len(str(self.count))}}"
        if not self.folder:
            return self.path.with_stem(f"{self.path.stem}-{number}")
        caption, seed = divmod(index, len(self.seeds))
        return self.path / f"{number}-{_slug(self.captions[caption])}-seed{self.seeds[seed]}.png"

    def files(self, index: int) -> dict[str, Path]:
        """The files of one image, by what they show."""
        image = self.image(index)
        return {"image": self.grid or image} | {kind: image.with_stem(f"{image.stem}-{kind}") for kind in self.sheets}

    def refuse_existing(self) -> None:
        """Raises a `SettingsError` that names the files that are there already."""
        if not (self.path if self.folder else self.path.parent).exists():
            return
        existing, shown = 0, dict[str, None]()
        for index in range(self.count):
            for path in self.files(index).values():
                if str(path) not in shown and (path.exists() or path.is_symlink()):
                    existing += 1
                    if len(shown) < _SHOWN:
                        shown[str(path)] = None
        if existing:
            more = f" and {existing - _SHOWN:,} more" if existing > _SHOWN else ""
            raise SettingsError(
                f"{', '.join(shown)}{more}: there already; pass --overwrite to replace, or another --output"
            )


def plan_files(
    output: str, captions: Sequence[str], seeds: Sequence[int], *, grid: bool, sheets: tuple[str, ...]
) -> OutputPlan:
    """Names every file before anything is generated.

    Args:
        output: A file, which several pictures number: out-1.png, out-2.png; or a folder, which is there or whose name
            ends in a slash: its files are numbered, too, and named after caption and seed.
        captions: At least one.
        seeds: Of the images of each caption.
        grid: Whether all go into one picture.
        sheets: The kinds of further pictures for each image.

    Raises:
        SettingsError: if a file's ending is that of no picture, a file is where a folder should be, or the images are
            too many.
    """
    path = Path(output)
    slash = output.endswith(("/", os.sep))
    folder = slash or path.is_dir()
    if slash and path.exists() and not path.is_dir():
        raise SettingsError(f"{output}: there is a file of this name; leave the slash out, or name another folder")
    plan = OutputPlan(path, folder, captions, seeds, (path / "grid.png" if folder else path) if grid else None, sheets)
    if grid and plan.count > MAX_GRID:
        raise SettingsError(
            f"--grid holds at most {MAX_GRID} images, not {plan.count:,}; leave it out, or ask for fewer"
        )
    if plan.count > MAX_IMAGES:
        raise SettingsError(
            f"{plan.count:,} images are too many at once; ask for at most {MAX_IMAGES:,}, and for the next with another"
            " --seed"
        )
    if not folder:
        try:
            check_format(path)
        except SettingsError as error:
            raise SettingsError(f"{error}, or in a slash if it is a folder") from None
    return plan


def _slug(caption: str) -> str:
    """A caption as part of a file name: its ASCII words, joined by hyphens."""
    return "-".join(split_words(caption))[:_MAX_SLUG].rstrip("-")
