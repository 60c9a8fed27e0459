"""TensorRT's backend over a CUDA and a TensorRT that are not there: see `fakes`."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from dmgan_runtime import EngineError, Generator
from dmgan_runtime.backends.base import EngineSettings
from dmgan_runtime.backends.built_engines import BatchProfile
from dmgan_runtime.backends.tensorrt.backend import TensorRtBackend
from dmgan_runtime.bundle import Bundle
from dmgan_runtime.graphs import IMAGE
from dmgan_runtime.tokenizer import Tokens
from tests.bundles import SPEC, build_bundle, zip_bundle
from tests.dmgan_runtime.backends.closing import close_under_users
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

    def test_a_model_of_one_stage_needs_no_words(self, cuda: FakeCuda, tmp_path: Path) -> None:
        one = build_bundle(tmp_path / "one", spec=SPEC.__replace__(stages=1))
        add_engine(one)
        made = []
        for backend in ("tensorrt", "onnxruntime"):
            device = "cuda" if backend == "tensorrt" else "cpu"
            with Generator.open(one, backend=backend, device=device) as served:
                frames = served.interpolate(("a red heart", "round"), seeds=1, steps=3)
                made.append([np.asarray(frame) for frame in frames])
        np.testing.assert_array_equal(*made)

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

    def test_a_size_has_one_chain_of_engines_whatever_is_asked_of_it(self, cuda: FakeCuda, engine_bundle: Path) -> None:
        with Generator.open(engine_bundle) as served:
            for turn in range(3):
                before = cuda.calls["cudaMalloc"], cuda.calls["cudaGraphLaunch"]
                for size in (1, 2, 3, 4):
                    for resolution in (8, 16, 32):
                        served.generate(["round"] * size, batch_size=size, resolution=resolution)
                served.interpolate(("a red heart", "round"), steps=4)  # encodes captions one by one
                if turn > 0:
                    assert cuda.calls["cudaMalloc"] == before[0]
                    assert cuda.calls["cudaGraphLaunch"] == before[1] + 4 * (1 + 2 + 3) + GENERATORS

    def test_what_encodes_shares_with_what_generates(self, cuda: FakeCuda, engine_bundle: Path) -> None:
        with Bundle(engine_bundle) as bundle:
            backend = TensorRtBackend(bundle, EngineSettings())
        batch = batch_of(2)
        assert isinstance(batch.text, Tokens)
        mallocs = []
        for use in (lambda: backend.encode(batch.text), lambda: list(backend.generate(batch, 3, IMAGE))) * 2:
            before = cuda.calls["cudaMalloc"]
            use()
            mallocs.append(cuda.calls["cudaMalloc"] - before)
        backend.close()
        # Memory of the contexts, four inputs and two features; then the outputs of the generators.
        assert mallocs == [7, 11, 0, 0]

    def test_more_sizes_than_are_kept_give_memory_back(
        self, cuda: FakeCuda, own_bundle: Path, generator: Generator
    ) -> None:
        add_engine(own_bundle, profile=BatchProfile(min=1, opt=1, max=9))
        left = set()
        with Generator.open(own_bundle) as served:
            for _ in range(3):
                for size in range(1, 10):
                    served.generate(["round"] * size, batch_size=size, resolution=8)
                assert not cuda.graphs  # each is gone before it comes again
                left.add(cuda.memory_left)
            assert len(left) == 1
            np.testing.assert_array_equal(images(served), images(generator))

    def test_the_sizes_that_were_used_last_are_kept(self, cuda: FakeCuda, own_bundle: Path) -> None:
        add_engine(own_bundle, profile=BatchProfile(min=1, opt=1, max=9))
        with Generator.open(own_bundle) as served:
            # A slot keeps eight: the ninth takes the place of 2, as 1 was used again.
            for size in (1, 2, 3, 4, 5, 6, 7, 8, 1, 9):
                served.generate(["round"] * size, batch_size=size, resolution=8)
            mallocs = []
            for size in (1, 9, 3, 2):
                before = cuda.calls["cudaMalloc"]
                served.generate(["round"] * size, batch_size=size, resolution=8)
                mallocs.append(cuda.calls["cudaMalloc"] - before)
        assert mallocs[:3] == [0, 0, 0]
        assert mallocs[3] > 0

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
        close_under_users(served, images)
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


@pytest.fixture
def said_by_tensorrt(
    cuda: FakeCuda, engine_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[TensorRtBackend, Callable[[str], None]]]:
    """A backend, and what logs an error as TensorRT does."""
    module = sys.modules["tensorrt"]  # the stand-in
    make, logs = module.Runtime, []

    def keep_log(log: object) -> object:
        logs.append(log)
        return make(log)

    monkeypatch.setattr(module, "Runtime", keep_log)
    with Bundle(engine_bundle) as bundle:
        backend = TensorRtBackend(bundle, EngineSettings())
    yield backend, lambda text: logs[0].log(module.ILogger.Severity.ERROR, text)
    backend.close()


def test_an_error_is_told_with_what_tensorrt_said_of_it_and_nothing_older(
    cuda: FakeCuda, said_by_tensorrt: tuple[TensorRtBackend, Callable[[str], None]]
) -> None:
    backend, say = said_by_tensorrt
    say("of yesterday")
    cuda.memory_left = 100
    with pytest.raises(EngineError, match="out of memory") as caught:
        next(backend.generate(batch_of(1), 1, IMAGE))
    assert "yesterday" not in str(caught.value)


def test_two_batches_that_fail_at_once_are_told_each_with_its_own(
    cuda: FakeCuda,
    said_by_tensorrt: tuple[TensorRtBackend, Callable[[str], None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backend, say = said_by_tensorrt
    first = threading.get_ident()

    def fail() -> str:
        with pytest.raises(EngineError) as caught:
            backend.encode(Tokens(*batch_of(1).text))
        return str(caught.value)

    def malloc(_: int) -> tuple[int, None]:
        is_first = threading.get_ident() == first
        say("of the first" if is_first else "of the second")
        if is_first and not said:
            said.append(pool.submit(fail).result())
        return 2, None

    said: list[str] = []
    monkeypatch.setattr(cuda, "cudaMalloc", malloc)
    with ThreadPoolExecutor(1) as pool:
        said.append(fail())
    assert ["of the first" in message for message in said] == [False, True]
    assert ["of the second" in message for message in said] == [True, False]
    assert [message.count("try fewer images at once") for message in said] == [1, 1]
