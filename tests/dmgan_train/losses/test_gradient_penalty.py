import pytest
import torch

from dmgan_runtime.manifest import ModelSpec
from dmgan_train.losses import r1_penalty
from dmgan_train.models import build_discriminators


class Plane(torch.nn.Module):
    """Logits that are linear in the image, so that the gradient is known."""

    slope = 3.0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images

    def unconditional_logits(self, features: torch.Tensor) -> torch.Tensor:
        return self.slope * features.flatten(1).sum(dim=1)

    def conditional_logits(self, features: torch.Tensor, sentence: torch.Tensor) -> torch.Tensor:
        return -features.flatten(1).sum(dim=1)


def test_a_plane_has_its_slope() -> None:
    images, sentence = torch.randn(4, 3, 8, 8), torch.zeros(4, 6)
    pixels = 3 * 8 * 8
    assert r1_penalty(Plane(), images, sentence).item() == pytest.approx(pixels * (3 - 1) ** 2 / 2)


def test_it_equals_finite_differences_and_trains_the_discriminator() -> None:
    torch.manual_seed(0)
    spec = ModelSpec(base_resolution=8, generator_channels=4, text_features=6)
    discriminator = build_discriminators(spec, 2)[0].eval().double()
    images, sentence = torch.randn(2, 3, 8, 8, dtype=torch.double), torch.randn(2, 6, dtype=torch.double)

    def logits(seen: torch.Tensor) -> torch.Tensor:
        features = discriminator(seen)
        return discriminator.unconditional_logits(features) + discriminator.conditional_logits(features, sentence)

    step, squares = 1e-6, torch.zeros(2, dtype=torch.double)
    with torch.no_grad():
        for pixel in range(images[0].numel()):
            shift = torch.zeros(images[0].numel(), dtype=torch.double)
            shift[pixel] = step
            shift = shift.view_as(images[0])
            squares += ((logits(images + shift) - logits(images - shift)) / (2 * step)).square()
    penalty = r1_penalty(discriminator, images, sentence)
    assert penalty.item() == pytest.approx(squares.mean().item() / 2, rel=1e-4)
    penalty.backward()
    assert any(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in discriminator.parameters())


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # PyTorch looks, and warns itself
def test_a_compiled_discriminator_has_a_penalty_too() -> None:
    """What `torch.compile` makes has no second derivative, so the penalty must not go through it."""
    torch.manual_seed(0)
    spec = ModelSpec(base_resolution=8, generator_channels=4, text_features=6)
    discriminator = build_discriminators(spec, 2)[0].eval()
    images, sentence = torch.randn(2, 3, 8, 8), torch.randn(2, 6)
    gradients = []
    for compiled in (False, True):
        if compiled:
            discriminator.compile(backend="aot_eager")
        discriminator.zero_grad()
        (discriminator(images).mean() + r1_penalty(discriminator, images, sentence)).backward()
        gradients.append([each.grad.clone() for each in discriminator.parameters() if each.grad is not None])
    torch.testing.assert_close(gradients[1], gradients[0])
