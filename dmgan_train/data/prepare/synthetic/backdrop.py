"""What is behind the bird: a gradient and soft blots, blurred as a photograph's background is."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from PIL import Image

from dmgan_train.data.prepare.synthetic.anatomy import SIDE
from dmgan_train.data.prepare.synthetic.birds import Background
from dmgan_train.data.prepare.synthetic.colours import RGB


class _Scene(NamedTuple):
    """Attributes:
    top: The colour at the top of the picture.
    bottom: The colour at the bottom.
    blot: The colour of the blots.
    grid: Rows and columns of the blots: many rows and few columns make waves.
    strength: How far a blot covers, from 0 to 1.
    """

    top: RGB
    bottom: RGB
    blot: RGB
    grid: tuple[int, int]
    strength: float


_SCENES: dict[Background, _Scene] = {
    "sky": _Scene((116, 182, 240), (172, 214, 246), (240, 246, 252), (5, 4), 0.45),
    "leaves": _Scene((128, 164, 92), (84, 124, 70), (164, 196, 110), (10, 10), 0.6),
    "water": _Scene((74, 140, 156), (44, 106, 128), (120, 180, 188), (22, 4), 0.5),
    "sand": _Scene((232, 214, 176), (212, 186, 140), (196, 168, 122), (7, 4), 0.5),
    "snow": _Scene((220, 226, 234), (240, 242, 246), (202, 212, 228), (7, 5), 0.5),
    "dusk": _Scene((168, 124, 172), (246, 178, 148), (250, 206, 176), (9, 3), 0.45),
}

BACKGROUND_COLOURS: dict[str, RGB] = {
    name: (
        (scene.top[0] + scene.bottom[0]) // 2,
        (scene.top[1] + scene.bottom[1]) // 2,
        (scene.top[2] + scene.bottom[2]) // 2,
    )
    for name, scene in _SCENES.items()
}


def paint_backdrop(background: Background, rng: np.random.Generator) -> Image.Image:
    """Paints a background: an RGB picture of SIDE x SIDE pixels."""
    scene = _SCENES[background]
    cover = soft_noise(scene.grid, (SIDE, SIDE), rng).point(lambda value: scene.strength * value)
    return Image.composite(Image.new("RGB", (SIDE, SIDE), scene.blot), _gradient(background), cover)


def soft_noise(grid: tuple[int, int], size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Smooth noise, from random grey values on a grid.

    Args:
        grid: Rows and columns of the random values.
        size: Width and height of the result.
        rng: Draws the values.

    Returns:
        A grey picture, even from 0 to 255 but for the smoothing.
    """
    return Image.fromarray(rng.integers(256, size=grid, dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)


@cache
def _gradient(background: Background) -> Image.Image:
    scene = _SCENES[background]
    down = np.linspace(0, 1, SIDE)[:, None, None]
    rows = (1 - down) * scene.top + down * scene.bottom
    return Image.fromarray(np.broadcast_to(rows, (SIDE, SIDE, 3)).round().astype(np.uint8))
