"""CUB-200-2011 in the folders of the published code: birds with a box, a class and ten captions each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from dmgan_runtime.errors import DataError
from dmgan_train.data.examples import Box, Example, MissingSplitError, Split, SplitName, usable_captions
from dmgan_train.data.unpickle import load_pickle

LAYOUT = (
    "CUB_200_2011/images.txt, CUB_200_2011/bounding_boxes.txt, CUB_200_2011/images/, text/,"
    " train/filenames.pickle, test/filenames.pickle"
)


def is_cub(root: Path) -> bool:
    """Whether a folder is laid out as CUB is."""
    return (root / "CUB_200_2011").is_dir()


def load_cub(root: Path, split: SplitName, captions_per_image: int | None = None) -> Split:
    """Reads a split of CUB.

    The folder holds CUB_200_2011/ as published by its authors, text/<class>/<name>.txt with one caption a line,
    and <split>/filenames.pickle, the keys <class>/<name> of the split. <split>/class_info.pickle is the class of
    each key; without it every image is a class of its own, as in the published code.

    Args:
        root: The folder.
        split: Which split.
        captions_per_image: Keeps the first so many captions of an image; all of them if None.

    Raises:
        DataError: if a list or a caption file is missing, or the lists do not fit each other. Whether the
            pictures are there is not checked here.
    """
    if not (root / split).is_dir():
        raise MissingSplitError(f"{root / split}: there is no such folder; CUB is laid out as {LAYOUT}")
    keys = _load_keys(root / split / "filenames.pickle")
    class_ids = _load_class_ids(root / split / "class_info.pickle", len(keys))
    pictures = _load_pictures(root / "CUB_200_2011")
    unknown = [key for key in keys if key not in pictures]
    if unknown:
        raise DataError(
            f"{root / split / 'filenames.pickle'}: {len(unknown)} of its {len(keys)} names are not in"
            f" CUB_200_2011/images.txt, such as {unknown[0]!r}; take both from the same data set"
        )
    examples = (
        Example(
            key,
            pictures[key][0],
            _load_captions(root / "text", key, captions_per_image),
            class_id,
            pictures[key][1],
        )
        for key, class_id in zip(keys, class_ids, strict=True)
    )
    return Split(split, root, tuple(examples))


def _load_keys(path: Path) -> list[str]:
    keys = load_pickle(path)
    if not isinstance(keys, list) or not keys or not all(isinstance(key, str) for key in keys):
        raise DataError(f"{path}: holds no list of names; fetch the file again from its source")
    return keys


def _load_class_ids(path: Path, count: int) -> list[int]:
    if not path.exists():
        return list(range(count))
    try:
        class_ids = np.asarray(load_pickle(path)).astype(np.int64, casting="same_kind")
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: holds no list of class numbers ({error}); fetch the file again") from error
    if class_ids.shape != (count,):
        raise DataError(
            f"{path}: holds {class_ids.size} classes for the {count} names of filenames.pickle beside it;"
            " take both from the same data set, or delete it to make every image a class of its own"
        )
    return [int(class_id) for class_id in class_ids]


def _load_pictures(folder: Path) -> dict[str, tuple[Path, Box]]:
    """The file and the box of each key, out of CUB's own lists."""
    boxes = {number: _parse_box(folder, values) for number, values in _rows(folder / "bounding_boxes.txt")}
    pictures = {}
    for number, (name, *_) in _rows(folder / "images.txt"):
        if number not in boxes:
            raise DataError(f"{folder / 'bounding_boxes.txt'}: has no box for image {number} ({name})")
        path = PurePosixPath(name)
        pictures[str(path.parent / path.stem)] = (folder / "images" / path, boxes[number])
    return pictures


def _parse_box(folder: Path, values: list[str]) -> Box:
    try:
        x, y, width, height = map(float, values)
    except ValueError as error:
        raise DataError(f"{folder / 'bounding_boxes.txt'}: {values} is not x, y, width, height") from error
    return x, y, width, height


def _rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    """The number and the values of each line `number value...`."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); CUB is laid out as {LAYOUT}") from error
    for position, line in enumerate(lines, start=1):
        number, *values = line.split() or [""]
        if not number:
            continue
        if not values:
            raise DataError(f"{path}, line {position}: {line!r} has no value")
        yield number, values


def _load_captions(folder: Path, key: str, limit: int | None) -> tuple[str, ...]:
    path = folder / f"{key}.txt"
    try:
        # A few published captions have stray bytes; the code they were published with drops them too.
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise DataError(f"{path}: the captions of {key} cannot be read ({error.strerror})") from error
    captions = usable_captions(lines, limit)
    if not captions:
        raise DataError(f"{path}: has no caption; write one a line")
    return captions
