import math

import numpy as np
import pytest
import torch

from dmgan_runtime.errors import DataError
from dmgan_train.evaluation.metrics.inception_score import SPLITS, ClassScore
from tests.dmgan_train.evaluation.metrics.network import flat_network


def measure(logits: torch.Tensor, seed: int = 0):
    score = ClassScore(seed)
    for part in logits.split(7):
        score.add(part)
    return score.result(flat_network())


def by_hand(logits: np.ndarray) -> tuple[float, float]:
    """Sums, class by class, of the images as the seed shuffles them."""
    torch.manual_seed(0)
    shuffled = logits[torch.randperm(len(logits)).numpy()]
    scores = []
    for part in np.array_split(shuffled, SPLITS):
        probabilities = np.exp(part) / np.exp(part).sum(axis=1, keepdims=True)
        marginal = probabilities.mean(axis=0)
        divergences = [sum(p * math.log(p / q) for p, q in zip(row, marginal, strict=True)) for row in probabilities]
        scores.append(math.exp(sum(divergences) / len(divergences)))
    return float(np.mean(scores)), float(np.std(scores, ddof=1))


def test_it_is_the_score_by_hand() -> None:
    logits = np.random.default_rng(0).normal(size=(50, 6)) * 2
    result = measure(torch.from_numpy(logits))
    assert (result.value, result.std) == pytest.approx(by_hand(logits), rel=1e-9)


def test_equal_images_score_one_and_sure_different_ones_their_classes() -> None:
    assert measure(torch.ones(40, 5)).value == pytest.approx(1)
    sure = 100 * torch.eye(4).repeat(500, 1)
    assert measure(sure).value == pytest.approx(4, rel=0.01)


def test_the_global_random_state_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    measure(torch.randn(30, 4, generator=torch.Generator().manual_seed(1)))
    assert torch.equal(torch.rand(1), expected)


def test_few_images_are_said_to_be_few() -> None:
    logits = torch.randn(60, 7, generator=torch.Generator().manual_seed(1))
    assert measure(logits).protocol["caution"].startswith("6 images a split are few for 7 classes")
    assert "caution" not in measure(logits[:, :6]).protocol


def test_too_few_images_for_the_splits_are_refused() -> None:
    with pytest.raises(DataError, match="at least 10"):
        measure(torch.ones(9, 5))
