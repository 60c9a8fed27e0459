"""What the noise says of a picture, for data in which a caption fits several: which of them, and in what pose.

Trained by reconstruction with noise that is drawn blindly, a generator would make the mean of the pictures that a
caption fits. So here the noise z belongs to the picture. z0 lies in the part of the normal distribution that is the
picture's among those of its caption, and the next components tilt, scale and recolour the picture. Over the training
set z stays N(0, 1), which is what is drawn when images are served.

The mean pose is the picture's own: where every picture was shrunk a little, the generator drew all of them too small,
which made dark skin lighter by the white that came into view (docs/trials.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

COMPONENTS = 4
# With twice as much, one real drawing of nine is taken for another skin tone (docs/trials.md).
_TILT = math.radians(3)
_SCALE = 0.03
_HUE = math.radians(6)
# The luma-chroma transform of NTSC: a rotation of the two chromas changes the hue and leaves luma and greys alone.
_TO_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


def noise_of_pictures(noise: Tensor, intervals: Tensor) -> Tensor:
    """Moves z0 into each picture's part of the normal distribution, keeping the order within it.

    Args:
        noise: z, [N, Z], from N(0, 1).
        intervals: [N, 2], between which quantiles in [0, 1] z0 shall lie.

    Returns:
        [N, Z]; where the interval is (0, 1) the noise as it was.
    """
    low, high = intervals.double().unbind(1)
    quantile = low + (high - low) * torch.special.ndtr(noise[:, 0].double())
    moved = torch.special.ndtri(quantile).to(noise.dtype)
    chosen = torch.where((low == 0) & (high == 1), noise[:, 0], moved)
    return torch.cat([chosen.unsqueeze(1), noise[:, 1:]], dim=1)


def vary(pyramid: Sequence[Tensor], noise: Tensor) -> list[Tensor]:
    """Tilts, scales and recolours each picture by as much as its noise says, a smooth function of z1, z2 and z3.

    A picture is turned by up to 3 degrees to either side, made larger or smaller by up to 3% and its hue turned by up
    to 6 degrees, each uniformly. What comes into view at its border has the colour of its first pixel.

    Args:
        pyramid: One [N, 3, R, R] in [-1, 1] a stage.
        noise: z, [N, Z], Z at least 4.

    Returns:
        The same shapes and range; every stage shows the same variation.
    """
    tilt, size, hue = (2 * torch.special.ndtr(noise[:, 1:COMPONENTS].float()) - 1).unbind(1)
    sampled = _sampling_matrices(_TILT * tilt, 1 - _SCALE * size)
    mixed = _colour_matrices(_HUE * hue)
    return [_recolour(_place(images, sampled), mixed).clamp(-1, 1) for images in pyramid]


def _sampling_matrices(angle: Tensor, size: Tensor) -> Tensor:
    """[N, 2, 3]: from the place of an output pixel to the place in the picture that it shows."""
    cos, sin, zero = angle.cos() / size, angle.sin() / size, torch.zeros_like(size)
    return torch.stack([torch.stack([cos, -sin, zero], 1), torch.stack([sin, cos, zero], 1)], 1)


def _colour_matrices(angle: Tensor) -> Tensor:
    """[N, 3, 3]: RGB to RGB with another hue."""
    to_yiq = _TO_YIQ.to(angle)
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    rows = [[one, zero, zero], [zero, cos, -sin], [zero, sin, cos]]
    turned = torch.stack([torch.stack(row, 1) for row in rows], 1)
    return torch.linalg.inv(to_yiq) @ turned @ to_yiq


def _place(images: Tensor, sampled: Tensor) -> Tensor:
    ground = images[:, :, :1, :1]
    grid = F.affine_grid(sampled, list(images.shape), align_corners=False)
    # Bilinear sampling would blur the outlines of a picture of 16 pixels, and so make dark shapes lighter.
    return F.grid_sample(images - ground, grid, mode="bicubic", padding_mode="zeros", align_corners=False) + ground


def _recolour(images: Tensor, mixed: Tensor) -> Tensor:
    return (mixed @ images.flatten(2)).view_as(images)
