"""What others published: files that are recognised by their SHA-256, and the numbers that go with them."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import msgspec

from dmgan_runtime.noise import Condition


class PublishedFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file that somebody published.

    Attributes:
        sha256: By which it is recognised.
        name: What it is, in words.
        role: What it holds.
        licence: As far as it is known.
        source: Where it was published.
        condition: Of a generator, from what its authors generate: a sample of the condition's distribution or its mean.
        features: Of statistics, the network that saw the pictures, by its name in `evaluate --features`.
    """

    sha256: str
    name: str
    role: Literal["generator", "text encoder", "image encoder", "real statistics"]
    licence: str
    source: str
    condition: Condition = "sampled"
    features: str | None = None

    def describe(self) -> dict[str, Any]:
        """What a protocol says of it."""
        return {"file": self.name, "source": self.source} | ({"features": self.features} if self.features else {})


class PublishedResult(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Numbers of one model on CUB's test split, 30,000 images.

    Attributes:
        model: Which.
        source: Who published them.
        generator: SHA-256 of the generator's file, if it was published.
        condition: From what its images were generated.
        fid: By the network of `statistics`, pytorch-fid's of its time.
        r_precision: In percent.
        inception_score: By an Inception that was trained on CUB, which nobody published.
        statistics: SHA-256 of the real pictures' statistics, if the source says which.
        judge: SHA-256 of the image and the text encoder that judged R-precision, if the source says which.
    """

    model: str
    source: str
    generator: str | None = None
    condition: Condition = "sampled"
    fid: float | None = None
    r_precision: float | None = None
    inception_score: float | None = None
    statistics: str | None = None
    judge: tuple[str, str] | None = None


class _Published(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    files: tuple[PublishedFile, ...]
    results: tuple[PublishedResult, ...]


@cache
def published() -> _Published:
    """All that is known."""
    return msgspec.yaml.decode(resources.files("dmgan_train").joinpath("published.yaml").read_bytes(), type=_Published)


def find_file(sha256: str) -> PublishedFile | None:
    """The published file of a digest, if it is a known one."""
    return next((file for file in published().files if file.sha256 == sha256), None)


def introduce(path: Path) -> str | None:
    """Says what a file is, under which licence, and which published numbers are of it; None if it is not known."""
    known = find_file(digest(path))
    if known is None:
        return None
    numbers = [
        f"{title} {number:.2f} ({result.source})"
        for result in published().results
        if result.generator == known.sha256 and result.condition == known.condition
        for title, number in (("FID", result.fid), ("R-precision", result.r_precision))
        if number is not None
    ]
    measured = f"; published of it: {', '.join(numbers)}" if numbers else ""
    return f"{path.name}: is {known.name}, from {known.source}; licence: {known.licence}{measured}"


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
