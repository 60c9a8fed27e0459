"""How fast a training step and the reading of its data are, and what each measure for speed brings.

    python -m benchmarks.training --preset tiny
    python -m benchmarks.training --preset birds --steps 2 --precision bf16 --compile

Steps run on random pictures, so that nothing but the networks is measured.
The first row computes as the published code does: nearest x2 and then a convolution, discriminators that see real and
fake images in two passes, Adam parameter by parameter, losses that are read at every step. All rows learn the same.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, cast
from unittest.mock import patch

import click
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dmgan_runtime.commands import DmganCommand
from dmgan_runtime.tokenizer import Tokenizer
from dmgan_train.config import PRESETS, Settings, resolve_settings
from dmgan_train.damsm import build_encoders
from dmgan_train.data import Batch, CaptionedImages, Example, Split, make_loader
from dmgan_train.devices import choose_device
from dmgan_train.gan import GanPhase
from dmgan_train.models import Discriminator
from dmgan_train.models.layers import UpBlock
from dmgan_train.run import RunFolder
from dmgan_train.samples import SampleSheet
from dmgan_train.watch import Watch

CAPTION = "this bird has a red crown a white belly and black wings with a short orange bill"


class _SlowAdam(torch.optim.Adam):
    def __init__(self, *arguments: object, **options: object) -> None:
        options |= {"fused": False, "foreach": False}
        super().__init__(*arguments, **options)  # type: ignore[arg-type]


@contextmanager
def as_published() -> Iterator[None]:
    """Computes the same function the way the published code does."""
    whole_batch = Discriminator.forward

    def up_block(block: UpBlock, features: Tensor) -> Tensor:
        upsample, convolution, norm, glu = block
        return cast("Tensor", glu(norm(convolution(upsample(features)))))

    def one_by_one(discriminator: Discriminator, images: Tensor) -> Tensor:
        halves = images.chunk(2) if images.shape[0] % 2 == 0 and not images.requires_grad else (images,)
        return torch.cat([whole_batch(discriminator, half) for half in halves])

    with ExitStack() as stack:
        stack.enter_context(patch.object(UpBlock, "forward", up_block))
        stack.enter_context(patch.object(Discriminator, "forward", one_by_one))
        stack.enter_context(patch("torch.optim.Adam", _SlowAdam))
        stack.enter_context(patch("dmgan_train.gan.place", lambda network, device, *_: network.to(device)))
        yield


class Row(NamedTuple):
    """One way to train."""

    name: str
    manner: Callable[[], AbstractContextManager[None]]
    phase: GanPhase


def random_batch(settings: Settings, size: int) -> Batch:
    """N random pictures, each with the same caption."""
    words = settings.data.training_words
    return Batch(
        images=tuple(torch.rand(size, 3, side, side) * 2 - 1 for side in settings.model.resolutions),
        tokens=torch.ones(size, words, dtype=torch.int64),
        lengths=torch.full((size,), words),
        class_ids=torch.arange(size),
        keys=("random",) * size,
        indices=torch.arange(size),
        broken=(),
    )


def build_phase(settings: Settings, split: Split, device: torch.device, root: Path) -> GanPhase:
    """The second phase with fresh weights."""
    tokenizer = Tokenizer.from_captions([CAPTION])
    settings = settings.__replace__(damsm=settings.damsm.__replace__(trunk_weights="random"))
    sheet = SampleSheet(root, split, tokenizer, settings.data.serving_words)
    watch = Watch(RunFolder(root), sheet)
    return GanPhase(settings, split, tokenizer, build_encoders(settings, len(tokenizer)), watch, device, workers=0)


def time_steps(rows: Sequence[Row], steps: int) -> dict[str, float]:
    """Images a second of each row's fastest step; the rows take turns, so that a busy machine slows all alike.

    On a CPU it is a second of processor time, all threads together: others may use the processor too.
    """
    fastest = dict.fromkeys((row.name for row in rows), float("inf"))
    for step in range(steps + 1):
        for row in rows:
            with row.manner():
                seconds = _time_step(row.phase, step, row.manner is as_published)
            if step > 0:  # the first one allocates, and compiles
                fastest[row.name] = min(fastest[row.name], seconds)
    return {row.name: row.phase.batch_size / fastest[row.name] for row in rows}


def _time_step(phase: GanPhase, step: int, read_losses: bool) -> float:
    cuda = phase.device.type == "cuda"
    clock = time.perf_counter if cuda else time.process_time
    batch = random_batch(phase.settings, phase.batch_size)
    if cuda:
        torch.cuda.synchronize(phase.device)
    begin = clock()
    losses = phase.step(batch, step)
    if read_losses:
        torch.stack([loss.detach().float() for loss in losses.values()]).tolist()
    if cuda:
        torch.cuda.synchronize(phase.device)
    return clock() - begin


def time_reading(settings: Settings, split: Split, workers: int, batches: int, cache: bool) -> float:
    """Images a second from files (or from memory) to batches."""
    dataset = CaptionedImages(
        split,
        Tokenizer.from_captions([CAPTION]),
        resolutions=settings.model.resolutions,
        max_words=settings.data.training_words,
        augment=settings.data.augment,
        cache=cache,
    )
    size = min(settings.gan.batch_size, len(split))
    loader = make_loader(dataset, size, workers=workers)
    next(loader)
    begin = time.perf_counter()
    for _ in range(batches):
        next(loader)
    return size * batches / (time.perf_counter() - begin)


def _write_photos(root: Path, count: int) -> Split:
    """JPEGs of about CUB's size, of soft random blobs: noise would take too long to decode."""
    rng = np.random.default_rng(0)
    examples = []
    for number in range(count):
        blobs = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        path = root / f"{number}.jpg"
        blobs.resize((500, 375), Image.Resampling.BICUBIC).save(path, quality=90)
        examples.append(Example(str(number), path, (CAPTION,), number))
    return Split("train", root, tuple(examples))


