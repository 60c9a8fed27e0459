from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, external_data_helper

from dmgan_runtime import BackendError, BundleError, EngineError, Generator
from dmgan_runtime.backends.base import EngineSettings
from dmgan_runtime.backends.ort_cpu import OrtCpuBackend
from dmgan_runtime.bundle import Bundle
from tests.bundles import MAX_WORDS, SPEC, build_graph, write_manifest

GRAPH = "onnx/generator_1.onnx"


def load(path: Path, **changes: Any) -> OrtCpuBackend:
    with Bundle(path) as bundle:
        return OrtCpuBackend(bundle, EngineSettings(**changes))


def replace_graph(folder: Path, content: bytes) -> None:
    """Puts another graph in place, with a manifest that vouches for it."""
    (folder / GRAPH).write_bytes(content)
    write_manifest(folder)


def test_a_graph_runs_for_any_batch_and_returns_what_was_asked(bundle: Path) -> None:
    backend = load(bundle)
    for rows in (1, 2, 5):
        feeds = {"tokens": np.ones((rows, MAX_WORDS), np.int64), "lengths": np.full(rows, 2)}
        outputs = backend.run("text_encoder", feeds, ["sentence_feature"])
        assert list(outputs) == ["sentence_feature"]
        assert outputs["sentence_feature"].shape == (rows, SPEC.text_features)


def test_a_run_that_fails_is_an_engine_error(bundle: Path) -> None:
    feeds = {"tokens": np.ones((1, MAX_WORDS), np.int64), "lengths": np.ones((1, 1), np.int64)}
    with pytest.raises(EngineError, match=r"onnxruntime failed in text_encoder .*lengths"):
        load(bundle).run("text_encoder", feeds, ["sentence_feature"])


@pytest.mark.parametrize("rows", [1, 3])
def test_the_number_of_threads_changes_no_bit(bundle: Path, rows: int) -> None:
    batch = {"tokens": np.ones((rows, MAX_WORDS), np.int64), "lengths": np.full(rows, 2)}
    images = []
    for threads in (1, 2, 5):
        backend = load(bundle, threads=threads)
        assert backend.active.threads == threads
        text = backend.run("text_encoder", batch, ["word_features", "sentence_feature"])
        noise = np.ones((rows, SPEC.noise_features), np.float32), np.ones((rows, SPEC.condition_features), np.float32)
        feeds = {"sentence_feature": text["sentence_feature"], "noise": noise[0], "condition_noise": noise[1]}
        images.append(backend.run("generator_0", feeds, ["image"])["image"])
    np.testing.assert_array_equal(images[0], images[1])
    np.testing.assert_array_equal(images[0], images[2])


def test_a_missing_engine_is_named_with_its_remedy(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendError, match=r'onnxruntime cannot be imported .* pip install "dmgan\[cpu\]"'):
        load(bundle)


@pytest.mark.parametrize("content", [b"", b"garbage", build_graph("generator_1").SerializeToString()[:-200]])
def test_a_graph_that_is_none_is_an_engine_error(own_bundle: Path, content: bytes) -> None:
    replace_graph(own_bundle, content)
    with pytest.raises(EngineError, match=f"{GRAPH}: .*cannot .*export the bundle again"):
        load(own_bundle)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda graph: graph.node.pop(3),
        lambda graph: graph.node[0].input.__setitem__(1, "nowhere"),
        lambda graph: setattr(graph.node[0], "op_type", "LSTM"),
        lambda graph: graph.initializer[0].dims.__setitem__(0, 99),
        lambda graph: graph.initializer[0].dims.__setitem__(0, 2**40),
        lambda graph: setattr(graph.initializer[0], "data_type", TensorProto.STRING),
        lambda graph: graph.node[1].attribute[0].ints.__setitem__(0, 9),  # found when it is run
        lambda graph: setattr(graph.output[0], "name", "nowhere"),
    ],
)
def test_a_spoilt_graph_is_an_error_and_nothing_is_printed(
    own_bundle: Path, capfd: pytest.CaptureFixture[str], spoil: Callable[[onnx.GraphProto], object]
) -> None:
    model = build_graph("generator_1")
    spoil(model.graph)
    replace_graph(own_bundle, model.SerializeToString())
    with pytest.raises((EngineError, BundleError)), Generator.open(own_bundle, device="cpu", threads=1) as generator:
        generator.generate("a red heart")
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("role", ["text_encoder", "generator_0", "generator_2"])
def test_another_graph_in_its_place_is_refused(own_bundle: Path, role: Any) -> None:
    replace_graph(own_bundle, build_graph(role).SerializeToString())
    with pytest.raises(BundleError, match=f"{GRAPH}, (in|out)puts: found .*, but expected"):
        load(own_bundle)


def test_a_graph_of_another_type_is_refused(own_bundle: Path) -> None:
    model = build_graph("generator_1")
    cast = onnx.helper.make_node("Cast", ["lengths"], ["lengths_int64"], to=TensorProto.INT64)
    for node in model.graph.node:
        node.input[:] = ["lengths_int64" if name == "lengths" else name for name in node.input]
    model.graph.node.insert(0, cast)
    model.graph.input[2].type.tensor_type.elem_type = TensorProto.INT32
    replace_graph(own_bundle, model.SerializeToString())
    with pytest.raises(BundleError, match=r"lengths tensor\(int32\)\[batch\]"):
        load(own_bundle)


def test_a_graph_for_one_batch_size_only_is_refused(own_bundle: Path) -> None:
    model = build_graph("generator_1")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    replace_graph(own_bundle, model.SerializeToString())
    with pytest.raises(BundleError, match=r"previous_features float32\[1, 4, 8, 8\]"):
        load(own_bundle)


@pytest.mark.parametrize("beside", ["the working directory", "the graph"])
def test_weights_outside_the_graph_are_refused(
    own_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beside: str
) -> None:
    """The manifest does not vouch for them, even where ONNX Runtime by itself would find them."""
    model = build_graph("generator_1")
    external_data_helper.convert_model_to_external_data(model, location="weights", size_threshold=100)
    folder = tmp_path / "cwd" if beside == "the working directory" else own_bundle / "onnx"
    folder.mkdir(exist_ok=True)
    external_data_helper.write_external_data_tensors(model, str(folder))
    monkeypatch.chdir(folder)
    replace_graph(own_bundle, model.SerializeToString())
    with pytest.raises(EngineError, match=f"{GRAPH}: keeps weights in another file; export the bundle"):
        load(own_bundle)


def test_onnx_runtime_keeps_no_identifier_and_calls_nobody(bundle: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from dmgan_runtime import Generator; Generator.open(sys.argv[1], backend='onnxruntime').close()"
    )
    homes = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"} | homes
    subprocess.run([sys.executable, "-c", script, str(bundle)], env=environment, check=True, timeout=60)
    assert not list(tmp_path.rglob("*Microsoft*"))
