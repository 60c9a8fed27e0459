"""Contenders whose figures are known beforehand, and results with figures that a test can check by hand.

Workers import this module: it must not import PyTorch.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from benchmarks.contender import AS_WRITTEN, BenchmarkModel, Contender, Sampler, Stopwatch
from benchmarks.results import Absence, BenchmarkResult, Entry, Environment, ModelEntry, Series
from dmgan_runtime.errors import BackendError, EngineError
from dmgan_runtime.request import FloatArray

# Powers of two, so that sums are exact.
RATES = {"fp32": 2.0**30}
OPERATIONS = {"text_encoder": 2**24, "generator_0": 7 * 2**24}
MODEL = BenchmarkModel(
    name="known",
    origin="random",
    bundle="",
    weights="",
    resolution=8,
    captions=("a", "b", "c"),
    operations={AS_WRITTEN: OPERATIONS},
)


@dataclass(frozen=True)
class Known(Contender):
    """A contender that takes a known time, by a clock that only it moves.

    Attributes:
        precision: Of which the matrix rate may be known.
        seconds: For an image.
        sleep: Seconds by the real clock, for opening.
        ballast: Bytes that it holds.
        refuses: It cannot be had.
        wrong: Its images are others.
        most: It fails at more images than this.
        dies_at: Its process ends at this call.
    """

    precision: str = "fp32"
    device: str = "cpu"
    threads: int = 1
    engine: str = "known"
    seconds: float = 0.125
    sleep: float = 0.0
    ballast: int = 0
    refuses: str = ""
    wrong: bool = False
    most: int = 99
    dies_at: int = 10**9

    @property
    def label(self) -> str:
        return self.engine.capitalize()

    def open(self, model: BenchmarkModel) -> KnownSampler:
        if self.refuses:
            raise BackendError(self.refuses)
        time.sleep(self.sleep)
        return KnownSampler(self)

    def operations(self, model: BenchmarkModel) -> dict[str, int]:
        return model.operations[AS_WRITTEN]


class KnownSampler(Sampler):
    """Every client's image of a moment is done at the same moment."""

    def __init__(self, known: Known) -> None:
        super().__init__()
        self._known, self._now, self._calls = known, 0.0, 0
        self._barrier: threading.Barrier | None = None
        self._ballast = np.ones(known.ballast, dtype=np.uint8)
        self.clock = lambda: self._now
        self.askers: list[set[int]] = []

    def version(self) -> str:
        return "1.2.3"

    def generate(self, captions: Sequence[str]) -> list[Image.Image]:
        self._calls += 1
        if len(captions) > self._known.most:
            raise EngineError("no memory")
        if self._calls >= self._known.dies_at:
            os._exit(9)
        if self._barrier is not None:
            self.askers[-1].add(threading.get_ident())
            if self._barrier.wait() == 0:
                self._now += self._known.seconds * len(captions)
            self._barrier.wait()
        else:
            self._now += self._known.seconds * len(captions)
        return [Image.new("RGB", (8, 8))] * len(captions)

    def serve(self, captions: Sequence[str], clients: int, seconds: float) -> float:
        self._barrier = threading.Barrier(clients)
        self.askers.append(set())
        return super().serve(captions, clients, seconds)

    def synthesize(self, captions: Sequence[str]) -> FloatArray:
        images = np.linspace(-1, 1, len(captions) * 192, dtype=np.float32).reshape(-1, 3, 8, 8)
        return -images if self._known.wrong else images

    def time_graphs(self, captions: Sequence[str]) -> dict[str, float]:
        stopwatch = Stopwatch(self.clock)
        for role, share in {"text_encoder": 0.25, "generator_0": 0.75}.items():
            self._now += share * self._known.seconds * len(captions)
            stopwatch.lap(role)
        return stopwatch.laps

    def who_asked(self) -> list[set[int]]:
        return self.askers


@dataclass(frozen=True)
class KnownLoop(Known):
    """A loop of training whose step takes known seconds."""

    def open(self, model: Any) -> Any:
        return SimpleNamespace(version=partial(str, 2.0), time=partial(float, self.seconds))


class KnownNetworks(NamedTuple):
    settings: Any = SimpleNamespace(gan=SimpleNamespace(batch_size=4))

    def describe(self) -> ModelEntry:
        return ModelEntry(name="known", weights="random", resolution=8)


ENTRIES = tuple(
    Entry(
        name=name, label=label, engine=engine, version="1", device="cpu", precision=precision, threads=2, psnr_db=psnr
    )
    for name, label, engine, precision, psnr in (
        ("torch-eager-fp32", "PyTorch eager", "torch", "fp32", None),
        ("onnxruntime-int8", "ONNX Runtime", "onnxruntime", "int8", 41.3),
    )
)
SERIES: dict[str, list[dict[str, Any]]] = {
    "latency": [
        {"figure": figure, "unit": "s", "batch": batch, "arithmetic_s": 0.05, "per_turn": turn}
        for batch in (1, 4)
        for figure, turn in (("end_to_end", 2), ("generator_2", 1))
    ],
    "throughput": [
        {"figure": "images_per_second", "unit": "images/s", "batch": 1, "clients": clients, "arithmetic_s": 0.05}
        for clients in (1, 8)
    ],
    "startup": [{"figure": "first_image", "unit": "s", "batch": 1}],
    "memory": [
        {"figure": figure, "unit": "bytes", "batch": batch}
        for figure in ("peak_memory", "peak_device_memory")
        for batch in (1, 16)
    ],
    "training": [{"figure": "images_per_second", "unit": "images/s", "batch": 10}],
    "size": [{"figure": figure, "unit": "bytes"} for figure in ("model", "installed")],
    "outputs": [{"figure": figure, "unit": "s", "batch": 4} for figure in ("images", "everything")],
}


def environment(**changes: Any) -> Environment:
    fields: dict[str, Any] = {
        "time": "2026-11-24T10:00:00+00:00",
        "system": "Linux x86_64",
        "cpu": "Some CPU",
        "cpus": 2,
        "memory": 2**34,
        "python": "3.11.7",
        "packages": {"torch": "2.13.0", "onnxruntime": "1.32.0"},
        "commit": "0123456789",
        "busy_before": 0.1,
    }
    return Environment(**(fields | changes))


def make_result(measure: str, scale: float = 1.0, **changes: Any) -> BenchmarkResult:
    """The second contender has a quarter of the reference's seconds, bytes or images; `scale` multiplies all."""
    series = [
        Series(contender=entry.name, samples=tuple(scale * share * value for value in (0.4, 0.4, 0.6, 0.6)), **fields)
        for entry, share in zip(ENTRIES, (1, 0.25), strict=True)
        for fields in SERIES[measure]
    ]
    fields: dict[str, Any] = {
        "measure": measure,
        "environment": environment(),
        "model": ModelEntry(name="birds", weights="random", resolution=256),
        "settings": {"rounds": 2},
        "entries": ENTRIES,
        "series": tuple(series),
        "absences": (Absence(contender="openvino-bf16", reason="this CPU has no bf16", batch=4),),
        "matrix_rates": {"fp32": 1e11},
    }
    return BenchmarkResult(**(fields | changes))
