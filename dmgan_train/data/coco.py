"""MS-COCO with its own annotation files, of 2014 or 2017, or with Karpathy's splits of it (or of Flickr8k and 30k)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from dmgan_runtime.errors import DataError, shortened
from dmgan_train.data.examples import SPLITS, MissingSplitError, Split, SplitName
from dmgan_train.data.files import inner_path, read_bytes, unpacked_hint
from dmgan_train.data.rows import Row, to_split

LAYOUT = (
    "annotations/captions_train2014.json and captions_val2014.json (or of 2017, or dataset_coco.json), with the"
    " pictures in images/train2014/ and images/val2014/, train2014/ and val2014/, or images/"
)
_YEARS = ("2014", "2017")
_PARTS: dict[SplitName, str] = {"train": "train", "test": "val"}
_KARPATHY = ("dataset_coco.json", "dataset_flickr30k.json", "dataset_flickr8k.json")
_Schema = TypeVar("_Schema", bound=msgspec.Struct)


class _Picture(msgspec.Struct, frozen=True):
    id: int
    file_name: str


class _Caption(msgspec.Struct, frozen=True):
    image_id: int
    caption: str | None = None


class _Annotations(msgspec.Struct, frozen=True):
    images: list[_Picture]
    annotations: list[_Caption]


class _Sentence(msgspec.Struct, frozen=True):
    raw: str


class _KarpathyPicture(msgspec.Struct, frozen=True):
    filename: str
    split: str
    sentences: list[_Sentence]
    filepath: str = ""


class _KarpathyDataset(msgspec.Struct, frozen=True):
    images: list[_KarpathyPicture]


def known_by(root: Path) -> Path | None:
    """The file that tells that a folder is laid out as COCO is; None if it is not."""
    parts = (part + year for year in _YEARS for part in _PARTS.values())
    return _karpathy_file(root) or next(filter(None, (_annotation_file(root, part) for part in parts)), None)


def load_coco(root: Path, split: SplitName, captions_per_image: int | None = None) -> Split:
    """Reads a split of COCO; each image is a class of its own.

    With its own annotations, `test` is val2014 (or val2017), as in the published code. With Karpathy's
    `dataset_coco.json`, which goes first, `train` is his train and restval, and `test` his val and test.

    Args:
        root: The folder that holds the annotations, itself or in annotations/, and the pictures, in folders of their
            own or all in one. Those of 2017 are known by the names of 2014 too.
        split: Which split.
        captions_per_image: Keeps the first so many captions of an image; all of them if None.

    Raises:
        DataError: if the annotations are broken. Whether the pictures are there is not checked here.
        MissingSplitError: if there are none of the split.
    """
    karpathy = _karpathy_file(root)
    if karpathy:
        rows = _karpathy_rows(root, karpathy)
        return to_split(split, root, rows, captions_per_image, f"{karpathy} holds others")
    part = f"{_PARTS[split]}{_year(root) or _YEARS[0]}"
    path = _annotation_file(root, part)
    if path is None:
        hint = unpacked_hint((root, root / "annotations"))
        raise MissingSplitError(f"{root}: has no annotations/captions_{part}.json; COCO is laid out as {LAYOUT}{hint}")
    rows = _annotated_rows(root, path, part, split)
    return to_split(split, root, rows, captions_per_image, "fetch its annotations again")


def _annotated_rows(root: Path, path: Path, part: str, split: SplitName) -> Iterator[Row]:
    content = _decode(path, _Annotations, "the caption annotations, not the instances")
    texts: defaultdict[int, list[str]] = defaultdict(list)
    for annotation in content.annotations:
        texts[annotation.image_id].append(annotation.caption or "")
    if not any(picture.id in texts for picture in content.images):
        raise DataError(f"{path}: no picture has a caption; fetch the caption annotations, not the instances")
    place = _Places(root, [part])
    for picture in content.images:
        name = _name(path, picture.file_name)
        yield Row(str(path), Path(name).stem, place.of(name), texts[picture.id], split)


def _karpathy_rows(root: Path, path: Path) -> Iterator[Row]:
    content = _decode(path, _KarpathyDataset, "Karpathy's splits (dataset_coco.json)")
    place = _Places(root, dict.fromkeys(picture.filepath for picture in content.images if inner_path(picture.filepath)))
    for picture in content.images:
        name, split = _name(path, picture.filename), SPLITS.get(picture.split)
        if split is None:
            raise DataError(f"{path}: {name} is in the split {shortened(picture.split)!r}; use {', '.join(SPLITS)}")
        yield Row(str(path), Path(name).stem, place.of(name), [one.raw for one in picture.sentences], split)


class _Places:
    """Where the pictures lie: in a folder a part, under the root or images/, or all in one."""

    def __init__(self, root: Path, parts: Iterable[str]) -> None:
        names = [*parts, *(f"{part}{year}" for part in _PARTS.values() for year in _YEARS)]
        folders = [root / "images" / names[0], root / names[0]]
        folders += [folder / name for name in names[1:] for folder in (root / "images", root)]
        folders += [root / "images", root]
        self._there: dict[str, Path] = {}
        for folder in folders:
            if folder.is_dir():
                for path in folder.iterdir():
                    self._there.setdefault(path.name, path)
        self._default = next((folder for folder in folders[:-1] if folder.is_dir()), folders[0])

    def of(self, name: str) -> Path:
        """The file of a picture; where it would be expected, if it is nowhere."""
        # COCO_val2014_000000000042.jpg is 000000000042.jpg among the pictures of 2017.
        return self._there.get(name) or self._there.get(name.rpartition("_")[2]) or self._default / name


def _name(path: Path, file_name: str) -> str:
    inside = inner_path(file_name.replace("\\", "/").rpartition("/")[2])
    if inside is None:
        raise DataError(f"{path}: {shortened(file_name)!r} names no picture; fetch the file again")
    return inside.name


def _decode(path: Path, schema: type[_Schema], what: str) -> _Schema:
    try:
        return msgspec.json.decode(read_bytes(path).removeprefix(b"\xef\xbb\xbf"), type=schema)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not in COCO's caption format ({error}); fetch {what}, again") from error


def _karpathy_file(root: Path) -> Path | None:
    return _first(folder / name for name in _KARPATHY for folder in (root / "annotations", root))


def _year(root: Path) -> str | None:
    return next((year for year in _YEARS for part in _PARTS.values() if _annotation_file(root, part + year)), None)


def _annotation_file(root: Path, part: str) -> Path | None:
    return _first(folder / f"captions_{part}.json" for folder in (root / "annotations", root))


def _first(paths: Iterable[Path]) -> Path | None:
    return next((path for path in paths if path.is_file()), None)
