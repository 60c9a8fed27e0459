"""int8: quantizes the convolutions statically, calibrated on captions; layers that spoil the image stay in fp32."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, QDQQuantizer, QuantType, create_calibrator

from dmgan_runtime.graphs import IMAGE, run_graphs
from dmgan_runtime.manifest import Role
from dmgan_runtime.quality import lowest_psnr
from export.graphs import Graph
from export.parity import Case

# Of each image of a stage alone, on captions of the training set.
STAGE_PSNR = 44.0
# Of each image of every stage, all stages one after the other: a little over what a bundle promises
# (`parity.REQUIRED_PSNR`), because an engine may round otherwise than the one here.
END_TO_END_PSNR = 36.0

Feeds = Mapping[str, npt.NDArray[Any]]


class Int8Layers(NamedTuple):
    """The convolutions of a graph by name, and which of them were quantized.

    Attributes:
        in_int8: Those whose activations and weights are in 8 bits.
        in_fp32: Those that cost the images too much in 8 bits.
    """

    in_int8: tuple[str, ...]
    in_fp32: tuple[str, ...]


class Int8Stage:
    """A generator's graph that is being quantized: which of its convolutions are integers, and its images' quality."""

    def __init__(self, graph: Graph, source: Path, path: Path) -> None:
        """Args:
        graph: What was exported, with up blocks as phases.
        source: Its fp32 file.
        path: The int8 file that `write_int8` writes.
        """
        self.graph = graph
        self.path = path
        self.convolutions = tuple(node.name for node in onnx.load(source).graph.node if node.op_type == "Conv")
        self.in_fp32: list[str] = []
        self._source = source
        self._ranges: Any = None
        self._trial: Sequence[Case] = ()

    def quantize(self, calibration: Sequence[Case], trial: Sequence[Case]) -> None:
        """Writes the file, with as many convolutions in int8 as `STAGE_PSNR` allows.

        Args:
            calibration: From `reference_case`; the ranges of activations are taken from these.
            trial: From `reference_case`, with other captions: the images are compared on these.
        """
        feeds = [_feeds(self.graph, case) for case in calibration]
        self._ranges = _calibrate(self._source, self.path.with_suffix(".augmented.onnx"), feeds)
        self._trial = trial
        quality = self._try(self.in_fp32)
        while quality < STAGE_PSNR and self.is_quantized:
            quality = self.return_worst_to_fp32()

    @property
    def is_quantized(self) -> bool:
        """Whether any convolution is in int8."""
        return len(self.in_fp32) < len(self.convolutions)

    @property
    def layers(self) -> Int8Layers:
        """Which convolutions are quantized."""
        return Int8Layers(
            tuple(name for name in self.convolutions if name not in self.in_fp32),
            tuple(name for name in self.convolutions if name in self.in_fp32),
        )

    def return_worst_to_fp32(self) -> float:
        """Returns the convolution in int8 that alone costs the images most to fp32; gives the trial's PSNR then."""
        self.in_fp32.append(next(name for name in self._most_harmful_first if name not in self.in_fp32))
        return self._try(self.in_fp32)

    def session(self, in_fp32: bool = False) -> onnxruntime.InferenceSession:
        """Opens the file as it is now, or its source."""
        return _open(self._source if in_fp32 else self.path)

    @cached_property
    def _most_harmful_first(self) -> list[str]:
        alone = {name: self._try(set(self.convolutions) - {name}) for name in self.convolutions}
        return sorted(self.convolutions, key=alone.__getitem__)

    def _try(self, in_fp32: Collection[str]) -> float:
        """Writes the file with these convolutions in fp32 and returns the PSNR of the trial's worst image."""
        if set(in_fp32) == set(self.convolutions):
            shutil.copyfile(self._source, self.path)
        else:
            _quantize(self._source, self.path, self._ranges, sorted(in_fp32))
        session = self.session()
        images = [session.run(["image"], _feeds(self.graph, case))[0] for case in self._trial]
        return min(map(lowest_psnr, images, [_image(self.graph, case) for case in self._trial]))


