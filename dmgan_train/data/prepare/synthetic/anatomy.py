"""Where everything is: the outlines of a bird's parts, its bounding box, and a point inside each named part."""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from dmgan_train.data.prepare.synthetic.birds import BillShape, Bird, Size

Points: TypeAlias = npt.NDArray[np.float64]

SIDE = 160
CROP = 0.75  # half the side of CUB's crop, over the longer side of the bounding box
RANDOM_CROP = 64 / 76  # the share of that crop that training sees

_SCALES: dict[Size, float] = {"small": 0.52, "medium": 0.62, "large": 0.72}
_HEADS: dict[Size, float] = {"small": 1.12, "medium": 1.0, "large": 0.92}
_MIDDLE = np.array([0.54, 0.51])
_NECK = np.array([0.66, 0.36])

# Control points of closed curves, for a bird that faces right in a frame of about 1 x 1, y down.
_BODY = {
    "tail": [(0.30, 0.58), (0.12, 0.76), (-0.03, 0.93), (0.06, 0.98), (0.18, 0.90), (0.34, 0.78)],
    "body": [
        (0.56, 0.28), (0.40, 0.40), (0.25, 0.56), (0.22, 0.72), (0.34, 0.86), (0.52, 0.93), (0.70, 0.88), (0.83, 0.72),
        (0.87, 0.54), (0.84, 0.36), (0.72, 0.24),
    ],
    "back": [(0.56, 0.29), (0.40, 0.40), (0.25, 0.56), (0.22, 0.70), (0.36, 0.70), (0.56, 0.54), (0.62, 0.40)],
    "wing": [
        (0.52, 0.42), (0.63, 0.50), (0.64, 0.64), (0.52, 0.76), (0.32, 0.84), (0.09, 0.88), (0.22, 0.70), (0.36, 0.50),
    ],
}  # fmt: skip
_HEAD = {
    "head": [
        (0.50, 0.26), (0.55, 0.11), (0.69, 0.04), (0.83, 0.10), (0.90, 0.24), (0.86, 0.39), (0.70, 0.46), (0.55, 0.40),
    ],
    "crown": [
        (0.90, 0.20), (0.85, 0.08), (0.71, 0.01), (0.57, 0.06), (0.485, 0.19), (0.455, 0.34), (0.51, 0.38),
        (0.58, 0.28), (0.75, 0.215),
    ],
}  # fmt: skip
_BILLS: dict[BillShape, list[tuple[float, float]]] = {
    "short": [(0.84, 0.15), (0.97, 0.17), (1.12, 0.285), (0.97, 0.37), (0.84, 0.385)],
    "long": [(0.84, 0.15), (1.02, 0.18), (1.24, 0.295), (1.02, 0.365), (0.84, 0.385)],
    "curved": [(0.84, 0.14), (1.01, 0.14), (1.15, 0.26), (1.14, 0.44), (1.05, 0.37), (0.94, 0.37), (0.84, 0.385)],
}
_EYE = (0.775, 0.265)
_HIPS = ((0.50, 0.90), (0.60, 0.90))
_PERCH = (0.55, 1.0)
_BODY_POINTS = {"belly": (0.74, 0.72), "wing": (0.48, 0.62)}
_HEAD_POINTS = {"crown": (0.66, 0.10), "bill": (0.96, 0.27)}


class Anatomy(NamedTuple):
    """A bird laid out in the picture; all positions are [..., 2] float64, x then y, in pixels.

    Attributes:
        outlines: The closed outline of tail, body, back, wing, head, crown and bill, each [n, 2].
        eye: [2].
        legs: [2, 2, 2]: for each leg where it leaves the body, and its foot.
        unit: How many pixels the bird's frame measures.
    """

    outlines: dict[str, Points]
    eye: Points
    legs: Points
    unit: float


def lay_out(bird: Bird) -> Anatomy:
    """Puts the parts of a bird where its size and its pose have them."""
    body, head = _maps(bird)
    curves = _head_curves(bird.plumage.bill_shape)
    outlines = {name: body.apply(curve) for name, curve in _body_curves().items()}
    outlines |= {name: head.apply(curve) for name, curve in curves.items()}
    # Both feet stand on the perch, however the bird leans.
    hips, (_, perch) = body.apply(_HIPS), body.apply(_PERCH)
    feet = np.stack([hips[:, 0], np.full(2, perch)], axis=-1)
    return Anatomy(outlines, head.apply(_EYE), np.stack([hips, feet], axis=1), _unit(bird))


