"""One GAN step in the order of work of the published code (github MinfengZhu/DM-GAN), on our networks.

Nothing is slower than it is there: PyTorch's own optimizer, no copies, no printing. What the published code does and
ours does not is kept: real and fake images pass a discriminator one after the other, its heads run on each pair anew,
an optimizer a discriminator, gradients of the discriminators in the generator's step, a loop over captions in the word
loss, nearest upsampling before a 3x3 convolution, and an average of the weights tensor by tensor.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dmgan_train.data import TrainingBatch
from dmgan_train.data.pyramid import pyramid
from dmgan_train.losses import conditioning_loss, damsm_sentence_loss, generator_adversarial_loss
from dmgan_train.models import (
    Discriminator,
    GeneratorNetwork,
    GeneratorOutput,
    ImageEncoder,
    TextEncoder,
    TextEncoderOutput,
)
from dmgan_train.models.layers import UpBlock
from dmgan_train.settings import Settings


class PlainLoop:
    """A generator against discriminators, step by step as published."""

    def __init__(
        self,
        settings: Settings,
        encoders: tuple[TextEncoder, ImageEncoder],
        generator: GeneratorNetwork,
        discriminators: nn.ModuleList,
    ) -> None:
        """Args:
        settings: Learning rates, weights and widths.
        encoders: Frozen.
        generator: Its up blocks become what they are in the published code.
        discriminators: One for each resolution.
        """
        gan = settings.gan
        self.settings = settings
        self.text_encoder, self.image_encoder = encoders
        self.generator, self.discriminators = as_published(generator).train(), discriminators.train()
        adam = partial(torch.optim.Adam, betas=(gan.beta1, gan.beta2))
        self._optimizer = adam(self.generator.parameters(), lr=gan.generator_learning_rate)
        self._optimizers = [adam(each.parameters(), lr=gan.discriminator_learning_rate) for each in discriminators]
        self.average = [parameter.detach().clone() for parameter in self.generator.parameters()]

    def step(self, batch: TrainingBatch, step: int) -> dict[str, Tensor]:
        """Trains on a batch; returns the losses by the names that `GanPhase.step` gives them."""
        device, spec = next(self.generator.parameters()).device, self.settings.model
        reals = pyramid(batch.images.to(device), batch.mirrored.to(device), spec.resolutions)
        lengths, class_ids = batch.lengths.to(device), batch.class_ids.to(device)
        with torch.no_grad():
            text = self.text_encoder(batch.tokens.to(device), batch.lengths)
        noise = torch.randn(len(lengths), spec.noise_features, device=device)
        condition_noise = torch.randn(len(lengths), spec.condition_features, device=device)
        fakes = self.generator(text.sentence, text.words, lengths, noise, condition_noise)
        losses = self._train_discriminators(reals, fakes, text)
        losses |= self._train_generator(fakes, text, lengths, class_ids)
        keep = self.settings.gan.ema
        for parameter, average in zip(self.generator.parameters(), self.average, strict=True):
            average.mul_(keep).add_(parameter.detach(), alpha=1 - keep)
        return losses

    def _train_discriminators(
        self, reals: list[Tensor], fakes: GeneratorOutput, text: TextEncoderOutput
    ) -> dict[str, Tensor]:
        losses = {}
        discriminators = cast("Iterable[Discriminator]", self.discriminators)
        for discriminator, optimizer, real, fake in zip(
            discriminators, self._optimizers, reals, fakes.images, strict=True
        ):
            discriminator.zero_grad()
            loss = discriminator_loss(discriminator, real, fake, text.sentence)
            loss.backward()
            optimizer.step()
            losses[f"discriminator_{real.shape[-1]}"] = loss
        return losses

    def _train_generator(
        self, fakes: GeneratorOutput, text: TextEncoderOutput, lengths: Tensor, class_ids: Tensor
    ) -> dict[str, Tensor]:
        gan, damsm = self.settings.gan, self.settings.damsm
        self.generator.zero_grad()
        discriminators = cast("Iterable[Discriminator]", self.discriminators)
        losses = {
            f"generator_{fake.shape[-1]}": generator_adversarial_loss(discriminator, fake, text.sentence)
            for discriminator, fake in zip(discriminators, fakes.images, strict=True)
        }
        image = self.image_encoder(fakes.images[-1])
        similarities = word_similarities(image.regions, text.words, lengths, damsm.gamma1, damsm.gamma2)
        words = _matching_loss(damsm.gamma3 * similarities, class_ids)
        losses["damsm"] = words + damsm_sentence_loss(image.image, text.sentence, class_ids, gamma3=damsm.gamma3).total
        losses["conditioning"] = conditioning_loss(fakes.condition.mean, fakes.condition.log_variance)
        weights = {"damsm": gan.damsm_weight, "conditioning": gan.conditioning_weight}
        torch.stack([weights.get(name, 1.0) * loss for name, loss in losses.items()]).sum().backward()
        self._optimizer.step()
        return losses


def as_published(generator: GeneratorNetwork) -> GeneratorNetwork:
    """Gives a generator the up blocks of the published code, in place: nearest x2 and then 3x3, in training too."""
    for parent in list(generator.modules()):
        for name, child in parent.named_children():
            if isinstance(child, UpBlock):
                setattr(parent, name, nn.Sequential(*child))
    return generator


def discriminator_loss(discriminator: Discriminator, real: Tensor, fake: Tensor, sentence: Tensor) -> Tensor:
    """The published `discriminator_loss`: sigmoid and BCE, every kind of pair in a pass of its own."""
    real_features, fake_features = discriminator(real), discriminator(fake.detach())
    real_pair = _cross_entropy(discriminator.conditional_logits(real_features, sentence), 1)
    fake_pair = _cross_entropy(discriminator.conditional_logits(fake_features, sentence), 0)
    mismatch = _cross_entropy(discriminator.conditional_logits(real_features[:-1], sentence[1:]), 0)
    real_alone = _cross_entropy(discriminator.unconditional_logits(real_features), 1)
    fake_alone = _cross_entropy(discriminator.unconditional_logits(fake_features), 0)
    return (real_alone + real_pair) / 2 + (fake_alone + fake_pair + mismatch) / 3


def word_similarities(regions: Tensor, words: Tensor, lengths: Tensor, gamma1: float, gamma2: float) -> Tensor:
    """The published `words_loss` up to its cross-entropy: a loop over captions, each against every image."""
    count = len(regions)
    columns = []
    for caption, length in enumerate(lengths.tolist()):
        word = words[caption, :, :length].repeat(count, 1, 1)
        context = _attend(word, regions.flatten(2), gamma1)
        cosine = F.cosine_similarity(word, context, dim=1)
        columns.append((gamma2 * cosine).exp().sum(dim=1).log())
    return torch.stack(columns, dim=1)


def _attend(query: Tensor, context: Tensor, gamma1: float) -> Tensor:
    """The published `func_attention`: [N, D, T] words over [N, D, r] regions to [N, D, T]."""
    over_words = torch.softmax(torch.bmm(context.transpose(1, 2), query), dim=2)
    over_regions = torch.softmax(gamma1 * over_words.transpose(1, 2), dim=2)
    return torch.bmm(context, over_regions.transpose(1, 2))


def _cross_entropy(logits: Tensor, target: float) -> Tensor:
    probabilities = torch.sigmoid(logits)
    return F.binary_cross_entropy(probabilities, torch.full_like(probabilities, target))


def _matching_loss(similarities: Tensor, class_ids: Tensor) -> Tensor:
    same = class_ids[:, None] == class_ids[None, :]
    others = same & ~torch.eye(len(class_ids), dtype=torch.bool, device=same.device)
    similarities = similarities.masked_fill(others, -torch.inf)
    labels = torch.arange(len(similarities), device=similarities.device)
    return F.cross_entropy(similarities, labels) + F.cross_entropy(similarities.T, labels)
