"""What only a GPU can show. Elsewhere these tests are skipped, and `fakes` stand in for it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from dmgan_runtime import BackendError, Generator
from dmgan_runtime.backends.driver import find_gpu
from dmgan_runtime.backends.onnxruntime_cuda import OnnxRuntimeCudaBackend
from dmgan_runtime.bundle import Bundle
from tests.bundles import MAX_WORDS


def _why_not() -> str | None:
    try:
        find_gpu(0)
    except BackendError as error:
        return str(error)
    return None


pytestmark = pytest.mark.skipif(_why_not() is not None, reason=f"needs an NVIDIA GPU: {_why_not()}")

CAPTIONS = ["a red heart", "a small blue square and a", "round"]


@pytest.fixture(params=["onnxruntime", "tensorrt", "tensorrt_rtx"])
def served(request: pytest.FixtureRequest, own_bundle: Path) -> Iterator[Generator]:
    """The bundle on the GPU, with each engine that is installed; TensorRT's engines are built here."""
    backend = request.param
    if find_spec(backend) is None:
        pytest.skip(f"needs {backend}, which is not installed")
    if backend == "onnxruntime":
        import onnxruntime

        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            pytest.skip("needs onnxruntime-gpu, and onnxruntime is installed")
    else:
        from export.tensorrt.bindings import open_bindings
        from export.tensorrt.engines import EngineSettings, build_engine

        build_engine(own_bundle, open_bindings(backend), EngineSettings(precision="fp32"), None, lambda _: None)
    with Generator.open(own_bundle, backend=backend, device="cuda") as generator:
        yield generator


def images(generator: Generator, batch_size: int) -> np.ndarray:
    made = generator.generate(CAPTIONS, seed=1, batch_size=batch_size)
    return np.stack([np.asarray(each.image).astype(np.float64) for each in made])


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    error = np.square(one - other).mean()
    return float("inf") if error == 0 else 10 * np.log10(255**2 / error)


def test_its_images_are_those_of_the_cpu(served: Generator, bundle: Path) -> None:
    with Generator.open(bundle, backend="onnxruntime", device="cpu") as reference:
        assert psnr(images(served, 3), images(reference, 3)) > 60


def test_runs_that_are_replayed_are_bit_equal(served: Generator) -> None:
    """The second and later runs of a batch size replay its CUDA graph."""
    first = {batch_size: images(served, batch_size) for batch_size in (1, 2, 3)}
    for _ in range(3):
        for batch_size, expected in first.items():
            np.testing.assert_array_equal(images(served, batch_size), expected)
    assert psnr(first[1], first[3]) > 60


def test_captions_of_other_lengths_are_not_those_of_the_first_run(served: Generator, bundle: Path) -> None:
    with Generator.open(bundle, backend="onnxruntime", device="cpu") as reference:
        for caption in CAPTIONS:
            made = [np.asarray(each.generate(caption, seed=1)[0].image) for each in (served, reference)]
            assert psnr(*made) > 60


def test_one_generator_serves_many_threads(served: Generator) -> None:
    expected = [images(served, size) for size in (1, 2, 3)]
    with ThreadPoolExecutor(8) as pool:
        for place, result in enumerate(pool.map(lambda size: images(served, size), [1, 2, 3] * 8)):
            np.testing.assert_array_equal(result, expected[place % 3])


def test_onnxruntime_keeps_tensors_on_the_gpu(bundle: Path) -> None:
    try:
        OnnxRuntimeCudaBackend.probe(0)
    except BackendError as error:
        pytest.skip(f"needs onnxruntime-gpu: {error}")
    with Bundle(bundle) as opened:
        backend = OnnxRuntimeCudaBackend(opened, index=0, precision="auto", threads=1)
    feeds = {"tokens": np.ones((1, MAX_WORDS), np.int64), "lengths": np.array([2])}
    outputs = backend.run("text_encoder", feeds, ["sentence_feature"])
    assert outputs["sentence_feature"].device_name() == "cuda"
