"""A folder of pictures with its metadata beside them, by Hugging Face's convention, or a text file beside each."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from dmgan_runtime.errors import DataError, shortened
from dmgan_train.data.examples import SPLITS, Split, SplitName
from dmgan_train.data.files import inner_path, pictures_in, read_text
from dmgan_train.data.metadata import read_csv, read_json_lines, read_parquet
from dmgan_train.data.rows import Row, to_split

METADATA = "metadata.jsonl"
LAYOUT = (
    f"{METADATA} (or .csv, .parquet) beside the pictures or in train/ and test/, or pictures with a .txt of the same"
    " name beside each"
)
_READERS = {METADATA: read_json_lines, "metadata.csv": read_csv, "metadata.parquet": read_parquet}
_CAPTION_SUFFIXES = (".txt", ".caption")
_CAPTION_FIELDS = ("captions", "caption", "text")
_NUMBERED = re.compile(r"(?:caption|text)_?(\d{1,4})")
_WHOLE = re.compile(r"([+-]?\d+)\.0*")


class _Table(NamedTuple):
    path: Path
    split: SplitName | None


def known_by(root: Path) -> Path | None:
    """The first metadata of an image folder, in itself or in a split's folder, or the first captions beside a picture.

    None if a folder has neither.
    """
    tables = (path for folder in _folders(root) for name in _READERS if (path := folder / name).is_file())
    return next(tables, None) or next((beside for _, beside in _pictures(root) if beside), None)


def near_miss(root: Path) -> str:
    """What a folder lacks to be an image folder, if it has some of it: a sentence for a message, or nothing."""
    for folder in _folders(root):
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            table = f"metadata{path.suffix.lower()}"
            if table in _READERS and path.is_file():
                return f"{path} is not read, because of its name; rename it to {table} if it holds the captions"
    picture = next(pictures_in(root), None)
    if picture is None:
        return ""
    return (
        f"has pictures, but neither captions in {METADATA} (or .csv, .parquet; with file_name and caption) nor beside"
        f" them, such as in {picture.with_suffix('.txt')}"
    )


def load_image_folder(root: Path, split: SplitName, captions_per_image: int | None = None) -> Split:
    """Reads a split of an image folder.

    Each line of the metadata has `file_name`, relative to it; `captions`, `caption` or `text` (a text, or a list of
    them) or `caption_0`, `caption_1` and so on; `class`, a name or a whole number, optional (without it the picture is
    a class of its own); and `split`, see `SPLITS`, optional: without it the folder that the picture lies in tells, and
    any other folder is train. Several lines for one picture are one example. Without metadata, the lines of the .txt
    (or .caption) beside a picture are its captions.

    Args:
        root: The folder that holds the metadata, or train/ and test/ with it in each.
        split: Which split.
        captions_per_image: Keeps the first so many captions of an image; all of them if None.

    Raises:
        DataError: if a line is broken (its number is named), a path leaves the folder, there are no captions, or no
            picture of the split can be used. Whether the pictures are there is not checked here.
        MissingSplitError: if no picture is in the split.
    """
    tables = _tables(root)
    if tables:
        rows = (row for table in tables for row in _rows(root, table))
        names = " and ".join(dict.fromkeys(table.path.name for table in tables))
        remedy = f'write the split "{split}" in lines of {names}, or put pictures into a folder {split}/'
    else:
        if known_by(root) is None and (missed := near_miss(root)):
            raise DataError(f"{root}: {missed}")
        rows = (_row_beside(root, picture, captions) for picture, captions in _pictures(root))
        remedy = f"put pictures into a folder {split}/, each with a .txt beside it; or write {METADATA}"
    return to_split(split, root, rows, captions_per_image, remedy)


def _folders(root: Path) -> dict[Path, SplitName | None]:
    """Where metadata may lie: the folder itself, and that of each split."""
    inner = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    return {root: None, **{path: SPLITS[name] for name in SPLITS for path in inner if path.name.lower() == name}}


def _tables(root: Path) -> list[_Table]:
    """The metadata of the folder itself, or of each split's folder.

    Raises:
        DataError: if a folder has it in two formats.
    """
    tables = []
    for folder, split in _folders(root).items():
        own = [_Table(folder / name, split) for name in _READERS if (folder / name).is_file()]
        if len(own) > 1:
            raise DataError(f"{folder}: has {' and '.join(table.path.name for table in own)}; keep one of them")
        if own and folder == root:
            return own
        tables += own
    return tables


def _rows(root: Path, table: _Table) -> Iterator[Row]:
    """The rows of a table.

    Raises:
        DataError: at its end, if no line had a field for captions.
    """
    first, captioned = None, False
    for where, fields in _READERS[table.path.name](table.path):
        yield _row(root, table, where, fields)
        first = first or (where, _columns(fields))
        captioned = captioned or bool(_caption_names(fields))
    if first and not captioned:
        where, columns = first
        raise DataError(f"{where}: has no captions, caption or text ({columns}); one of them describes the picture")


def _row(root: Path, table: _Table, where: str, fields: Mapping[str, object]) -> Row:
    if "file_name" not in fields:
        raise DataError(
            f"{where}: has no file_name ({_columns(fields)}); it names the picture, relative to the metadata"
        )
    name = fields["file_name"]
    path = inner_path(name) if isinstance(name, str) else None
    if path is None:
        raise DataError(f"{where}: file_name is {shortened(name)!r}; name a file inside {table.path.parent}")
    image = table.path.parent / path
    return Row(
        where,
        image.relative_to(root).as_posix(),
        image,
        _captions(where, fields),
        table.split or _split(where, fields.get("split"), path.parts[0]),
        _class_name(where, fields.get("class")),
    )


def _columns(fields: Mapping[str, object]) -> str:
    return f"it has {shortened(', '.join(map(str, fields)))}"


def _caption_names(fields: Mapping[str, object]) -> list[str]:
    """Those fields that hold captions, in the order in which these are taken."""
    numbered = sorted((int(found[1]), name) for name in fields if (found := _NUMBERED.fullmatch(name)))
    return [name for name in _CAPTION_FIELDS if name in fields] + [name for _, name in numbered]


def _captions(where: str, fields: Mapping[str, object]) -> list[str]:
    captions: list[str] = []
    for name in _caption_names(fields):
        value = fields[name]
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str):
                captions.append(text)
            elif text is not None:
                raise DataError(f"{where}: {name} is {shortened(value)!r}; give a text, or a list of texts")
    return captions


def _class_name(where: str, value: object) -> str | None:
    """Names and numbers as one text each, however they are written: 3, "3" and 3.0 are one class."""
    missing = value is None or (isinstance(value, float) and math.isnan(value))
    text = "" if missing else str(value).strip()
    whole = _WHOLE.fullmatch(text)
    if not isinstance(value, str | int) and text and not whole:
        raise DataError(f"{where}: class is {shortened(value)!r}; give a name or a whole number")
    return whole[1] if whole else text or None


def _split(where: str, value: object, folder: str) -> SplitName:
    if value is None:
        return SPLITS.get(folder.lower(), "train")
    split = SPLITS.get(value.strip().lower()) if isinstance(value, str) else None
    if split is None:
        raise DataError(f"{where}: the split is {shortened(value)!r}; use one of {', '.join(SPLITS)}")
    return split


def _row_beside(root: Path, picture: Path, captions: Path | None) -> Row:
    relative = picture.relative_to(root)
    split = SPLITS.get(relative.parts[0].lower(), "train")
    texts: list[str] = []
    fault = None if captions else f"{picture}: has no captions; write them into {picture.stem}.txt beside it"
    if captions:
        try:
            texts = [line for line in read_text(captions).splitlines() if line.strip()]
        except DataError as error:
            fault = str(error)
    return Row(str(captions or picture), relative.as_posix(), picture, texts, split, fault=fault)


def _pictures(root: Path) -> Iterator[tuple[Path, Path | None]]:
    """Every picture, and the file of its captions beside it, in whatever case its suffix is."""
    for folder, pictures in groupby(pictures_in(root), key=lambda picture: picture.parent):
        captions = sorted(path for path in folder.iterdir() if path.suffix.lower() in _CAPTION_SUFFIXES)
        files = {(path.stem, path.suffix.lower()): path for path in captions}
        for picture in pictures:
            beside = (files.get((picture.stem, suffix)) for suffix in _CAPTION_SUFFIXES)
            yield picture, next(filter(None, beside), None)
