"""What TensorRT's backend allocates and gives back, over the fakes."""

from __future__ import annotations

import gc
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from dmgan_runtime import EngineError, Generator
from dmgan_runtime.backends.base import EngineSettings
from dmgan_runtime.backends.tensorrt.backend import TensorRtBackend
from dmgan_runtime.bundle import Bundle
from dmgan_runtime.graphs import IMAGE
from tests.dmgan_runtime.backends.fake_cuda import FakeCuda
from tests.dmgan_runtime.backends.fakes import add_engine
from tests.dmgan_runtime.backends.tensorrt.batches import CAPTIONS, GENERATORS, batch_of, images


def test_closing_while_a_stream_is_unfinished_frees_it_later(cuda: FakeCuda, engine_bundle: Path) -> None:
    with Generator.open(engine_bundle) as served:
        stream = served.stream(CAPTIONS[0])
        next(stream)
    assert cuda.device
    with pytest.raises(EngineError, match="closed"):
        next(stream)
    del stream
    gc.collect()
    assert (cuda.device, cuda.pinned, cuda.streams) == ({}, {}, {})


def test_a_generator_that_nobody_closes_frees_the_gpu(cuda: FakeCuda, engine_bundle: Path) -> None:
    served = Generator.open(engine_bundle)
    images(served)
    assert cuda.device
    del served
    gc.collect()
    assert (cuda.device, cuda.pinned, cuda.streams, cuda.graphs) == ({}, {}, {}, {})


def test_the_garbage_collector_may_end_a_stream_in_any_thread(cuda: FakeCuda, engine_bundle: Path) -> None:
    class Cycle:
        pass

    with Generator.open(engine_bundle) as served:
        kept = Cycle()
        kept.stream, kept.itself = served.stream("a red heart"), kept  # type: ignore[attr-defined]
        next(kept.stream)  # type: ignore[attr-defined]
        del kept
        with ThreadPoolExecutor(1) as pool:
            pool.submit(gc.collect).result()
        served.generate("a red heart")
        assert len(cuda.streams) == 1


def test_memory_is_reused(cuda: FakeCuda, engine_bundle: Path) -> None:
    with Generator.open(engine_bundle) as served:
        images(served)
        before = cuda.calls["cudaMalloc"]
        for _ in range(5):
            images(served)
        assert cuda.calls["cudaMalloc"] == before


def test_a_full_gpu_is_an_engine_error_and_passes(cuda: FakeCuda, engine_bundle: Path) -> None:
    with Generator.open(engine_bundle) as served:
        for few in (100, 380, 1000, 20000):
            left, cuda.memory_left = cuda.memory_left, few
            with pytest.raises(EngineError, match=r"tensorrt failed in .*cudaMalloc failed: out of memory.*fewer"):
                images(served)
            cuda.memory_left += left - few
            assert not cuda.device
        assert len(images(served)) == len(CAPTIONS)


def test_other_batch_sizes_are_given_up_before_memory_is_said_to_be_full(cuda: FakeCuda, engine_bundle: Path) -> None:
    with Generator.open(engine_bundle) as served:
        expected = images(served, 3)
        for size in (1, 2):
            images(served, size)
        cuda.memory_left = 0
        np.testing.assert_array_equal(images(served, 4, [*CAPTIONS, "round"])[:3], expected)
        cuda.memory_left = 0
        np.testing.assert_array_equal(images(served, 2, CAPTIONS[:2]), expected[:2])


def test_the_only_other_size_is_given_up_too(cuda: FakeCuda, engine_bundle: Path) -> None:
    with Generator.open(engine_bundle) as served:
        expected = images(served, 3)
        cuda.memory_left = 0
        np.testing.assert_array_equal(images(served, 2, CAPTIONS[:2]), expected[:2])


def test_a_batch_under_way_keeps_what_it_has_while_others_make_room(cuda: FakeCuda, engine_bundle: Path) -> None:
    """The fake refuses to free what the GPU is at work in."""
    with Generator.open(engine_bundle) as served:
        images(served, 3)
        served.generate(CAPTIONS[:2], seed=3, batch_size=2, resolution=8)
        cuda.memory_left = 0  # for the larger stages, which the size 2 does not have yet
        got = images(served, 2, CAPTIONS[:2])
    with Generator.open(engine_bundle) as served:
        np.testing.assert_array_equal(got, images(served, 2, CAPTIONS[:2]))


def test_idle_slots_are_given_up_before_memory_is_said_to_be_full(cuda: FakeCuda, engine_bundle: Path) -> None:
    with Bundle(engine_bundle) as bundle:
        backend = TensorRtBackend(bundle, EngineSettings())
    # Two at once take two slots; the next batch gets the one that came back last, and needs the other one's memory.
    batches = [backend.generate(batch_of(size), 3, IMAGE) for size in (4, 1)]
    for _ in zip(*batches, strict=True):
        pass
    cuda.memory_left = 0
    assert [len(stage.image) for stage in backend.generate(batch_of(3), 3, IMAGE)] == [3] * GENERATORS
    backend.close()


def test_a_slot_that_failed_waits_for_the_gpu_before_others_get_its_memory(
    cuda: FakeCuda, engine_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fake refuses to free what the GPU is at work in. Here there is no memory for the image under way."""
    allocate, calls = cuda.cudaMallocHost, iter((True, False))
    with Generator.open(engine_bundle) as served:
        expected = images(served, 1)
        monkeypatch.setattr(cuda, "cudaMallocHost", lambda size: allocate(size) if next(calls) else (2, None))
        with pytest.raises(EngineError, match=r"failed in generator_2 \(.*cudaMallocHost failed: out of memory"):
            images(served, 3)
        monkeypatch.setattr(cuda, "cudaMallocHost", allocate)
        np.testing.assert_array_equal(images(served, 1), expected)


def test_nothing_is_freed_when_the_process_ends(own_bundle: Path) -> None:
    """The driver frees all then; and in a process that was forked, it is not ours."""
    add_engine(own_bundle)
    result = subprocess.run(
        [sys.executable, "-c", _ENDS_OPEN, own_bundle], capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout.split() == ["left", "True"], result.stderr


_ENDS_OPEN = """
import atexit, sys
atexit.register(lambda: print("left", bool(cuda.device)))  # before others register, and so after they are called
from dmgan_runtime import Generator
from dmgan_runtime.backends.tensorrt import backend
from tests.dmgan_runtime.backends.fake_cuda import FakeCuda
from tests.dmgan_runtime.backends.fakes import GPU, fake_tensorrt
cuda = FakeCuda()
module = fake_tensorrt(cuda)
sys.modules["tensorrt"], backend.find_spec = module, lambda name: module
backend.import_runtime, backend.find_gpu = lambda: cuda, lambda index: GPU
served = Generator.open(sys.argv[1], backend="tensorrt")
served.generate("round")
"""
