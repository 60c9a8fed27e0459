"""NT-Xent equals a plain loop over pairs, in Python's own arithmetic."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dmgan_train.losses import contrastive_loss


def cosine(one: list[float], other: list[float]) -> float:
    return math.fsum(a * b for a, b in zip(one, other, strict=True)) / (math.hypot(*one) * math.hypot(*other))


def by_hand(first: Tensor, second: Tensor, temperature: float) -> float:
    """Eq. 1 of SimCLR for each of the 2N features, and their mean."""
    features = [*first.double().tolist(), *second.double().tolist()]
    count = len(first)
    losses = []
    for i, own in enumerate(features):
        exponentials = [math.exp(cosine(own, other) / temperature) for other in features]
        positive = exponentials[(i + count) % (2 * count)]
        negatives = [value for k, value in enumerate(exponentials) if k not in (i, (i + count) % (2 * count))]
        assert len(negatives) == 2 * count - 2
        losses.append(-math.log(positive / (positive + math.fsum(negatives))))
    return math.fsum(losses) / (2 * count)


def drawn(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(count, 5, generator=random), torch.randn(count, 5, generator=random)


@given(count=st.integers(1, 6), seed=st.integers(0, 99), temperature=st.sampled_from([0.1, 0.5, 2.0]))
def test_it_equals_a_loop_over_pairs(count, seed, temperature) -> None:
    first, second = drawn(count, seed)
    loss = contrastive_loss(first, second, temperature=temperature)
    assert float(loss) == pytest.approx(by_hand(first, second, temperature), rel=1e-4, abs=1e-6)


def test_the_temperature_is_the_papers_unless_another_is_given() -> None:
    first, second = drawn(4)
    assert float(contrastive_loss(first, second)) == pytest.approx(by_hand(first, second, 0.5), rel=1e-5)


def test_only_the_direction_of_features_counts_and_which_caption_is_first_does_not() -> None:
    first, second = drawn(4)
    expected = float(contrastive_loss(first, second))
    assert float(contrastive_loss(7 * first, 0.1 * second)) == pytest.approx(expected, rel=1e-5)
    assert float(contrastive_loss(second, first)) == pytest.approx(expected, rel=1e-5)
    assert float(contrastive_loss(first, second.roll(1, 0))) != pytest.approx(expected, rel=1e-3)


def test_it_is_computed_in_fp32() -> None:
    first, second = (features.half() for features in drawn(4))
    loss = contrastive_loss(first, second)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(by_hand(first, second, 0.5), rel=1e-4)


def test_its_gradient_brings_the_features_of_a_picture_together() -> None:
    first, second = (features.requires_grad_() for features in drawn(4))
    optimizer = torch.optim.SGD([first, second], lr=1.0)
    before = torch.cosine_similarity(first, second).mean().item()
    for _ in range(50):
        optimizer.zero_grad()
        contrastive_loss(first, second).backward()
        assert first.grad.isfinite().all()
        assert second.grad.isfinite().all()
        optimizer.step()
    assert torch.cosine_similarity(first, second).mean().item() > max(before, 0.9)
