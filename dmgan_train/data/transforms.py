"""Pictures from files to the squares that the networks are trained on, by Pillow and numpy alone.

Sizes and roundings are those of the published code and of the torchvision transforms that it uses.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

from dmgan_runtime.errors import DataError, shortened
from dmgan_train.data.examples import Box
from dmgan_train.data.files import refuse_pointer

Augment = Literal["crop_flip", "flip", "none"]
Pixels = npt.NDArray[np.uint8]

_WHITE = (255, 255, 255, 255)
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
LONGEST = 8
"""How many times as long as its shorter side a picture may be; of a longer one the middle is taken."""


def load_image(path: Path) -> Image.Image:
    """Reads a picture as it is meant to be seen, on a white ground.

    Args:
        path: A picture of any mode: grey (8 or 16 bits), palette, RGB, CMYK, with or without alpha. Of an animated one
            the first frame is read.

    Returns:
        The whole picture, decoded, upright by its EXIF orientation, mode RGB.

    Raises:
        DataError: if the file is missing, truncated, no picture, of over 178 million pixels, or of numbers without a
            range (32-bit floats). The message is `<path>: <reason>`.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return _to_rgb(_upright(image))
    except FileNotFoundError as error:
        raise DataError(f"{shortened(path)}: there is no such file") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{path}: cannot be read as a picture ({_what_it_is(path)})") from error
    except Exception as error:  # decoders raise whatever a broken file makes them stumble over
        raise DataError(f"{shortened(path)}: cannot be read as a picture ({shortened(error)})") from error


def _what_it_is(path: Path) -> str:
    with path.open("rb") as stream:
        beginning = stream.read(64)
    try:
        refuse_pointer(path, beginning)
    except DataError as error:
        return str(error).removeprefix(f"{path}: ")
    return "it is in no format that Pillow knows" if beginning else "it is empty"


def _upright(image: Image.Image) -> Image.Image:
    """The picture as its EXIF says that it was taken; as it is stored, if that cannot be read."""
    turn = None
    with suppress(Exception):  # whatever broken EXIF makes Pillow stumble over: the picture itself is sound
        turn = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("it holds floats, whose range is not known; save it with 8 bits")
    if image.mode == "I" or image.mode.startswith("I;16"):
        # 16 bit grey. Pillow's own conversion to 8 bits clips at 255 and would make nearly all of it white.
        return Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        return on_white(image)
    return image.convert("RGB")


def on_white(image: Image.Image) -> Image.Image:
    """A picture with transparency, of any mode, on a white ground: mode RGB."""
    ground = Image.new("RGBA", image.size, _WHITE)
    return Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB")


def cub_crop(image: Image.Image, box: Box) -> Image.Image:
    """Cuts the square around a bird that the published code trains on.

    Its half-side is 0.75 times the box's longer side; it is clipped to the picture, so it may end up no square.

    Args:
        image: The whole picture.
        box: x, y, width and height in pixels of the picture.

    Raises:
        DataError: if the box lies outside the picture, or is empty.
    """
    x, y, width, height = box
    radius = int(max(width, height) * 0.75)
    center_x, center_y = int((2 * x + width) / 2), int((2 * y + height) / 2)
    left, right = max(0, center_x - radius), min(image.width, center_x + radius)
    top, bottom = max(0, center_y - radius), min(image.height, center_y + radius)
    if left >= right or top >= bottom:
        raise DataError(f"the box {box} holds nothing of a picture of {image.width}x{image.height} pixels")
    return image.crop((left, top, right, bottom))


def resize_short_side(image: Image.Image, size: int) -> Image.Image:
    """Scales a picture until its shorter side is `size` pixels, bilinear with antialiasing.

    Of one that is over `LONGEST` times as long as its shorter side the middle is taken first: scaled whole, a line of
    1x3,000 pixels would fill 832 MB.
    """
    image = _cut_to_longest(image)
    if image.width <= image.height:
        return image.resize((size, int(size * image.height / image.width)), Image.Resampling.BILINEAR)
    return image.resize((int(size * image.width / image.height), size), Image.Resampling.BILINEAR)


def _cut_to_longest(image: Image.Image) -> Image.Image:
    longest = LONGEST * min(image.size)
    if max(image.size) <= longest:
        return image
    width, height = min(image.width, longest), min(image.height, longest)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def scaled_side(resolution: int, augment: Augment) -> int:
    """The shorter side to which a picture is scaled before a square of `resolution` pixels is cut out of it.

    76/64 of it for `crop_flip`, and the resolution itself otherwise.
    """
    return resolution * 76 // 64 if augment == "crop_flip" else resolution


def cut_square(
    pixels: Pixels, resolution: int, augment: Augment, rng: np.random.Generator | None
) -> tuple[Pixels, bool]:
    """Cuts a square out of a scaled picture and chooses whether it is mirrored, at random while training.

    `crop_flip` cuts and mirrors at random, which with 76/64 of the resolution as the shorter side is the published
    code's augmentation. `flip` and `none` cut from the middle, so that of a picture whose shorter side is the
    resolution at least one side is seen whole; `flip` also mirrors at random.

    Args:
        pixels: [height, width, 3], neither side under `resolution`.
        resolution: Side of the result in pixels.
        augment: What to vary.
        rng: Draws the variations; None for evaluation: the middle, and not mirrored.

    Returns:
        [resolution, resolution, 3], a view of the picture, and whether it shall be mirrored.
    """
    spare_y, spare_x = pixels.shape[0] - resolution, pixels.shape[1] - resolution
    left, top = round(spare_x / 2), round(spare_y / 2)
    if rng is not None and augment == "crop_flip":
        left, top = int(rng.integers(spare_x + 1)), int(rng.integers(spare_y + 1))
    mirrored = rng is not None and augment != "none" and bool(rng.random() < 0.5)
    return pixels[top : top + resolution, left : left + resolution], mirrored
