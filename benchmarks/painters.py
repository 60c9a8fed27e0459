"""A contender at work: captions to pictures, to arrays, and graph by graph."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from benchmarks.contenders import TORCH, Contender
from benchmarks.subject import Subject
from dmgan_runtime.generator import Generator
from dmgan_runtime.manifest import GENERATOR_ROLES, Role
from dmgan_runtime.noise import draw_noise
from dmgan_runtime.pipeline import Batch, draw_stages, encode_text
from dmgan_runtime.results import FloatArray
from dmgan_runtime.spec import ModelSpec
from dmgan_runtime.tokenizer import Tokenizer

SEED = 7


class Painter(Protocol):
    """A contender, opened.

    Attributes:
        version: The engine's.
    """

    version: str

    def paint(self, captions: Sequence[str]) -> list[Image.Image]:
        """The largest picture of every caption, in one batch."""
        ...

    def synthesize(self, captions: Sequence[str]) -> FloatArray:
        """The same as [N, 3, R, R] float32 in [-1, 1], not rounded to 255 levels."""
        ...

    def time_graphs(self, captions: Sequence[str]) -> dict[Role, float]:
        """Seconds of each graph, its images fetched to the host; empty if the engine has no separate graphs."""
        ...

    def rest(self) -> None:
        """Gives back what it keeps for batches of the last size."""
        ...


class ServedPainter:
    """A bundle through `dmgan_runtime`. See `Painter` for the methods."""

    def __init__(self, subject: Subject, contender: Contender) -> None:
        """Raises a `BackendError` if it cannot be had here."""
        self._generator = Generator.open(
            subject.bundle,
            backend=contender.engine,
            device=contender.device,
            precision=contender.precision,
            threads=contender.threads,
        )
        self.version = self._generator.active.version

    def paint(self, captions: Sequence[str]) -> list[Image.Image]:
        """See `Painter.paint`."""
        made = self._generator.generate(captions, seed=SEED, batch_size=len(captions))
        return [generation.image for generation in made]

    def synthesize(self, captions: Sequence[str]) -> FloatArray:
        """See `Painter.synthesize`."""
        manifest = self._generator.manifest
        batch = read_captions(captions, self._generator.tokenizer, manifest.model, manifest.tokenizer.max_words)
        return self._generator.synthesize(*batch).images[self._generator.resolutions[-1]]

    def time_graphs(self, captions: Sequence[str]) -> dict[Role, float]:
        """See `Painter.time_graphs`."""
        manifest = self._generator.manifest
        spec, max_words = manifest.model, manifest.tokenizer.max_words
        batch = read_captions(captions, self._generator.tokenizer, spec, max_words)
        # The generator's own engine: a second one would take the memory of the whole batch once more.
        lease = self._generator._engine.lease
        stopwatch = Stopwatch()
        text = encode_text(lease, batch.tokens, batch.lengths)
        with lease() as engine:
            engine.to_host(text.sentence_feature)  # waits for a GPU
        stopwatch.lap("text_encoder")
        stages = draw_stages(lease, spec, max_words, text, batch.noise, batch.condition_noise)
        for role, _ in zip(GENERATOR_ROLES, stages, strict=True):
            stopwatch.lap(role)
        return stopwatch.laps

    def rest(self) -> None:
        """See `Painter.rest`: the engines keep what they have."""


class Stopwatch:
    """Laps, each since the one before."""

    def __init__(self) -> None:
        self.laps: dict[Role, float] = {}
        self._last = time.perf_counter()

    def lap(self, role: Role) -> None:
        """Ends a lap."""
        now = time.perf_counter()
        self.laps[role] = now - self._last
        self._last = now


def open_painter(subject: Subject, contender: Contender) -> Painter:
    """Opens a contender.

    Raises:
        BackendError: if it cannot be had here.
    """
    if contender.engine == TORCH:
        from benchmarks.torch_painter import TorchPainter  # an engine's process must not hold PyTorch too

        return TorchPainter(subject, contender)
    return ServedPainter(subject, contender)


def read_captions(captions: Sequence[str], tokenizer: Tokenizer, spec: ModelSpec, max_words: int) -> Batch:
    """Captions as the runtime reads them, with the noise of one seed each."""
    encodings = [tokenizer.encode(caption, max_words) for caption in captions]
    noise = draw_noise([SEED] * len(captions), spec.noise_features, spec.condition_features)
    lengths = np.array([encoding.length for encoding in encodings], dtype=np.int64)
    return Batch(np.stack([encoding.tokens for encoding in encodings]), lengths, *noise)


def first_picture(subject: Subject, contender: Contender, output: Path) -> None:
    """From nothing to the first picture in a file."""
    (picture,) = open_painter(subject, contender).paint(subject.take_captions(1))
    picture.save(output)
