"""The bookkeeping of the CUDA backend, on ONNX Runtime's CPU: buffers, bindings, batch sizes. See also `test_gpu`."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from dmgan_runtime import BackendError, EngineError, Generator
from dmgan_runtime.backends import onnxruntime_cuda
from dmgan_runtime.backends.onnxruntime import session_options
from dmgan_runtime.backends.onnxruntime_cuda import OnnxRuntimeCudaBackend, cuda_options
from dmgan_runtime.bundle import Bundle
from tests.bundles import MAX_WORDS, SPEC
from tests.dmgan_runtime.backends.fakes import GPU

CAPTIONS = ["a red heart", "a small blue square and a", "round"]


@pytest.fixture
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime_cuda, "_PROVIDER", "CPUExecutionProvider")
    monkeypatch.setattr(onnxruntime_cuda, "_DEVICE", "cpu")
    monkeypatch.setattr(onnxruntime_cuda, "cuda_options", lambda index, capture: {})
    monkeypatch.setattr(onnxruntime_cuda, "cuda_session_options", session_options)
    monkeypatch.setattr(onnxruntime_cuda, "find_gpu", lambda index: GPU)


@pytest.fixture
def backend(on_the_cpu: None, bundle: Path) -> OnnxRuntimeCudaBackend:
    with Bundle(bundle) as opened:
        return OnnxRuntimeCudaBackend(opened, index=0, precision="auto", threads=1)


@pytest.fixture
def bound(on_the_cpu: None, bundle: Path) -> Iterator[Generator]:
    with Generator.open(bundle, backend="onnxruntime", device="cuda", threads=1) as generator:
        yield generator


def images(generator: Generator, batch_size: int) -> np.ndarray:
    return np.stack([np.asarray(each.image) for each in generator.generate(CAPTIONS, seed=1, batch_size=batch_size)])


def test_it_paints_what_the_plain_sessions_paint(bound: Generator, generator: Generator) -> None:
    assert bound.active.device == "cuda:0"
    for batch_size in (1, 3, 2, 3, 1):
        np.testing.assert_array_equal(images(bound, batch_size), images(generator, batch_size))


def test_beyond_some_batch_sizes_nothing_is_captured(
    bound: Generator, generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime_cuda, "_CAPTURED_BATCH_SIZES", 1)
    for batch_size in (3, 2, 1):
        np.testing.assert_array_equal(images(bound, batch_size), images(generator, batch_size))


def test_threads_do_not_write_into_each_others_buffers(bound: Generator) -> None:
    expected = [images(bound, size) for size in (1, 2, 3)]
    with ThreadPoolExecutor(6) as pool:
        for place, result in enumerate(pool.map(lambda size: images(bound, size), [1, 2, 3] * 6)):
            np.testing.assert_array_equal(result, expected[place % 3])


def test_a_tensor_stays_on_the_device_and_outlives_the_next_run(backend: OnnxRuntimeCudaBackend) -> None:
    ones = np.ones((2, MAX_WORDS), np.int64)
    text = backend.run("text_encoder", {"tokens": ones, "lengths": np.array([1, 6])}, ["sentence_feature"])
    assert isinstance(text["sentence_feature"], onnxruntime.OrtValue)

    def paint(level: float) -> onnxruntime.OrtValue:
        noise = np.full((2, SPEC.noise_features), level, np.float32)
        condition_noise = np.full((2, SPEC.condition_features), level, np.float32)
        feeds = text | {"noise": noise, "condition_noise": condition_noise}
        return backend.run("generator_0", feeds, ["features"])["features"]

    first = paint(1)
    kept = backend.to_host(first).copy()
    assert (backend.to_host(paint(-1)) != kept).any()
    np.testing.assert_array_equal(backend.to_host(first), kept)


def test_a_run_that_fails_is_an_engine_error(backend: OnnxRuntimeCudaBackend) -> None:
    feeds = {"tokens": np.ones((1, MAX_WORDS), np.int64), "lengths": np.ones((1, 1), np.int64)}
    with pytest.raises(EngineError, match=r"onnxruntime failed in text_encoder on cuda:0 .*fewer images"):
        backend.run("text_encoder", feeds, ["sentence_feature"])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_lock_that_another_thread_holds_is_free_in_a_fork() -> None:
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with onnxruntime_cuda._GPU:
            held.set()
            done.wait()

    with ThreadPoolExecutor(1) as pool:
        pool.submit(hold)
        held.wait()
        if not (child := os.fork()):
            os._exit(0 if onnxruntime_cuda._GPU.acquire(timeout=5) else 1)
        done.set()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_the_options_are_fp32_and_the_same_in_every_process() -> None:
    options = cuda_options(1, capture=True)
    assert options["device_id"] == "1"
    assert options["enable_cuda_graph"] == "1"
    assert cuda_options(0, capture=False)["enable_cuda_graph"] == "0"
    assert (options["use_tf32"], options["cudnn_conv_algo_search"]) == ("0", "HEURISTIC")


class TestWhatCannotBeHad:
    def test_a_build_without_cuda_names_its_remedy(self, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
        monkeypatch.setattr(onnxruntime_cuda, "installed_rivals", lambda: {"onnxruntime": "1"})
        with pytest.raises(
            BackendError, match=r'built without CUDA; pip uninstall onnxruntime, then pip install "dmgan\[gpu\]"'
        ):
            Generator.open(bundle, backend="onnxruntime", device="cuda")

    def test_two_packages_that_overwrite_each_other_are_named(
        self, bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
        monkeypatch.setattr(onnxruntime_cuda, "installed_rivals", lambda: {"onnxruntime": "1", "onnxruntime-gpu": "1"})
        with pytest.raises(BackendError, match="are both installed and overwrite each other: pip uninstall"):
            Generator.open(bundle, backend="onnxruntime", device="cuda")

    @pytest.mark.filterwarnings("ignore:Specified provider")
    def test_what_would_fall_back_to_the_cpu_is_an_error(self, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """ONNX Runtime itself, which has no CUDA here: left alone it would log a line and serve from the CPU."""
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
        monkeypatch.setattr(onnxruntime_cuda, "find_gpu", lambda index: GPU)
        monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print("Failed to load libcublas"))  # noqa: T201
        with pytest.raises(
            EngineError, match=r'fallback to CPU EP has been .* disabled.*"dmgan\[gpu\]"; Failed to load'
        ):
            Generator.open(bundle, backend="onnxruntime", device="cuda")
