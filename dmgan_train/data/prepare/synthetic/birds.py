"""What is to be painted: a bird in a picture, as a caption can describe it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np

from dmgan_runtime.errors import SettingsError
from dmgan_train.data.prepare.synthetic.captions import CAPTIONS_PER_IMAGE, write_captions
from dmgan_train.data.prepare.synthetic.colours import PALETTE

BillShape: TypeAlias = Literal["short", "long", "curved"]
Size: TypeAlias = Literal["small", "medium", "large"]
Background: TypeAlias = Literal["sky", "leaves", "water", "sand", "snow", "dusk"]

PARTS = ("crown", "belly", "wing", "bill")
BILL_COLOURS = ("black", "yellow", "orange", "red", "white")
BILL_SHAPES: tuple[BillShape, ...] = ("short", "long", "curved")
SIZES: tuple[Size, ...] = ("small", "medium", "large")
BACKGROUNDS: tuple[Background, ...] = ("sky", "leaves", "water", "sand", "snow", "dusk")


@dataclass(frozen=True, slots=True)
class Plumage:
    """What the birds of one species share.

    Attributes:
        crown: A colour of `PALETTE`.
        belly: A colour of `PALETTE`; the breast, the throat and the face have it too.
        wing: A colour of `PALETTE`; the back and the tail have a darker shade of it.
        bill: A colour of `PALETTE`.
        bill_shape: `short`, `long` or `curved`.

    Raises:
        SettingsError: if a colour or the shape is none of these.
    """

    crown: str
    belly: str
    wing: str
    bill: str
    bill_shape: BillShape = "short"

    def __post_init__(self) -> None:
        for part in PARTS:
            _check(part, getattr(self, part), tuple(PALETTE))
        _check("bill_shape", self.bill_shape, BILL_SHAPES)


@dataclass(frozen=True, slots=True)
class Pose:
    """How a bird is held and where it stands; the defaults are the middle of what is drawn.

    Attributes:
        lean: Degrees that the bird leans forward, from -2 to 2.
        nod: Degrees that the head leans forward beyond the body, from -2 to 2.
        girth: Width over height against the usual, from 0.98 to 1.02.
        scale: Size against the usual of its kind, from 0.95 to 1.05.
        shift: To the right and down, as a share of the picture, from -0.01 to 0.01 each.
    """

    lean: float = 0.0
    nod: float = 0.0
    girth: float = 1.0
    scale: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Pose:
        """Draws a pose, evenly from the ranges above."""
        lean, nod, girth, scale, right, down = rng.uniform(-1, 1, 6).tolist()
        return cls(
            lean=2 * lean,
            nod=2 * nod,
            girth=1 + 0.02 * girth,
            scale=1 + 0.05 * scale,
            shift=(0.01 * right, 0.01 * down),
        )


@dataclass(frozen=True, slots=True)
class Bird:
    """One bird in one picture, facing right.

    Attributes:
        plumage: The colours of its species.
        size: `small`, `medium` or `large`: how much of the picture it fills, and a big head or a small one.
        background: What is behind it, one of `BACKGROUNDS`.
        pose: How it is held; no caption speaks of it.

    Raises:
        SettingsError: if the size or the background is none of these.
    """

    plumage: Plumage
    size: Size = "medium"
    background: Background = "sky"
    pose: Pose = field(default_factory=Pose)

    def __post_init__(self) -> None:
        _check("size", self.size, SIZES)
        _check("background", self.background, BACKGROUNDS)

    @classmethod
    def draw(cls, plumage: Plumage, rng: np.random.Generator) -> Bird:
        """Draws size, background and pose for a bird of a species, each evenly."""
        size, background = SIZES[rng.integers(len(SIZES))], BACKGROUNDS[rng.integers(len(BACKGROUNDS))]
        return cls(plumage, size, background, Pose.draw(rng))

    @property
    def colours(self) -> dict[str, str]:
        """The name of the colour of each part of `PARTS`."""
        return {part: getattr(self.plumage, part) for part in PARTS}

    def captions(self, rng: np.random.Generator) -> list[str]:
        """Writes ten captions, each true and each naming at least three of its attributes."""
        return write_captions(self, rng, CAPTIONS_PER_IMAGE)


def _check(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise SettingsError(f"a bird's {name} cannot be {value!r}; choose one of {', '.join(known)}")
