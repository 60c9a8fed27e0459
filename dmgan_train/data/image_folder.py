"""A folder of pictures with a `metadata.jsonl`: the convention of Hugging Face's `imagefolder`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import msgspec

from dmgan_runtime.errors import DataError
from dmgan_train.data.examples import Example, MissingSplitError, Split, SplitName, usable_captions

METADATA = "metadata.jsonl"
LAYOUT = f"{METADATA}, or train/{METADATA} and test/{METADATA}"
_SPLITS: dict[str, SplitName] = {"train": "train", "test": "test", "validation": "test", "val": "test"}


class _Line(msgspec.Struct, frozen=True):
    """One line of the metadata. Fields that we do not know are left alone."""

    file_name: str
    captions: list[str] = []
    caption: str | None = None
    text: str | None = None
    class_name: str | int | None = msgspec.field(name="class", default=None)
    split: str | None = None


class _Entry(NamedTuple):
    where: str
    folder: Path
    line: _Line
    split: SplitName


def is_image_folder(root: Path) -> bool:
    """Whether a folder has the metadata of an image folder, itself or in a folder for each split."""
    return bool(_metadata_files(root))


def load_image_folder(root: Path, split: SplitName, captions_per_image: int | None = None) -> Split:
    """Reads a split of an image folder.

    Each line of `metadata.jsonl` is an object: `file_name`, relative to it; `captions` (a list) or `caption` or
    `text` (a string); `class`, a name or a number, optional (without it the picture is a class of its own); and
    `split`, `train` or `test` (`validation` counts as test), optional: without it the folder that the picture
    lies in tells, and any other folder is train.

    Args:
        root: The folder that holds `metadata.jsonl`, or train/metadata.jsonl and test/metadata.jsonl.
        split: Which split.
        captions_per_image: Keeps the first so many captions of an image; all of them if None.

    Raises:
        DataError: if a line is broken (its number is named), a path leaves the folder, or the split is empty.
            Whether the pictures are there is not checked here.
    """
    files = _metadata_files(root)
    if not files:
        raise DataError(f"{root}: has no {LAYOUT}; write one line of JSON for each picture")
    class_ids: dict[str | int, int] = {}
    examples = []
    for entry in (entry for file, folder_split in files for entry in _entries(root, file, folder_split)):
        # Classes are numbered over all splits, so that one name is one number in each of them. A picture
        # without a class takes its own place, by a key that no name can equal.
        name = entry.line.class_name
        class_id = class_ids.setdefault(name if name is not None else f"\0{len(class_ids)}", len(class_ids))
        if entry.split == split:
            examples.append(_example(root, entry, class_id, captions_per_image))
    if not examples:
        raise MissingSplitError(
            f'{root}: no picture is in the split {split!r}; add "split": "{split}" to lines of {METADATA}'
        )
    return Split(split, root, tuple(examples))


def _metadata_files(root: Path) -> list[tuple[Path, SplitName | None]]:
    if (root / METADATA).is_file():
        return [(root / METADATA, None)]
    return [(root / name / METADATA, split) for name, split in _SPLITS.items() if (root / name / METADATA).is_file()]


def _entries(root: Path, file: Path, folder_split: SplitName | None) -> Iterator[_Entry]:
    decoder = msgspec.json.Decoder(_Line)
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror})") from error
    for number, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        where = f"{file}, line {number}"
        try:
            line = decoder.decode(text)
        except ValueError as error:
            raise DataError(f"{where}: {error}; each line is an object with file_name and captions") from error
        yield _Entry(where, file.parent, line, folder_split or _split_of(line, where))


def _split_of(line: _Line, where: str) -> SplitName:
    if line.split is None:
        return _SPLITS.get(line.file_name.partition("/")[0], "train")
    if line.split not in _SPLITS:
        raise DataError(f"{where}: the split is {line.split!r}; use one of {', '.join(_SPLITS)}")
    return _SPLITS[line.split]


def _example(root: Path, entry: _Entry, class_id: int, limit: int | None) -> Example:
    name = PurePosixPath(entry.line.file_name)
    if not name.parts or name.is_absolute() or ".." in name.parts:
        raise DataError(f"{entry.where}: file_name is {entry.line.file_name!r}; name a file inside {entry.folder}")
    texts = [*entry.line.captions, entry.line.caption or "", entry.line.text or ""]
    captions = usable_captions(texts, limit)
    if not captions:
        raise DataError(f"{entry.where}: {name} has no caption; give it captions, caption or text")
    image = entry.folder / name
    return Example(image.relative_to(root).as_posix(), image, captions, class_id)
