from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmgan_runtime.manifest import MAX_STAGES, ModelSpec


def test_the_defaults_are_the_papers() -> None:
    spec = ModelSpec()
    assert spec.resolutions == (64, 128, 256)
    assert (spec.generator_channels, spec.text_features, spec.memory_features) == (64, 256, 128)


@given(power=st.integers(3, 7), stages=st.integers(1, MAX_STAGES))
def test_each_stage_doubles_the_resolution(power: int, stages: int) -> None:
    spec = ModelSpec(stages=stages, base_resolution=2**power)
    assert spec.resolutions == tuple(2 ** (power + stage) for stage in range(stages))
    assert spec.generator_roles == tuple(f"generator_{stage}" for stage in range(stages))
    assert spec.roles == ("text_encoder", *spec.generator_roles)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base_resolution": 48}, "power of two"),
        ({"base_resolution": 4}, ">= 8"),
        ({"base_resolution": 256}, "<= 128"),
        ({"stages": 0}, ">= 1"),
        ({"stages": 7}, "<= 6"),
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
