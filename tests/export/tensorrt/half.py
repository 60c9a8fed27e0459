"""A tiny bundle's generators in fp16, with fp32 inputs and outputs."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dmgan_runtime.manifest import FileEntry, parse_manifest
from tests.bundles import GENERATOR_ROLES, write_manifest

_SCALES = "scales"  # Resize takes them in fp32 only


def add_half(bundle: Path) -> Path:
    """Adds fp16 generators to a bundle that `build_bundle` made."""
    write_manifest(bundle)
    manifest = parse_manifest((bundle / "manifest.json").read_bytes(), "manifest.json")
    halves = []
    for role in GENERATOR_ROLES:
        graph = manifest.graph(role, "fp32")
        assert graph is not None
        path = f"onnx/{role}.fp16.onnx"
        onnx.save(_half(onnx.load(bundle / graph.file.path)), bundle / path)
        halves.append(graph.__replace__(precision="fp16", file=FileEntry.of(bundle, path)))
    write_manifest(bundle, graphs=(*manifest.graphs, *halves))
    return bundle


def _half(model: onnx.ModelProto) -> onnx.ModelProto:
    graph = model.graph
    for initializer in graph.initializer:
        if initializer.data_type == TensorProto.FLOAT and initializer.name != _SCALES:
            values = np.clip(numpy_helper.to_array(initializer), -6e4, 6e4).astype(np.float16)
            initializer.CopyFrom(numpy_helper.from_array(values, initializer.name))
    floats = [value.name for value in graph.input if value.type.tensor_type.elem_type == TensorProto.FLOAT]
    outputs = [value.name for value in graph.output]
    inside = {name: f"{name}_half" for name in (*floats, *outputs)}
    for node in graph.node:
        node.input[:] = [inside.get(name, name) for name in node.input]
        node.output[:] = [inside.get(name, name) for name in node.output]
    first = [helper.make_node("Cast", [name], [inside[name]], to=TensorProto.FLOAT16) for name in floats]
    last = [helper.make_node("Cast", [inside[name]], [name], to=TensorProto.FLOAT) for name in outputs]
    nodes = [*first, *graph.node, *last]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(model, full_check=True)
    return model
