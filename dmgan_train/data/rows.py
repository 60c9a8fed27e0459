"""From what a source says of its pictures, line by line, to the examples of a split: the one place that judges it."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from dmgan_runtime.errors import DataError, shortened
from dmgan_runtime.tokenizer import MAX_CAPTION_CHARACTERS, split_words
from dmgan_train.data.broken import listed
from dmgan_train.data.examples import Box, Example, MissingSplitError, Split, SplitName

_QUOTED = 60


class Row(NamedTuple):
    """What a source says of a picture in one place; a picture may have several rows.

    Attributes:
        where: The place, for messages.
        key: The picture's name in its data set.
        image: Its file.
        captions: As they were found; those that cannot be used are named and left out.
        split: The split it belongs to.
        class_name: A name, which is numbered over all splits; a number, which is taken as it is; None makes the
            picture a class of its own.
        box: See `Example`.
        fault: `<place>: <reason>` if the source shows that the picture cannot be used.
    """

    where: str
    key: str
    image: Path
    captions: Sequence[str]
    split: SplitName = "train"
    class_name: str | int | None = None
    box: Box | None = None
    fault: str | None = None


@dataclass
class _Picture:
    first: Row
    class_id: int
    captions: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def to_split(name: SplitName, root: Path, rows: Iterable[Row], captions_per_image: int | None, remedy: str) -> Split:
    """The examples of a split, in the order of their first rows.

    Args:
        name: Which split.
        root: The data set's folder.
        rows: Of every split, so that the name of a class is one number in each of them.
        captions_per_image: Keeps the first so many captions of an image; all of them if None.
        remedy: What fills the split if it is empty.

    Raises:
        DataError: if rows contradict each other, or no picture of the split can be used.
        MissingSplitError: if there is no row of the split.
    """
    pictures: dict[str, _Picture] = {}
    classes: dict[str | int, int] = {}
    for row in rows:
        picture = pictures.get(row.key)
        if picture is None:
            picture = pictures[row.key] = _Picture(row, _class_id(row, classes))
        else:
            _check_same(picture.first, row)
        if row.split == name:
            _add(picture, row)
    own = [picture for picture in pictures.values() if picture.first.split == name]
    if not own:
        raise MissingSplitError(f"{root}: no picture is in the split {name!r}; {remedy}")
    examples, left_out = [], []
    for picture in own:
        left_out += picture.faults
        captions = tuple(picture.captions[:captions_per_image])
        if captions:
            first = picture.first
            examples.append(Example(first.key, first.image, captions, picture.class_id, first.box))
    if not examples:
        raise DataError(
            f"{root}: none of the {len(own)} pictures of the split {name!r} can be used; mend them:{listed(left_out)}"
        )
    return Split(name, root, tuple(examples), tuple(dict.fromkeys(left_out)))


def _class_id(row: Row, classes: dict[str | int, int]) -> int:
    if isinstance(row.class_name, int):
        return row.class_name
    # A picture without a class takes a number under a key that is no name.
    number = classes.setdefault(len(classes) if row.class_name is None else row.class_name, len(classes))
    # Some layouts are read a split at a time: pictures of two splits are of one class only if it has a name.
    return -1 - number if row.class_name is None and row.split == "test" else number


def _check_same(first: Row, row: Row) -> None:
    for what, before, now in (
        ("split", first.split, row.split),
        ("class", first.class_name, row.class_name),
    ):
        if before != now:
            raise DataError(
                f"{row.where}: the {what} of {shortened(row.key)} is {now!r} here and {before!r} in {first.where};"
                f" all lines of a picture have one {what}"
            )


def _add(picture: _Picture, row: Row) -> None:
    if row.fault:
        picture.faults.append(row.fault)
        return
    if not row.captions:
        picture.faults.append(f"{row.where}: {shortened(row.key)} has no caption")
    for text in row.captions:
        fault = caption_fault(text)
        if fault:
            picture.faults.append(f"{row.where}: {fault} ({shortened(row.key)})")
        else:
            # Composed, because a word that is spelled with combining accents would fall apart.
            picture.captions.append(unicodedata.normalize("NFC", text.strip()))


def caption_fault(text: str) -> str | None:
    """Why a caption cannot be used; None if it can."""
    if len(text) > MAX_CAPTION_CHARACTERS:
        return f"a caption has {len(text):,} characters; at most {MAX_CAPTION_CHARACTERS:,} are read"
    if split_words(text):
        return None
    if not text.strip():
        return "an empty caption"
    quoted = repr(shortened(text.strip(), _QUOTED))
    if any(character.isalnum() for character in text):
        return f"the caption {quoted} has no word that can be read: words are ASCII letters and digits"
    return f"the caption {quoted} has no words"


def keep_known(split: Split, takes: Callable[[str], bool], vocabulary: str) -> Split:
    """A split without the captions that a vocabulary cannot read; they are named in `left_out`.

    Args:
        split: Any.
        takes: Tells whether a caption has a word of the vocabulary, such as `Tokenizer.takes`.
        vocabulary: Whose it is, for messages.

    Raises:
        DataError: if no caption is left.
    """
    examples, left_out = [], []
    for example in split.examples:
        known = tuple(caption for caption in example.captions if takes(caption))
        if known:
            examples.append(example if known == example.captions else replace(example, captions=known))
        left_out += [
            f"{example.image}: no word of the caption {shortened(caption, _QUOTED)!r} is in the vocabulary of"
            f" {vocabulary}"
            for caption in example.captions
            if caption not in known
        ]
    if not left_out:
        return split
    if not examples:
        raise DataError(
            f"{split.root}: no caption of the split {split.name!r} has a word of the vocabulary of {vocabulary}; is it"
            f" the data set that it was trained on?{listed(left_out)}"
        )
    return replace(split, examples=tuple(examples), left_out=(*split.left_out, *dict.fromkeys(left_out)))


def hold_out(split: Split, share: float) -> dict[SplitName, Split]:
    """Cuts a split in two: the pictures to train on, and a share that is held out, chosen by their names.

    Args:
        split: The whole.
        share: Over 0 and under 1; at least one picture is held out.

    Raises:
        DataError: if no picture would be left to train on.
    """
    count = max(1, round(share * len(split)))
    if count >= len(split):
        raise DataError(f"{split.root}: has {len(split)} pictures, too few to hold out {share:.0%} of them")
    # Names of files need not be UTF-8.
    ranked = sorted(
        (example.key for example in split.examples), key=lambda key: (crc32(key.encode(errors="surrogateescape")), key)
    )
    chosen = set(ranked[:count])
    parts: dict[SplitName, Split] = {}
    for name in ("train", "test"):
        examples = tuple(example for example in split.examples if (example.key in chosen) == (name == "test"))
        # What was left out counts once, where it can stop the training.
        parts[name] = Split(name, split.root, examples, split.left_out if name == "train" else ())
    return parts
