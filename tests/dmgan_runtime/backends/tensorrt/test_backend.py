"""TensorRT's backend over a CUDA and a TensorRT that are not there: see `fakes`."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dmgan_runtime import EngineError, Generator
from dmgan_runtime.backends.base import EngineSettings
from dmgan_runtime.backends.tensorrt.backend import TensorRtBackend
from dmgan_runtime.bundle import Bundle
from dmgan_runtime.graphs import IMAGE
from tests.bundles import zip_bundle
from tests.dmgan_runtime.backends.fake_cuda import FakeCuda
from tests.dmgan_runtime.backends.fakes import add_engine
from tests.dmgan_runtime.backends.tensorrt.batches import CAPTIONS, GENERATORS, batch_of, images


class TestImages:
    @pytest.mark.parametrize("backend", ["auto", "tensorrt"])
    def test_they_are_those_of_onnxruntime(
        self, cuda: FakeCuda, engine_bundle: Path, generator: Generator, backend: str
    ) -> None:
        expected = images(generator)
        with Generator.open(engine_bundle, backend=backend) as served:
            for batch_size in (2, 2, 2, 1, 3, 1, 3, 1, 3):
                np.testing.assert_array_equal(images(served, batch_size), expected)
            active = served.active
        assert (active.backend, active.device, active.precision, active.max_batch) == ("tensorrt", "cuda:0", "fp32", 4)
        assert "with the engine engines/sm89-tensorrt11.4.0.106-fp32-b1-1-4" in active.reason

    def test_attention_and_gates_come_when_they_are_asked_for(
        self, cuda: FakeCuda, engine_bundle: Path, generator: Generator
    ) -> None:
        expected = generator.generate(CAPTIONS, seed=1, attention=True)[1]
        assert expected.attention is not None
        assert expected.gates is not None
        with Generator.open(engine_bundle) as served:
            for _ in range(3):
                got = served.generate(CAPTIONS, seed=1, attention=True)[1]
                assert got.attention is not None
                assert got.gates is not None
                for resolution, attention in expected.attention.items():
                    np.testing.assert_array_equal(got.attention[resolution], attention)
                    np.testing.assert_array_equal(got.gates[resolution].response, expected.gates[resolution].response)
                assert served.generate(CAPTIONS, seed=1)[0].attention is None

    def test_interpolation_brings_its_own_text_features(
        self, cuda: FakeCuda, engine_bundle: Path, generator: Generator
    ) -> None:
        with Generator.open(engine_bundle) as served:
            for _ in range(3):
                got, expected = (
                    [np.asarray(frame) for frame in each.interpolate(("a red heart", "round"), seeds=1, steps=5)]
                    for each in (served, generator)
                )
                np.testing.assert_array_equal(got, expected)

    def test_an_engine_in_a_zip_is_used(self, cuda: FakeCuda, engine_bundle: Path, tmp_path: Path) -> None:
        with Generator.open(zip_bundle(engine_bundle, tmp_path / "b.zip", "inside/"), backend="tensorrt") as served:
            assert len(images(served)) == len(CAPTIONS)

    def test_rtx_compiles_at_once_so_that_one_seed_stays_one_image(self, cuda: FakeCuda, own_bundle: Path) -> None:
        add_engine(own_bundle, engine="tensorrt_rtx", device=None, compute_capabilities=(80, 89))
        with Generator.open(own_bundle) as served:
            assert served.active.backend == "tensorrt_rtx"
            first = images(served)
            for _ in range(3):
                np.testing.assert_array_equal(images(served), first)
        # It captures CUDA graphs by itself.
        assert cuda.calls["cudaGraphLaunch"] == 0


class TestGraphs:
    def test_generators_are_replayed_from_the_second_run_on(self, cuda: FakeCuda, engine_bundle: Path) -> None:
        with Generator.open(engine_bundle) as served:
            for launches in (0, GENERATORS, 2 * GENERATORS):
                images(served, 3)
                assert cuda.calls["cudaGraphLaunch"] == launches

    def test_eight_batch_sizes_in_turn_are_replayed(self, cuda: FakeCuda, engine_bundle: Path) -> None:
        """One generator at three resolutions, and a batch size of 4 at most, make nine kinds of batches and more."""
        kinds = [(size, resolution) for size in (1, 2, 3, 4) for resolution in (8, 16)]
        with Generator.open(engine_bundle) as served:
            for turn in range(3):
                before = cuda.calls["cudaMalloc"], cuda.calls["cudaGraphLaunch"]
                for size, resolution in kinds:
                    served.generate(["round"] * size, batch_size=size, resolution=resolution)
                launched = cuda.calls["cudaGraphLaunch"] - before[1]
                assert launched == (0 if turn == 0 else 4 * 1 + 4 * 2)
                assert turn == 0 or cuda.calls["cudaMalloc"] == before[0]

    def test_more_kinds_of_batches_than_are_kept_give_memory_back(self, cuda: FakeCuda, engine_bundle: Path) -> None:
        kinds = [(size, resolution) for size in (1, 2, 3, 4) for resolution in (8, 16, 32)]
        with Generator.open(engine_bundle) as served:
            expected = images(served)
            for _ in range(3):
                for size, resolution in kinds:
                    served.generate(["round"] * size, batch_size=size, resolution=resolution)
            assert not cuda.graphs  # each kind is gone before it comes again
            left = cuda.memory_left
            for size, resolution in kinds:
                served.generate(["round"] * size, batch_size=size, resolution=resolution)
            assert cuda.memory_left == left
            np.testing.assert_array_equal(images(served), expected)

    def test_warming_up_says_once_that_nothing_can_be_captured(
        self, cuda: FakeCuda, engine_bundle: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        cuda.can_capture = False
        with Generator.open(engine_bundle) as served:
            served.warm_up((1, 2, 3))
            (record,) = caplog.records
            first = images(served, 3)
            np.testing.assert_array_equal(images(served, 3), first)
        assert record.levelname == "WARNING"
        assert "without CUDA graphs, which is slower: cuda:0: cudaStreamEndCapture failed" in record.message
        assert len(caplog.records) == 1

    def test_warming_up_captures_what_the_first_user_replays(self, cuda: FakeCuda, engine_bundle: Path) -> None:
        with Generator.open(engine_bundle) as served:
            served.warm_up((3,))
            before = cuda.calls["cudaGraphLaunch"]
            images(served, 3)
            assert cuda.calls["cudaGraphLaunch"] == before + GENERATORS

    def test_few_functions_lie_between_a_call_and_the_engine(self, cuda: FakeCuda, engine_bundle: Path) -> None:
        with Generator.open(engine_bundle) as served:
            for _ in range(3):
                served.generate(CAPTIONS)
        assert 0 < cuda.frames <= 6


class TestManyAtOnce:
    def test_one_backend_serves_many_threads_two_at_once(self, cuda: FakeCuda, engine_bundle: Path) -> None:
        with Generator.open(engine_bundle) as served:
            expected = images(served)
            with ThreadPoolExecutor(8) as pool:
                for result in pool.map(lambda batch_size: images(served, batch_size), [1, 2, 3] * 8):
                    np.testing.assert_array_equal(result, expected)
            assert len(cuda.streams) <= 2
        assert cuda.most_at_once <= 2

    def test_one_thread_may_leave_many_streams_unfinished(
        self, cuda: FakeCuda, engine_bundle: Path, generator: Generator
    ) -> None:
        expected = [np.asarray(each.image) for each in generator.stream("a red heart", seed=1)]
        with Generator.open(engine_bundle) as served:
            for _ in range(3):
                streams = [served.stream("a red heart", seed=1) for _ in range(4)]
                for stage in expected:
                    for stream in streams:
                        np.testing.assert_array_equal(np.asarray(next(stream).image), stage)
                        served.generate("round", seed=2)
            assert len(cuda.streams) > 2
            del stream, streams
            served.generate("round")
            assert len(cuda.streams) == 2

    def test_an_unfinished_stream_keeps_no_other_thread_waiting(self, cuda: FakeCuda, engine_bundle: Path) -> None:
        with Generator.open(engine_bundle) as served, ThreadPoolExecutor(1) as pool:
            streams = [served.stream("a red heart") for _ in range(3)]
            for stream in streams:
                next(stream)
            assert len(pool.submit(images, served).result(timeout=60)) == len(CAPTIONS)

    def test_closing_waits_for_batches_and_refuses_later_ones(self, cuda: FakeCuda, engine_bundle: Path) -> None:
        served = Generator.open(engine_bundle)
        expected = images(served)
        begun = threading.Barrier(4)

        def serve() -> None:
            begun.wait()
            while True:
                np.testing.assert_array_equal(images(served), expected)

        with ThreadPoolExecutor(3) as pool:
            users = [pool.submit(serve) for _ in range(3)]
            begun.wait()
            served.close()
            for user in users:
                with pytest.raises(EngineError, match="closed"):
                    user.result()
        assert not cuda.device


def test_batches_are_cut_to_what_the_engine_takes(cuda: FakeCuda, engine_bundle: Path) -> None:
    with Generator.open(engine_bundle) as served:
        assert served.active.max_batch == 4
        assert len(served.generate(["a heart"] * 5, batch_size=5)) == 5


def test_more_images_than_the_engine_takes_are_refused(cuda: FakeCuda, engine_bundle: Path) -> None:
    with Bundle(engine_bundle) as bundle:
        backend = TensorRtBackend(bundle, EngineSettings())
    message = r"given 5 images at once, and this engine takes 4 .* --max-batch 5"
    with pytest.raises(EngineError, match=message):
        next(backend.generate(batch_of(5), 1, IMAGE))
    backend.close()


def test_an_error_is_told_with_what_tensorrt_said_of_it_and_nothing_older(
    cuda: FakeCuda, engine_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs: list[Any] = []
    with Bundle(engine_bundle) as bundle:
        module = cuda_module()
        monkeypatch.setattr(module, "Runtime", _kept(module.Runtime, logs))
        backend = TensorRtBackend(bundle, EngineSettings())
    logs[0].log(module.ILogger.Severity.ERROR, "of yesterday")
    cuda.memory_left = 100
    with pytest.raises(EngineError, match="out of memory") as caught:
        next(backend.generate(batch_of(1), 1, IMAGE))
    assert "yesterday" not in str(caught.value)
    backend.close()


def cuda_module() -> Any:
    from dmgan_runtime.backends.tensorrt import backend

    return backend.import_module("tensorrt")


def _kept(runtime: Any, logs: list[Any]) -> Any:
    """A runtime that keeps the log that it is made with."""

    def make(log: Any) -> Any:
        logs.append(log)
        return runtime(log)

    return make
