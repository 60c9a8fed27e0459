"""A contender at work: captions to pictures, to arrays, and graph by graph."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from PIL import Image

from benchmarks.contenders import TORCH, Contender
from benchmarks.subject import Subject
from dmgan_runtime.generator import Generator
from dmgan_runtime.graphs import IMAGE
from dmgan_runtime.manifest import Manifest, Role
from dmgan_runtime.noise import draw_noise
from dmgan_runtime.request import Batch, FloatArray
from dmgan_runtime.tokenizer import Tokenizer, Tokens

SEED = 7


class Sampler(Protocol):
    """A contender, opened.

    Attributes:
        version: The engine's.
    """

    version: str

    def generate(self, captions: Sequence[str]) -> list[Image.Image]:
        """The largest picture of every caption, in one batch."""
        ...

    def synthesize(self, captions: Sequence[str]) -> FloatArray:
        """The same as [N, 3, R, R] float32 in [-1, 1], not rounded to 255 levels."""
        ...

    def time_graphs(self, captions: Sequence[str]) -> dict[Role, float]:
        """Seconds of each graph, its images fetched to the host; empty if the engine has no separate graphs."""
        ...

    def release(self) -> None:
        """Gives back what it keeps for batches of the last size."""
        ...


class RuntimeSampler:
    """A bundle through `dmgan_runtime`."""

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

    def generate(self, captions: Sequence[str]) -> list[Image.Image]:
        """By `Generator.generate`, as a user would call it."""
        made = self._generator.generate(captions, seed=SEED, batch_size=len(captions))
        return [generation.image for generation in made]

    def synthesize(self, captions: Sequence[str]) -> FloatArray:
        """By `Generator.synthesize`."""
        text, noise, condition_noise = self._read(captions)
        made = self._generator.synthesize(text.tokens, text.lengths, noise, condition_noise)
        return made.images[self._generator.resolutions[-1]]

    def time_graphs(self, captions: Sequence[str]) -> dict[Role, float]:
        """The text encoder alone, then the stages as the engine hands them out."""
        tokens, noise, condition_noise = self._read(captions)
        spec = self._generator.manifest.model
        # The generator's own engine: a second one would take the memory of the whole batch once more.
        with self._generator._engine.use() as backend:
            stopwatch = Stopwatch()
            text = backend.encode(tokens)
            stopwatch.lap("text_encoder")
            outputs = backend.generate(Batch(text, noise, condition_noise), spec.stages, IMAGE)
            for role, _ in zip(spec.generator_roles, outputs, strict=True):
                stopwatch.lap(role)
        return stopwatch.laps

    def release(self) -> None:
        """The engines keep what they have."""

    def _read(self, captions: Sequence[str]) -> tuple[Tokens, FloatArray, FloatArray]:
        return read_captions(captions, self._generator.tokenizer, self._generator.manifest)


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


def open_sampler(subject: Subject, contender: Contender) -> Sampler:
    """Opens a contender.

    Raises:
        BackendError: if it cannot be had here.
    """
    if contender.engine == TORCH:
        from benchmarks.torch_sampler import TorchSampler  # an engine's process must not hold PyTorch too

        return TorchSampler(subject, contender)
    return RuntimeSampler(subject, contender)


def read_captions(
    captions: Sequence[str], tokenizer: Tokenizer, manifest: Manifest
) -> tuple[Tokens, FloatArray, FloatArray]:
    """Captions as the runtime reads them: tokens, and noise and condition noise of one seed each."""
    model = manifest.model
    noise, condition_noise = draw_noise([SEED] * len(captions), model.noise_features, model.condition_features)
    return tokenizer.encode_batch(captions, manifest.tokenizer.max_words), noise, condition_noise


def first_picture(subject: Subject, contender: Contender, output: Path) -> None:
    """From nothing to the first picture in a file."""
    (picture,) = open_sampler(subject, contender).generate(subject.take_captions(1))
    picture.save(output)
