"""Counts the arithmetic that an ONNX graph does for one image."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import onnx
from onnx import NodeProto, shape_inference

Shape = Sequence[int]


def count_operations(path: Path) -> int:
    """Counts the floating-point operations of one image; a multiplication and an addition are two.

    Convolutions, matrix products and recurrences are counted; what is done once a value (activations, gates,
    softmax) is not, as is usual.

    Args:
        path: An ONNX file whose only free axis is the batch.
    """
    model = onnx.load(path)
    for value in model.graph.input:
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param:
                axis.dim_value = 1
    model = shape_inference.infer_shapes(model, data_prop=True)
    shapes: dict[str, Shape] = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        shapes[value.name] = tuple(axis.dim_value for axis in value.type.tensor_type.shape.dim)
    counted = [node for node in model.graph.node if node.op_type in _MULTIPLICATIONS]
    return 2 * sum(_MULTIPLICATIONS[node.op_type](node, shapes) for node in counted)


def _convolution(node: NodeProto, shapes: dict[str, Shape]) -> int:
    return math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])


def _transposed_convolution(node: NodeProto, shapes: dict[str, Shape]) -> int:
    # Every input value is multiplied by all of its channel's weights.
    return math.prod(shapes[node.input[0]]) * math.prod(shapes[node.input[1]][1:])


def _matrix_product(node: NodeProto, shapes: dict[str, Shape]) -> int:
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-2 if transposed else -1]


def _recurrence(node: NodeProto, shapes: dict[str, Shape]) -> int:
    words, batch, _ = shapes[node.input[0]]
    return words * batch * (math.prod(shapes[node.input[1]]) + math.prod(shapes[node.input[2]]))


_MULTIPLICATIONS: dict[str, Callable[[NodeProto, dict[str, Shape]], int]] = {
    "Conv": _convolution,
    "ConvTranspose": _transposed_convolution,
    "Gemm": _matrix_product,
    "LSTM": _recurrence,
    "MatMul": _matrix_product,
}
