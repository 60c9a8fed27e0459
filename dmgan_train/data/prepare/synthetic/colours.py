"""The colours that captions name, and which of them a pixel shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

RGB: TypeAlias = tuple[int, int, int]

# Orange and brown, blue and purple, brown and black are the close pairs: these shades keep them apart when shaded.
PALETTE: Mapping[str, RGB] = {
    "red": (208, 28, 38),
    "orange": (248, 134, 22),
    "yellow": (252, 218, 44),
    "green": (34, 152, 62),
    "blue": (32, 92, 214),
    "purple": (136, 52, 170),
    "brown": (122, 74, 42),
    "black": (32, 32, 38),
    "white": (246, 246, 244),
}

_TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def nearest_colour(rgb: npt.ArrayLike, among: Mapping[str, RGB] = PALETTE) -> str:
    """Names the colour that looks most like a pixel, by distance in OKLab.

    Args:
        rgb: Three numbers from 0 to 255.
        among: The colours to choose from, by name.
    """
    names = list(among)
    distances = np.linalg.norm(_oklab([among[name] for name in names]) - _oklab(rgb), axis=-1)
    return names[int(distances.argmin())]


def shade(rgb: RGB, factor: float) -> RGB:
    """Makes a colour darker (factor under 1) or brighter (over 1), each channel kept in 0 to 255."""
    red, green, blue = (min(255, round(channel * factor)) for channel in rgb)
    return red, green, blue


def _oklab(rgb: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """[..., 3] sRGB from 0 to 255, to OKLab: a space where equal distances look equal (Ottosson, 2020)."""
    encoded = np.asarray(rgb, dtype=np.float64) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    lab: npt.NDArray[np.float64] = np.cbrt(linear @ _TO_CONES.T) @ _TO_LAB.T
    return lab
