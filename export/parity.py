"""Whether a graph in an engine computes what the model computes in PyTorch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from torch import Tensor

from dmgan_runtime.errors import ExportError
from dmgan_runtime.manifest import ParityEntry, Precision, Role
from export.graphs import Graph

BATCHES = (1, 3, 16)
TOLERANCE = {"fp32": 1e-4}


def reference_cases(
    graphs: Mapping[Role, Graph], vocabulary_size: int, batches: Sequence[int] = BATCHES
) -> list[dict[str, Tensor]]:
    """What goes into and comes out of every graph in PyTorch, for one batch of each size.

    Captions are random, of lengths from 1 to the maximum, with both ends among them.

    Returns:
        For each batch the tensors by `role.name`, of inputs and outputs.
    """
    random = torch.Generator().manual_seed(0)
    return [_reference_case(graphs, vocabulary_size, batch, random) for batch in batches]


@torch.inference_mode()
def _reference_case(
    graphs: Mapping[Role, Graph], vocabulary_size: int, batch: int, random: torch.Generator
) -> dict[str, Tensor]:
    max_words = int(graphs["text_encoder"].inputs[0].shape[1])
    lengths = torch.linspace(max_words, 1, batch).round().long()
    tokens = torch.randint(1, vocabulary_size, (batch, max_words), generator=random)
    tokens *= torch.arange(max_words) < lengths[:, None]
    known = {"tokens": tokens, "lengths": lengths}
    for name in ("noise", "condition_noise"):
        entry = next(entry for entry in graphs["generator_0"].inputs if entry.name == name)
        known[name] = torch.randn(batch, int(entry.shape[1]), generator=random)
    case: dict[str, Tensor] = {}
    for role, graph in graphs.items():
        arguments = {entry.name: known[entry.name] for entry in graph.inputs}
        names = [entry.name for entry in graph.outputs]
        results = dict(zip(names, graph.reference(*arguments.values()), strict=True))
        case |= {f"{role}.{name}": value for name, value in (arguments | results).items()}
        known |= results
        if "features" in results:
            known["previous_features"] = results["features"]
    return case


def measure_parity(
    path: Path, graph: Graph, precision: Precision, cases: Sequence[Mapping[str, Tensor]]
) -> list[ParityEntry]:
    """Runs an ONNX file in ONNX Runtime on the CPU and compares every output with PyTorch's.

    Args:
        path: The file.
        graph: What it was exported from.
        precision: Its precision; sets the tolerance.
        cases: From `reference_cases`.

    Returns:
        An entry for each output.

    Raises:
        ExportError: if an output is further off than the tolerance, or of another shape or dtype.
    """
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    role, names = graph.role, [entry.name for entry in graph.outputs]
    actual: dict[str, list[npt.NDArray[np.floating]]] = {name: [] for name in names}
    expected: dict[str, list[npt.NDArray[np.floating]]] = {name: [] for name in names}
    for case in cases:
        feeds = {entry.name: case[f"{role}.{entry.name}"].numpy() for entry in graph.inputs}
        for name, value in zip(names, session.run(names, feeds), strict=True):
            actual[name].append(value)
            expected[name].append(case[f"{role}.{name}"].numpy())
    batches = tuple(len(case["text_encoder.tokens"]) for case in cases)
    return [_compare(name, actual[name], expected[name], role, precision, batches) for name in names]


def _compare(
    name: str,
    actual: Sequence[npt.NDArray[np.floating]],
    expected: Sequence[npt.NDArray[np.floating]],
    role: Role,
    precision: Precision,
    batches: tuple[int, ...],
) -> ParityEntry:
    for got, wanted in zip(actual, expected, strict=True):
        if got.shape != wanted.shape or got.dtype != wanted.dtype:
            raise ExportError(f"{role}.{name}: {got.dtype}{got.shape}, and PyTorch gives {wanted.dtype}{wanted.shape}")
    got = np.concatenate([value.ravel() for value in actual]).astype(np.float64)
    wanted = np.concatenate([value.ravel() for value in expected]).astype(np.float64)
    worst, mean_square = float(np.abs(got - wanted).max()), float(np.square(got - wanted).mean())
    span = float(wanted.max() - wanted.min())
    # Features have no fixed range as images do, so their tolerance grows with their size.
    tolerance = TOLERANCE[precision] * max(1.0, float(np.abs(wanted).max()))
    if not worst <= tolerance:
        raise ExportError(
            f"{role} in {precision}: {name} differs from PyTorch by {worst:.2e}, over the tolerance of {tolerance:.2e};"
            " no bundle was written. Please report this with the versions of torch and onnxruntime"
        )
    psnr = 10 * math.log10(span**2 / mean_square) if mean_square > 0 and span > 0 else None
    return ParityEntry(
        role=role,
        precision=precision,
        output=name,
        max_abs_error=worst,
        psnr_db=psnr,
        tolerance=tolerance,
        batches=batches,
    )
