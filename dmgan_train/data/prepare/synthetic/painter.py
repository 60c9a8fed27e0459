"""Paints a bird: flat shapes first, drawn large and reduced, then light from above on their relief."""

from __future__ import annotations

from itertools import chain

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from dmgan_train.data.prepare.synthetic.anatomy import SIDE, Anatomy, Points, lay_out
from dmgan_train.data.prepare.synthetic.backdrop import paint_backdrop, soft_noise
from dmgan_train.data.prepare.synthetic.birds import Bird
from dmgan_train.data.prepare.synthetic.colours import PALETTE, RGB, shade

_OVERSAMPLING = 3
# Back to front; the shapes of one layer merge, with one line around them all.
_LAYERS = (("tail",), ("body", "head"), ("back",), ("bill",), ("crown",), ("wing",))
_HEIGHTS = {"tail": 90, "body": 140, "back": 140, "head": 150, "bill": 150, "crown": 175, "wing": 215}
_WOOD = (104, 88, 76)
_LEG = (92, 76, 70)
_PUPIL = (18, 16, 20)
_EYE_RING = (236, 232, 224)
_GLINT = (255, 255, 255)


def paint(bird: Bird, rng: np.random.Generator) -> Image.Image:
    """Paints a picture of a bird.

    Args:
        bird: What to paint; everything that a caption can name, and the pose, comes from it.
        rng: Draws the texture of background, perch and plumage.

    Returns:
        An RGB picture of SIDE x SIDE pixels.
    """
    anatomy = lay_out(bird)
    backdrop = paint_backdrop(bird.background, rng)
    shapes = _draw_shapes(bird, anatomy, rng)
    *colours, cover = shapes.split()
    behind = ImageChops.multiply(backdrop, Image.merge("RGB", [ImageChops.invert(cover)] * 3))
    picture = ImageChops.add(behind, Image.merge("RGB", colours))
    _light(picture, cover, anatomy, rng)
    return picture


def _draw_shapes(bird: Bird, anatomy: Anatomy, rng: np.random.Generator) -> Image.Image:
    """Draws perch and bird in flat colours on nothing: four channels, the colours multiplied by the fourth."""
    # In RGBX all four channels are reduced alike: opaque shapes on zeros thus give premultiplied colours, and
    # Pillow's own way there from RGBA takes three times as long.
    canvas = Image.new("RGBX", (SIDE * _OVERSAMPLING,) * 2)
    draw = ImageDraw.Draw(canvas)
    _draw_perch(draw, anatomy, rng)
    colours = _layer_colours(bird)
    for layer in _LAYERS:
        outlines = {name: _enlarged(anatomy.outlines[name]) for name in layer}
        for name, outline in outlines.items():
            draw.line([*outline, *outline[:2]], fill=_opaque(shade(colours[name], 0.65)), width=2 * _OVERSAMPLING)
        for name, outline in outlines.items():
            draw.polygon(outline, fill=_opaque(colours[name]))
    _draw_feathers(draw, anatomy.outlines["wing"], shade(colours["wing"], 0.7))
    _draw_eye(draw, anatomy)
    return canvas.reduce(_OVERSAMPLING)


def _layer_colours(bird: Bird) -> dict[str, RGB]:
    colours = {part: PALETTE[name] for part, name in bird.colours.items()}
    back = shade(colours["wing"], 0.85)
    return colours | {"body": colours["belly"], "head": colours["belly"], "back": back, "tail": back}


def _draw_perch(draw: ImageDraw.ImageDraw, anatomy: Anatomy, rng: np.random.Generator) -> None:
    """A branch under the feet, as thick for a small bird as for a large one, and the legs."""
    foot = anatomy.legs[:, 1].mean(axis=0)
    slope = rng.uniform(-0.06, 0.06)
    across = np.linspace(-0.1, 1.1, 7) * SIDE
    branch = np.stack([across, foot[1] + 4 + slope * (across - foot[0]) + rng.uniform(-1, 1, 7)], axis=-1)
    dark, thick, thin = _opaque(shade(_WOOD, 0.8)), 9 * _OVERSAMPLING, 5 * _OVERSAMPLING
    draw.line(_enlarged(branch), fill=dark, width=thick, joint="curve")
    draw.line(_enlarged(branch - (0, 1.5)), fill=_opaque(_WOOD), width=thin, joint="curve")
    for leg in anatomy.legs:
        draw.line(_enlarged(leg), fill=_opaque(_LEG), width=round(0.03 * anatomy.unit * _OVERSAMPLING))


def _draw_feathers(draw: ImageDraw.ImageDraw, wing: Points, colour: RGB) -> None:
    """Three lines along the wing, fanning out from its tip."""
    count = len(wing)
    tip = wing[round(0.65 * count)]
    for share in (0.3, 0.52, 0.74):
        front = wing[round(0.10 * count)] * (1 - share) + wing[round(0.36 * count)] * share
        middle = wing[round(0.80 * count)] * (1 - share) + wing[round(0.50 * count)] * share
        line = np.stack([0.45 * front + 0.55 * middle, middle, 0.3 * middle + 0.7 * tip])
        draw.line(_enlarged(line), fill=_opaque(colour), width=_OVERSAMPLING, joint="curve")


def _draw_eye(draw: ImageDraw.ImageDraw, anatomy: Anatomy) -> None:
    x, y = _enlarged(anatomy.eye)
    radius = 0.036 * anatomy.unit * _OVERSAMPLING
    draw.circle((x, y), 1.45 * radius, fill=_opaque(_EYE_RING))
    draw.circle((x, y), radius, fill=_opaque(_PUPIL))
    draw.circle((x + 0.3 * radius, y - 0.35 * radius), 0.35 * radius, fill=_opaque(_GLINT))


def _light(picture: Image.Image, cover: Image.Image, anatomy: Anatomy, rng: np.random.Generator) -> None:
    """Lights the bird in the picture from above and behind, for the slope of its parts, and mottles its feathers."""
    relief = Image.new("L", picture.size)
    draw = ImageDraw.Draw(relief)
    for name in chain.from_iterable(_LAYERS):
        draw.polygon(anatomy.outlines[name].ravel().tolist(), fill=_HEIGHTS[name])
    box = relief.getbbox() or (0, 0, *picture.size)
    relief = relief.crop(box).filter(ImageFilter.GaussianBlur(0.035 * anatomy.unit))
    slope_down, slope_right = np.gradient(np.asarray(relief, dtype=np.float32))
    light = ((slope_down - 0.5 * slope_right) / 90).clip(-0.3, 0.3)
    mottling = np.asarray(soft_noise((26, 26), relief.size, rng), dtype=np.float32) * (0.08 / 255) - 0.04
    share = np.asarray(cover.crop(box), dtype=np.float32) / 255
    flat = np.asarray(picture.crop(box), dtype=np.float32)
    # The addend lets light fall on black too, which a factor alone would leave flat.
    lit = flat * (1 + (light + mottling) * share)[..., None] + (40 * light.clip(0) * share)[..., None]
    picture.paste(Image.fromarray(lit.clip(0, 255).astype(np.uint8)), box)


def _opaque(colour: RGB) -> tuple[int, int, int, int]:
    return (*colour, 255)


def _enlarged(points: Points) -> list[float]:
    """[..., 2] pixels of the picture, to x, y, x, y, ... of the oversampled canvas."""
    coordinates: list[float] = (points * _OVERSAMPLING).ravel().tolist()
    return coordinates
