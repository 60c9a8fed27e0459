"""The pyramid that the networks are trained on, made of a batch of pictures on the device of the networks.

Reading processes send each picture once, as bytes and at its largest size. Sums are exact here, so every device comes
to the pixels that Pillow's antialiased bilinear resizing gives, to the last level.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

_PRECISION = 22  # bits of Pillow's weights behind the point


def to_levels(images: Tensor) -> Tensor:
    """[-1, 1] to the nearest of 0..255 as uint8: what a user's picture file holds."""
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def from_levels(levels: Tensor) -> Tensor:
    """Levels of 0..255, uint8 or float32, to float32 in [-1, 1]."""
    return (levels / 127.5).sub_(1)


def pyramid(images: Tensor, mirrored: Tensor, resolutions: Sequence[int]) -> list[Tensor]:
    """Pictures at every resolution that is asked for, each scaled down from their own.

    Args:
        images: [N, 3, R, R] uint8.
        mirrored: [N] bool, which of them are turned left to right.
        resolutions: Sides in pixels, R or R halved some times.

    Returns:
        For each resolution r a float32 tensor [N, 3, r, r] in [-1, 1], on the device of the pictures.
    """
    levels, whole = images.contiguous().float(), images.shape[-1]
    scaled = (levels if side == whole else _shrink(_shrink(levels, side).mT, side).mT for side in resolutions)
    # Last, because the small ones take less time to turn.
    turned = (torch.where(mirrored[:, None, None, None], level.flip(-1), level) for level in scaled)
    return [from_levels(level).contiguous() for level in turned]


def _shrink(levels: Tensor, side: int) -> Tensor:
    """Scales the rows of [N, 3, H, R] down to [N, 3, H, side]; Pillow does columns next, and rounds in between."""
    scale = levels.shape[-1] // side
    shrunk = F.interpolate(levels, (levels.shape[-2], side), mode="bilinear", antialias=True)
    shrunk = _round(shrunk)  # of exact sums: inside the picture weights are multiples of 1 / (2 scale^2)
    weights = _end_weights(scale, levels.device)
    for place, pixels in ((0, levels[..., : len(weights)]), (-1, levels[..., -len(weights) :].flip(-1))):
        shrunk[..., place] = _round(pixels.double() @ weights).float()
    return shrunk


def _round(levels: Tensor) -> Tensor:
    return levels.add_(0.5).floor_()


@lru_cache
def _end_weights(scale: int, device: torch.device) -> Tensor:
    """What the pixels at an end of a row count in the first of the result: a triangle, cut and rounded as by Pillow."""
    taps = torch.arange(scale // 2, 2 * scale, dtype=torch.float64)
    weights = 1 - (taps + 0.5 - scale).abs() / scale
    unit = 1 << _PRECISION
    return ((weights / weights.sum() * unit + 0.5).floor() / unit).to(device)
