"""`training`: a whole GAN step against the order of work of the published code."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import click
import torch

from benchmarks.building import VOCABULARY, random_captions, random_tokenizer
from benchmarks.contender import Contender, select
from benchmarks.measure import PRESETS, WARM_UPS, Measure, Task, show_speed, speed_note
from benchmarks.plain_loop import PlainLoop
from benchmarks.plot import Bar
from benchmarks.pool import IMAGES_PER_SECOND, Pool
from benchmarks.results import BenchmarkResult, Entry, ModelEntry, Series
from benchmarks.tables import Cell, cell, show_median, write_table
from dmgan_train.data import Example, Split, TrainingBatch
from dmgan_train.data.intervals import WHOLE
from dmgan_train.devices import choose_device, keep_freed_memory, resolve_precision
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


class Networks(NamedTuple):
    """What is trained: the networks of some settings with random weights, and the published objective."""

    name: str
    settings: Settings

    def describe(self) -> ModelEntry:
        """What a result tells of them."""
        return ModelEntry(name=self.name, weights="random", resolution=self.settings.model.resolutions[-1])


@dataclass(frozen=True)
class Loop(Contender):
    """A way to train: `plain`, the published code's order of work, or `dmgan`, ours.

    `tf32` is what PyTorch does with fp32 on a GPU unless it is told not to.

    Attributes:
        compiled: Whether `torch.compile` compiles the networks.
    """

    compiled: bool = False

    @property
    def name(self) -> str:
        """For example `dmgan-compile-bf16`."""
        return f"{self.engine}-{'compile-' if self.compiled else ''}{self.precision}"

    @property
    def label(self) -> str:
        if self.engine == "plain":
            return "plain loop, as published"
        return "dmgan_train, compiled" if self.compiled else "dmgan_train"

    def open(self, model: Networks) -> Trainer:
        return Trainer(self, model.settings)


def find_loops(device: str, threads: int) -> list[Loop]:
    """Those that may be had on a kind of device, the plain one in fp32 first."""
    precisions = ("fp32", "bf16") if device == "cpu" else ("fp32", "tf32", "bf16")
    plain = [Loop(precision, device, threads, "plain") for precision in precisions if precision != "bf16"]
    ours = [Loop(precision, device, threads, "dmgan") for precision in precisions]
    return [*plain, *ours, *(Loop(each.precision, device, threads, "dmgan", compiled=True) for each in ours)]


class Trainer:
    """A loop and a random batch that it trains on again and again: what a worker holds."""

    def __init__(self, loop: Loop, settings: Settings) -> None:
        """Raises a `BackendError` if the device or its arithmetic cannot be had here."""
        torch.set_num_threads(loop.threads)
        self._device = choose_device(loop.device)
        torch.backends.cudnn.allow_tf32 = loop.precision != "fp32"
        precision = "bf16" if loop.precision == "bf16" else "fp32"
        gan = settings.gan.__replace__(compile=loop.compiled, precision=precision)
        settings = resolve_precision(settings.__replace__(gan=gan), self._device)
        make = make_plain_loop if loop.engine == "plain" else make_phase
        self._loop: GanPhase | PlainLoop = make(settings, self._device)
        self._batch = random_batch(settings)

    def version(self) -> str:
        """PyTorch's."""
        return str(torch.__version__)

    def time(self) -> float:
        """Seconds of one step."""
        self._wait()
        began = time.perf_counter()
        self._loop.step(self._batch, 0)
        self._wait()
        return time.perf_counter() - began

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


@dataclass(frozen=True)
class Training(Measure):
    """Time whole training steps against a plain loop in the published order of work."""

    name = "training"
    title = "Training"
    axis = "images a second, in whole GAN steps"
    task_options = (
        click.Option(["--preset"], type=click.Choice(PRESETS), default="birds", help="The networks' shape."),
        click.Option(["--batch"], type=click.IntRange(2), show_default="the preset's", help="Images a step."),
    )

    @classmethod
    def prepare(cls, device: str, threads: int, names: Sequence[str], **asked: Any) -> Task:
        networks = Networks(asked["preset"], published_settings(asked["preset"], asked["batch"]))
        return Task(networks, select(find_loops(device, threads), names), lambda _: None)

    def take(self, pool: Pool) -> Iterator[list[Series]]:
        """A step in every turn: discriminators, generator, averaged weights. Images and weights are random."""
        size = pool.model.settings.gan.batch_size
        for _ in range(WARM_UPS):
            able = pool.each(size, "time")

        def turn(name: str) -> Mapping[str, Sequence[float]]:
            return {IMAGES_PER_SECOND: [size / pool.workers[name].call("time")]}

        yield pool.sample(able, turn, "images/s", self.limits, size)

    @classmethod
    def tables(cls, result: BenchmarkResult) -> Iterable[str]:
        for batch in result.batches():
            at = partial(cell, result, figure=IMAGES_PER_SECOND, batch=batch)
            columns: dict[str, Cell] = {"images/s": at(show_median), "speed": at(partial(show_speed, result))}
            yield write_table(result, f"a whole step, batch {batch}", columns)

    @classmethod
    def bar(cls, result: BenchmarkResult, entry: Entry, series: Series) -> Bar:
        plain = super().bar(result, entry, series)
        return plain._replace(text=plain.text + speed_note(result, series))


def published_settings(preset: str, batch: int | None = None, overrides: Sequence[str] = ()) -> Settings:
    """A preset's networks with the published objective, whatever it adds to that for its data."""
    stages = resolve_settings(preset, overrides=overrides).model.stages
    size = [f"gan.batch_size={batch}"] if batch else []
    return resolve_settings(preset, overrides=[*overrides, *_PUBLISHED, f"gan.warm_up_steps={[0] * stages}", *size])


def make_phase(settings: Settings, device: torch.device) -> GanPhase:
    """Our loop, with random weights and a data set that is never read."""
    keep_freed_memory()
    captions = tuple(random_captions(settings.data.training_words))
    split = Split("train", Path(), (Example("none", Path("none.png"), captions, 0),) * settings.gan.batch_size)
    encoders = build_encoders(settings, VOCABULARY)
    nothing_to_monitor = cast("Any", None)  # between steps nothing is drawn here
    return GanPhase(settings, split, random_tokenizer(), encoders, nothing_to_monitor, device, workers=0)


def make_plain_loop(settings: Settings, device: torch.device) -> PlainLoop:
    """The published code's, with random weights."""
    keep_freed_memory()  # as beside it, so that only the work differs
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
    side = settings.model.resolutions[-1]
    return TrainingBatch(
        images=torch.randint(256, (count, 3, side, side), dtype=torch.uint8, generator=random),
        mirrored=torch.zeros(count, dtype=torch.bool),
        tokens=torch.randint(1, VOCABULARY, (count, words), generator=random),
        lengths=torch.randint(min(6, words), words + 1, (count,), generator=random),
        class_ids=torch.arange(count),
        indices=torch.arange(count),
        intervals=torch.tensor([WHOLE] * count, dtype=torch.float64),
        broken=(),
    )
