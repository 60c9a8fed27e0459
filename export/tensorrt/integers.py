"""Rewrites quantized graphs into the form that TensorRT takes."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from dmgan_runtime.errors import ExportError


def signed_graph(graph: bytes) -> bytes:
    """Applies `signed_activations` to an ONNX file's content."""
    return signed_activations(onnx.load_from_string(graph)).SerializeToString()


def signed_activations(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copies a quantized graph in the form that TensorRT takes: signed activations, zero points of 0, fp32 biases.

    Raises:
        ExportError: if a zero point is not 128.
    """
    signed = onnx.ModelProto()
    signed.CopyFrom(model)
    for tensor in signed.graph.initializer:
        if tensor.data_type == TensorProto.UINT8:
            if (numpy_helper.to_array(tensor) != 128).any():
                raise ExportError(f"{tensor.name}: its zero point is not 128; export the bundle again")
            shape = tuple(tensor.dims)
            tensor.CopyFrom(numpy_helper.from_array(np.zeros(shape, dtype=np.int8), tensor.name))
    _biases_to_fp32(signed.graph)
    return signed


def _biases_to_fp32(graph: onnx.GraphProto) -> None:
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in list(graph.node):
        bias = constants.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if bias is not None and bias.data_type == TensorProto.INT32:
            values = numpy_helper.to_array(bias) * numpy_helper.to_array(constants[node.input[1]])
            graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), node.output[0]))
            graph.node.remove(node)
            graph.initializer.remove(bias)
