"""Measures how near one image is to another."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt


def psnr(actual: npt.NDArray[np.floating], expected: npt.NDArray[np.floating]) -> float:
    """10 log10(range^2 / mean squared error), the range being that of what was expected.

    Infinite if they are equal; minus infinity if something is no number, or differs where nothing varies.
    """
    return lowest_psnr(actual[np.newaxis], expected[np.newaxis])


def lowest_psnr(actual: npt.NDArray[np.floating], expected: npt.NDArray[np.floating]) -> float:
    """The PSNR of the worst of N, [N, ...], by the range of them all; over all at once, good ones would hide it."""
    span = float(expected.max() - expected.min())
    errors = np.square(actual.astype(np.float64) - expected)
    mean_square = float(errors.reshape(len(errors), -1).mean(axis=1).max())
    if mean_square == 0:
        return math.inf
    return 10 * math.log10(span**2 / mean_square) if math.isfinite(mean_square) and span > 0 else -math.inf


def decibels(quality: float) -> str:
    """A PSNR in words, rounded downwards, so that one under a limit never reads as if it had reached it."""
    return f"{math.floor(10 * quality) / 10:.1f} dB" if math.isfinite(quality) else f"{quality} dB"
