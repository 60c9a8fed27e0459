"""MS-COCO 2014 with its own annotation files: photos of anything, five captions each."""

from __future__ import annotations

import logging
from collections import defaultdict
from pathlib import Path

import msgspec

from dmgan_runtime.errors import DataError
from dmgan_train.data.examples import Example, MissingSplitError, Split, SplitName, usable_captions

LAYOUT = "annotations/captions_train2014.json, annotations/captions_val2014.json, images/train2014/, images/val2014/"
_PARTS: dict[SplitName, str] = {"train": "train2014", "test": "val2014"}
_log = logging.getLogger(__name__)


class _Picture(msgspec.Struct, frozen=True):
    id: int
    file_name: str


class _Caption(msgspec.Struct, frozen=True):
    image_id: int
    caption: str


class _Annotations(msgspec.Struct, frozen=True):
    images: list[_Picture]
    annotations: list[_Caption]


def is_coco(root: Path) -> bool:
    """Whether a folder is laid out as COCO is."""
    return any(_annotation_file(root, part).is_file() for part in _PARTS.values())


def load_coco(root: Path, split: SplitName, captions_per_image: int | None = None) -> Split:
    """Reads a split of COCO. Its `test` is val2014, as in the published code; each image is a class of its own.

    Args:
        root: The folder that holds annotations/ and the pictures, in images/train2014 or train2014 (and val2014).
        split: Which split.
        captions_per_image: Keeps the first so many captions of an image; all of them if None.

    Raises:
        DataError: if the annotations are missing or broken. Whether the pictures are there is not checked here.
    """
    part = _PARTS[split]
    path = _annotation_file(root, part)
    try:
        annotations = msgspec.json.decode(path.read_bytes(), type=_Annotations)
    except FileNotFoundError as error:
        raise MissingSplitError(
            f"{path}: cannot be read (No such file or directory); COCO is laid out as {LAYOUT}"
        ) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); COCO is laid out as {LAYOUT}") from error
    except ValueError as error:
        raise DataError(f"{path}: is not in COCO's caption format ({error}); fetch it again") from error
    texts: defaultdict[int, list[str]] = defaultdict(list)
    for annotation in annotations.annotations:
        texts[annotation.image_id].append(annotation.caption)
    folder = next(
        (folder for folder in (root / "images" / part, root / part) if folder.is_dir()), root / "images" / part
    )
    examples: list[Example] = []
    for picture in annotations.images:
        captions = usable_captions(texts[picture.id], captions_per_image)
        if captions:
            name = Path(picture.file_name).name
            examples.append(Example(Path(name).stem, folder / name, captions, class_id=len(examples)))
    if not examples:
        raise DataError(f"{path}: no picture has a caption; fetch the caption annotations, not the instances")
    if len(examples) < len(annotations.images):
        _log.warning("%s: %d pictures have no caption and are left out", path, len(annotations.images) - len(examples))
    return Split(split, root, tuple(examples))


def _annotation_file(root: Path, part: str) -> Path:
    return root / "annotations" / f"captions_{part}.json"
