"""The published code's folders, of CUB-200-2011, COCO or one's own data: lists in pickles, captions in text files."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dmgan_runtime.errors import DataError, shortened
from dmgan_train.data.examples import Box, MissingSplitError, Split, SplitName
from dmgan_train.data.files import inner_path, pictures_in, read_text, unpacked_hint
from dmgan_train.data.rows import Row, to_split
from dmgan_train.data.unpickle import load_pickle

LAYOUT = (
    "CUB_200_2011/images.txt, CUB_200_2011/bounding_boxes.txt, CUB_200_2011/images/ (or images/ alone), text/,"
    " train/filenames.pickle, test/filenames.pickle"
)
_PUBLISHED = "CUB_200_2011"
_TEXTS = ("text", "text_c10")
_SPLITS: tuple[SplitName, ...] = ("train", "test")


class _Picture(NamedTuple):
    path: Path
    box: Box | None = None


def known_by(root: Path) -> Path | None:
    """What tells that a folder is laid out as the published code's are; None if it is not."""
    lists = (path for name in _SPLITS if (path := root / name / "filenames.pickle").is_file())
    return root / _PUBLISHED if (root / _PUBLISHED).is_dir() else next(lists, None)


def load_cub(root: Path, split: SplitName, captions_per_image: int | None = None) -> Split:
    """Reads a split of CUB, or of other data in the published code's folders.

    The folder holds CUB_200_2011/ as published by its authors, text/<class>/<name>.txt (or text_c10/) with one caption
    a line, and <split>/filenames.pickle, the keys <class>/<name> of the split. Without CUB_200_2011/ the pictures of
    the keys are in images/, whole unless images.txt and bounding_boxes.txt are there. <split>/class_info.pickle is the
    class of each key; without it every image is a class of its own, as in the published code.

    Args:
        root: The folder.
        split: Which split.
        captions_per_image: Keeps the first so many captions of an image; all of them if None.

    Raises:
        DataError: if a list is missing, or the lists do not fit each other. Whether the pictures are there is not
            checked here.
        MissingSplitError: if there is no folder of the split.
    """
    if not (root / split).is_dir():
        raise MissingSplitError(
            f"{root / split}: there is no such folder; CUB is laid out as {LAYOUT}{unpacked_hint([root])}"
        )
    rows = _rows(root, split)
    return to_split(split, root, rows, captions_per_image, f"fill {root / split / 'filenames.pickle'}")


def _rows(root: Path, split: SplitName) -> Iterator[Row]:
    source = root / split / "filenames.pickle"
    keys = _load_keys(source)
    class_ids = _load_class_ids(root / split / "class_info.pickle", len(keys))
    texts = _text_folder(root)
    pictures = _load_pictures(root)
    unknown = [key for key in keys if key not in pictures]
    if len(unknown) == len(keys):
        raise DataError(
            f"{source}: none of its {len(keys):,} names is a picture, such as {shortened(unknown[0])!r}; take names"
            f" and pictures from the same data set{unpacked_hint([root, root / _PUBLISHED])}"
        )
    for key, class_id in zip(keys, class_ids, strict=True):
        path, picture = texts / f"{key}.txt", pictures.get(key, _Picture(Path()))
        captions: list[str] = []
        fault = None if key in pictures else f"{source}: {shortened(key)} is not among the pictures"
        if not fault:
            try:
                captions = _load_captions(path)
            except DataError as error:
                fault = str(error)
        yield Row(shortened(path), key, picture.path, captions, split, class_id, picture.box, fault)


def _load_keys(path: Path) -> list[str]:
    keys = load_pickle(path)
    keys = keys.tolist() if isinstance(keys, np.ndarray) and keys.ndim == 1 else keys
    if not isinstance(keys, list | tuple) or not keys or not all(isinstance(key, str) for key in keys):
        raise DataError(f"{path}: holds no list of names; fetch the file again from its source")
    paths = [inner_path(key) for key in keys]
    if None in paths:
        raise DataError(f"{path}: {shortened(keys[paths.index(None)])!r} is no name inside {path.parents[1]}")
    return list(map(str, paths))


