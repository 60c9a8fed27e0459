from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from dmgan_runtime import Generator
from dmgan_runtime.errors import BundleError
from dmgan_runtime.graphs import (
    EVERYTHING,
    IMAGE,
    check_interfaces,
    check_tensors,
    graph_interface,
    graph_interfaces,
    run_graphs,
)
from dmgan_runtime.manifest import MANIFEST_NAME, MAX_STAGES, ModelSpec, Role, TensorEntry, parse_manifest
from tests.bundles import MAX_WORDS, SPEC, WORDS

PAPER = ModelSpec()
BASELINE = ModelSpec(memory_writing="none", memory_response="concatenation")


def shapes(tensors: tuple[TensorEntry, ...]) -> dict[str, tuple[int | str, ...]]:
    return {tensor.name: tensor.shape[1:] for tensor in tensors}


def test_the_text_encoder() -> None:
    inputs, outputs = graph_interface("text_encoder", PAPER, 18)
    assert shapes(inputs) == {"tokens": (18,), "lengths": ()}
    assert {tensor.dtype for tensor in inputs} == {"int64"}
    assert shapes(outputs) == {"word_features": (256, 18), "sentence_feature": (256,)}


def test_the_initial_stage() -> None:
    inputs, outputs = graph_interface("generator_0", PAPER, 18)
    assert shapes(inputs) == {"sentence_feature": (256,), "noise": (100,), "condition_noise": (100,)}
    assert shapes(outputs) == {"image": (3, 64, 64), "features": (64, 64, 64)}


@pytest.mark.parametrize(("role", "side"), [("generator_1", 128), ("generator_2", 256)])
def test_a_refinement_stage(role: Role, side: int) -> None:
    half = side // 2
    inputs, outputs = graph_interface(role, PAPER, 18)
    assert shapes(inputs) == {"previous_features": (64, half, half), "word_features": (256, 18), "lengths": ()}
    features = {"features": (64, side, side)} if role != PAPER.generator_roles[-1] else {}
    assert shapes(outputs) == features | {
        "image": (3, side, side),
        "attention": (18, half, half),
        "writing_gate": (18,),
        "response_gate": (1, half, half),
    }


def test_an_ablation_has_no_gates() -> None:
    assert [tensor.name for tensor in graph_interface("generator_1", BASELINE, 18).outputs] == [
        "image",
        "features",
        "attention",
    ]


@pytest.mark.parametrize("stages", range(1, MAX_STAGES + 1))
def test_every_stage_but_the_last_has_features_for_the_next(stages: int) -> None:
    spec = ModelSpec(stages=stages, base_resolution=8)
    interfaces = graph_interfaces(spec, 18)
    assert list(interfaces) == ["text_encoder", *(f"generator_{stage}" for stage in range(stages))]
    for stage, role in enumerate(spec.generator_roles):
        outputs = shapes(interfaces[role].outputs)
        assert outputs["image"] == (3, 8 << stage, 8 << stage)
        assert ("features" in outputs) == (stage < stages - 1)
        assert ("attention" in outputs) == (stage > 0)


def test_the_graphs_are_chained_as_the_reference_chains_them(bundle: Path, generator: Generator) -> None:
    def reference(role: str, inputs: dict[str, Any]) -> dict[str, Any]:
        evaluator = ReferenceEvaluator(str(bundle / "onnx" / f"{role}.onnx"))
        return dict(zip(evaluator.output_names, evaluator.run(None, inputs), strict=True))

    random = np.random.default_rng(3)
    tokens, lengths = random.integers(0, len(WORDS), (3, MAX_WORDS)), random.integers(1, MAX_WORDS + 1, 3)
    noise = random.standard_normal((3, SPEC.noise_features), dtype=np.float32)
    condition_noise = random.standard_normal((3, SPEC.condition_features), dtype=np.float32)
    text = reference("text_encoder", {"tokens": tokens, "lengths": lengths})
    first = {"sentence_feature": text["sentence_feature"], "noise": noise, "condition_noise": condition_noise}
    stage = reference("generator_0", first)
    result = generator.synthesize(tokens, lengths, noise, condition_noise, attention=True)
    np.testing.assert_allclose(result.images[8], stage["image"], atol=1e-5)
    for role, resolution in (("generator_1", 16), ("generator_2", 32)):
        inputs = {"previous_features": stage["features"], "word_features": text["word_features"], "lengths": lengths}
        stage = reference(role, inputs)
        np.testing.assert_allclose(result.images[resolution], stage["image"], atol=1e-5)
        np.testing.assert_allclose(result.attention[resolution], stage["attention"], atol=1e-5)
        np.testing.assert_allclose(result.writing_gates[resolution], stage["writing_gate"], atol=1e-5)
        np.testing.assert_allclose(result.response_gates[resolution], stage["response_gate"], atol=1e-5)


