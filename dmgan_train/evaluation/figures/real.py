"""Real pictures against what the model generates from their captions."""

from __future__ import annotations

import numpy as np
from PIL import Image

from dmgan_runtime.errors import DataError
from dmgan_runtime.results import to_pil
from dmgan_train.data import Split
from dmgan_train.data.pyramid import from_levels
from dmgan_train.evaluation.figures.seeds import generate_row
from dmgan_train.evaluation.figures.sheet import legible, sheet
from dmgan_train.evaluation.image_source import ImageSource
from dmgan_train.evaluation.metrics.orders import photographed


def draw_real(source: ImageSource, split: Split, count: int, seed: int, images: int) -> Image.Image:
    """A row for each of some examples: its picture as training sees it, and images of its first caption.

    Args:
        source: The model.
        split: The examples are drawn from it.
        count: How many examples.
        seed: Draws the examples; the images have the seeds `seed`, `seed + 1`, ...
        images: Generated images of each.

    Raises:
        DataError: if none of the chosen pictures can be read.
    """
    chosen = np.random.default_rng(seed).permutation(len(split))[:count]
    part = Split(split.name, split.root, tuple(split.examples[index] for index in chosen))
    seeds = range(seed, seed + images)
    rows, headings = [], []
    for indices, pictures in photographed(part, source, len(part), "pictures", from_levels):
        for index, picture in zip(indices, pictures.numpy(), strict=True):
            caption = part.examples[index].captions[0]
            rows.append([legible(to_pil(picture)), *generate_row(source, [caption] * images, list(seeds))])
            headings.append(caption)
    if not rows:
        raise DataError(f"{split.root}: none of the {len(part)} pictures that were chosen can be read")
    return sheet(rows, headings, [f"real ({split.name})", *(f"seed {one}" for one in seeds)])
