"""What users' arrays become, and what becomes of requests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmgan_runtime import SettingsError
from dmgan_runtime.request import Batch, check_batch
from dmgan_runtime.tokenizer import Tokens
from tests.bundles import MAX_WORDS, SPEC, WORDS


def arrays(rows: int = 3) -> dict[str, Any]:
    random = np.random.default_rng(rows)
    return {
        "tokens": random.integers(0, len(WORDS), (rows, MAX_WORDS)),
        "lengths": random.integers(1, MAX_WORDS + 1, rows),
        "noise": random.standard_normal((rows, SPEC.noise_features), dtype=np.float32),
        "condition_noise": random.standard_normal((rows, SPEC.condition_features), dtype=np.float32),
    }


def check(**given_arrays: Any) -> Batch:
    return check_batch(**given_arrays, spec=SPEC, max_words=MAX_WORDS, vocabulary=len(WORDS))


def test_right_arrays_are_taken_as_they_are() -> None:
    right = arrays()
    checked = check(**right)
    assert checked.size == 3
    for name, array in checked.inputs.items():
        np.testing.assert_array_equal(array, right[name])


@given(words=st.integers(1, MAX_WORDS))
def test_tokens_of_any_width_are_padded_to_the_models(words: int) -> None:
    given_arrays = arrays() | {"tokens": np.ones((3, words), np.int64), "lengths": np.full(3, words)}
    text = check(**given_arrays).text
    assert isinstance(text, Tokens)
    assert text.tokens.shape == (3, MAX_WORDS)
    assert (text.tokens[:, :words] == 1).all()
    assert not text.tokens[:, words:].any()


def test_lists_of_whole_numbers_are_taken() -> None:
    right = arrays()
    listed = right | {"tokens": right["tokens"].tolist(), "lengths": right["lengths"].tolist()}
    np.testing.assert_array_equal(check(**listed).inputs["tokens"], right["tokens"])


@given(size=st.integers(1, 4), first=st.integers(0, 6))
def test_rows_are_those_of_every_array(size: int, first: int) -> None:
    batch = check(**arrays(7))
    part = batch.rows(first, size)
    assert part.size == min(size, 7 - first)
    for name, array in part.inputs.items():
        np.testing.assert_array_equal(array, batch.inputs[name][first : first + size])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": np.zeros((0, MAX_WORDS), np.int64)}, "tokens has the shape .* at least one row"),
        ({"tokens": np.int64(1)}, "tokens has the shape"),
        ({"tokens": np.zeros((3, 7), np.int64)}, r"tokens has the shape \[3, 7\]; pass .* from 1 to 6 words"),
        ({"tokens": np.zeros((3, 0), np.int64)}, r"tokens has the shape \[3, 0\]"),
        (
            {"tokens": np.zeros((3, 2), np.int64), "lengths": np.array([1, 2, 3])},
            "lengths has values from 1 to 3; they go from 1 to 2",
        ),
        ({"tokens": np.zeros((3, MAX_WORDS), np.int32)}, r"tokens is int32\[3, 6\]; pass int64\[3, 6\]"),
        ({"tokens": np.full((3, MAX_WORDS), -1)}, "tokens has values from -1 to -1; they go from 0 to 9"),
        ({"tokens": np.full((3, MAX_WORDS), len(WORDS))}, "from 10 to 10; they go from 0 to 9"),
        ({"lengths": np.array([1, 2])}, r"lengths is int64\[2\]; pass int64\[3\]"),
        ({"lengths": np.array([1, 2, 0])}, "lengths has values from 0 to 2; they go from 1 to 6"),
        ({"lengths": np.array([1, 2, 7])}, "lengths has values from 1 to 7; they go from 1 to 6"),
        ({"noise": np.zeros((3, 3))}, r"noise is float64\[3, 3\]; pass float32\[3, 3\]"),
        ({"noise": np.zeros((3, 4), np.float32)}, r"noise is float32\[3, 4\]"),
        ({"noise": np.full((3, 3), np.nan, np.float32)}, "noise holds values that are no numbers"),
        ({"condition_noise": np.zeros((2, 2), np.float32)}, r"condition_noise is float32\[2, 2\]"),
        ({"condition_noise": np.full((3, 2), np.inf, np.float32)}, "condition_noise holds values"),
    ],
)
def test_a_wrong_array_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        check(**(arrays() | change))