class TestRunGraphs:
    @staticmethod
    def chain(stages: int = 3, wanted: frozenset[str] = EVERYTHING, first: int = 0) -> tuple[Any, list[Any]]:
        """A chain whose tensors are their names, and what it asked for so far."""
        asked: list[Any] = []

        def run(role: str, inputs: Any, outputs: Any) -> dict[str, str]:
            asked.append((role, dict(inputs), list(outputs)))
            return {name: f"{name} of {role}" for name in outputs}

        interfaces = dict(list(graph_interfaces(PAPER, 18).items())[first : stages + 1])
        known = {name: name for name in ("tokens", "lengths", "noise", "condition_noise")}
        if first:
            known |= {"word_features": "given words", "sentence_feature": "given sentence"}
        return run_graphs(run, interfaces, known, wanted), asked

    def test_a_graph_runs_when_it_is_asked_for(self) -> None:
        chain, asked = self.chain()
        assert asked == []
        assert next(chain)[0] == "text_encoder"
        assert len(asked) == 1
        assert [role for role, _ in chain] == ["generator_0", "generator_1", "generator_2"]

    def test_each_graph_is_fed_by_those_before_it(self) -> None:
        chain, asked = self.chain()
        list(chain)
        assert asked[1][1]["sentence_feature"] == "sentence_feature of text_encoder"
        assert asked[2][1]["previous_features"] == "features of generator_0"
        assert asked[3][1] == {
            "previous_features": "features of generator_1",
            "word_features": "word_features of text_encoder",
            "lengths": "lengths",
        }

    def test_nothing_is_fetched_that_nobody_wants(self) -> None:
        chain, asked = self.chain(wanted=IMAGE)
        list(chain)
        assert [outputs for _, _, outputs in asked] == [
            ["word_features", "sentence_feature"],
            ["image", "features"],
            ["image", "features"],
            ["image"],
        ]

    def test_a_stage_that_is_the_last_to_run_leaves_no_features(self) -> None:
        chain, asked = self.chain(stages=2, wanted=IMAGE)
        list(chain)
        assert asked[-1][2] == ["image"]

    def test_features_of_a_text_take_the_text_encoders_place(self) -> None:
        chain, asked = self.chain(first=1)
        assert [role for role, _ in chain] == ["generator_0", "generator_1", "generator_2"]
        assert asked[0][1]["sentence_feature"] == "given sentence"
        assert asked[2][1]["word_features"] == "given words"


@pytest.mark.parametrize("role", PAPER.roles)
@pytest.mark.parametrize("spec", [PAPER, BASELINE])
def test_no_graph_uses_a_name_twice_and_the_batch_comes_first(role: Role, spec: ModelSpec) -> None:
    inputs, outputs = graph_interface(role, spec, 18)
    names = [tensor.name for tensor in (*inputs, *outputs)]
    assert len(set(names)) == len(names)
    assert all(tensor.shape[0] == "batch" for tensor in (*inputs, *outputs))


def test_the_order_of_tensors_is_free() -> None:
    """Other tensors raise."""
    inputs, _ = graph_interface("generator_0", PAPER, 18)
    check_tensors(inputs[::-1], inputs, "here")


@pytest.mark.parametrize("change", [{"name": "other"}, {"dtype": "int64"}, {"shape": ("batch", 7)}])
def test_another_tensor_is_refused(change: dict[str, object]) -> None:
    inputs, _ = graph_interface("generator_0", PAPER, 18)
    changed = (msgspec.structs.replace(inputs[0], **change), *inputs[1:])
    with pytest.raises(BundleError, match=r"here: found .* but expected .*sentence_feature float32\[batch, 256\]"):
        check_tensors(changed, inputs, "here")


def test_a_manifest_whose_graphs_do_not_fit_its_model_is_refused(bundle: Path) -> None:
    manifest = parse_manifest((bundle / MANIFEST_NAME).read_bytes(), "here")
    check_interfaces(manifest, "here")
    wider = msgspec.structs.replace(manifest, model=msgspec.structs.replace(manifest.model, noise_features=4))
    with pytest.raises(BundleError, match=r"graph onnx/generator_0\.onnx, inputs: found .*noise float32\[batch, 3\]"):
        check_interfaces(wider, "here")
