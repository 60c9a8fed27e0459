"""What every source of data is read into: examples, in splits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dmgan_runtime.errors import DataError

SplitName = Literal["train", "test"]
Box = tuple[float, float, float, float]

SPLITS: dict[str, SplitName] = {
    "train": "train",
    "restval": "train",
    **dict.fromkeys(("test", "validation", "valid", "val", "dev"), "test"),
}
"""What people call the parts of a data set. All that is not for training is held out: the split `test`."""


class MissingSplitError(DataError):
    """A data set is sound and has no such split."""


@dataclass(frozen=True, slots=True)
class Example:
    """One picture and its captions.

    Attributes:
        key: The picture's name in its data set, unique in a split.
        image: The picture's file. It may turn out to be missing or broken when it is opened.
        captions: Its captions, at least one; each has a word.
        class_id: Its class. Examples of one class count as matching each other's captions in the DAMSM loss.
        box: x, y, width and height of the object in pixels, or None where the whole picture counts.
    """

    key: str
    image: Path
    captions: tuple[str, ...]
    class_id: int
    box: Box | None = None


@dataclass(frozen=True, slots=True)
class Split:
    """The examples of one split, in the order of their source.

    Attributes:
        name: `train` or `test`.
        root: The folder it was read from.
        examples: The examples, at least one.
        left_out: `<place>: <reason>` of each picture and each caption that cannot be used.
    """

    name: SplitName
    root: Path
    examples: tuple[Example, ...]
    left_out: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.examples)

    def captions(self) -> Iterator[str]:
        """Every caption of every example, in order: what a vocabulary is collected from."""
        for example in self.examples:
            yield from example.captions
