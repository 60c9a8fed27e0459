"""A backend that computes nothing, for tests of what is around backends."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from dmgan_runtime import Generator
from dmgan_runtime.backends.base import Active
from dmgan_runtime.request import Batch, TextFeatures
from dmgan_runtime.results import StageOutput
from dmgan_runtime.tokenizer import Tokens
from tests.bundles import SPEC

ACTIVE = Active("stand-in", "1", "cpu", "fp32", 1, reason="a test asked for it")


class StandInBackend:
    """Its images are of one value. It remembers every batch size, and the stages that were computed."""

    def __init__(self, value: float = 0, max_batch: int | None = None, device: str = "cpu") -> None:
        self.active = replace(ACTIVE, max_batch=max_batch, device=device)
        self.batches: list[int] = []
        self.computed: list[int] = []
        self.closed = 0
        self._value = value

    def encode(self, tokens: Tokens) -> TextFeatures:
        rows, words = tokens.tokens.shape
        features = np.zeros((rows, SPEC.text_features, words), np.float32)
        return TextFeatures(features, features[:, :, 0], tokens.lengths)

    def generate(
        self, batch: Batch, stages: int, wanted: Collection[str], *, at_once: bool = False
    ) -> Iterator[StageOutput]:
        assert not self.closed
        self.batches.append(batch.size)
        for side in SPEC.resolutions[:stages]:
            self.computed.append(side)
            yield StageOutput(side, np.full((batch.size, 3, side, side), self._value, np.float32))

    def close(self) -> None:
        self.closed += 1


def stand_in_generator(generator: Generator, backend: StandInBackend) -> Generator:
    """A generator over a stand-in, with the vocabulary of a real one."""
    return Generator._of(generator.manifest, generator.tokenizer, backend, Path("nowhere"), {})  # type: ignore[arg-type]
