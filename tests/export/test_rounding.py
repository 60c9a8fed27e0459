from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from dmgan_runtime.bundle import Bundle
from export.rounding import rounded_to_bf16


def test_weights_inputs_and_every_result_are_rounded(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["product"]), helper.make_node("Add", ["product", "one"], ["sum"])],
        "sums",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch"])],
        [helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["batch"])],
        [
            numpy_helper.from_array(np.array([1 + 2**-8 + 2**-10], np.float32), "w"),
            numpy_helper.from_array(np.array([2**-7], np.float32), "one"),
        ],
    )
    file = tmp_path / "sums.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), file)
    rounded = rounded_to_bf16(file)
    onnx.checker.check_model(rounded)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(rounded.SerializeToString(), options)
    # bf16 has eight bits. 1 + 2^-8 + 2^-10 becomes 1 + 2^-7, and 3 + 2^-7 becomes 3.
    x = np.array([1, 3 + 2**-7], np.float32)
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], np.array([1 + 2**-6, 3.03125], np.float32))


def test_a_bundle_says_how_near_bf16_comes(bundle: Path) -> None:
    with Bundle(bundle) as opened:
        quality = opened.manifest.image_psnr_db
    assert quality["fp32"] > 90
    assert 25 < quality["bf16"] < quality["fp32"]
