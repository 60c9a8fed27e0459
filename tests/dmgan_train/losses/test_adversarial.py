import torch
import torch.nn.functional as F

from dmgan_runtime.manifest import ModelSpec
from dmgan_train.losses import discriminator_loss, generator_adversarial_loss
from dmgan_train.models import build_discriminators


def setup():
    torch.manual_seed(0)
    spec = ModelSpec(base_resolution=8, generator_channels=4, text_features=6)
    discriminator = build_discriminators(spec, 2)[0].eval()  # evaluation stops the power iteration
    return discriminator, torch.randn(4, 3, 8, 8), torch.randn(4, 3, 8, 8), torch.randn(4, 6)


def bce(logits: torch.Tensor, label: float) -> torch.Tensor:
    return F.binary_cross_entropy(torch.sigmoid(logits), torch.full_like(logits, label))


def test_discriminator_loss_is_the_published_sum() -> None:
    discriminator, real, fake, sentence = setup()
    on_real, on_fake = discriminator(real), discriminator(fake)
    right = (
        bce(discriminator.unconditional_logits(on_real), 1)
        + bce(discriminator.conditional_logits(on_real, sentence), 1)
    ) / 2
    mismatch = bce(discriminator.conditional_logits(on_real[:-1], sentence[1:]), 0)
    wrong = bce(discriminator.unconditional_logits(on_fake), 0) + bce(
        discriminator.conditional_logits(on_fake, sentence), 0
    )
    expected = right + (wrong + mismatch) / 3
    torch.testing.assert_close(discriminator_loss(discriminator, real, fake, sentence).total, expected)


def test_generator_loss_is_the_published_sum() -> None:
    discriminator, _, fake, sentence = setup()
    features = discriminator(fake)
    expected = bce(discriminator.unconditional_logits(features), 1) + bce(
        discriminator.conditional_logits(features, sentence), 1
    )
    torch.testing.assert_close(generator_adversarial_loss(discriminator, fake, sentence), expected)


def test_the_discriminators_loss_does_not_train_the_generator() -> None:
    discriminator, real, fake, sentence = setup()
    fake.requires_grad_(True)
    discriminator_loss(discriminator, real, fake, sentence).total.backward()
    assert fake.grad is None


def test_extreme_logits_stay_finite() -> None:
    discriminator, real, fake, sentence = setup()
    with torch.no_grad():
        discriminator.unconditional.bias.fill_(1e4)
    assert discriminator_loss(discriminator, real, fake, sentence).total.isfinite()
