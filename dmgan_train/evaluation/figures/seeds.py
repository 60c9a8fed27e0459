"""Figure 5: one caption, many seeds."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from dmgan_runtime.results import to_pil
from dmgan_train.data.pyramid import from_levels
from dmgan_train.evaluation.figures.sheet import legible, sheet
from dmgan_train.evaluation.image_source import ImageSource


def draw_seeds(source: ImageSource, captions: Sequence[str], seed: int, count: int) -> Image.Image:
    """A row for each caption, a column for each seed: `seed`, `seed + 1`, ...

    Args:
        source: The model.
        captions: At least one.
        seed: The first.
        count: Seeds of each caption.

    Raises:
        CaptionError: if a caption has no known word.
    """
    seeds = range(seed, seed + count)
    rows = [generate_row(source, [caption] * count, list(seeds)) for caption in captions]
    return sheet(rows, captions, [f"seed {one}" for one in seeds])


def generate_row(source: ImageSource, captions: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
    """The largest images, at a legible size."""
    return [legible(to_pil(image)) for image in from_levels(source.generate(captions, seeds)).numpy()]
