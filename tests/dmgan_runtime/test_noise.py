from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmgan_runtime.errors import SettingsError
from dmgan_runtime.noise import MAX_SEED, check_seed, draw_noise, fresh_seed

SEEDS = st.integers(0, MAX_SEED)

# The noise of the seeds 0, 7 and MAX_SEED. If a release of numpy draws other values, old pictures cannot be had.
GOLDEN = np.array(
    [
        [0.059911035, 0.015559634, -1.1644385, -0.13264713],
        [-0.293339, 1.7038306, 1.5391918, 0.63675386],
        [-1.7444787, -0.48715827, 1.5449836, -0.9327644],
    ],
    dtype=np.float32,
)


@given(st.lists(SEEDS, min_size=1, max_size=6), st.data())
def test_a_row_depends_on_its_seed_alone(seeds: list[int], data: st.DataObject) -> None:
    row = data.draw(st.integers(0, len(seeds) - 1))
    noise, condition_noise = draw_noise(seeds, 5, 3)
    alone, condition_alone = draw_noise([seeds[row]], 5, 3)
    assert noise.shape == (len(seeds), 5)
    assert condition_noise.shape == (len(seeds), 3)
    assert noise.dtype == condition_noise.dtype == np.float32
    np.testing.assert_array_equal(noise[row], alone[0])
    np.testing.assert_array_equal(condition_noise[row], condition_alone[0])


def test_a_seed_keeps_its_noise_for_ever() -> None:
    noise, condition_noise = draw_noise([0, 7, MAX_SEED], 3, 1)
    np.testing.assert_array_equal(np.hstack([noise, condition_noise]), GOLDEN)


def test_the_noise_is_standard_normal_and_seeds_are_independent() -> None:
    noise, condition_noise = draw_noise(range(2000), 20, 10)
    for values in (noise, condition_noise):
        assert abs(values.mean()) < 0.02
        assert abs(values.std() - 1) < 0.02
    neighbours = np.corrcoef(noise[:-1].ravel(), noise[1:].ravel())[0, 1]
    assert abs(neighbours) < 0.02
    assert abs(np.corrcoef(noise[:, 0], condition_noise[:, 0])[0, 1]) < 0.1


@given(SEEDS, st.floats(0.01, 1))
def test_truncation_scales_both(seed: int, truncation: float) -> None:
    for whole, scaled in zip(draw_noise([seed], 4, 2), draw_noise([seed], 4, 2, truncation), strict=True):
        np.testing.assert_array_equal(scaled, whole * np.float32(truncation))


def test_the_mean_condition_has_no_noise_and_the_same_z() -> None:
    noise, condition_noise = draw_noise([7], 4, 2)
    same, none = draw_noise([7], 4, 2, condition="mean")
    np.testing.assert_array_equal(same, noise)
    assert condition_noise.any()
    assert none.shape == condition_noise.shape
    assert not none.any()


def test_no_seeds_are_no_rows() -> None:
    noise, condition_noise = draw_noise([], 4, 2)
    assert (noise.shape, condition_noise.shape) == ((0, 4), (0, 2))


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1, 1.0, "7", None])
def test_a_wrong_seed_is_refused(seed: Any) -> None:
    with pytest.raises(SettingsError, match="0 to 18446744073709551615"):
        draw_noise([seed], 4, 2)


def test_numpys_integers_are_seeds() -> None:
    assert check_seed(np.int64(3)) == 3  # type: ignore[arg-type]  # it has __index__, as an int has


@pytest.mark.parametrize("truncation", [0, -0.5, 1.01, float("nan")])
def test_a_wrong_truncation_is_refused(truncation: float) -> None:
    with pytest.raises(SettingsError, match="over 0 and at most 1"):
        draw_noise([1], 4, 2, truncation)


def test_a_fresh_seed_is_short_and_new() -> None:
    seeds = {fresh_seed() for _ in range(50)}
    assert len(seeds) > 45
    assert all(0 <= seed < 2**32 for seed in seeds)
