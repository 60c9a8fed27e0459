"""The noise of an image: a function of its seed alone, whatever the batch, the backend or the neighbours."""

from __future__ import annotations

import operator
import secrets
from collections.abc import Iterable
from numbers import Real
from typing import Literal

import numpy as np
import numpy.typing as npt
from numpy.random import Generator, Philox  # now: a fork in the middle of a lazy import never gets past it

from dmgan_runtime.errors import SettingsError

MAX_SEED = 2**64 - 1
Condition = Literal["sampled", "mean"]
"""Whether images are generated from a sample of the condition's distribution, or from its mean."""


def fresh_seed() -> int:
    """A random seed from 0 to 2**32 - 1: short enough to type again."""
    return secrets.randbits(32)


def check_seed(seed: int) -> int:
    """Returns the seed as a plain int.

    Raises:
        SettingsError: if it is no whole number from 0 to 2**64 - 1.
    """
    try:
        number = operator.index(seed)
    except TypeError:
        number = None
    if number is None or isinstance(seed, bool):
        raise SettingsError(f"seed is {seed!r}; pass a whole number from 0 to {MAX_SEED}")
    if not 0 <= number <= MAX_SEED:
        raise SettingsError(f"seed {number} is out of range; pass a whole number from 0 to {MAX_SEED}")
    return number


def check_truncation(truncation: float) -> float:
    """Returns the truncation as a plain float.

    Raises:
        SettingsError: if it is no number over 0 and at most 1.
    """
    if isinstance(truncation, bool) or not isinstance(truncation, Real) or not 0 < truncation <= 1:
        raise SettingsError(f"truncation is {truncation!r}; pass a number over 0 and at most 1 (1 leaves the noise be)")
    return float(truncation)


def draw_noise(
    seeds: Iterable[int],
    noise_features: int,
    condition_features: int,
    truncation: float = 1.0,
    condition: Condition = "sampled",
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Draws the noise z and the noise of the conditioning augmentation from a standard normal distribution.

    Row i depends on `seeds[i]` and the two widths alone: it comes from a Philox stream whose key is that seed.

    Args:
        seeds: N whole numbers from 0 to 2**64 - 1.
        noise_features: Width of z.
        condition_features: Width of the conditioning noise.
        truncation: Over 0 and at most 1; both noises are multiplied by it. Less means images nearer to the
            caption's typical one, and so less variety.
        condition: With `mean` the conditioning noise is 0, which gives the mean of the condition's distribution.

    Returns:
        z [N, noise_features] float32, and the conditioning noise [N, condition_features] float32.

    Raises:
        SettingsError: if a seed or the truncation is out of its range.
    """
    width = noise_features + condition_features
    rows = [Generator(Philox(key=check_seed(seed))).standard_normal(width, dtype=np.float32) for seed in seeds]
    noise = np.stack(rows) if rows else np.empty((0, width), dtype=np.float32)
    noise *= np.float32(check_truncation(truncation))
    condition_noise = noise[:, noise_features:].copy()
    if condition == "mean":
        condition_noise[:] = 0
    return noise[:, :noise_features].copy(), condition_noise
