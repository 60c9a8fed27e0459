"""Data sets: each source is read into the same splits of examples, and those into batches."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple, Protocol

from dmgan_runtime.errors import DataError
from dmgan_train.data import coco, cub, image_folder
from dmgan_train.data.aliases import read_aliases
from dmgan_train.data.batches import CaptionedImages, TrainingBatch, collate, make_loader
from dmgan_train.data.broken import BrokenFiles, check_files, check_left_out
from dmgan_train.data.epochs import EpochSampler, steps_per_epoch
from dmgan_train.data.examples import Example, MissingSplitError, Split, SplitName
from dmgan_train.data.files import unpacked_hint
from dmgan_train.data.rows import hold_out, keep_known

__all__ = [
    "SOURCES",
    "BrokenFiles",
    "CaptionedImages",
    "EpochSampler",
    "Example",
    "MissingSplitError",
    "Split",
    "SplitName",
    "TrainingBatch",
    "check_files",
    "check_left_out",
    "collate",
    "detect_source",
    "keep_known",
    "load_split",
    "make_loader",
    "read_aliases",
    "steps_per_epoch",
    "unread_layouts",
]


class _Load(Protocol):
    def __call__(self, root: Path, split: SplitName, captions_per_image: int | None = None) -> Split: ...


class DataSource(NamedTuple):
    """How a kind of data set is read, and the layout it is known by."""

    load: _Load
    layout: str


SOURCES = {
    "cub": DataSource(cub.load_cub, cub.LAYOUT),
    "coco": DataSource(coco.load_coco, coco.LAYOUT),
    "image_folder": DataSource(image_folder.load_image_folder, image_folder.LAYOUT),
    "emoji": DataSource(image_folder.load_image_folder, image_folder.LAYOUT),
    "synthetic": DataSource(cub.load_cub, cub.LAYOUT),
}
_KNOWN_BY = {"cub": cub.known_by, "coco": coco.known_by, "image_folder": image_folder.known_by}


def load_split(
    source: str, root: Path, split: SplitName, captions_per_image: int | None = None, held_out: float = 0.0
) -> Split:
    """Reads a split of a data set.

    Args:
        source: One of `SOURCES`. `emoji` is read as an image folder and `synthetic` as CUB, which they are.
        root: The data set's folder.
        split: Which split.
        captions_per_image: Keeps the first so many captions of an image; all of them if None.
        held_out: Of a data set without a split `test`, the share of the pictures that makes one; 0 makes none.

    Raises:
        DataError: if the source is unknown, or the folder is not what it should be.
        MissingSplitError: if there is no such split.
    """
    if source not in SOURCES:
        near = "".join(f" did you mean {name!r}?" for name in get_close_matches(source, SOURCES, n=1))
        raise DataError(f"{source!r} is no source of data;{near} there are {', '.join(SOURCES)}")
    if not root.is_dir():
        raise DataError(f"{root}: there is no such folder; give the folder that holds {SOURCES[source].layout}")
    load = SOURCES[source].load
    if held_out:
        try:
            test = load(root, "test", captions_per_image)
        except MissingSplitError:
            return hold_out(load(root, "train", captions_per_image), held_out)[split]
        if split == "test":
            return test
    return load(root, split, captions_per_image)


def detect_source(root: Path) -> str:
    """Tells from a folder's layout which source it is: `cub`, `coco` or `image_folder`.

    Raises:
        DataError: if it is none of them.
    """
    for source, known_by in _KNOWN_BY.items():
        if known_by(root):
            return source
    what = "has none of the layouts that are known" if root.is_dir() else "there is no such folder"
    missed = image_folder.near_miss(root)
    layouts = "".join(f"\n  {source}: {SOURCES[source].layout}" for source in _KNOWN_BY)
    raise DataError(f"{root}: {what}{missed and f'; {missed}'}{unpacked_hint([root])}. Looked for:{layouts}")


def unread_layouts(root: Path, source: str) -> dict[str, Path]:
    """The other sources that a folder could be read as, and the file or folder that each is known by."""
    others = {name: known_by for name, known_by in _KNOWN_BY.items() if SOURCES[name].load is not SOURCES[source].load}
    return {name: path for name, known_by in others.items() if (path := known_by(root))}
