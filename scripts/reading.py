"""How fast pictures are read: whether the loader keeps up with a GPU.

    python -m scripts.reading --preset birds --workers 4

From JPEG files of about CUB's size, and from memory (`data.cache`); prints JSON.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
from PIL import Image

from dmgan_runtime.cli.common import DmganCommand
from dmgan_runtime.cpus import usable_cpus
from dmgan_runtime.tokenizer import Tokenizer
from dmgan_train.data import CaptionedImages, Example, Split, make_loader
from dmgan_train.settings import PRESETS, Settings, resolve_settings

CAPTION = "this bird has a red crown a white belly and black wings with a short orange bill"


@click.command(cls=DmganCommand, context_settings={"show_default": True})
@click.option("--preset", type=click.Choice(PRESETS), default="birds", help="Whose pyramid and batch.")
@click.option("--batches", type=click.IntRange(1), default=40, help="Batches that are timed.")
@click.option("--workers", type=click.IntRange(0, 64), default=1, help="Processes that read pictures ahead.")
def main(preset: str, batches: int, workers: int) -> None:
    """Time the reading of pictures, from files and from memory; prints JSON."""
    settings = resolve_settings(preset)
    with TemporaryDirectory() as folder:
        split = _write_photos(Path(folder), max(64, settings.gan.batch_size))
        measured = {
            source: round(time_reading(settings, split, workers, batches, cache=source == "memory"), 1)
            for source in ("files", "memory")
        }
    report = {
        "preset": preset,
        "batch_size": settings.gan.batch_size,
        "workers": workers,
        "cores": usable_cpus(),
        "images_per_second": measured,
    }
    click.echo(json.dumps(report, indent=2))


def time_reading(settings: Settings, split: Split, workers: int, batches: int, *, cache: bool) -> float:
    """Images a second from files (or from memory) to batches."""
    dataset = CaptionedImages(
        split,
        Tokenizer.from_captions([CAPTION]),
        resolution=settings.model.resolutions[-1],
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


if __name__ == "__main__":
    main()
