"""Every graph of a bundle in every precision: written, quantized, and compared with PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dmgan_runtime.manifest import FileEntry, GraphEntry, ParityEntry, Precision, Role
from dmgan_train.models import Generator, TextEncoder
from export.graphs import Graph, build_graphs
from export.onnx_file import write_onnx
from export.operations import count_operations
from export.parity import Case, measure_parity, rounded_psnr
from export.precision import HalfGraph
from export.quantize import Int8Stage, write_int8
from export.reparameterize import reparameterize

# What is said of the graphs in the manifest's provenance.
OPERATIONS = "operations_per_image"
EVERY_OPERATOR_ROUNDED = "fp16_image_psnr_db_every_operator_rounded"
INT8_LAYERS = "int8_layers"


@dataclass(frozen=True)
class GraphFiles:
    """The graphs that were written, and what is known of them.

    Attributes:
        graphs: For the manifest.
        parity: For the manifest.
        facts: For its provenance: floating-point operations of the fp32 graphs, of each fp16 graph `rounded_psnr`, of
            each int8 graph the number of convolutions in int8 and the names of those in fp32.
    """

    graphs: list[GraphEntry] = field(default_factory=list)
    parity: list[ParityEntry] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


def rewritten_graphs(
    text_encoder: TextEncoder, generator: Generator, max_words: int, precision: Precision
) -> Mapping[Role, Graph]:
    """The graphs that are exported for a precision, in the form that suits it.

    The text encoder is exported in fp32 only: it takes little time, and engines refuse an fp16 LSTM that knows lengths.
    """
    # Four convolutions and a pixel shuffle: on CPUs as fast as the transposed convolution or faster, and no engine here
    # has an integer one of that. Half precision is for GPUs.
    rewritten = reparameterize(generator, "transposed" if precision == "fp16" else "phases")
    graphs = dict(build_graphs(text_encoder, rewritten, max_words))
    if precision == "fp32":
        return graphs
    del graphs["text_encoder"]
    return {role: HalfGraph(graph).eval() for role, graph in graphs.items()} if precision == "fp16" else graphs


def write_graphs(
    folder: Path,
    graphs: Mapping[Role, Graph],
    precision: Precision,
    cases: Sequence[Case],
    calibration: Sequence[Case],
    report: Callable[[str], None],
) -> GraphFiles:
    """Writes the graphs of one precision and compares each with PyTorch.

    Args:
        folder: The bundle's.
        graphs: From `rewritten_graphs`.
        precision: What they shall be in.
        cases: From `reference_case`; they are compared on these.
        calibration: From `reference_case`, of captions of the training set; for int8 alone.
        report: Told each step as it begins.

    Raises:
        ExportError: if a graph cannot be exported or differs from PyTorch.
    """
    files = GraphFiles()
    paths = {role: f"onnx/{role}.onnx" if precision == "fp32" else f"onnx/{role}.{precision}.onnx" for role in graphs}
    opsets = {}
    for role, graph in graphs.items():
        report(f"exporting {role} in {precision}")
        opsets[role] = write_onnx(graph, folder / paths[role])
    if precision == "fp32":
        files.facts[OPERATIONS] = sum(count_operations(folder / path) for path in paths.values())
    if precision == "int8":
        report("quantizing")
        stages = [Int8Stage(graph, folder / paths[role]) for role, graph in graphs.items()]
        # Ranges are taken from half of the captions, and the images judged on the others.
        layers = write_int8(stages, calibration[::2], calibration[1::2], [*cases, *calibration[1::2]])
        files.facts[INT8_LAYERS] = {
            role: {"in_int8": len(found.in_int8), "in_fp32": list(found.in_fp32)} for role, found in layers.items()
        }
    for role, graph in graphs.items():
        report(f"checking {role} in {precision}")
        files.parity.extend(measure_parity(folder / paths[role], graph, precision, cases))
        files.graphs.append(
            GraphEntry(
                role=role,
                precision=precision,
                file=FileEntry.of(folder, paths[role]),
                opset=opsets[role],
                inputs=graph.inputs,
                outputs=graph.outputs,
            )
        )
    if precision == "fp16":
        report("checking fp16 with every operator rounded")
        files.facts[EVERY_OPERATOR_ROUNDED] = {
            role: round(rounded_psnr(graph, cases), 1) for role, graph in graphs.items()
        }
    return files
