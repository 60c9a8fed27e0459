"""Whether a bundle generates here what it generated when it was exported."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import islice

import numpy as np
from PIL import Image

from dmgan_runtime.errors import EngineError
from dmgan_runtime.generator import Generator
from dmgan_runtime.manifest import Arithmetic, SelfTestEntry
from dmgan_runtime.results import Generation
from dmgan_runtime.tokenizer import split_words

TOLERANCE: dict[Arithmetic, int] = {"fp32": 2, "fp16": 8, "bf16": 8, "int8": 32}
"""Levels of 255 by which a thumbnail may differ. Another image is some fifty off."""

_SIDE = 8
_WORDS = 8
_SEED = 0


@dataclass(frozen=True)
class SelfTestResult:
    """What came of a self-test.

    Attributes:
        resolution: Of the largest image that was generated.
        precision: In which it was computed.
        seconds: For that image and the stages before it; engines do more at first than later.
        difference: The largest difference from the thumbnails of the export, in levels of 255; None if the bundle
            has none.
        tolerance: The difference that is allowed.
    """

    resolution: int
    precision: Arithmetic
    seconds: float
    difference: int | None
    tolerance: int


def make_self_test(generator: Generator) -> SelfTestEntry:
    """Generates the self-test of a bundle that is being exported, in fp32.

    Args:
        generator: The bundle, open; the first words of its vocabulary are the caption.

    Raises:
        EngineError: if the engine fails.
    """
    words = (word for word in generator.tokenizer.words[1:] if split_words(word) == [word])
    caption = " ".join(islice(words, _WORDS))
    (generation,) = generator.generate(caption, seed=_SEED)
    return SelfTestEntry(caption=caption, seed=_SEED, thumbnails=_thumbnails(generation))


def run_self_test(generator: Generator) -> SelfTestResult:
    """Generates one image and compares it with the export's, if the bundle has that.

    Args:
        generator: A bundle, open.

    Raises:
        EngineError: if the engine fails, or generates another image.
    """
    active, expected = generator.active, generator.manifest.self_test
    tolerance = TOLERANCE[active.precision]
    start = time.perf_counter()
    if expected is None:
        make_self_test(generator)
        return SelfTestResult(generator.resolutions[-1], active.precision, time.perf_counter() - start, None, tolerance)
    (generation,) = generator.generate(expected.caption, seed=expected.seed)
    seconds = time.perf_counter() - start
    generated = _thumbnails(generation)
    worst = 0
    for resolution, thumbnail in expected.thumbnails.items():
        difference = int(np.abs(_levels(generated[resolution]) - _levels(thumbnail)).max())
        if difference > tolerance:
            raise EngineError(
                f"{active} generates another image than the export did: at {resolution} pixels it is {difference}"
                f" levels of 255 off, and {tolerance} are allowed; use another backend or precision, and please report"
                " this with what dmgan-doctor prints"
            )
        worst = max(worst, difference)
    return SelfTestResult(generation.image.width, active.precision, seconds, worst, tolerance)


def make_thumbnail(picture: Image.Image) -> bytes:
    """The mean of a picture in 8x8 blocks, row by row, three bytes each."""
    return picture.resize((_SIDE, _SIDE), Image.Resampling.BOX).tobytes()


def _thumbnails(generation: Generation) -> dict[int, bytes]:
    return {resolution: make_thumbnail(picture) for resolution, picture in generation.stages.items()}


def _levels(thumbnail: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return np.frombuffer(thumbnail, np.uint8).astype(np.int64)
