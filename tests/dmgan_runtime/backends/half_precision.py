"""Generators in fp16 for a bundle that was exported without, for tests on a GPU.

The graphs are converted operator by operator; an export with `--fp16` has transposed up blocks and a clip before each
convolution besides.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dmgan_runtime.manifest import MANIFEST_NAME, FileEntry, parse_manifest

_LARGEST = float(np.finfo(np.float16).max)


def add_half_precision(bundle: Path) -> Path:
    """Adds fp16 generators, with fp32 inputs and outputs, to a bundle's folder; returns it."""
    manifest = parse_manifest((bundle / MANIFEST_NAME).read_bytes(), "the bundle")
    halves = []
    for role in manifest.model.generator_roles:
        graph = manifest.graph(role, "fp32")
        assert graph is not None
        path = f"onnx/{role}.fp16.onnx"
        onnx.save(to_half_precision(onnx.load(bundle / graph.file.path)), bundle / path)
        halves.append(graph.__replace__(precision="fp16", file=FileEntry.of(bundle, path)))
    (bundle / MANIFEST_NAME).write_bytes(manifest.__replace__(graphs=(*manifest.graphs, *halves)).to_json())
    return bundle


def to_half_precision(model: onnx.ModelProto) -> onnx.ModelProto:
    """Makes every float inside a graph fp16; its inputs and outputs stay as they are."""
    graph = model.graph
    for initializer in graph.initializer:
        if initializer.data_type == TensorProto.FLOAT:
            values = np.clip(numpy_helper.to_array(initializer), -_LARGEST, _LARGEST).astype(np.float16)
            initializer.CopyFrom(numpy_helper.from_array(values, initializer.name))
    inputs = [value.name for value in graph.input if value.type.tensor_type.elem_type == TensorProto.FLOAT]
    outputs = [value.name for value in graph.output]
    inside = {name: f"{name}_half" for name in (*inputs, *outputs)}
    for node in graph.node:
        node.input[:] = [inside.get(name, name) for name in node.input]
        node.output[:] = [inside.get(name, name) for name in node.output]
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
    first = [helper.make_node("Cast", [name], [inside[name]], to=TensorProto.FLOAT16) for name in inputs]
    last = [helper.make_node("Cast", [inside[name]], [name], to=TensorProto.FLOAT) for name in outputs]
    nodes = [*first, *graph.node, *last]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(model, full_check=True)
    return model
