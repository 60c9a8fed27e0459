"""Pictures of the memory at work: which words it wrote, and where it read them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from dmgan_runtime.errors import SettingsError
from dmgan_runtime.request import FloatArray
from dmgan_runtime.results import Generation
from dmgan_runtime.viz.pictures import bars, enlarge, grid, heading, stack

_SIDE = 144
_BAR_SIDE = 220
_COLUMNS = 6
# Black, purple, orange, white-yellow: brightness rises with the value, so the colours survive a grey printer.
_COLOURS = np.array([[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]], dtype=np.float32)


def draw_attention(generation: Generation) -> Image.Image:
    """Shows for each refinement stage where in the picture the memory's words were read.

    One heat map a word, in the caption's order, over that stage's picture; with each its share of all attention, and
    one colour scale for the whole stage: the brightest is the stage's largest weight (eq. 4), which is written above.

    Args:
        generation: Generated with `attention=True`, beyond the first stage.

    Raises:
        SettingsError: if it was not.
    """
    parts = []
    for resolution, attention in _attention(generation).items():
        largest = float(attention.max())
        picture = generation.stages[resolution]
        cells = [enlarge(picture, _SIDE), *(heat_map(picture, weights / largest, _SIDE) for weights in attention)]
        shares = attention.mean(axis=(1, 2))
        named = zip(generation.words, shares, strict=True)
        labels = ["the picture", *(f"{word} {_percent(share)}" for word, share in named)]
        sheet = grid(cells, labels, columns=min(len(cells), _COLUMNS))
        title = (
            f"{resolution} x {resolution}: attention of {attention.shape[1]} x {attention.shape[2]} pixels to each word"
        )
        parts += [heading(f"{title}; the brightest is {_percent(largest)}", sheet.width), sheet]
    return stack([heading(_title(generation), max(part.width for part in parts)), *parts])


def draw_top_words(generation: Generation, count: int = 5) -> Image.Image:
    """The words that matter most to each refinement stage, as in the paper's figure 6.

    On the left by memory writing, the gate of eq. 7: how much of a memory slot comes from its word. On the right by
    key addressing, eq. 4: a word's share of the attention of all pixels, which is 1 in total. A word that the caption
    has twice is two slots.

    Args:
        generation: Generated with `attention=True`, beyond the first stage.
        count: How many words to show.

    Raises:
        SettingsError: if it was not, or the count is less than 1.
    """
    if count < 1:
        raise SettingsError(f"count is {count}; pass at least 1")
    rows = []
    for resolution, attention in _attention(generation).items():
        gates = (generation.gates or {})[resolution].writing
        charts = [enlarge(generation.stages[resolution], _SIDE)]
        labels = [f"{resolution} x {resolution}"]
        if gates is not None:
            charts.append(_top(generation.words, gates, count))
            labels.append("memory writing")
        charts.append(_top(generation.words, attention.mean(axis=(1, 2)), count))
        labels.append("key addressing")
        rows.append(grid(charts, labels, columns=len(charts)))
    return stack([heading(_title(generation), max(row.width for row in rows)), *rows])


def heat_map(picture: Image.Image, weights: FloatArray, side: int) -> Image.Image:
    """A picture in grey, tinted by weights.

    Args:
        picture: RGB.
        weights: [r, r] float32 in [0, 1]; scaled up smoothly.
        side: Of the result, in pixels.
    """
    large = Image.fromarray(weights.astype(np.float32)).resize((side, side), Image.Resampling.BICUBIC)
    values = np.asarray(large).clip(0, 1)
    at = np.linspace(0, 1, len(_COLOURS))
    tint = np.stack([np.interp(values, at, channel) for channel in _COLOURS.T], axis=-1)
    grey = np.asarray(enlarge(picture, side).convert("L"), dtype=np.float32)[..., None]
    opacity = 0.2 + 0.7 * values[..., None]
    return Image.fromarray(((1 - opacity) * grey + opacity * tint).round().astype(np.uint8))


def _attention(generation: Generation) -> dict[int, FloatArray]:
    if not generation.attention:
        raise SettingsError(
            "this generation has no attention to draw; generate it with attention=True, and to more than the"
            " first stage's resolution"
        )
    return generation.attention


def _top(words: Sequence[str], values: npt.NDArray[np.float32], count: int) -> Image.Image:
    best = np.argsort(-values, kind="stable")[:count]
    return bars([(words[index], float(values[index])) for index in best], (_BAR_SIDE, _SIDE))


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%" if share >= 0.1 else f"{100 * share:.1f}%"


def _title(generation: Generation) -> str:
    return f"{' '.join(generation.words)}   (seed {generation.seed})"
