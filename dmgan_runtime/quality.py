"""Measures how near one image is to another."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt


def psnr(actual: npt.NDArray[np.floating], expected: npt.NDArray[np.floating]) -> float:
    """10 log10(range^2 / mean squared error), the range being that of what was expected.

    Infinite if they are equal; minus infinity if something is no number, or differs where nothing varies.
    """
    span = float(expected.max() - expected.min())
    mean_square = float(np.square(actual.astype(np.float64) - expected).mean())
    if mean_square == 0:
        return math.inf
    return 10 * math.log10(span**2 / mean_square) if math.isfinite(mean_square) and span > 0 else -math.inf


def lowest_psnr(actual: npt.NDArray[np.floating], expected: npt.NDArray[np.floating]) -> float:
    """The PSNR of the worst image of [N, 3, R, R]; over all of them at once, good ones would hide it."""
    return min(map(psnr, actual, expected))


def decibels(quality: float) -> str:
    """A PSNR in words, rounded downwards, so that one under a limit never reads as if it had reached it."""
    return f"{math.floor(10 * quality) / 10:.1f} dB" if math.isfinite(quality) else f"{quality} dB"
