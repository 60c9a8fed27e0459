"""Measures every way to serve a bundle on this machine's CPU, for `dmgan-doctor --tune`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from datetime import date
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from dmgan_runtime.backends.base import generator_precisions
from dmgan_runtime.backends.registry import ENGINES, find_engine_row
from dmgan_runtime.backends.tuned import TunedWay, Tuning, circumstances
from dmgan_runtime.bundle import Bundle
from dmgan_runtime.cpus import find_processor
from dmgan_runtime.errors import BackendError, EngineError
from dmgan_runtime.generator import Generator
from dmgan_runtime.manifest import Arithmetic
from dmgan_runtime.noise import draw_noise
from dmgan_runtime.quality import lowest_psnr
from dmgan_runtime.request import FloatArray
from dmgan_runtime.tokenizer import split_words

_WARM_UPS = 2
_TIMED = 9
_COMPARED = 4
_WORDS = 8


class Measured(NamedTuple):
    """What one way came to.

    Attributes:
        milliseconds: The median time of one image.
        images: [4, 3, R, R] float32 in [-1, 1].
    """

    milliseconds: float
    images: FloatArray


def tune(path: Path, report: Callable[[str], None]) -> Tuning:
    """Times every engine and precision that can be had, then the fastest with fewer threads; compares with fp32.

    One engine is open at a time, so it takes no more memory than serving.

    Args:
        path: A folder or .zip.
        report: Told of each way what it came to, or why it cannot be had.

    Raises:
        BackendError: if no engine can be had.
        BundleError: if the bundle cannot be opened.
        EngineError: if what is installed fails over the bundle's own graphs.
    """
    with Bundle(path) as bundle:
        stored = {"fp32", "bf16", *generator_precisions(bundle)}  # bf16 is made of fp32 graphs
    now = circumstances()
    cpus = now.cpus
    found: list[TunedWay] = []
    failed: list[EngineError] = []
    reference: FloatArray | None = None

    def add(backend: str, precision: Arithmetic, threads: int) -> TunedWay | None:
        nonlocal reference
        name = f"{backend} in {precision}, {threads} {'thread' if threads == 1 else 'threads'}"
        try:
            measured = _measure(path, backend, precision, threads)
        except (BackendError, EngineError) as error:
            report(f"{name}: {error}")
            if isinstance(error, EngineError):
                failed.append(error)
            return None
        if reference is None:
            reference = measured.images
        quality = lowest_psnr(measured.images, reference)
        way = TunedWay(
            backend=backend,
            precision=precision,
            threads=threads,
            milliseconds=round(measured.milliseconds, 2),
            psnr_db=None if quality == float("inf") else round(max(quality, 0.0), 1),
        )
        kept = find_engine_row(backend, "cpu").auto
        near = "equal" if way.psnr_db is None else f"{way.psnr_db} dB"
        report(f"{name}: {way.milliseconds:g} ms an image, {near}{'' if kept else '; only by name'}")
        if kept:
            found.append(way)
        return way

    # ONNX Runtime in fp32 first: the export proved the graphs with it, and the others are compared with its images.
    for backend, precision in sorted(_ways(), key=lambda way: way != ("onnxruntime", "fp32")):
        if precision in stored:
            add(backend, precision, cpus)
    if not found:
        if failed:
            raise failed[0]
        raise BackendError('no engine can be had on this CPU; install one with: pip install "dmgan[cpu]"')
    best, threads = min(found, key=_time), cpus
    while threads > 1:
        threads //= 2
        fewer = add(best.backend, best.precision, threads)
        if fewer is None or fewer.milliseconds > best.milliseconds:
            break
        best = fewer
    return Tuning(measured_on=date.today(), circumstances=now, ways=tuple(sorted(found, key=_time)))


def _ways() -> Iterator[tuple[str, Arithmetic]]:
    bf16 = find_processor().has_bf16
    for engine in ENGINES:
        if engine.device == "cpu":
            yield from ((engine.backend, each) for each in engine.precisions if bf16 or each != "bf16")


def _time(way: TunedWay) -> float:
    return way.milliseconds


def _measure(path: Path, backend: str, precision: Arithmetic, threads: int) -> Measured:
    with Generator.open(path, backend=backend, device="cpu", precision=precision, threads=threads) as generator:
        words = [word for word in islice(generator.tokenizer.words, 1, None) if split_words(word) == [word]]
        caption = " ".join(words[:_WORDS])
        times = []
        for _ in range(_WARM_UPS + _TIMED):
            began = time.perf_counter()
            generator.generate(caption, seed=0)
            times.append(time.perf_counter() - began)
        spec = generator.manifest.model
        tokens = generator.tokenizer.encode_batch(words[:_COMPARED], generator.manifest.tokenizer.max_words)
        noise = draw_noise(range(len(tokens.lengths)), spec.noise_features, spec.condition_features)
        images = generator.synthesize(tokens.tokens, tokens.lengths, *noise).images[generator.resolutions[-1]]
    return Measured(1000 * statistics.median(times[_WARM_UPS:]), images)
