"""What samples say: percentiles that the samples can bear, and ratios of what was measured in the same round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.results import Series


class Ratio(NamedTuple):
    """How many times as fast as the reference, or as much: the median of the rounds, and their quartiles."""

    median: float
    low: float
    high: float


def median(samples: Sequence[float]) -> float:
    """The median."""
    return float(np.median(samples))


def percentile(samples: Sequence[float], percent: int) -> float | None:
    """A percentile, linear between samples; None if fewer samples are beyond it than one.

    The 99th of ten samples is only their largest, so it is not called that.
    """
    if len(samples) * (100 - percent) < 100:
        return None
    return float(np.percentile(samples, percent))


def paired_ratio(reference: Series, other: Series) -> Ratio:
    """The reference over another series, round by round: what slows both in a round cancels.

    Args:
        reference: The samples above the line.
        other: The samples below the line; only the rounds that both have are used.
    """
    above, below = _by_round(reference), _by_round(other)
    rounds = min(len(above), len(below))
    ratios = above[:rounds] / below[:rounds]
    low, middle, high = np.percentile(ratios, (25, 50, 75))
    return Ratio(float(middle), float(low), float(high))


def _by_round(series: Series) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    whole = len(series.samples) // series.per_turn
    samples = np.asarray(series.samples[: whole * series.per_turn], dtype=np.float64)
    return np.asarray(np.median(samples.reshape(whole, series.per_turn), axis=1))
