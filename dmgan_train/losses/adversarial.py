"""The adversarial losses, eq. 10 and the discriminators' objective of the published code.

Logits and `binary_cross_entropy_with_logits` stand for its sigmoid and BCE: the same function, and safe in half
precision.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dmgan_train.models import Discriminator


def _real(logits: Tensor) -> Tensor:
    return F.softplus(-logits.float()).mean()


def _fake(logits: Tensor) -> Tensor:
    return F.softplus(logits.float()).mean()


def discriminator_loss(
    discriminator: Discriminator, real_images: Tensor, fake_images: Tensor, sentence_feature: Tensor
) -> Tensor:
    """Real against fake, alone and with the caption, and real images with another's caption.

    Args:
        discriminator: The one for this resolution.
        real_images: [N, 3, R, R] in [-1, 1], N at least 2.
        fake_images: The same shape; no gradient flows into them.
        sentence_feature: [N, text_features], of the images' own captions.

    Returns:
        (real + real pair) / 2 + (fake + fake pair + mismatched pair) / 3, a scalar.
    """
    # One pass over both: there is no BatchNorm in the discriminator, so it is the same function as two.
    features = discriminator(torch.cat([real_images, fake_images.detach()]))
    real, fake = features.chunk(2)
    pairs = torch.cat([real, fake, real[:-1]])
    sentences = torch.cat([sentence_feature, sentence_feature, sentence_feature[1:]])
    count = len(real_images)
    real_pair, fake_pair, mismatch = discriminator.conditional_logits(pairs, sentences).split([count, count, count - 1])
    real_alone, fake_alone = discriminator.unconditional_logits(features).chunk(2)
    real_loss = (_real(real_alone) + _real(real_pair)) / 2
    return real_loss + (_fake(fake_alone) + _fake(fake_pair) + _fake(mismatch)) / 3


def generator_adversarial_loss(discriminator: Discriminator, fake_images: Tensor, sentence_feature: Tensor) -> Tensor:
    """Eq. 10, one stage: fooling the unconditional and the conditional head; a scalar.

    Args:
        discriminator: The one for this resolution.
        fake_images: [N, 3, R, R] in [-1, 1].
        sentence_feature: [N, text_features].
    """
    features = discriminator(fake_images)
    return _real(discriminator.unconditional_logits(features)) + _real(
        discriminator.conditional_logits(features, sentence_feature)
    )
