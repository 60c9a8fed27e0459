"""One loop of training, with random images: what a worker of `training` holds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch

from benchmarks.building import VOCABULARY, random_captions
from benchmarks.plain_loop import PlainLoop
from benchmarks.training_step import Loop
from dmgan_runtime.tokenizer import PAD, Tokenizer
from dmgan_train.data import Example, Split, TrainingBatch
from dmgan_train.data.intervals import WHOLE
from dmgan_train.devices import choose_device, resolve_precision
from dmgan_train.gan import GanPhase
from dmgan_train.models import GeneratorNetwork, build_discriminators
from dmgan_train.models.encoders import build_encoders
from dmgan_train.settings import Settings, resolve_settings

_PUBLISHED = (
    "gan.augmentation=false",
    "gan.reconstruction_weight=0",
    "gan.perceptual_weight=0",
    "gan.r1_weight=0",
)


class Trainer:
    """A loop and a batch that it trains on again and again."""

    def __init__(self, loop: Loop, preset: str, batch: int | None, device: str, threads: int) -> None:
        """Args:
        loop: Which.
        preset: Whose settings.
        batch: Images a step; None takes the preset's.
        device: `cpu` or `cuda:N`.
        threads: CPU threads.

        Raises:
            BackendError: if the device or its arithmetic cannot be had here.
        """
        torch.set_num_threads(threads)
        self._device = choose_device(device)
        torch.backends.cudnn.allow_tf32 = loop.precision != "fp32"
        self._settings = resolve_precision(published_settings(preset, loop, batch), self._device)
        make = make_plain_loop if loop.order == "plain" else make_phase
        self._loop: GanPhase | PlainLoop = make(self._settings, self._device)
        self._batch = random_batch(self._settings)

    def time(self) -> float:
        """Seconds of one step."""
        self._wait()
        began = time.perf_counter()
        self._loop.step(self._batch, 0)
        self._wait()
        return time.perf_counter() - began

    def facts(self) -> dict[str, Any]:
        """What a result says of it."""
        return {
            "version": str(torch.__version__),
            "batch": self._settings.gan.batch_size,
            "resolution": self._settings.model.resolutions[-1],
        }

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def published_settings(preset: str, loop: Loop, batch: int | None = None, overrides: Sequence[str] = ()) -> Settings:
    """A preset's networks with the published objective, whatever it adds to that for its own data."""
    stages = resolve_settings(preset, overrides=overrides).model.stages
    own = [
        f"gan.warm_up_steps={[0] * stages}",
        f"gan.compile={str(loop.compiled).lower()}",
        f"gan.precision={'bf16' if loop.precision == 'bf16' else 'fp32'}",
        *([f"gan.batch_size={batch}"] if batch else []),
    ]
    return resolve_settings(preset, overrides=[*overrides, *_PUBLISHED, *own])


def make_phase(settings: Settings, device: torch.device) -> GanPhase:
    """Our loop, with random weights and a data set that is never read."""
    captions = tuple(random_captions(settings.data.training_words))
    split = Split("train", Path(), (Example("none", Path("none.png"), captions, 0),) * settings.gan.batch_size)
    tokenizer = Tokenizer([PAD, *(f"word{index}" for index in range(1, VOCABULARY))])
    encoders = build_encoders(settings, VOCABULARY)
    nothing_to_monitor = cast("Any", None)  # between steps nothing is drawn here
    return GanPhase(settings, split, tokenizer, encoders, nothing_to_monitor, device, workers=0)


def make_plain_loop(settings: Settings, device: torch.device) -> PlainLoop:
    """The published code's, with random weights."""
    text_encoder, image_encoder = build_encoders(settings, VOCABULARY)
    for encoder in (text_encoder, image_encoder):
        encoder.to(device).eval().requires_grad_(False)
    generator = GeneratorNetwork(settings.model).to(device)
    discriminators = build_discriminators(settings.model, settings.gan.discriminator_channels).to(device)
    return PlainLoop(settings, (text_encoder, image_encoder), generator, discriminators)


def random_batch(settings: Settings) -> TrainingBatch:
    """Images and captions of full length, drawn at random."""
    random = torch.Generator().manual_seed(0)
    count, words = settings.gan.batch_size, settings.data.training_words
    return TrainingBatch(
        images=tuple(torch.rand(count, 3, side, side, generator=random) * 2 - 1 for side in settings.model.resolutions),
        tokens=torch.randint(1, VOCABULARY, (count, words), generator=random),
        lengths=torch.randint(min(6, words), words + 1, (count,), generator=random),
        class_ids=torch.arange(count),
        keys=("none",) * count,
        indices=torch.arange(count),
        intervals=torch.tensor([WHOLE] * count, dtype=torch.float64),
        broken=(),
    )
