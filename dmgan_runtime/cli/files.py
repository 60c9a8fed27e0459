"""Where pictures go: names that are safe on every file system, and nothing replaced unasked."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

from dmgan_runtime.atomic import clear_scratch
from dmgan_runtime.errors import SettingsError
from dmgan_runtime.image_file import check_format
from dmgan_runtime.tokenizer import split_words

STANDARD_OUTPUT = Path("-")
MAX_GRID = 256
MAX_IMAGES = 1_000_000
_MAX_SLUG = 60
_SHOWN = 3


@dataclass(frozen=True)
class OutputPlan:
    """The files that are to be written. Names are made when they are asked for: there may be a million.

    Attributes:
        path: A file, the folder of all files, or `STANDARD_OUTPUT`.
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
        if self.to_standard_output:
            return {"image": self.path}
        image = self.image(index)
        return {"image": self.grid or image} | {kind: image.with_stem(f"{image.stem}-{kind}") for kind in self.sheets}

    @property
    def to_standard_output(self) -> bool:
        """Whether the one picture goes to standard output."""
        return self.path == STANDARD_OUTPUT

    def check_place(self, *, overwrite: bool) -> None:
        """Finds out before anything is generated whether the files can be written; clears what killed runs have left.

        Args:
            overwrite: Whether files that are there already are replaced.

        Raises:
            SettingsError: saying what is in the way, or naming files that are there already.
        """
        if self.to_standard_output:
            if sys.stdout is None or sys.stdout.isatty():
                raise SettingsError("--output -: standard output is closed, or a terminal; redirect it, as in: > a.png")
            return
        folder = self.path if self.folder else self.path.parent
        try:
            place = next(each for each in (folder, *folder.parents) if each.exists())
            for name in {part for path in self.files(0).values() for part in path.parts}:
                (place / name).exists()  # an error if the name is too long
            with TemporaryFile(dir=place):
                pass
        except OSError as error:
            raise _unwritable(self.path, error) from error
        clear_scratch(folder)
        if folder.exists():
            self._refuse_existing(Path.is_dir if overwrite else os.path.lexists)

    def _refuse_existing(self, is_in_the_way: Callable[[Path], bool]) -> None:
        existing, shown = 0, dict[str, None]()
        for index in range(self.count):
            for path in self.files(index).values():
                if str(path) not in shown and is_in_the_way(path):
                    existing += 1
                    if len(shown) < _SHOWN:
                        shown[str(path)] = None
        if existing:
            more = f" and {existing - _SHOWN:,} more" if existing > _SHOWN else ""
            raise SettingsError(
                f"{', '.join(shown)}{more}: there already; pass --overwrite to replace files, or another --output"
            )


def plan_files(
    output: str, captions: Sequence[str], seeds: Sequence[int], *, grid: bool, sheets: tuple[str, ...]
) -> OutputPlan:
    """Names every file before anything is generated.

    Args:
        output: "-" for standard output; a file, which several pictures number: out-1.png, out-2.png; or a folder, which
            is there or whose name ends in a slash: its files are numbered, too, and named after caption and seed.
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
    try:
        is_folder, is_there = path.is_dir(), path.exists()
    except OSError as error:
        raise _unwritable(path, error) from error
    folder = slash or is_folder
    if slash and is_there and not is_folder:
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
    if plan.to_standard_output:
        if sheets or (plan.count > 1 and not grid):
            raise SettingsError("--output - takes one picture; pass --grid, leave sheets out, or name a file or folder")
    elif not folder:
        try:
            check_format(path)
        except SettingsError as error:
            raise SettingsError(f"{error}, or in a slash if it is a folder") from None
    return plan


def _unwritable(path: Path, error: OSError) -> SettingsError:
    return SettingsError(
        f"{path}: cannot be written ({error.strerror or error}); pass another --output, or make room there"
    )


def _slug(caption: str) -> str:
    """A caption as part of a file name: its ASCII words, joined by hyphens."""
    return "-".join(split_words(caption))[:_MAX_SLUG].rstrip("-")
