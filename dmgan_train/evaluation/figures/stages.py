"""Figure 4: what each stage makes of a caption."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from dmgan_train.evaluation.figures.sheet import legible, sheet
from dmgan_train.evaluation.image_source import ImageSource

_ORDINALS = ("first", "second", "third", "fourth", "fifth")
_NAMES = ("initial stage", *(f"{ordinal} refinement" for ordinal in _ORDINALS))


def draw_stages(source: ImageSource, captions: Sequence[str], seed: int) -> Image.Image:
    """A column for each caption, a row for each stage; every image at the same size, so that pixels can be seen.

    Args:
        source: The model.
        captions: At least one.
        seed: The noise of every caption.

    Raises:
        CaptionError: if a caption has no known word.
    """
    generations = source.explain(captions, [seed] * len(captions))
    sides = list(generations[0].stages)
    rows = [[legible(generation.stages[side]) for generation in generations] for side in sides]
    headings = [f"{name}\n{side}x{side}" for name, side in zip(_NAMES, sides, strict=False)]
    return sheet(rows, headings, captions)
