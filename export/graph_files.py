"""Writes the graphs of a bundle in every precision, quantizes them, and compares each with PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from dmgan_runtime.errors import SettingsError
from dmgan_runtime.manifest import FileEntry, GraphEntry, ParityEntry, Precision, Role, UpBlocks
from dmgan_train.models import GeneratorNetwork, TextEncoder
from export.graphs import Graph, build_graphs
from export.half_weights import REQUIRED_PSNR, STORED_IN_HALF, store_in_half
from export.onnx_file import read_opset, write_onnx
from export.operations import count_operations
from export.parity import Case, measure_parity, rounded_psnr
from export.precision import HalfGraph
from export.quantize import Int8Stage, write_int8
from export.reparameterize import reparameterize

# Names in the manifest's provenance.
OPERATIONS = "operations_per_image"
EVERY_OPERATOR_ROUNDED = "fp16_image_psnr_db_every_operator_rounded"
INT8_LAYERS = "int8_layers"


class Variant(NamedTuple):
    """One set of generators in a bundle.

    Attributes:
        precision: What they compute in.
        up_blocks: The form of their up blocks.
    """

    precision: Precision
    up_blocks: UpBlocks

    @property
    def purpose(self) -> str:
        """The devices that it is meant for, in words."""
        if self.precision == "int8":
            return "for CPUs with fast int8 instructions; TensorRT takes it too, if it is asked for"
        if self.precision == "fp16":
            return "for GPUs" + ("" if self.up_blocks == "transposed" else ", for which transposed up blocks are meant")
        return "for CPUs" if self.up_blocks == "phases" else "for GPUs that compute in fp32"


def choose_variants(
    precisions: Iterable[Precision], up_blocks: UpBlocks | Literal["auto"] = "auto"
) -> tuple[Variant, ...]:
    """Chooses the form of each set of generators.

    Phases, four convolutions and a pixel shuffle, are on CPUs as fast as a transposed convolution or faster, and no
    engine here has an integer one of that. Half precision is for GPUs.

    Args:
        precisions: Those to export.
        up_blocks: The form for all of them; "auto" takes transposed convolutions for fp16 and phases for the others.

    Raises:
        SettingsError: if int8 is to have transposed convolutions.
    """
    variants = []
    for precision in precisions:
        if precision == "int8" and up_blocks == "transposed":
            raise SettingsError(
                "up blocks as transposed convolutions: not with int8, because no engine has an integer transposed"
                " convolution; export int8 into a bundle of its own, or leave out --up-blocks"
            )
        automatic: UpBlocks = "transposed" if precision == "fp16" else "phases"
        variants.append(Variant(precision, automatic if up_blocks == "auto" else up_blocks))
    return tuple(variants)


@dataclass(frozen=True)
class GraphFiles:
    """The graphs that were written, and what is known of them.

    Attributes:
        graphs: For the manifest.
        parity: For the manifest.
        facts: For its provenance: floating-point operations of the fp32 graphs, of each fp16 graph `rounded_psnr`, of
            each int8 graph the number of convolutions in int8 and the names of those in fp32; the lowest PSNR of an
            image if weights are stored in half.
    """

    graphs: list[GraphEntry] = field(default_factory=list)
    parity: list[ParityEntry] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


def rewritten_graphs(
    text_encoder: TextEncoder, generator: GeneratorNetwork, max_words: int, variant: Variant
) -> Mapping[Role, Graph]:
    """Builds the graphs that are exported for a variant.

    The text encoder is exported in fp32 only: it takes little time, and engines refuse an fp16 LSTM that knows lengths.
    """
    graphs = dict(build_graphs(text_encoder, reparameterize(generator, variant.up_blocks), max_words))
    if variant.precision == "fp32":
        return graphs
    del graphs["text_encoder"]
    if variant.precision == "fp16":
        return {role: HalfGraph(graph).eval() for role, graph in graphs.items()}
    return graphs


def write_graphs(
    folder: Path,
    graphs: Mapping[Role, Graph],
    variant: Variant,
    cases: Sequence[Case],
    calibration: Sequence[Case],
    report: Callable[[str], None],
) -> GraphFiles:
    """Writes the graphs of one variant and compares each with PyTorch.

    The int8 graphs are made from the fp32 files, which have to be there.

    Args:
        folder: The bundle's.
        graphs: From `rewritten_graphs`.
        variant: What they are.
        cases: From `reference_case`; the graphs are compared on these.
        calibration: From `reference_case`, of captions of the training set; for int8 alone.
        report: Told each step as it begins.

    Raises:
        ExportError: if a graph cannot be exported or differs from PyTorch.
    """
    files, precision = GraphFiles(), variant.precision
    paths = {role: _path(role, precision) for role in graphs}
    if precision != "int8":
        for role, graph in graphs.items():
            report(f"exporting {role} in {precision}")
            write_onnx(graph, folder / paths[role])
    if precision == "fp32":
        files.facts[OPERATIONS] = sum(count_operations(folder / path) for path in paths.values())
    if precision == "int8":
        report("quantizing")
        stages = [
            Int8Stage(graph, folder / _path(role, "fp32"), folder / paths[role]) for role, graph in graphs.items()
        ]
        # Ranges are taken from half of the captions, and images compared on the others.
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
                opset=read_opset(folder / paths[role]),
                inputs=graph.inputs,
                outputs=graph.outputs,
                up_blocks=None if role == "text_encoder" else variant.up_blocks,
            )
        )
    if precision == "fp16":
        report("checking fp16 with every operator rounded")
        files.facts[EVERY_OPERATOR_ROUNDED] = {
            role: round(rounded_psnr(graph, cases), 1) for role, graph in graphs.items()
        }
    return files


def store_graphs_in_half(
    folder: Path,
    files: GraphFiles,
    graphs: Mapping[Role, Graph],
    cases: Sequence[Case],
    report: Callable[[str], None],
) -> GraphFiles:
    """Stores the weights of the fp32 graphs in fp16 and compares the graphs with PyTorch again.

    Args:
        folder: The bundle's.
        files: What was written of the fp32 graphs.
        graphs: Those that were written.
        cases: From `reference_case`.
        report: Told each step as it begins.

    Returns:
        What is in the folder now.

    Raises:
        ExportError: if an image is further from PyTorch's than `half_weights.REQUIRED_PSNR` allows.
    """
    parity, entries = [], []
    for entry in files.graphs:
        report(f"storing the weights of {entry.role} in fp16")
        path = folder / entry.file.path
        path.write_bytes(store_in_half(path.read_bytes()))
        entries.append(entry.__replace__(file=FileEntry.of(folder, entry.file.path)))
        parity += measure_parity(path, graphs[entry.role], "fp32", cases, rounded=REQUIRED_PSNR)
    images = [entry.psnr_db for entry in parity if entry.output == "image" and entry.psnr_db is not None]
    return GraphFiles(entries, parity, {**files.facts, STORED_IN_HALF: round(min(images), 1)})


def _path(role: Role, precision: Precision) -> str:
    return f"onnx/{role}.onnx" if precision == "fp32" else f"onnx/{role}.{precision}.onnx"
