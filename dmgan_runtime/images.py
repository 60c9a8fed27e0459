"""Arrays to pictures, pictures to grids, and both to files."""

from __future__ import annotations

import math
import secrets
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dmgan_runtime.errors import SettingsError
from dmgan_runtime.results import FloatArray

_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
_MARGIN = 6
_MIN_LABEL_WIDTH = 96
_MAX_LABEL_LINES = 4


def to_pil(image: FloatArray) -> Image.Image:
    """Turns an image of the generator into a picture.

    Args:
        image: [3, H, W] float32; -1 is black and 1 is white, and what lies beyond is clipped.

    Returns:
        RGB, each value rounded to the nearest of 0..255.

    Raises:
        ValueError: if the shape is another.
    """
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"the image has the shape {list(image.shape)}; pass [3, H, W]")
    levels = np.rint((image.clip(-1, 1) + 1) * 127.5).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(levels.transpose(1, 2, 0)))


def grid(
    images: Sequence[Image.Image], captions: Sequence[str] | None = None, columns: int | None = None
) -> Image.Image:
    """Lays pictures out in rows on white.

    Args:
        images: At least one, of any sizes; each is centred in a cell as large as the largest.
        captions: Text under each, wrapped to its cell and cut after four lines; None for no text.
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

    step_x, step_y = width + _MARGIN, height + label_height + _MARGIN
    sheet = Image.new("RGB", (columns * step_x + _MARGIN, rows * step_y + _MARGIN), "white")
    for index, image in enumerate(images):
        left, top = _MARGIN + index % columns * step_x, _MARGIN + index // columns * step_y
        sheet.paste(image, (left + (width - image.width) // 2, top + (height - image.height) // 2))
        if labels:
            sheet.paste(labels[index], (left, top + height))
    return sheet


def enlarge(image: Image.Image, side: int) -> Image.Image:
    """Repeats the pixels of a square picture until its side is `side`, so that stages can be compared."""
    return image.resize((side, side), Image.Resampling.NEAREST)


def check_format(path: Path) -> str:
    """The format that a file name's ending asks for.

    Raises:
        SettingsError: if it is none of .png, .jpg, .jpeg and .webp.
    """
    try:
        return _FORMATS[path.suffix.lower()]
    except KeyError:
        raise SettingsError(f"{path}: cannot tell the picture's format; end it in {', '.join(_FORMATS)}") from None


def save(image: Image.Image, path: Path) -> None:
    """Writes a picture whole or not at all, making its folder if there is none.

    Args:
        image: Any picture.
        path: Ends in .png, .jpg, .jpeg or .webp. A file of that name is replaced.

    Raises:
        SettingsError: if it ends otherwise.
        OSError: if it cannot be written; an old file of that name is then as it was.
    """
    file_format = check_format(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".dmgan-{secrets.token_hex(8)}.tmp")
    try:
        image.save(temporary, format=file_format, quality=95)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _label(text: str, width: int) -> Image.Image:
    font = ImageFont.load_default()
    characters = max(1, int(width / font.getlength("n")))
    lines = textwrap.wrap(text, characters, max_lines=_MAX_LABEL_LINES, placeholder=" ...") or [""]
    probe = ImageDraw.Draw(Image.new("L", (1, 1)))
    bottom = probe.multiline_textbbox((0, 0), "\n".join(lines), font)[3]
    label = Image.new("RGB", (width, math.ceil(bottom) + _MARGIN), "white")
    ImageDraw.Draw(label).multiline_text((0, _MARGIN // 2), "\n".join(lines), fill="black", font=font)
    return label