@click.command(cls=DmganCommand, context_settings={"show_default": True})
@click.option("--preset", type=click.Choice(PRESETS), default="tiny", help="Whose networks.")
@click.option("--batch-size", type=click.IntRange(2), help="Images a step.  [default: the preset's]")
@click.option("--steps", type=click.IntRange(1), default=10, help="Steps that are timed in each row.")
@click.option("--device", default="auto", metavar="[auto|cpu|cuda[:N]]", help="Where to train.")
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), default="fp32", help="bf16 adds a row.")
@click.option("--compile", "compiled", is_flag=True, help="Add a row with torch.compile (minutes to start).")
@click.option("--workers", type=click.IntRange(0, 64), default=1, help="Processes that read pictures ahead.")
def main(
    preset: str, batch_size: int | None, steps: int, device: str, precision: str, compiled: bool, workers: int
) -> None:
    """Time training steps, row by row, and the reading of pictures; prints JSON."""
    chosen = choose_device(device)
    overrides = [f"gan.batch_size={batch_size}"] if batch_size else []
    wanted: list[tuple[str, Callable[[], AbstractContextManager[None]], list[str]]] = [
        ("as published", as_published, []),
        ("dmgan", nullcontext, []),
    ]
    if precision == "bf16":
        wanted.append(("dmgan, bf16", nullcontext, ["gan.precision=bf16"]))
    if compiled:
        wanted.append(("dmgan, compiled", nullcontext, [f"gan.precision={precision}", "gan.compile=true"]))
    with TemporaryDirectory() as folder:
        split = _write_photos(Path(folder), max(64, batch_size or 0))
        rows = []
        for name, manner, own in wanted:
            with manner():
                settings = resolve_settings(preset, overrides=[*overrides, *own])
                rows.append(Row(name, manner, build_phase(settings, split, chosen, Path(folder))))
        measured = time_steps(rows, steps)
        settings = resolve_settings(preset, overrides=overrides)
        reading = {
            f"{'memory' if cache else 'files'}, {workers} worker{'s' * (workers != 1)}": time_reading(
                settings, split, workers, 4 * steps, cache
            )
            for cache in (False, True)
        }
    unit = "second" if chosen.type == "cuda" else "processor_second"
    report = {
        "preset": preset,
        "batch_size": settings.gan.batch_size,
        "device": str(chosen),
        "threads": torch.get_num_threads(),
        "cores": len(os.sched_getaffinity(0)),
        "torch": str(torch.__version__),
        f"steps_images_per_{unit}": {name: round(value, 2) for name, value in measured.items()},
        "reading_images_per_second": {name: round(value, 1) for name, value in reading.items()},
    }
    click.echo(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
