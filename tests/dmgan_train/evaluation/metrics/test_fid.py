import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dmgan_runtime.errors import DataError
from dmgan_train.evaluation.metrics.fid import FrechetDistance
from tests.dmgan_train.evaluation.metrics.network import flat_network


def by_scipy(real: np.ndarray, generated: np.ndarray) -> float:
    """The textbook formula with a matrix square root."""
    covariances = [np.cov(features, rowvar=False) for features in (real, generated)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1])
    difference = real.mean(axis=0) - generated.mean(axis=0)
    return float(difference @ difference + np.trace(covariances[0] + covariances[1] - 2 * np.real(root)))


def measure(real: np.ndarray, generated: np.ndarray, batch: int = 7):
    distance = FrechetDistance(real.shape[1])
    for features, is_real in ((real, True), (generated, False)):
        for part in torch.from_numpy(features).split(batch):
            distance.add(part, real=is_real)
    return distance.result(flat_network())


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), batch=st.integers(1, 50))
def test_it_is_the_frechet_distance_whatever_the_batches(seed, batch) -> None:
    rng = np.random.default_rng(seed)
    real = rng.normal(size=(60, 5)) @ rng.normal(size=(5, 5))
    generated = rng.normal(size=(40, 5)) @ rng.normal(size=(5, 5)) + rng.normal(size=5)
    assert measure(real, generated, batch).value == pytest.approx(by_scipy(real, generated), rel=1e-6, abs=1e-6)


def test_a_set_is_at_no_distance_from_itself_and_a_shift_counts_squared() -> None:
    features = np.random.default_rng(0).normal(size=(50, 4))
    assert measure(features, features).value == pytest.approx(0, abs=1e-6)
    assert measure(features, features + np.array([3, 0, 4, 0])).value == pytest.approx(25, abs=1e-6)


def test_few_images_are_said_to_be_few() -> None:
    rng = np.random.default_rng(0)
    few, many = rng.normal(size=(4, 4)), rng.normal(size=(50, 4))
    assert "4 generated and 50 real images are few for 4 features" in measure(many, few).protocol["caution"]
    assert "caution" not in measure(many, many).protocol
    assert measure(many, few).protocol["generated_images"] == 4


def test_one_image_is_refused() -> None:
    with pytest.raises(DataError, match="FID has 1 generated images; it needs two of each kind"):
        measure(np.zeros((50, 4)), np.zeros((1, 4)))
