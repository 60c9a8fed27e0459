"""What a generator hands back: arrays of a stage, pictures of a caption."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, WebPImagePlugin  # noqa: F401 - the format that `preinit` leaves out

from dmgan_runtime.image_file import save
from dmgan_runtime.request import FloatArray, ImageRequest

# Now, though only saving needs it: a process that is forked in the middle of a lazy import never gets past it.
Image.preinit()


class StageOutput(NamedTuple):
    """The outputs of one stage for N images; the last three are None where they were not wanted or there are none.

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
        unknown_words: The words and emoji that its vocabulary lacks; they were left out.
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

    def save(self, path: str | os.PathLike[str], *, metadata: bool = True) -> None:
        """Writes `image` to a file, whole or not at all; a folder that is missing is made.

        Args:
            path: Ends in .png, .jpg, .jpeg or .webp. A file of that name is replaced.
            metadata: Whether a PNG carries the caption and the seed, as `metadata` has them.

        Raises:
            SettingsError: if the path ends otherwise.
            OSError: if it cannot be written.
        """
        save(self.image, Path(path), self.metadata if metadata else None)

    @property
    def metadata(self) -> dict[str, str]:
        """What is written into PNGs, by PNG's keywords: "Description" is the caption, and "Seed" is ours."""
        return {"Description": self.caption, "Seed": str(self.seed)}

    @classmethod
    def of(cls, request: ImageRequest, outputs: Sequence[StageOutput], row: int, *, attention: bool) -> Generation:
        """The picture of one request.

        Args:
            request: What was asked for.
            outputs: Of each computed stage, of the batch that the request was in.
            row: The request's place in that batch.
            attention: Whether attention and gates were asked for.
        """
        pictures = {output.resolution: to_pil(output.image[row]) for output in outputs}
        words = request.encoding.length
        maps: dict[int, FloatArray] = {}
        gates: dict[int, Gates] = {}
        for output in outputs:
            if attention and output.attention is not None:
                # Copies, so that one kept image does not keep the arrays of its whole batch.
                maps[output.resolution] = output.attention[row, :words].copy()
                writing, response = output.writing_gate, output.response_gate
                gates[output.resolution] = Gates(
                    writing=None if writing is None else writing[row, :words].copy(),
                    response=None if response is None else response[row, 0].copy(),
                )
        return cls(
            caption=request.caption,
            seed=request.seed,
            image=pictures[outputs[-1].resolution],
            stages=pictures,
            words=request.encoding.used,
            unknown_words=request.encoding.unknown,
            cut_words=request.encoding.cut,
            attention=maps if attention else None,
            gates=gates if attention else None,
        )


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
    def of(cls, parts: Sequence[Sequence[StageOutput]]) -> Synthesis:
        """The stages of a batch that was computed in parts, one after the other."""
        stages = [_joined(stage) for stage in zip(*parts, strict=True)]
        return cls(
            images={stage.resolution: stage.image for stage in stages},
            attention={s.resolution: s.attention for s in stages if s.attention is not None},
            writing_gates={s.resolution: s.writing_gate for s in stages if s.writing_gate is not None},
            response_gates={s.resolution: s.response_gate for s in stages if s.response_gate is not None},
        )


def to_levels(images: FloatArray) -> npt.NDArray[np.uint8]:
    """Turns images of the generator into pixels.

    Args:
        images: [..., 3, H, W] float32; -1 is black and 1 is white, and what lies beyond is clipped.

    Returns:
        [..., H, W, 3] uint8, RGB, each value rounded to the nearest of 0..255.
    """
    levels = np.rint((images.clip(-1, 1) + 1) * 127.5).astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(levels, -3, -1))


def to_pil(image: FloatArray) -> Image.Image:
    """Turns an image of the generator into a picture.

    Args:
        image: [3, H, W] float32, as in `to_levels`.

    Raises:
        ValueError: if the shape is another.
    """
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"the image has the shape {list(image.shape)}; pass [3, H, W]")
    return Image.fromarray(to_levels(image))


def _joined(parts: Sequence[StageOutput]) -> StageOutput:
    resolution, *columns = zip(*parts, strict=True)
    joined = (None if column[0] is None else np.concatenate(column) for column in columns)
    return StageOutput._make([resolution[0], *joined])
