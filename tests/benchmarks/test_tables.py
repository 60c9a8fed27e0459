"""Percentiles that the samples bear, and ratios in which a slow round cancels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.results import Series
from benchmarks.tables import median, paired_ratio, percentile, show_number

TIMES = st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=200)


def series(samples, per_turn: int = 1) -> Series:
    return Series(contender="a", figure="end_to_end", unit="s", samples=tuple(samples), per_turn=per_turn)


@given(samples=TIMES, percent=st.sampled_from([50, 95, 99]))
def test_a_percentile_is_told_only_if_a_sample_lies_beyond_it(samples, percent) -> None:
    value = percentile(series(samples), percent)
    assert (value is None) == (len(samples) < 100 / (100 - percent))
    if value is not None:
        assert min(samples) <= value <= max(samples)


def test_the_99th_percentile_needs_a_hundred_samples() -> None:
    assert percentile(series(range(99)), 99) is None
    assert percentile(series(range(100)), 99) == pytest.approx(98.01)


@given(
    times=st.lists(st.floats(1e-3, 1), min_size=1, max_size=20),
    slowdowns=st.lists(st.floats(1, 50), min_size=20, max_size=20),
    speed=st.floats(0.1, 10),
)
def test_what_slows_a_round_cancels(times, slowdowns, speed) -> None:
    reference = [time * slow for time, slow in zip(times, slowdowns, strict=False)]
    other = [time / speed for time in reference]
    assert paired_ratio(series(reference), series(other)) == pytest.approx((speed, speed, speed))


def test_a_turn_of_many_calls_is_one_round() -> None:
    reference, other = series([4, 4, 4, 8, 8, 8], per_turn=3), series([1, 1, 9, 2, 2, 9], per_turn=3)
    assert paired_ratio(reference, other).median == 4


def test_only_the_rounds_of_both_are_compared() -> None:
    assert paired_ratio(series([2, 2, 2]), series([1, 1])).median == 2


@given(samples=TIMES)
def test_the_median_is_numpys(samples) -> None:
    assert median(series(samples)) == np.median(samples)


def test_three_digits_count() -> None:
    assert [show_number(value) for value in (12345.6, 12.34, 1.234, 0.1234)] == ["12,346", "12.3", "1.23", "0.123"]
