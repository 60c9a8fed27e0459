"""What only a GPU can show, with the model that comes with dmgan. Elsewhere it is skipped, and `fakes` stand in.

ONNX Runtime on the CPU goes through all of it too, which shows that the tests themselves are right. `-k cpu` and
`-k cuda` choose.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from dmgan_runtime import BackendError, Generator
from dmgan_runtime.backends.gpus import find_gpu
from dmgan_runtime.backends.registry import ENGINES, Engine
from dmgan_runtime.bundle import packaged_bundle
from dmgan_runtime.manifest import Precision
from dmgan_runtime.self_test import run_self_test
from tests.dmgan_runtime.backends.closing import close_under_users
from tests.dmgan_runtime.backends.half_precision import add_half_precision


def _why_not() -> str | None:
    try:
        find_gpu(0)
    except BackendError as error:
        return str(error)
    return None


SETUPS = [(engine, precision) for engine in ENGINES if engine.device == "cuda" for precision in ("fp32", "fp16")] + [
    (engine, "fp32") for engine in ENGINES if (engine.backend, engine.device) == ("onnxruntime", "cpu")
]
CAPTIONS = ["red heart", "small blue square with a smiling face and two eyes", "green apple"]
PSNR = {"fp32": 60, "fp16": 30}
BATCH_SIZES = range(1, 10)


class Setup(NamedTuple):
    """An engine, a precision, and the bundle that has what both need."""

    engine: Engine
    precision: Precision
    bundle: Path

    def open(self) -> Generator:
        return Generator.open(
            self.bundle, backend=self.engine.backend, device=self.engine.device, precision=self.precision
        )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packaged model in fp32 and fp16."""
    copy = tmp_path_factory.mktemp("bundles") / "emoji"
    return add_half_precision(Path(shutil.copytree(packaged_bundle(), copy)))


@pytest.fixture(scope="module")
def reference(bundle: Path) -> Iterator[Generator]:
    with Generator.open(bundle, backend="onnxruntime", device="cpu", precision="fp32") as generator:
        yield generator


@pytest.fixture(scope="module", params=SETUPS, ids=lambda param: f"{param[0].backend}-{param[0].device}-{param[1]}")
def setup(request: pytest.FixtureRequest, bundle: Path) -> Setup:
    """Each engine that is installed and runs on this GPU, in each precision; TensorRT's engines are built here."""
    engine, precision = request.param
    if engine.device == "cuda" and (reason := _why_not()):
        pytest.skip(f"needs an NVIDIA GPU: {reason}")
    try:
        engine.load_class().probe(0)
    except BackendError as error:
        pytest.skip(f"{engine.backend} cannot be had: {error}")
    if engine.plans != "none":
        from export.tensorrt.bindings import open_bindings
        from export.tensorrt.engines import BuildSettings, build_engine

        capability = (find_gpu(0).compute_capability,) if engine.backend == "tensorrt_rtx" else ()
        settings = BuildSettings(precision=precision, targets=capability)
        build_engine(bundle, open_bindings(engine.backend), settings, None, lambda _: None)
    return Setup(engine, precision, bundle)


@pytest.fixture(scope="module")
def served(setup: Setup) -> Iterator[Generator]:
    with setup.open() as generator:
        yield generator


def images(generator: Generator, batch_size: int, captions: list[str] = CAPTIONS) -> np.ndarray:
    made = generator.generate(captions, seed=1, batch_size=batch_size)
    return np.stack([np.asarray(each.image).astype(np.float64) for each in made])


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    error = np.square(one - other).mean()
    return float("inf") if error == 0 else 10 * np.log10(255**2 / error)


def test_the_self_test_of_the_bundle_passes(served: Generator) -> None:
    result = run_self_test(served)
    assert result.difference is not None


def test_images_are_those_of_the_cpu(setup: Setup, served: Generator, reference: Generator) -> None:
    """Captions of many lengths in one batch and one by one, captured and not."""
    for _ in range(3):
        assert psnr(images(served, 3), images(reference, 3)) > PSNR[setup.precision]
        for caption in CAPTIONS:
            assert psnr(images(served, 1, [caption]), images(reference, 1, [caption])) > PSNR[setup.precision]


def test_a_batch_size_in_use_is_bit_equal_in_every_run(served: Generator) -> None:
    first = {batch_size: images(served, batch_size) for batch_size in (1, 2, 3)}
    for _ in range(5):
        for batch_size, expected in first.items():
            np.testing.assert_array_equal(images(served, batch_size), expected)


def test_threads_get_what_one_thread_gets(served: Generator) -> None:
    expected = [images(served, size) for size in (1, 2, 3)]
    with ThreadPoolExecutor(8) as pool:
        for place, result in enumerate(pool.map(lambda size: images(served, size), [1, 2, 3] * 16)):
            np.testing.assert_array_equal(result, expected[place % 3])


def test_nine_batch_sizes_in_turn_from_two_threads(served: Generator) -> None:
    """One more than engines keep; one thread goes up, the other one down."""
    captions = CAPTIONS * 3
    expected = {size: images(served, size, captions[:size]) for size in BATCH_SIZES}

    def serve(sizes: list[int]) -> None:
        for size in sizes * 3:
            np.testing.assert_array_equal(images(served, size, captions[:size]), expected[size])

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(serve, [list(BATCH_SIZES), list(reversed(BATCH_SIZES))]))


def test_batches_between_the_stages_of_streams_leave_them_alone(served: Generator) -> None:
    expected = [np.asarray(each.image) for each in served.stream(CAPTIONS[0], seed=1)]
    for _ in range(3):
        streams = [served.stream(CAPTIONS[0], seed=1) for _ in range(3)]
        for stage in expected:
            for stream in streams:
                np.testing.assert_array_equal(np.asarray(next(stream).image), stage)
                served.generate(CAPTIONS[1], seed=2)


def test_attention_is_that_of_the_cpu(setup: Setup, served: Generator, reference: Generator) -> None:
    tolerance = {"fp32": 1e-3, "fp16": 5e-2}[setup.precision]
    for _ in range(3):
        got, expected = (each.generate(CAPTIONS[1], seed=1, attention=True)[0] for each in (served, reference))
        assert got.attention is not None
        assert expected.attention is not None
        for resolution, attention in expected.attention.items():
            np.testing.assert_allclose(got.attention[resolution], attention, atol=tolerance)
            np.testing.assert_allclose(got.attention[resolution].sum(axis=0), 1, atol=tolerance)
        without = served.generate(CAPTIONS[1], seed=1)[0]
        np.testing.assert_array_equal(np.asarray(without.image), np.asarray(got.image))


def test_interpolation_is_that_of_the_cpu(setup: Setup, served: Generator, reference: Generator) -> None:
    ends = (CAPTIONS[0], CAPTIONS[2])
    for _ in range(3):
        got, expected = (
            np.stack([np.asarray(frame).astype(np.float64) for frame in each.interpolate(ends, seeds=1, steps=6)])
            for each in (served, reference)
        )
        assert psnr(got, expected) > PSNR[setup.precision]


def test_it_may_be_closed_under_load_and_opened_again(setup: Setup) -> None:
    for _ in range(2):
        generator = setup.open()
        unfinished = generator.stream(CAPTIONS[0])
        next(unfinished)
        close_under_users(generator, lambda generator: images(generator, 2))
        del unfinished
