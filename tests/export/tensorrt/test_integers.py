"""A quantized graph in the form that TensorRT takes is the same function, and TensorRT takes it."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from dmgan_runtime.errors import EngineError, ExportError
from dmgan_runtime.quality import psnr
from export.tensorrt.bindings import open_bindings
from export.tensorrt.builder import PlanBuilder
from export.tensorrt.integers import signed_activations, signed_graph
from tests.export.tensorrt.test_bindings import wanted

ROLE = "generator_1"


def image(model, case):
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    feeds = {entry.name: case[f"{ROLE}.{entry.name}"].numpy() for entry in session.get_inputs()}
    return session.run(["image"], feeds)[0]


def test_signed_activations_are_the_same_function(stages, int8_file) -> None:
    model = onnx.load(int8_file)
    signed = signed_activations(model)
    assert not any(tensor.data_type == onnx.TensorProto.UINT8 for tensor in signed.graph.initializer)
    onnx.checker.check_model(signed, full_check=True)
    unsigned_image, signed_image = (image(form, stages.cases[1]) for form in (int8_file, signed.SerializeToString()))
    # One is not always rounded as the other, so that a value may be a step of 1/255 away.
    assert psnr(signed_image, unsigned_image) > 50


def test_another_zero_point_cannot_be_made_signed(int8_file) -> None:
    model = onnx.load(int8_file)
    point = next(tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.UINT8)
    point.CopyFrom(numpy_helper.from_array(np.array(100, dtype=np.uint8), point.name))
    with pytest.raises(ExportError, match="zero point is not 128"):
        signed_activations(model)


@pytest.mark.parametrize("signed", [True, False])
def test_tensorrt_takes_the_signed_form_alone(int8_file, signed) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx has no wheel for this platform")
    content = int8_file.read_bytes()
    bindings = open_bindings("tensorrt_rtx")
    builder = PlanBuilder(bindings, wanted(bindings))
    if signed:
        assert builder.build(signed_graph(content), "int8.onnx").nbytes > 10_000
    else:
        with pytest.raises(EngineError, match="cannot parse"):
            builder.build(content, "int8.onnx")