def write_int8(
    stages: Sequence[Int8Stage], calibration: Sequence[Case], trial: Sequence[Case], checked: Sequence[Case]
) -> Mapping[Role, Int8Layers]:
    """Quantizes all generators: activations and weights in 8 bits, weights with a scale for each channel.

    Each stage is quantized alone, and then all run one after the other: while an image of `checked` is under
    `END_TO_END_PSNR`, the stage that costs it most returns its most harmful convolution to fp32. So there is always a
    result, in the worst case a stage that is fp32 throughout. Activations are unsigned with a zero point of 128, which
    CPUs without VNNI multiply fastest; `export.tensorrt.integers` makes of it what TensorRT takes.

    Args:
        stages: All of them, in the order in which they run.
        calibration: From `reference_case`; the ranges of activations are taken from these.
        trial: From `reference_case`, with other captions: single stages are compared on these.
        checked: From `reference_case`: what the whole bundle will be checked with.

    Returns:
        The convolutions of each stage.
    """
    for stage in stages:
        stage.quantize(calibration, trial)
    while True:
        qualities = _image_psnrs(stages, checked, in_fp32=None)
        quality, worst = min((quality, index) for index, quality in enumerate(qualities))
        suspects = [index for index in range(worst + 1) if stages[index].is_quantized]
        if quality >= END_TO_END_PSNR or not suspects:
            break
        costly = max(suspects, key=lambda index: _image_psnrs(stages[: worst + 1], checked, in_fp32=index)[worst])
        stages[costly].return_worst_to_fp32()
    return {stage.graph.role: stage.layers for stage in stages}


def _image_psnrs(stages: Sequence[Int8Stage], cases: Sequence[Case], in_fp32: int | None) -> list[float]:
    """Measures the PSNR of each stage's worst image, every stage fed by the one before.

    Args:
        stages: In the order in which they run.
        cases: From `reference_case`.
        in_fp32: Which stage to run in fp32.
    """
    graphs = {stage.graph.role: stage.graph for stage in stages}
    sessions = {stage.graph.role: stage.session(in_fp32=index == in_fp32) for index, stage in enumerate(stages)}
    worst = dict.fromkeys(graphs, math.inf)

    def run(role: Role, inputs: Feeds, outputs: Sequence[str]) -> Feeds:
        return dict(zip(outputs, sessions[role].run(list(outputs), dict(inputs)), strict=True))

    for case in cases:
        # The first stage's inputs come last and so win: it has no stage before it here that could feed it.
        known = {name: value for graph in reversed(graphs.values()) for name, value in _feeds(graph, case).items()}
        for role, made in run_graphs(run, {role: graph.interface for role, graph in graphs.items()}, known, IMAGE):
            worst[role] = min(worst[role], lowest_psnr(made["image"], _image(graphs[role], case)))
    return list(worst.values())


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, feeds: Sequence[Feeds]) -> None:
        self._left: Iterator[Feeds] = iter(feeds)

    def get_next(self) -> Feeds | None:
        return next(self._left, None)


def _calibrate(source: Path, augmented: Path, feeds: Sequence[Feeds]) -> Any:
    """Measures the range of every convolution's activations, with a graph that is written to `augmented`."""
    try:
        calibrator = create_calibrator(source, ["Conv"], augmented_model_path=str(augmented))
        calibrator.collect_data(_Reader(feeds))
        return calibrator.compute_data()
    finally:
        augmented.unlink(missing_ok=True)


def _quantize(source: Path, path: Path, ranges: Any, left_out: Sequence[str]) -> None:
    quantizer = QDQQuantizer(
        onnx.shape_inference.infer_shapes(onnx.load(source)),
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=ranges,
        nodes_to_quantize=[],
        nodes_to_exclude=list(left_out),
        op_types_to_quantize=["Conv"],
        extra_options={"ActivationSymmetric": True},
    )
    with _quiet():
        quantizer.quantize_model()
    quantizer.model.save_model_to_file(str(path))


@contextmanager
def _quiet() -> Iterator[None]:
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def _open(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"], enable_fallback=0)


def _feeds(graph: Graph, case: Case) -> Feeds:
    return {entry.name: case[f"{graph.role}.{entry.name}"].numpy() for entry in graph.inputs}


def _image(graph: Graph, case: Case) -> npt.NDArray[np.floating]:
    return case[f"{graph.role}.image"].numpy()
