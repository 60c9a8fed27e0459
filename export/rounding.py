"""Half precision as machines with its instructions compute it, for those without: every operator's result rounded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper

from dmgan_runtime.graphs import Interface, RunGraph, graph_interfaces, run_graphs
from dmgan_runtime.manifest import Manifest, Role
from dmgan_runtime.quality import lowest_psnr
from export.graphs import Graph
from export.parity import Case
from export.precision import RoundedProducts

_FLOAT = TensorProto.FLOAT
_TEXT = ("word_features", "sentence_feature", "lengths")
_NOISE = ("noise", "condition_noise")


def bf16_psnr(folder: Path, manifest: Manifest, cases: Sequence[Case]) -> float:
    """The lowest PSNR of the largest images, the generators one after the other, each rounded to bf16.

    A processor with AMX and OpenVINO 2026.4 came to 44 and 45 dB over batches of a paper-size model of random weights,
    over which this comes to 45.

    Args:
        folder: The bundle's.
        manifest: Which has the fp32 graphs.
        cases: From `parity.reference_case`.
    """
    options = onnxruntime.SessionOptions()
    # Otherwise it leaves out casts that it takes for superfluous.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    sessions = {}
    for role in manifest.model.generator_roles:
        graph = manifest.graph(role, "fp32")
        assert graph is not None
        rounded = rounded_to_bf16(folder / graph.file.path)
        sessions[role] = onnxruntime.InferenceSession(
            rounded.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    interfaces = graph_interfaces(manifest.model, manifest.tokenizer.max_words)
    del interfaces["text_encoder"]

    def run(role: Role, inputs: Mapping[str, npt.NDArray[Any]], outputs: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
        return dict(zip(outputs, sessions[role].run(list(outputs), dict(inputs)), strict=True))

    return _lowest_psnr(run, interfaces, cases)


def fp16_psnr(graphs: Mapping[Role, Graph], cases: Sequence[Case]) -> float:
    """The lowest PSNR of the largest images, the generators one after the other, each rounded to fp16.

    Args:
        graphs: A `HalfGraph` of each generator.
        cases: From `parity.reference_case`.
    """

    def run(role: Role, inputs: Mapping[str, npt.NDArray[Any]], outputs: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
        graph = graphs[role]
        arguments = [torch.from_numpy(inputs[entry.name]) for entry in graph.inputs]
        with torch.no_grad(), RoundedProducts():
            made = graph(*arguments)
        found = {entry.name: value.numpy() for entry, value in zip(graph.outputs, made, strict=True)}
        return {name: found[name] for name in outputs}

    return _lowest_psnr(run, {role: graph.interface for role, graph in graphs.items()}, cases)


def _lowest_psnr(run: RunGraph[npt.NDArray[Any]], interfaces: Mapping[Role, Interface], cases: Sequence[Case]) -> float:
    qualities = []
    *_, last = interfaces
    for case in cases:
        known = {name: case[f"text_encoder.{name}"].numpy() for name in _TEXT}
        known |= {name: case[f"generator_0.{name}"].numpy() for name in _NOISE}
        *_, (_, outputs) = run_graphs(run, interfaces, known, {"image"})
        qualities.append(lowest_psnr(outputs["image"], case[f"{last}.image"].numpy()))
    return min(qualities)


def rounded_to_bf16(path: Path) -> onnx.ModelProto:
    """A graph in which weights, inputs and the result of every operator are rounded to bf16.

    Sums within an operator stay in fp32, as the instructions have it. Engines keep more in fp32, between operators that
    they compute as one: so they come nearer to fp32 than this.

    Args:
        path: An fp32 graph of a generator.
    """
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    graph = model.graph
    typed = [*graph.value_info, *graph.output]
    floats = {value.name for value in typed if value.type.tensor_type.elem_type == _FLOAT}
    nodes = []
    for tensor in graph.initializer:
        if tensor.data_type == _FLOAT:
            nodes += _round(f"{tensor.name}.exact", tensor.name)
            tensor.name += ".exact"
    given = {value.name for value in graph.input if value.type.tensor_type.elem_type == _FLOAT}
    for name in given:
        nodes += _round(name, f"{name}.rounded")
    for node in graph.node:
        node.input[:] = [f"{name}.rounded" if name in given else name for name in node.input]
        made = [name for name in node.output if name in floats]
        node.output[:] = [f"{name}.exact" if name in floats else name for name in node.output]
        nodes.append(node)
        for name in made:
            nodes += _round(f"{name}.exact", name)
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]
    return model


def _round(exact: str, rounded: str) -> list[onnx.NodeProto]:
    half = f"{rounded}.bf16"
    return [
        helper.make_node("Cast", [exact], [half], to=TensorProto.BFLOAT16),
        helper.make_node("Cast", [half], [rounded], to=_FLOAT),
    ]
