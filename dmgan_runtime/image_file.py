"""Pictures to files, and what is written into a PNG beside them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dmgan_runtime.atomic import replacing
from dmgan_runtime.errors import SettingsError, printable

_MOST_PIXELS = {"WEBP": 16_383, "JPEG": 65_500}
_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
_QUALITY = 95


def check_format(path: Path) -> str:
    """The format that a file name's ending asks for.

    Raises:
        SettingsError: if it is none of .png, .jpg, .jpeg and .webp.
    """
    try:
        return _FORMATS[path.suffix.lower()]
    except KeyError:
        raise SettingsError(f"{path}: cannot tell the picture's format; end it in {', '.join(_FORMATS)}") from None


def check_size(path: Path, width: int, height: int) -> str:
    """The format that a file name's ending asks for, which has room for so many pixels.

    Raises:
        SettingsError: if it has not, or there is no such format.
    """
    file_format = check_format(path)
    most = _MOST_PIXELS.get(file_format)
    if most is not None and max(width, height) > most:
        raise SettingsError(
            f"{path}: a picture of {width}x{height} pixels, and a {file_format} has at most {most:,} to a side; end the"
            " name in .png, or ask for fewer images"
        )
    return file_format


def save(image: Image.Image, path: Path, text: Mapping[str, str] | None = None) -> None:
    """Writes a picture whole or not at all, making its folder if there is none.

    Args:
        image: Any picture.
        path: Ends in .png, .jpg, .jpeg or .webp. A file of that name is replaced.
        text: As in `encode`.

    Raises:
        SettingsError: if it ends otherwise, or the picture is too large for the format.
        OSError: if it cannot be written; an old file of that name is then as it was.
    """
    file_format = check_size(path, *image.size)
    with replacing(path) as scratch:
        _write(image, scratch, file_format, text)


def encode(image: Image.Image, file_format: str, text: Mapping[str, str] | None = None) -> bytes:
    """A picture as the bytes of a file.

    Args:
        image: Any picture that the format can hold.
        file_format: "PNG", "JPEG" or "WEBP".
        text: Written into a PNG by keyword, as `tEXt` where Latin-1 can hold it and `iTXt` otherwise; the other formats
            have no place for it. Characters that cannot be shown become their escapes, as in messages.
    """
    content = io.BytesIO()
    _write(image, content, file_format, text)
    return content.getvalue()


def _write(image: Image.Image, to: Path | IO[bytes], file_format: str, text: Mapping[str, str] | None) -> None:
    info = PngInfo()
    for keyword, value in (text or {}).items():
        info.add_text(keyword, printable(value))
    image.save(to, format=file_format, quality=_QUALITY, pnginfo=info)
