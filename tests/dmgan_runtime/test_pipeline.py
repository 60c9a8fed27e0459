from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from dmgan_runtime import EngineError, Generator, SettingsError
from dmgan_runtime.backends.base import Active, Backend
from dmgan_runtime.pipeline import Batch, check_batch, run_stages
from tests.bundles import MAX_WORDS, SPEC, WORDS


def batch(rows: int = 3) -> Batch:
    random = np.random.default_rng(rows)
    return Batch(
        tokens=random.integers(0, len(WORDS), (rows, MAX_WORDS)),
        lengths=random.integers(1, MAX_WORDS + 1, rows),
        noise=random.standard_normal((rows, SPEC.noise_features), dtype=np.float32),
        condition_noise=random.standard_normal((rows, SPEC.condition_features), dtype=np.float32),
    )


def check(candidate: Batch) -> Batch:
    return check_batch(candidate, SPEC, MAX_WORDS, len(WORDS))


class FakeBackend:
    """Returns zeros, or another value in its images, and remembers what it was asked."""

    active = Active("fake", "1", "cpu", "fp32", 1, reason="a test asked for it")

    def __init__(self, image_value: float = 0) -> None:
        self.asked: list[tuple[str, tuple[str, ...]]] = []
        self._image_value = image_value

    def run(self, role: str, feeds: Mapping[str, Any], outputs: Sequence[str]) -> dict[str, Any]:
        self.asked.append((role, tuple(outputs)))
        return {name: np.full(1, self._image_value if name == "image" else 0, np.float32) for name in outputs}

    def to_host(self, tensor: Any) -> Any:
        return tensor

    def close(self) -> None: ...


def test_the_stages_are_chained_as_the_reference_chains_them(bundle: Path, generator: Generator) -> None:
    def reference(role: str, feeds: dict[str, Any]) -> dict[str, Any]:
        evaluator = ReferenceEvaluator(str(bundle / "onnx" / f"{role}.onnx"))
        return dict(zip(evaluator.output_names, evaluator.run(None, feeds), strict=True))

    inputs = batch()
    text = reference("text_encoder", {"tokens": inputs.tokens, "lengths": inputs.lengths})
    stage = reference(
        "generator_0",
        {
            "sentence_feature": text["sentence_feature"],
            "noise": inputs.noise,
            "condition_noise": inputs.condition_noise,
        },
    )
    result = generator.synthesize(*inputs)
    np.testing.assert_allclose(result.images[8], stage["image"], atol=1e-5)
    for role, resolution in (("generator_1", 16), ("generator_2", 32)):
        feeds = {
            "previous_features": stage["features"],
            "word_features": text["word_features"],
            "lengths": inputs.lengths,
        }
        stage = reference(role, feeds)
        np.testing.assert_allclose(result.images[resolution], stage["image"], atol=1e-5)
        np.testing.assert_allclose(result.attention[resolution], stage["attention"], atol=1e-5)
        np.testing.assert_allclose(result.writing_gates[resolution], stage["writing_gate"], atol=1e-5)
        np.testing.assert_allclose(result.response_gates[resolution], stage["response_gate"], atol=1e-5)


def test_a_stage_is_computed_when_it_is_asked_for() -> None:
    backend = FakeBackend()
    stages = run_stages(lambda: nullcontext(backend), SPEC, MAX_WORDS, batch())
    assert backend.asked == []
    assert next(stages).resolution == 8
    assert [role for role, _ in backend.asked] == ["text_encoder", "generator_0"]
    assert [stage.resolution for stage in stages] == [16, 32]
    assert [role for role, _ in backend.asked[2:]] == ["generator_1", "generator_2"]


def test_only_the_last_features_are_not_asked_for() -> None:
    backend = FakeBackend()
    list(run_stages(lambda: nullcontext(backend), SPEC, MAX_WORDS, batch()))
    assert ["features" in outputs for _, outputs in backend.asked[1:]] == [True, True, False]


def test_a_backend_that_closes_between_stages_ends_the_run() -> None:
    leases = iter([nullcontext(FakeBackend()), nullcontext(FakeBackend())])

    def lease() -> AbstractContextManager[Backend]:
        try:
            return next(leases)
        except StopIteration:
            raise EngineError("closed") from None

    stages = run_stages(lease, SPEC, MAX_WORDS, batch())
    next(stages)
    with pytest.raises(EngineError, match="closed"):
        next(stages)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_an_error(value: float) -> None:
    with pytest.raises(EngineError, match="fake returned an image with values that are no numbers in generator_0"):
        next(run_stages(lambda: nullcontext(FakeBackend(value)), SPEC, MAX_WORDS, batch()))


def test_a_right_batch_is_taken_as_it_is() -> None:
    right = batch()
    assert all(checked is given for checked, given in zip(check(right), right, strict=True))


def test_lists_of_whole_numbers_are_taken() -> None:
    listed = batch()._replace(tokens=batch().tokens.tolist(), lengths=batch().lengths.tolist())
    np.testing.assert_array_equal(check(listed).tokens, batch().tokens)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": np.zeros((0, MAX_WORDS), np.int64)}, "tokens has the shape .* at least one row"),
        ({"tokens": np.int64(1)}, "tokens has the shape"),
        ({"tokens": np.zeros((3, 5), np.int64)}, r"tokens is int64\[3, 5\]; pass int64\[3, 6\]"),
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
        check(batch()._replace(**change))
