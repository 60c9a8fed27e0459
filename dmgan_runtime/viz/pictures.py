"""Pictures to grids and charts."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from dmgan_runtime.errors import printable

MARGIN = 6
"""Pixels between the pictures of a grid and around them."""
_MIN_LABEL_WIDTH = 96
_MAX_LABEL_LINES = 4
_MAX_LABEL_CHARACTERS = 1000
_LABEL_SIZE = 12
_HEADING_SIZE = 15
_BAR_TEXT_SIZE = 13
_NO_BREAK = "\xa0"
_JOINER = "\u200d"
_BREAKS = re.compile(rf"[^\S{_NO_BREAK}]+")
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def grid(
    images: Sequence[Image.Image], captions: Sequence[str] | None = None, columns: int | None = None
) -> Image.Image:
    """Lays pictures out in rows on white.

    Args:
        images: At least one, of any sizes; each is centred in a cell as large as the largest.
        captions: Text under each, wrapped to its cell (but not at a no-break space) and cut after four lines; None for
            no text.
        columns: Pictures in a row; None makes the grid about square.

    Raises:
        ValueError: if there are no pictures, or not as many captions as pictures.
    """
    if not images or (captions is not None and len(captions) != len(images)):
        raise ValueError(f"{len(images)} images and {len(captions or [])} captions; pass at least one of each, as many")
    columns = min(columns or math.ceil(math.sqrt(len(images))), len(images))
    rows = math.ceil(len(images) / columns)
    width = max(image.width for image in images)
    height = max(image.height for image in images)
    labels: list[Image.Image] = []
    if captions is not None:
        width = max(width, _MIN_LABEL_WIDTH)
        labels = [_label(caption, width) for caption in captions]
    label_height = max((label.height for label in labels), default=0)

    step_x, step_y = width + MARGIN, height + label_height + MARGIN
    sheet = Image.new("RGB", (columns * step_x + MARGIN, rows * step_y + MARGIN), "white")
    for index, image in enumerate(images):
        left, top = MARGIN + index % columns * step_x, MARGIN + index // columns * step_y
        sheet.paste(image, (left + (width - image.width) // 2, top + (height - image.height) // 2))
        if labels:
            sheet.paste(labels[index], (left, top + height))
    return sheet


def enlarge(image: Image.Image, side: int) -> Image.Image:
    """Repeats the pixels of a square picture until its side is `side`, so that stages can be compared."""
    return image.resize((side, side), Image.Resampling.NEAREST)


def heading(text: str, width: int) -> Image.Image:
    """A line or a few of larger text, wrapped to `width` pixels."""
    return _label(text, width, _HEADING_SIZE)


def stack(parts: Sequence[Image.Image]) -> Image.Image:
    """Pictures of any widths one under the other, on white, from the left."""
    sheet = Image.new("RGB", (max(part.width for part in parts), sum(part.height for part in parts)), "white")
    top = 0
    for part in parts:
        sheet.paste(part, (0, top))
        top += part.height
    return sheet


def bars(values: Sequence[tuple[str, float]], size: tuple[int, int]) -> Image.Image:
    """A bar chart: a name, a bar and a percentage in each row.

    Args:
        values: Names, each with a value from 0 to 1; a whole bar is the largest of them.
        size: Width and height of the chart.
    """
    chart = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(chart)
    font = ImageFont.load_default(_BAR_TEXT_SIZE)
    width, height = size
    row = height / max(len(values), 1)
    left, right = int(width * 0.4), int(width * 0.8)
    largest = max((value for _, value in values), default=0) or 1
    for index, (name, value) in enumerate(values):
        middle = (index + 0.5) * row
        draw.text((left - MARGIN, middle), _shorten(name, left - 2 * MARGIN, font), "black", font, anchor="rm")
        end = left + max(1, round((right - left) * value / largest))
        draw.rectangle((left, middle - row * 0.35, end, middle + row * 0.35), fill="steelblue")
        draw.text((end + MARGIN, middle), f"{100 * value:.0f}%", "black", font, anchor="lm")
    return chart


def _shorten(text: str, width: float, font: _Font) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text}..."


def _label(text: str, width: int, size: int = _LABEL_SIZE) -> Image.Image:
    font = ImageFont.load_default(size)
    shown = text[:_MAX_LABEL_CHARACTERS].replace(_JOINER, "")  # which the font draws as a box
    words = [printable(word.replace(_NO_BREAK, " ")) for word in _BREAKS.split(shown) if word]
    lines = _wrap(words, width - MARGIN, font)
    probe = ImageDraw.Draw(Image.new("L", (1, 1)))
    bottom = probe.multiline_textbbox((0, 0), "\n".join(lines), font)[3]
    label = Image.new("RGB", (width, math.ceil(bottom) + MARGIN), "white")
    ImageDraw.Draw(label).multiline_text((MARGIN // 2, MARGIN // 2), "\n".join(lines), fill="black", font=font)
    return label


def _wrap(words: Sequence[str], width: float, font: _Font) -> list[str]:
    """Lines no wider than `width`, at most four; the last ends in dots if there would be more."""
    lines = [""]
    for word in words:
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        elif len(lines) < _MAX_LABEL_LINES:
            lines.append(word)
        else:
            lines[-1] = _shorten(f"{longer} ...", width, font)
            break
    return [_shorten(line, width, font) for line in lines]
