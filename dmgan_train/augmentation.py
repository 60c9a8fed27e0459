"""Differentiable augmentation (Zhao et al., DiffAugment, NeurIPS 2020): colour and translation.

What the discriminators and the image encoder see is varied, the same way for every kind of image and with a
gradient, so that few training images suffice.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_SHIFT = 1 / 8


def augment(images: Tensor) -> Tensor:
    """Varies brightness, saturation, contrast and position of each image at random.

    Args:
        images: [N, 3, R, R] in [-1, 1].

    Returns:
        The same shape; values may leave [-1, 1] a little. Gradients flow back to `images`.
    """
    return _translate(_recolour(images))


def _recolour(images: Tensor) -> Tensor:
    def factors() -> Tensor:
        return torch.rand(len(images), 1, 1, 1, device=images.device, dtype=images.dtype)

    images = images + (factors() - 0.5)
    grey = images.mean(dim=1, keepdim=True)
    images = grey + (images - grey) * (2 * factors())
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return mean + (images - mean) * (0.5 + factors())


def _translate(images: Tensor) -> Tensor:
    """Shifts by up to an eighth of the side, repeating the border: black bars would teach black bars."""
    count, side = len(images), images.shape[-1]
    reach = max(1, round(side * _SHIFT))
    padded = F.pad(images, (reach, reach, reach, reach), mode="replicate")
    steps = torch.arange(side, device=images.device)
    rows, columns = (torch.randint(0, 2 * reach + 1, (count, 1), device=images.device) + steps for _ in range(2))
    batch = torch.arange(count, device=images.device)[:, None, None]
    return padded[batch, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
