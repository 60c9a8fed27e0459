"""The R1 penalty (Mescheder et al., Which Training Methods for GANs do actually Converge?, ICML 2018, eq. 9)."""

from __future__ import annotations

import torch
from torch import Tensor

from dmgan_train.models import Discriminator


def r1_penalty(discriminator: Discriminator, real_images: Tensor, sentence_feature: Tensor) -> Tensor:
    """How steep a discriminator is at the real images: half the mean squared norm of its gradient there.

    Args:
        discriminator: The one for this resolution; both of its heads count.
        real_images: [N, 3, R, R] in [-1, 1].
        sentence_feature: [N, text_features], of the images' own captions.

    Returns:
        A scalar, differentiable in the discriminator's weights.
    """
    images = real_images.detach().requires_grad_(True)
    # Not by calling it: what `torch.compile` makes of the call has no second derivative.
    features = discriminator.forward(images)
    logits = discriminator.unconditional_logits(features) + discriminator.conditional_logits(features, sentence_feature)
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean() / 2
