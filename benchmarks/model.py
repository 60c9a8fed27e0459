"""The model that contenders generate with: one set of weights, as PyTorch's and as a bundle."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from benchmarks.results import ModelEntry
from dmgan_runtime.manifest import MANIFEST_NAME

AS_WRITTEN = "as written"


class BenchmarkModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One set of weights in both forms.

    Attributes:
        name: The model's.
        origin: Where the weights came from, in words.
        bundle: The bundle's folder.
        weights: A file of state dicts, `text_encoder` and `generator`.
        resolution: Side of the largest image in pixels.
        captions: Texts that the vocabulary knows.
        operations: Of one image, by graph: of the bundle's graphs by their precision, and of the network as it is
            published as `AS_WRITTEN`.
        lacks: The precisions that these weights could not be exported in, and why.
    """

    name: str
    origin: str
    bundle: str
    weights: str
    resolution: int
    captions: tuple[str, ...]
    operations: dict[str, dict[str, int]]
    lacks: dict[str, str] = {}

    def take_captions(self, count: int) -> list[str]:
        """So many captions, over and over if need be."""
        return [self.captions[index % len(self.captions)] for index in range(count)]

    def describe(self) -> ModelEntry:
        """What a result tells of it."""
        return ModelEntry(
            name=self.name,
            weights=self.origin,
            manifest_sha256=hashlib.sha256((Path(self.bundle) / MANIFEST_NAME).read_bytes()).hexdigest(),
            resolution=self.resolution,
            operations_as_written=self.operations[AS_WRITTEN],
        )
