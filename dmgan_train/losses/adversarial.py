"""The adversarial losses: eq. 11 without its half, and the discriminators' objective of the published code.

Logits and `binary_cross_entropy_with_logits` stand for its sigmoid and BCE: the same function, and safe in half
precision.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dmgan_train import distributed
from dmgan_train.models import Discriminator


class DiscriminatorLoss(NamedTuple):
    """What a discriminator is trained on, and how often it is right, in [0, 1]; scalars.

    Attributes:
        total: (real + real pair) / 2 + (fake + fake pair + mismatched pair) / 3.
        real: Real images that it takes for real, by the unconditional head.
        fake: Fake images that it takes for fake, by the same.
        mismatched: Real images with another's caption that the conditional head turns down.
    """

    total: Tensor
    real: Tensor
    fake: Tensor
    mismatched: Tensor


def _real(logits: Tensor) -> Tensor:
    return F.softplus(-logits.float()).mean()


def _fake(logits: Tensor) -> Tensor:
    return F.softplus(logits.float()).mean()


def discriminator_loss(
    discriminator: Discriminator, real_images: Tensor, fake_images: Tensor, sentence_feature: Tensor
) -> DiscriminatorLoss:
    """Real against fake, alone and with the caption, and real images with the next one's caption.

    Args:
        discriminator: The one for this resolution.
        real_images: [N, 3, R, R] in [-1, 1], N at least 2; this process's share of them.
        fake_images: The same shape; no gradient flows into them.
        sentence_feature: [N, text_features], of the images' own captions, all of them.
    """
    # One pass over both: there is no BatchNorm in the discriminator, so it is the same function as two.
    features = discriminator(torch.cat([real_images, fake_images.detach()]))
    real, fake = features.chunk(2)
    own, following = distributed.share(sentence_feature), _following(sentence_feature)
    pairs = torch.cat([real, fake, real[: len(following)]])
    sentences = torch.cat([own, own, following])
    sizes = [len(own), len(own), len(following)]
    real_pair, fake_pair, mismatch = discriminator.conditional_logits(pairs, sentences).split(sizes)
    real_alone, fake_alone = discriminator.unconditional_logits(features).chunk(2)
    # One image has no next one: the process that holds it has fewer pairs, and the mean is over all processes'.
    weight = len(following) * distributed.count() / (len(sentence_feature) - 1)
    real_loss = (_real(real_alone) + _real(real_pair)) / 2
    fake_loss = (_fake(fake_alone) + _fake(fake_pair) + weight * _fake(mismatch)) / 3
    with torch.no_grad():
        right = [(real_alone > 0).float().mean(), (fake_alone < 0).float().mean(), (mismatch < 0).float().mean()]
    return DiscriminatorLoss(real_loss + fake_loss, right[0], right[1], weight * right[2])


def _following(sentence_feature: Tensor) -> Tensor:
    """The captions of the images after this process's own; one fewer where the batch ends."""
    own = len(sentence_feature) // distributed.count()
    first = distributed.rank() * own + 1
    return sentence_feature[first : first + own]


def generator_adversarial_loss(discriminator: Discriminator, fake_images: Tensor, sentence_feature: Tensor) -> Tensor:
    """Eq. 11 without its half, one stage: fooling the unconditional and the conditional head; a scalar.

    Args:
        discriminator: The one for this resolution.
        fake_images: [N, 3, R, R] in [-1, 1].
        sentence_feature: [N, text_features].
    """
    features = discriminator(fake_images)
    return _real(discriminator.unconditional_logits(features)) + _real(
        discriminator.conditional_logits(features, sentence_feature)
    )
