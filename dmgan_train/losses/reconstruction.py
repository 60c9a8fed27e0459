"""How far drawn images are from the pictures that were described, for data in which a caption names one picture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def reconstruction_loss(images: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """The mean absolute difference, averaged over the stages (Isola et al., pix2pix, CVPR 2017, eq. 3).

    Args:
        images: One [N, 3, R, R] in [-1, 1] a stage.
        targets: The described pictures, of the same shapes.

    Returns:
        A scalar in [0, 2].
    """
    return torch.stack([F.l1_loss(image, target) for image, target in zip(images, targets, strict=True)]).mean()


def perceptual_loss(features: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """How differently a frozen network sees two batches of images.

    The features of every position are scaled to unit length, as in LPIPS (Zhang et al., CVPR 2018), which leaves one
    minus their cosine.

    Args:
        features: Of the drawn images, one [N, C, ...] a layer; compared in fp32 whatever they are.
        targets: Of the described pictures, of the same shapes.

    Returns:
        A scalar in [0, 2], the mean over layers, images and positions.
    """
    likenesses = [
        F.cosine_similarity(ours.float(), theirs.float()).mean() for ours, theirs in zip(features, targets, strict=True)
    ]
    return 1 - torch.stack(likenesses).mean()
