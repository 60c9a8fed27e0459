"""Pictures as a few pixels of CIE Lab, where distances are about as large as they look."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SIDE = 16
# sRGB (D65) to XYZ over the white point: IEC 61966-2-1.
_TO_XYZ = (
    (0.4124564 / 0.95047, 0.3575761 / 0.95047, 0.1804375 / 0.95047),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339 / 1.08883, 0.1191920 / 1.08883, 0.9503041 / 1.08883),
)
_KNEE = 6 / 29


def to_lab(images: Tensor) -> Tensor:
    """SRGB to CIE Lab (D65).

    Args:
        images: [N, 3, H, W] uint8.

    Returns:
        [N, 3, H, W] float32: L from 0 to 100, a and b from about -128 to 127.
    """
    values = images.float() / 255
    linear = torch.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    xyz = torch.einsum("rc,nchw->nrhw", torch.tensor(_TO_XYZ), linear)
    x, y, z = torch.where(xyz > _KNEE**3, xyz ** (1 / 3), xyz / (3 * _KNEE**2) + 4 / 29).unbind(dim=1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


def lab_pixels(images: Tensor) -> Tensor:
    """Images [N, 3, H, W] uint8, averaged to 16x16, as Lab vectors [N, 768] float32."""
    small = F.interpolate(images.float(), size=(SIDE, SIDE), mode="area")
    return to_lab(small.round().to(torch.uint8)).flatten(1)
