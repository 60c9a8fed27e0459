"""Figure 6: the words that a refinement stage looks up most, and what its memory writes and answers."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from PIL import Image

from dmgan_runtime.errors import SettingsError
from dmgan_runtime.request import FloatArray
from dmgan_runtime.results import Gates, Generation
from dmgan_train.evaluation.figures.sheet import legible, sheet, stack
from dmgan_train.evaluation.image_source import ImageSource

TOP = 5
_DIMMED = 0.25


def draw_words(source: ImageSource, caption: str, seed: int) -> Image.Image:
    """For each refinement stage: the image before and after, the five words with most attention, and the gates.

    A word's map is its key addressing (eq. 4) over the image that the stage refines, bright where the word's share of
    a pixel is large, scaled to its own largest share. "write" is the writing gate (eq. 7): how much of the memory slot
    is the word. The last map is the response gate (eq. 9), from 0 (black: the image stays) to 1 (white: the memory).

    Args:
        source: The model.
        caption: What.
        seed: Its noise.

    Raises:
        CaptionError: if the caption has no known word.
        SettingsError: if the model has no refinement stage.
    """
    (generation,) = source.explain([caption], [seed])
    sides = list(generation.stages)
    if len(sides) == 1:
        raise SettingsError(
            "this model has one stage, and only refinement stages look words up; pass a model of more, or draw its"
            " image with `figure stages`"
        )
    parts = [_stage(generation, before, after) for before, after in pairwise(sides)]
    return stack(parts, f"{caption} (seed {seed})")


def top_words(attention: FloatArray) -> list[int]:
    """The words with the largest mean share over the pixels, largest first.

    Args:
        attention: [words, r, r].
    """
    return [int(word) for word in np.argsort(-attention.mean(axis=(1, 2)), kind="stable")[:TOP]]


def _stage(generation: Generation, before: int, after: int) -> Image.Image:
    assert generation.attention is not None
    assert generation.gates is not None
    attention, gates = generation.attention[after], generation.gates[after]
    base, refined = legible(generation.stages[before]), legible(generation.stages[after])
    row, headings = [base, refined], [f"before\n{before}x{before}", f"after\n{after}x{after}"]
    for word in top_words(attention):
        row.append(_lit(base, attention[word] / max(float(attention[word].max()), 1e-12)))
        headings.append(_heading(generation.words[word], attention[word], gates, word))
    if gates.response is not None:
        row.append(legible(_grey(gates.response)))
        headings.append(f"response gate\nmean {gates.response.mean():.2f}")
    return sheet([row], [f"refinement\n{before} to {after} px"], headings)


def _heading(word: str, attention: FloatArray, gates: Gates, position: int) -> str:
    lines = [f"{word}", f"share {100 * attention.mean():.0f}%, max {100 * attention.max():.0f}%"]
    if gates.writing is not None:
        lines.append(f"write {gates.writing[position]:.2f}")
    return "\n".join(lines)


def _lit(picture: Image.Image, light: FloatArray) -> Image.Image:
    """The picture, dimmed where there is little light ([r, r] in [0, 1])."""
    mask = np.asarray(_grey(light).resize(picture.size, Image.Resampling.BILINEAR), dtype=np.float32) / 255
    lit = np.asarray(picture, dtype=np.float32) * (_DIMMED + (1 - _DIMMED) * mask)
    return Image.fromarray(lit.round().astype(np.uint8))


def _grey(values: FloatArray) -> Image.Image:
    return Image.fromarray((values.clip(0, 1) * 255).round().astype(np.uint8)).convert("RGB")
