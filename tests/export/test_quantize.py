"""int8 graphs: calibrated on captions, judged on others."""

import onnx
import onnxruntime
import pytest

from dmgan_runtime.errors import ExportError
from export import quantize
from export.parity import psnr
from export.quantize import write_int8

ROLE = "generator_1"


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
