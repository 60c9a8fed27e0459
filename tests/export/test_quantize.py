"""int8 graphs: calibrated, judged on other captions, and turned into what TensorRT takes."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from dmgan_runtime.errors import ExportError
from dmgan_runtime.spec import ModelSpec
from dmgan_train.models import Generator, TextEncoder
from export import quantize
from export.graphs import build_graphs
from export.onnx_file import quiet_exporter, write_onnx
from export.parity import psnr, random_captions, reference_case
from export.quantize import signed_activations, write_int8
from export.reparameterize import reparameterize

SPEC = ModelSpec(
    base_resolution=8,
    generator_channels=8,
    text_features=8,
    embedding_features=6,
    noise_features=5,
    condition_features=4,
    memory_features=6,
    residual_blocks=1,
)
ROLE = "generator_1"


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    quiet_exporter()
    torch.manual_seed(0)
    generator, encoder = Generator(SPEC).eval(), TextEncoder(9, SPEC).eval()
    graph = build_graphs(encoder, reparameterize(generator, "phases"), 6)[ROLE]
    source = tmp_path_factory.mktemp("int8") / "fp32.onnx"
    write_onnx(graph, source)
    written = build_graphs(encoder, generator, 6)
    cases = [reference_case(written, captions, seed) for seed, captions in enumerate(random_captions(9, 6))]
    return graph, source, cases


def image(model, case):
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    feeds = {entry.name: case[f"{ROLE}.{entry.name}"].numpy() for entry in session.get_inputs()}
    return session.run(["image"], feeds)[0]


def quantized(model: onnx.ModelProto) -> int:
    """Convolutions whose weights are integers."""
    made_by = {name: node.op_type for node in model.graph.node for name in node.output}
    weights = [node.input[1] for node in model.graph.node if node.op_type == "Conv"]
    return sum(made_by.get(name) == "DequantizeLinear" for name in weights)


def test_the_images_are_close_and_the_convolutions_are_integers(stage, tmp_path) -> None:
    graph, source, cases = stage
    path = tmp_path / "int8.onnx"
    left_out = write_int8(graph, source, path, cases[2:], cases[:2])
    model = onnx.load(path)
    convolutions = sum(node.op_type == "Conv" for node in model.graph.node)
    assert quantized(model) == convolutions - len(left_out)
    assert quantized(model) > convolutions / 2
    assert psnr(image(path, cases[1]), cases[1][f"{ROLE}.image"].numpy()) > 35


def test_layers_that_spoil_the_image_stay_in_fp32(stage, tmp_path, monkeypatch) -> None:
    graph, source, cases = stage
    all_of_them = tmp_path / "all.onnx"
    monkeypatch.setattr(quantize, "STAGE_PSNR", 0.0)
    assert write_int8(graph, source, all_of_them, cases[2:], cases[:1]) == ()
    reached = psnr(image(all_of_them, cases[0]), cases[0][f"{ROLE}.image"].numpy())
    monkeypatch.setattr(quantize, "STAGE_PSNR", reached + 3)
    left_out = write_int8(graph, source, tmp_path / "some.onnx", cases[2:], cases[:1])
    assert left_out
    assert psnr(image(tmp_path / "some.onnx", cases[0]), cases[0][f"{ROLE}.image"].numpy()) >= reached + 3


def test_what_no_layer_can_reach_is_an_error(stage, tmp_path, monkeypatch) -> None:
    graph, source, cases = stage
    monkeypatch.setattr(quantize, "STAGE_PSNR", 1000.0)
    monkeypatch.setattr(quantize, "_image_psnr", lambda *_: 30.0)
    with pytest.raises(ExportError, match=r"reach 30 dB and 1000 are needed.*without --int8"):
        write_int8(graph, source, tmp_path / "int8.onnx", cases[2:], cases[:1])


def test_signed_activations_are_the_same_function(stage, tmp_path) -> None:
    graph, source, cases = stage
    write_int8(graph, source, tmp_path / "int8.onnx", cases[2:], cases[:1])
    model = onnx.load(tmp_path / "int8.onnx")
    signed = signed_activations(model)
    assert not any(tensor.data_type == onnx.TensorProto.UINT8 for tensor in signed.graph.initializer)
    onnx.checker.check_model(signed, full_check=True)
    unsigned_image, signed_image = image(tmp_path / "int8.onnx", cases[1]), image(signed.SerializeToString(), cases[1])
    # One is not always rounded as the other, so that a value may be a step of 1/255 away.
    assert psnr(signed_image, unsigned_image) > 50


def test_another_zero_point_cannot_be_made_signed(stage, tmp_path) -> None:
    graph, source, cases = stage
    write_int8(graph, source, tmp_path / "int8.onnx", cases[2:], cases[:1])
    model = onnx.load(tmp_path / "int8.onnx")
    point = next(tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.UINT8)
    point.CopyFrom(numpy_helper.from_array(np.array(100, dtype=np.uint8), point.name))
    with pytest.raises(ExportError, match="zero point is not 128"):
        signed_activations(model)
