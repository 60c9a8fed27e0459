"""Parity: compares what ONNX Runtime computes from a file with what PyTorch computes."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from torch import Tensor

from dmgan_runtime.errors import ExportError
from dmgan_runtime.graphs import run_graphs
from dmgan_runtime.manifest import ParityEntry, Precision, Role
from dmgan_runtime.quality import decibels, lowest_psnr, psnr
from dmgan_runtime.tokenizer import Tokens
from dmgan_train.models import GeneratorNetwork, TextEncoder
from export.graphs import Graph, build_graphs
from export.precision import RoundedProducts

BATCHES = (1, 3, 16)
# fp32 must be the same function; of the others the images must look the same, and what leads to them is reported.
TOLERANCE = 1e-4
PAPERS_STAGES = 3
DEEP_PSNR = 90.0
REQUIRED_PSNR: Mapping[Precision, float] = {"fp16": 50.0, "int8": 35.0}

Case = Mapping[str, Tensor]
"""The inputs and outputs of every graph for one batch, by `role.name`."""


def random_captions(vocabulary_size: int, max_words: int) -> list[Tokens]:
    """Draws random words in batches of each of `BATCHES`, and one more batch if these leave out a length."""
    random = torch.Generator().manual_seed(0)
    missing = max_words - sum(BATCHES)
    batches = []
    longest = max_words
    for size in (*BATCHES, *([missing] if missing > 0 else [])):
        # Downwards from the maximum and round again, so that every length occurs.
        lengths = (longest - 1 - torch.arange(size)) % max_words + 1
        longest = int(lengths[-1]) - 1
        tokens = torch.randint(1, vocabulary_size, (size, max_words), generator=random)
        tokens *= torch.arange(max_words) < lengths[:, None]
        batches.append(Tokens(tokens.numpy(), lengths.numpy()))
    return batches


def reference_graphs(text_encoder: TextEncoder, generator: GeneratorNetwork, max_words: int) -> Mapping[Role, Graph]:
    """Builds the graphs as the model was trained, not rewritten, in float64.

    In fp32 PyTorch's convolutions on a CPU sum thousands of products one after the other: at paper size they are up to
    five times as far from float64 as ONNX Runtime's, and would hide what is to be found.

    Args:
        text_encoder: Trained.
        generator: Trained.
        max_words: Words of a caption that the graphs take.
    """
    return build_graphs(copy.deepcopy(text_encoder).double(), copy.deepcopy(generator).double(), max_words)


@torch.inference_mode()
def reference_case(graphs: Mapping[Role, Graph], captions: Tokens, seed: int) -> Case:
    """Runs every graph in PyTorch, each fed with what those before it gave, rounded to fp32.

    Args:
        graphs: All of them, from `reference_graphs`, or in fp32 where that is exact enough.
        captions: One batch.
        seed: Draws the noise.

    Raises:
        ExportError: if the weights are such that something is no finite number.
    """
    random = torch.Generator().manual_seed(seed)
    known = {name: torch.from_numpy(array) for name, array in captions._asdict().items()}
    for name in ("noise", "condition_noise"):
        entry = next(entry for entry in graphs["generator_0"].inputs if entry.name == name)
        known[name] = torch.randn(len(captions.lengths), int(entry.shape[1]), generator=random)
    case: dict[str, Tensor] = {}

    def run(role: Role, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> dict[str, Tensor]:
        graph = graphs[role]
        dtype = next(graph.parameters()).dtype
        arguments = (inputs[entry.name] for entry in graph.inputs)
        exact = graph.reference(*(value.to(dtype) if value.is_floating_point() else value for value in arguments))
        results = {entry.name: value.float() for entry, value in zip(graph.outputs, exact, strict=True)}
        if not all(value.isfinite().all() for value in results.values()):
            raise ExportError(
                f"{role} makes no finite numbers in PyTorch: its weights are damaged, or the training diverged; take"
                " another file, or with --step an earlier snapshot"
            )
        case.update({f"{role}.{name}": value for name, value in {**inputs, **results}.items()})
        return {name: results[name] for name in outputs}

    for _ in run_graphs(run, {role: graph.interface for role, graph in graphs.items()}, known):
        pass
    return case


def measure_parity(
    path: Path, graph: Graph, precision: Precision, cases: Sequence[Case], rounded: float | None = None
) -> list[ParityEntry]:
    """Runs an ONNX file in ONNX Runtime on the CPU and compares every output with PyTorch's in float64.

    Args:
        path: The file.
        graph: What it was exported from.
        precision: Its precision; says what is allowed.
        cases: From `reference_case`.
        rounded: If the weights were, the PSNR in dB that is asked of an image instead.

    Returns:
        An entry for each output.

    Raises:
        ExportError: if an output is further off than is allowed, or of another shape or dtype.
    """
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"], enable_fallback=0)
    names = [entry.name for entry in graph.outputs]
    actual: dict[str, list[npt.NDArray[np.floating]]] = {name: [] for name in names}
    expected: dict[str, list[npt.NDArray[np.floating]]] = {name: [] for name in names}
    for case in cases:
        feeds = {entry.name: case[f"{graph.role}.{entry.name}"].numpy() for entry in graph.inputs}
        for name, value in zip(names, session.run(names, feeds), strict=True):
            actual[name].append(value)
            expected[name].append(case[f"{graph.role}.{name}"].numpy())
    batches = tuple(len(case["text_encoder.tokens"]) for case in cases)
    return [_compare(name, actual[name], expected[name], graph.role, precision, rounded, batches) for name in names]


def rounded_psnr(graph: Graph, cases: Sequence[Case]) -> float:
    """Measures the worst image's PSNR with every operator of an fp16 graph rounding, as on a GPU.

    ONNX Runtime computes fp16 graphs in fp32 on a CPU, so what `measure_parity` sees is the weights' rounding alone.

    Args:
        graph: A `HalfGraph`.
        cases: From `reference_case`.

    Raises:
        ExportError: if an image is further from PyTorch's in float64 than fp16 allows.
    """
    inputs = [[case[f"{graph.role}.{entry.name}"] for entry in graph.inputs] for case in cases]
    with torch.no_grad(), RoundedProducts():
        images = [graph(*arguments)[0].numpy() for arguments in inputs]
    wanted = [case[f"{graph.role}.image"].numpy() for case in cases]
    quality, required = min(map(lowest_psnr, images, wanted)), REQUIRED_PSNR["fp16"]
    if quality < required:
        raise ExportError(
            f"{graph.role} in fp16, every operator rounded: an image reaches {decibels(quality)}, and"
            f" {required:g} dB are needed; no bundle was written. {_remedy('fp16')}"
        )
    return quality


def check_images(
    images: npt.NDArray[np.floating],
    expected: npt.NDArray[np.floating],
    precision: Precision,
    stage: int,
    rounded: float | None = None,
) -> float:
    """Checks a stage's images that a whole bundle generated, all stages one after the other; returns the lowest PSNR.

    In fp32 the paper's three stages must be as near as one graph is. What a stage rounds goes through every later one,
    and a model that was hardly trained amplifies it there; so of stages beyond the third a PSNR is asked for, under
    which something would be wrong and not only rounded. Each graph is held to `TOLERANCE` on its own
    (`measure_parity`).

    Args:
        images: From the bundle, in [-1, 1].
        expected: From PyTorch.
        precision: The bundle's.
        stage: Which stage generated them, from 0.
        rounded: As for `measure_parity`.

    Raises:
        ExportError: if they are further from PyTorch's than the precision allows.
    """
    required = rounded or REQUIRED_PSNR.get(precision, None if stage < PAPERS_STAGES else DEEP_PSNR)
    limits = _Limits(TOLERANCE if required is None else None, required)
    what = f"the bundle's image at {expected.shape[-1]} pixels in {precision}"
    quality = lowest_psnr(images, expected)
    _check(what, float(np.abs(images - expected).max()), quality, limits, _remedy(precision, rounded))
    return quality


class _Limits(NamedTuple):
    tolerance: float | None
    required_psnr: float | None


def _compare(
    name: str,
    actual: Sequence[npt.NDArray[np.floating]],
    expected: Sequence[npt.NDArray[np.floating]],
    role: Role,
    precision: Precision,
    rounded: float | None,
    batches: tuple[int, ...],
) -> ParityEntry:
    for got, wanted in zip(actual, expected, strict=True):
        if got.shape != wanted.shape or got.dtype != wanted.dtype:
            raise ExportError(f"{role}.{name}: {got.dtype}{got.shape}, and PyTorch gives {wanted.dtype}{wanted.shape}")
    got, wanted = (np.concatenate([value.ravel() for value in values]) for values in (actual, expected))
    worst = float(np.abs(got - wanted).max())
    quality = min(map(lowest_psnr, actual, expected)) if name == "image" else psnr(got, wanted)
    required = rounded or REQUIRED_PSNR.get(precision)
    limits = _Limits(
        # Features have no fixed range as images do, so their tolerance grows with their size.
        tolerance=TOLERANCE * max(1.0, float(np.abs(wanted).max())) if required is None else None,
        required_psnr=required if name == "image" else None,
    )
    _check(f"{role} in {precision}: {name}", worst, quality, limits, _remedy(precision, rounded))
    return ParityEntry(
        role=role,
        precision=precision,
        output=name,
        max_abs_error=worst,
        psnr_db=quality if math.isfinite(quality) else None,
        tolerance=limits.tolerance,
        required_psnr_db=limits.required_psnr,
        batches=batches,
    )


def _check(what: str, worst: float, quality: float, limits: _Limits, remedy: str) -> None:
    what = f"{what} differs from PyTorch by {worst:.2e} ({decibels(quality)})"
    if limits.tolerance is not None and not worst <= limits.tolerance:
        what += f", over the tolerance of {limits.tolerance:.2e}"
    elif limits.required_psnr is not None and not quality >= limits.required_psnr:
        what += f", and {limits.required_psnr:g} dB are needed"
    elif math.isfinite(worst):
        return
    raise ExportError(f"{what}; no bundle was written. {remedy}")


def _remedy(precision: Precision, rounded: float | None = None) -> str:
    if rounded is not None:
        return "Export without --half-weights"
    if precision == "fp32":
        return "Please report this with the versions of torch and onnxruntime"
    return f"Export without --{precision}"