def _load_class_ids(path: Path, count: int) -> list[int] | list[None]:
    if not path.exists():
        return [None] * count
    values = load_pickle(path)
    values = values.tolist() if isinstance(values, np.ndarray) and values.ndim == 1 else values
    if not isinstance(values, list | tuple) or not all(map(_is_whole, values)):
        raise DataError(f"{path}: holds no list of class numbers; fetch the file again")
    if len(values) != count:
        raise DataError(
            f"{path}: holds {len(values):,} classes for the {count:,} names of filenames.pickle beside it;"
            " take both from the same data set, or delete it to make every image a class of its own"
        )
    return [int(value) for value in values]


def _is_whole(value: object) -> bool:
    if isinstance(value, float | np.floating):
        return float(value).is_integer()
    return isinstance(value, int | np.integer) and abs(int(value)) < 2**63


def _text_folder(root: Path) -> Path:
    folders = [root / name for name in _TEXTS]
    for folder in folders:
        if folder.is_dir() and any(path.is_dir() or path.suffix == ".txt" for path in folder.iterdir()):
            return folder
    raise DataError(f"{root}: has no captions in text/; CUB is laid out as {LAYOUT}{unpacked_hint([root, *folders])}")


def _load_pictures(root: Path) -> dict[str, _Picture]:
    """The pictures by their keys: out of CUB's own lists where they are, else those that lie in images/."""
    published = root / _PUBLISHED
    if published.is_dir():
        return _listed_pictures(published, boxed=True)
    if (root / "images.txt").is_file():
        return _listed_pictures(root, boxed=(root / "bounding_boxes.txt").is_file())
    folder = root / "images"
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder; CUB is laid out as {LAYOUT}{unpacked_hint([root])}")
    return {path.relative_to(folder).with_suffix("").as_posix(): _Picture(path) for path in pictures_in(folder)}


def _listed_pictures(folder: Path, *, boxed: bool) -> dict[str, _Picture]:
    lines = _numbered(folder / "bounding_boxes.txt") if boxed else ()
    boxes = {number: _parse_box(where, values) for where, number, values in lines}
    pictures = {}
    for where, number, name in _numbered(folder / "images.txt"):
        if boxed and number not in boxes:
            raise DataError(f"{folder / 'bounding_boxes.txt'}: has no box for image {number} ({name})")
        path = inner_path(name)
        if path is None:
            raise DataError(f"{where}: {shortened(name)!r} is no name of a picture in {folder / 'images'}")
        pictures[str(path.parent / path.stem)] = _Picture(folder / "images" / path, boxes.get(number))
    return pictures


def _parse_box(where: str, values: str) -> Box:
    try:
        x, y, width, height = map(float, values.split())
        if not all(map(math.isfinite, (x, y, width, height))):
            raise ValueError(values)
    except ValueError as error:
        raise DataError(f"{where}: {shortened(values)!r} is not x, y, width, height") from error
    return x, y, width, height


def _numbered(path: Path) -> Iterator[tuple[str, str, str]]:
    """Where each line `number value...` stands, its number, and the rest of it."""
    try:
        lines = read_text(path).splitlines()
    except DataError as error:
        raise DataError(f"{error}; CUB is laid out as {LAYOUT}") from error
    for position, line in enumerate(lines, start=1):
        number, *rest = line.split(maxsplit=1) or [""]
        if not number:
            continue
        if not rest:
            raise DataError(f"{path}, line {position}: {shortened(line)!r} has no value")
        yield f"{path}, line {position}", number, rest[0].rstrip()


def _load_captions(path: Path) -> list[str]:
    # A few published captions have stray bytes; the code they were published with drops them too.
    return [line for line in read_text(path, strict=False).splitlines() if line.strip()]
