"""Writes a graph as an ONNX file."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Literal

import onnx
import torch

from dmgan_runtime.errors import ExportError
from dmgan_runtime.manifest import TensorEntry
from export.graphs import Graph

_TRACING_BATCH = 2
_DTYPES = {"float32": torch.float32, "int64": torch.int64}
_ONNX_DTYPES: dict[int, Literal["float32", "int64"]] = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.INT64: "int64",
}


def write_onnx(graph: Graph, path: Path) -> None:
    """Exports a graph with a free batch axis and checks its names, dtypes and shapes.

    Args:
        graph: In evaluation mode.
        path: Where to; the weights are inside the file.

    Raises:
        ExportError: if PyTorch cannot export it, or the file is not what the graph promises.
        OSError: if the file cannot be written.
    """
    arguments = tuple(_example(entry) for entry in graph.inputs)
    batch = torch.export.Dim("batch", min=1)
    try:
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")  # the exporter's own deprecations
            program = torch.onnx.export(
                graph,
                arguments,
                dynamo=True,
                input_names=[entry.name for entry in graph.inputs],
                output_names=[entry.name for entry in graph.outputs],
                dynamic_shapes=tuple({0: batch} for _ in arguments),
                verbose=False,
            )
            assert program is not None
            program.save(str(path), external_data=False)
        model = onnx.load(path)
        _forget_sources(model.graph)
        onnx.save(model, path)
        onnx.checker.check_model(model, full_check=True)
    except OSError:
        raise  # a full disk is not PyTorch's doing
    except Exception as error:
        raise ExportError(f"PyTorch {torch.__version__} could not export {path.stem}: {error}") from error
    _check_interface(model, graph, path)


def read_opset(path: Path) -> int:
    """Reads the version of ONNX's operators that a file uses."""
    return int(next(entry.version for entry in onnx.load(path).opset_import if entry.domain == ""))


def quiet_exporter() -> None:
    """Keeps PyTorch's exporter from logging what it is doing, and onnxscript that it folds nothing."""
    for name in ("torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _forget_sources(graph: onnx.GraphProto) -> None:
    """Removes the stack traces that the exporter leaves at every node, which have paths of this machine."""
    for part in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


def _example(entry: TensorEntry) -> torch.Tensor:
    shape = [_TRACING_BATCH if axis == "batch" else axis for axis in entry.shape]
    return torch.ones(shape, dtype=_DTYPES[entry.dtype])


def _check_interface(model: onnx.ModelProto, graph: Graph, path: Path) -> None:
    for kind, values, promised in (
        ("inputs", model.graph.input, graph.inputs),
        ("outputs", model.graph.output, graph.outputs),
    ):
        actual = tuple(_entry(value) for value in values)
        if actual != promised:
            raise ExportError(f"{path.name}: its {kind} are {actual}, and should be {promised}")


def _entry(value: onnx.ValueInfoProto) -> TensorEntry:
    tensor = value.type.tensor_type
    shape = tuple(_axis(axis) for axis in tensor.shape.dim)
    return TensorEntry(name=value.name, dtype=_ONNX_DTYPES[tensor.elem_type], shape=shape)


def _axis(axis: onnx.TensorShapeProto.Dimension) -> int | Literal["batch"]:
    return "batch" if axis.dim_param else axis.dim_value