def bounding_box(bird: Bird) -> tuple[float, float, float, float]:
    """The box around all that is bird, as CUB writes it: left, top, width and height in pixels."""
    anatomy = lay_out(bird)
    everything = np.concatenate([*anatomy.outlines.values(), anatomy.legs.reshape(-1, 2)])
    left, top = np.floor(everything.min(axis=0)).clip(0)
    right, bottom = np.ceil(everything.max(axis=0)).clip(max=SIDE)
    return float(left), float(top), float(right - left), float(bottom - top)


def part_points(bird: Bird) -> dict[str, tuple[int, int]]:
    """A pixel (x, y) of the painted picture well inside crown, belly, wing, bill and background."""
    body, head = _maps(bird)
    left, top, _, height = bounding_box(bird)
    points = {part: body.apply(point) for part, point in _BODY_POINTS.items()}
    points |= {part: head.apply(point) for part, point in _HEAD_POINTS.items()}
    points["background"] = np.array([left, top + 0.1 * height])
    return {part: (int(x), int(y)) for part, (x, y) in points.items()}


def cropped_points(bird: Bird, side: int, *, share: float = RANDOM_CROP) -> dict[str, tuple[int, int]]:
    """Where `part_points` come to lie in a training image: CUB's crop, and of that the middle, not flipped.

    Args:
        bird: Without a pose it stands in the middle of all poses: right for measuring what a generator makes.
        side: The side of the training image in pixels, such as 64.
        share: How much of CUB's crop the training image shows; 1 where `data.augment` is `flip` or `none`.

    Returns:
        A pixel (x, y) for each part, from 0 to side - 1.
    """
    left, top, width, height = bounding_box(bird)
    half = CROP * max(width, height)
    start = np.array([left + width / 2, top + height / 2]) - half
    end = (start + 2 * half).clip(max=SIDE)
    start = start.clip(0)
    points = {}
    for part, point in part_points(bird).items():
        in_crop = (np.array(point) + 0.5 - start) / (end - start)
        x, y = (((in_crop - 0.5) / share + 0.5) * side).clip(0, side - 1)
        points[part] = (int(x), int(y))
    return points


class _Map(NamedTuple):
    """An affine map from the bird's frame to pixels: point @ matrix + offset."""

    matrix: Points
    offset: Points

    def apply(self, points: npt.ArrayLike) -> Points:
        """[..., 2] in the bird's frame, to [..., 2] pixels."""
        return np.asarray(points, dtype=np.float64) @ self.matrix + self.offset


def _maps(bird: Bird) -> tuple[_Map, _Map]:
    """Where the body's points go, and where the head's go, which the neck turns and sizes first."""
    pose = bird.pose
    stretch = np.diag([math.sqrt(pose.girth), 1 / math.sqrt(pose.girth)])
    body = stretch @ _rotation(pose.lean) * _unit(bird)
    offset = SIDE * (np.array(pose.shift) + 0.5) - _MIDDLE @ body
    neck = _rotation(pose.nod) * _HEADS[bird.size]
    return _Map(body, offset), _Map(neck @ body, (_NECK - _NECK @ neck) @ body + offset)


def _unit(bird: Bird) -> float:
    return SIDE * _SCALES[bird.size] * bird.pose.scale


def _rotation(degrees: float) -> Points:
    """[2, 2]: turns row vectors clockwise in a picture (y down), which leans a bird that faces right forward."""
    angle = math.radians(degrees)
    return np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])


@cache
def _body_curves() -> dict[str, Points]:
    return {name: _smooth(points) for name, points in _BODY.items()}


@cache
def _head_curves(bill: BillShape) -> dict[str, Points]:
    return {name: _smooth(points) for name, points in {**_HEAD, "bill": _BILLS[bill]}.items()}


def _smooth(controls: list[tuple[float, float]], steps: int = 4) -> Points:
    """[steps * n, 2]: the closed Catmull-Rom curve through n points."""
    p1 = np.array(controls)[:, None]
    p0, p2, p3 = (np.roll(p1, shift, axis=0) for shift in (1, -1, -2))
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    terms = 2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3
    return terms.reshape(-1, 2) / 2
