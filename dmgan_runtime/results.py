"""What a generator hands back, and the stages that it is put together from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Gates:
    """The memory's two gates in one refinement stage, whose memory reads an image of side r.

    Attributes:
        writing: [words] float32 in [0, 1], eq. 7: how much of a memory slot comes from its word, the rest
            from the image. None if the model has no writing gate.
        response: [r, r] float32 in [0, 1], eq. 9: how much of a pixel's new feature comes from the memory, the
            rest from the image. None if the model has no response gate.
    """

    writing: FloatArray | None
    response: FloatArray | None


@dataclass(frozen=True, eq=False)
class Generation:
    """One picture, and how it came about.

    Attributes:
        caption: As it was given.
        seed: Asking for the same caption with this seed gives the same picture.
        image: The largest picture that was computed, RGB.
        stages: The picture of each computed stage by resolution, smallest first; the last is `image`.
        words: The words that the model read, in order.
        unknown_words: The words that its vocabulary lacks; they were left out.
        cut_words: The known words beyond the model's limit; they were left out.
        attention: If it was asked for: by resolution of each refinement stage, [len(words), r, r] float32, r
            being half that resolution. A pixel's values over the words sum to 1. Otherwise None.
        gates: If attention was asked for: the memory's gates by resolution of each refinement stage.
            Otherwise None.
    """

    caption: str
    seed: int
    image: Image.Image
    stages: dict[int, Image.Image] = field(repr=False)
    words: tuple[str, ...]
    unknown_words: tuple[str, ...]
    cut_words: tuple[str, ...]
    attention: dict[int, FloatArray] | None = field(default=None, repr=False)
    gates: dict[int, Gates] | None = field(default=None, repr=False)


class Stage(NamedTuple):
    """The outputs of one stage for N images; the last three are None where the stage or the model has none.

    Attributes:
        resolution: R, the image's side.
        image: [N, 3, R, R] float32 in [-1, 1].
        attention: [N, T, r, r] float32, r = R / 2.
        writing_gate: [N, T] float32.
        response_gate: [N, 1, r, r] float32.
    """

    resolution: int
    image: FloatArray
    attention: FloatArray | None = None
    writing_gate: FloatArray | None = None
    response_gate: FloatArray | None = None


@dataclass(frozen=True, eq=False)
class Synthesis:
    """A batch of N results as arrays, by the resolution of the stage that made them.

    Attributes:
        images: [N, 3, R, R] float32 in [-1, 1] for each computed stage.
        attention: [N, T, r, r] float32, r = R / 2, for each computed refinement stage; 0 at padding.
        writing_gates: [N, T] float32 in [0, 1], likewise; empty if the model has no writing gate.
        response_gates: [N, 1, r, r] float32 in [0, 1], likewise; empty if the model has no response gate.
    """

    images: dict[int, FloatArray]
    attention: dict[int, FloatArray]
    writing_gates: dict[int, FloatArray]
    response_gates: dict[int, FloatArray]

    @classmethod
    def of(cls, stages: Sequence[Stage]) -> Synthesis:
        """The arrays of some stages, by name and resolution."""
        return cls(
            images={stage.resolution: stage.image for stage in stages},
            attention={s.resolution: s.attention for s in stages if s.attention is not None},
            writing_gates={s.resolution: s.writing_gate for s in stages if s.writing_gate is not None},
            response_gates={s.resolution: s.response_gate for s in stages if s.response_gate is not None},
        )
