"""Weights that are stored in fp16 and computed with in fp32."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LEAST_ELEMENTS = 256  # biases and constants of formulas stay exact, and would save nothing
REQUIRED_PSNR = 50.0
STORED_IN_HALF = "weights_stored_in_fp16_image_psnr_db"  # in a manifest's provenance


def store_in_half(content: bytes) -> bytes:
    """Stores a graph's large fp32 weights in fp16, each with a cast to fp32, which engines do once, when they load it.

    Args:
        content: An ONNX file.

    Returns:
        An ONNX file of about half the size, with the same inputs and outputs.
    """
    model = onnx.load_from_string(content)
    casts = []
    for weight in model.graph.initializer:
        values = numpy_helper.to_array(weight)
        if weight.data_type != TensorProto.FLOAT or values.size < LEAST_ELEMENTS:
            continue
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if not np.isfinite(half).all():  # one that fp16 cannot hold
            continue
        name, stored = weight.name, f"{weight.name}.fp16"
        weight.CopyFrom(numpy_helper.from_array(half, stored))
        casts.append(helper.make_node("Cast", [stored], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model)
    return model.SerializeToString()
