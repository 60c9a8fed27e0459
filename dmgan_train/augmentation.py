"""Differentiable augmentation (Zhao et al., DiffAugment, NeurIPS 2020): colour and translation.

What the discriminators see is varied, the same way for every kind of image and with a gradient, so that few training
images suffice. The perceptual loss sees both of its images so too.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dmgan_train import distributed

_SHIFT = 1 / 8


def augment(*batches: Tensor) -> tuple[Tensor, ...]:
    """Varies brightness, saturation, contrast and position of each image at random.

    Args:
        batches: Each [N, 3, R, R] in [-1, 1], this process's share; the n-th image of each is varied in the same way.

    Returns:
        The same shapes; values may leave [-1, 1] a little. Gradients flow back.
    """
    count, side = len(batches[0]), batches[0].shape[-1]
    device = batches[0].device
    # Drawn for the whole batch, so that how many processes share it changes nothing.
    whole = count * distributed.count()
    light, saturation, contrast = map(distributed.share, torch.rand(3, whole, 1, 1, 1, device=device).unbind())
    reach = max(1, round(side * _SHIFT))
    shifts = torch.randint(0, 2 * reach + 1, (2, whole, 1), device=device)
    rows, columns = map(distributed.share, shifts.unbind())
    recoloured = [_recolour(images, light, saturation, contrast) for images in batches]
    return tuple(_translate(images, reach, rows, columns) for images in recoloured)


def _recolour(images: Tensor, light: Tensor, saturation: Tensor, contrast: Tensor) -> Tensor:
    images = images + (light - 0.5)
    grey = images.mean(dim=1, keepdim=True)
    images = grey + (images - grey) * (2 * saturation)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return mean + (images - mean) * (0.5 + contrast)


def _translate(images: Tensor, reach: int, rows: Tensor, columns: Tensor) -> Tensor:
    """Shifts by up to `reach` pixels, repeating the border: black bars would teach black bars."""
    padded = F.pad(images, (reach, reach, reach, reach), mode="replicate")
    steps = torch.arange(images.shape[-1], device=images.device)
    rows, columns = rows + steps, columns + steps
    batch = torch.arange(len(images), device=images.device)[:, None, None]
    return padded[batch, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
