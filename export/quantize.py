"""int8: static quantization of the convolutions, calibrated on captions, without the layers that spoil the image."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from dmgan_runtime.errors import ExportError
from export.graphs import Graph
from export.parity import Case, psnr

# Alone, so that three stages one after the other stay above what the bundle promises (`parity.REQUIRED_PSNR`).
STAGE_PSNR = 44.0

Feeds = Mapping[str, npt.NDArray[np.generic]]


def write_int8(
    graph: Graph,
    source: Path,
    path: Path,
    calibration: Sequence[Case],
    trial: Sequence[Case],
) -> tuple[str, ...]:
    """Quantizes a generator's graph: activations and weights in 8 bits, weights with a scale for each channel.

    All convolutions are quantized; while the images of the trial are under `STAGE_PSNR`, the convolution that alone
    costs most is given back to fp32. Activations are unsigned with a zero point of 128, which CPUs without VNNI
    multiply fastest; `export.tensorrt.integers` makes of it what TensorRT wants.

    Args:
        graph: What `source` was exported from.
        source: The fp32 file, its up blocks as convolutions: no engine has an integer transposed convolution here.
        path: Where to.
        calibration: From `reference_case`; the ranges of activations are taken from these.
        trial: From `reference_case`, with other captions: the images are judged on these.

    Returns:
        The convolutions that stay in fp32.

    Raises:
        ExportError: if the images stay under `STAGE_PSNR` even so.
    """
    layers = [node.name for node in onnx.load(source).graph.node if node.op_type == "Conv"]
    feeds = [_feeds(graph, case) for case in calibration]

    def quality(left_out: Iterable[str]) -> float:
        _quantize(source, path, feeds, sorted(left_out))
        return _image_psnr(graph, path, trial)

    left_out: list[str] = []
    best = quality(left_out)
    if best < STAGE_PSNR:
        alone = {layer: quality(set(layers) - {layer}) for layer in layers}
        for layer in sorted(layers, key=alone.__getitem__):
            left_out.append(layer)
            best = quality(left_out)
            if best >= STAGE_PSNR:
                break
        else:
            raise ExportError(
                f"{graph.role} in int8: the images reach {best:.0f} dB and {STAGE_PSNR:.0f} are needed; no bundle was"
                " written. Export without --int8"
            )
    return tuple(left_out)


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, feeds: Sequence[Feeds]) -> None:
        self._left: Iterator[Feeds] = iter(feeds)

    def get_next(self) -> Feeds | None:
        return next(self._left, None)


def _quantize(source: Path, path: Path, feeds: Sequence[Feeds], left_out: Sequence[str]) -> None:
    with _quiet():
        quantize_static(
            source,
            path,
            _Reader(feeds),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=list(left_out),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"ActivationSymmetric": True},
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the advice to preprocess the graph: its shapes are inferred and its BatchNorms folded already."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def _feeds(graph: Graph, case: Case) -> Feeds:
    return {entry.name: case[f"{graph.role}.{entry.name}"].numpy() for entry in graph.inputs}


def _image_psnr(graph: Graph, path: Path, cases: Sequence[Case]) -> float:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    images = [session.run(["image"], _feeds(graph, case))[0] for case in cases]
    wanted = [case[f"{graph.role}.image"].numpy() for case in cases]
    return psnr(np.concatenate(images), np.concatenate(wanted))
