"""Batches for the tests of TensorRT's backend, at the least work that shows a difference."""

from __future__ import annotations

import numpy as np

from dmgan_runtime import Generator
from dmgan_runtime.request import Batch
from dmgan_runtime.tokenizer import Tokens
from tests.bundles import GENERATOR_ROLES, MAX_WORDS, SPEC

CAPTIONS = ["a red heart", "a small blue square and a", "round"]
GENERATORS = len(GENERATOR_ROLES)


def images(generator: Generator, batch_size: int = 2, captions: list[str] = CAPTIONS) -> np.ndarray:
    made = generator.generate(captions, seed=3, batch_size=batch_size)
    return np.stack([np.asarray(each.image) for each in made])


def batch_of(size: int) -> Batch:
    tokens = Tokens(np.ones((size, MAX_WORDS), np.int64), np.ones(size, np.int64))
    noise = np.zeros((size, SPEC.noise_features), np.float32), np.zeros((size, SPEC.condition_features), np.float32)
    return Batch(tokens, *noise)
