"""Pictures in rows and columns, with headings that a reader can read."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

_FONT = 13
_GAP = 6
_HEADING_LINES = 4
_ROW_HEADING = 150
LEGIBLE_SIDE = 160


def legible(image: Image.Image, side: int = LEGIBLE_SIDE) -> Image.Image:
    """A square picture at exactly `side` pixels: whole pixels repeated if it is smaller, filtered if larger."""
    if image.width == side:
        return image
    enlarge = image.width < side
    return image.resize((side, side), Image.Resampling.NEAREST if enlarge else Image.Resampling.LANCZOS)


def sheet(
    rows: Sequence[Sequence[Image.Image]], row_headings: Sequence[str], column_headings: Sequence[str] | None = None
) -> Image.Image:
    """Lays rows of pictures out on white, a heading to the left of each row and above each column.

    Args:
        rows: Pictures of one size; rows may differ in length.
        row_headings: One a row; wrapped, cut after as many lines as the picture is high.
        column_headings: One a column of the longest row; None for none.
    """
    width, height = rows[0][0].size
    columns = max(len(row) for row in rows)
    tops = [_text(heading, width, _HEADING_LINES) for heading in column_headings or []]
    top = _GAP + max((label.height + _GAP for label in tops), default=0)
    left = 2 * _GAP + _ROW_HEADING
    picture = Image.new("RGB", (left + columns * (width + _GAP), top + len(rows) * (height + _GAP)), "white")
    for column, label in enumerate(tops):
        picture.paste(label, (left + column * (width + _GAP), top - _GAP - label.height))
    lines = max(1, height // (_FONT + 4))
    for number, (row, heading) in enumerate(zip(rows, row_headings, strict=True)):
        y = top + number * (height + _GAP)
        label = _text(heading, _ROW_HEADING, lines)
        picture.paste(label, (_GAP, y + (height - label.height) // 2))
        for column, image in enumerate(row):
            picture.paste(image, (left + column * (width + _GAP), y))
    return picture


def stack(parts: Sequence[Image.Image], title: str) -> Image.Image:
    """Pictures below each other on white, a title over them."""
    width = max(part.width for part in parts)
    heading = _text(title, width - 2 * _GAP, _HEADING_LINES)
    height = heading.height + 2 * _GAP + sum(part.height + _GAP for part in parts)
    picture = Image.new("RGB", (width, height), "white")
    picture.paste(heading, (_GAP, _GAP))
    y = heading.height + 2 * _GAP
    for part in parts:
        picture.paste(part, (0, y))
        y += part.height + _GAP
    return picture


def _text(text: str, width: int, lines: int) -> Image.Image:
    font = ImageFont.load_default(_FONT)
    characters = max(1, int(width / font.getlength("n")))
    wrapped = [
        piece
        for line in text.split("\n")
        for piece in textwrap.wrap(line, characters, max_lines=lines, placeholder=" ...") or [""]
    ]
    body = "\n".join(wrapped[:lines])
    probe = ImageDraw.Draw(Image.new("L", (1, 1)))
    bottom = probe.multiline_textbbox((0, 0), body, font)[3]
    label = Image.new("RGB", (width, int(bottom) + 2), "white")
    ImageDraw.Draw(label).multiline_text((0, 0), body, fill="black", font=font)
    return label
