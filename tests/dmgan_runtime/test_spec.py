from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmgan_runtime.spec import ModelSpec


def test_the_defaults_are_the_papers() -> None:
    spec = ModelSpec()
    assert spec.resolutions == (64, 128, 256)
    assert (spec.generator_channels, spec.text_features, spec.memory_features) == (64, 256, 128)


@given(power=st.integers(3, 7))
def test_each_stage_doubles_the_resolution(power: int) -> None:
    first, second, third = ModelSpec(base_resolution=2**power).resolutions
    assert (first, second, third) == (2**power, 2 * first, 2 * second)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base_resolution": 48}, "power of two"),
        ({"base_resolution": 4}, ">= 8"),
        ({"base_resolution": 256}, "<= 128"),
        ({"text_features": 7}, "even number"),
        ({"noise_features": 0}, ">= 1"),
        ({"memory_writing": "none"}, "needs a memory"),
        ({"memory_writing": "other"}, "Invalid enum value"),
        ({"width": 3}, "unknown field"),
    ],
)
def test_a_wrong_spec_says_what_is_wrong(change: dict[str, Any], message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert(change, ModelSpec)


def test_a_spec_survives_json() -> None:
    spec = ModelSpec(base_resolution=16, memory_writing="none", memory_response="concatenation")
    assert msgspec.json.decode(msgspec.json.encode(spec), type=ModelSpec) == spec
