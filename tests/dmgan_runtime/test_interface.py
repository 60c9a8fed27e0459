from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from dmgan_runtime.errors import BundleError
from dmgan_runtime.interface import check_interfaces, check_tensors, graph_interface
from dmgan_runtime.manifest import MANIFEST_NAME, ROLES, Role, TensorEntry, parse_manifest
from dmgan_runtime.spec import ModelSpec

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
    assert shapes(outputs) == {
        "image": (3, side, side),
        "features": (64, side, side),
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


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("spec", [PAPER, BASELINE])
def test_no_graph_uses_a_name_twice_and_the_batch_comes_first(role: Role, spec: ModelSpec) -> None:
    inputs, outputs = graph_interface(role, spec, 18)
    names = [tensor.name for tensor in (*inputs, *outputs)]
    assert len(set(names)) == len(names)
    assert all(tensor.shape[0] == "batch" for tensor in (*inputs, *outputs))


def test_the_order_of_tensors_is_free() -> None:
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
