"""TensorRT's backend over a CUDA and a TensorRT that are not there: see `fakes`."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dmgan_runtime import BackendError, EngineError, Generator
from dmgan_runtime.backends import lanes, tensorrt
from dmgan_runtime.backends.cuda import Cuda, DeviceTensor
from dmgan_runtime.bundle import Bundle
from dmgan_runtime.engine_manifest import ENGINE_MANIFEST_NAME
from tests.bundles import MAX_WORDS, zip_bundle
from tests.dmgan_runtime.backends.fakes import FakeCuda, add_engine

CAPTIONS = ["a red heart", "a small blue square and a", "round"]


def images(generator: Generator, batch_size: int = 2, attention: bool = False) -> list[np.ndarray[Any, Any]]:
    made = generator.generate(CAPTIONS, seed=3, batch_size=batch_size, attention=attention)
    return [np.asarray(each.image) for each in made]


@pytest.mark.parametrize("backend", ["auto", "tensorrt"])
def test_it_paints_what_onnxruntime_paints(cuda: FakeCuda, engine_bundle: Path, backend: str) -> None:
    with Generator.open(engine_bundle, backend="onnxruntime", device="cpu", threads=1) as reference:
        expected = images(reference)
    with Generator.open(engine_bundle, backend=backend) as generator:
        for _ in range(3):
            np.testing.assert_array_equal(images(generator), expected)
        active = generator.active
    assert (active.backend, active.device, active.precision, active.max_batch) == ("tensorrt", "cuda:0", "fp32", 4)
    assert "with the engine engines/sm89-tensorrt11.4.0.106-fp32-b1-1-4" in active.reason


def test_generators_are_replayed_as_cuda_graphs_from_the_second_run_on(cuda: FakeCuda, engine_bundle: Path) -> None:
    with Generator.open(engine_bundle) as generator:
        images(generator, batch_size=3)
        assert cuda.calls["cudaGraphLaunch"] == 0
        images(generator, batch_size=3)
        assert cuda.calls["cudaGraphLaunch"] == 3


def test_where_nothing_can_be_captured_it_runs_without_and_says_so(
    cuda: FakeCuda, engine_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cuda.can_capture = False
    with Generator.open(engine_bundle) as generator:
        first, second = images(generator, 3), images(generator, 3)
    np.testing.assert_array_equal(first, second)
    assert "without CUDA graphs: cuda:0: cudaStreamEndCapture failed: invalid argument" in caplog.text
    assert len(caplog.records) == 3


def test_features_stay_on_the_gpu(cuda: FakeCuda, engine_bundle: Path) -> None:
    with Bundle(engine_bundle) as bundle:
        backend = tensorrt.TensorRtBackend(bundle, index=0, precision="auto", threads=1)
        feeds = {"tokens": np.ones((2, 6), np.int64), "lengths": np.array([2, 6])}
        outputs = backend.run("text_encoder", feeds, ["sentence_feature"])
        assert list(outputs) == ["sentence_feature"]
        assert isinstance(outputs["sentence_feature"], DeviceTensor)
        assert outputs["sentence_feature"].address in cuda.device
        array = backend.to_host(outputs["sentence_feature"])
        assert (array.shape, array.dtype) == ((2, 6), np.float32)
        backend.close()


def test_memory_is_reused(cuda: FakeCuda, engine_bundle: Path) -> None:
    with Generator.open(engine_bundle) as generator:
        for _ in range(2):
            images(generator)
        before = cuda.calls["cudaMalloc"]
        for _ in range(5):
            images(generator)
        assert cuda.calls["cudaMalloc"] == before


def test_few_batch_sizes_are_kept(cuda: FakeCuda, engine_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "_MAX_PROGRAMS", 5)
    with Generator.open(engine_bundle) as generator:
        expected = images(generator, 1)
        for batch_size in (3, 2, 1, 2, 3, 1):
            np.testing.assert_array_equal(images(generator, batch_size), expected)
        assert len(cuda.graphs) <= 5


def test_one_backend_serves_many_threads(cuda: FakeCuda, engine_bundle: Path) -> None:
    with Generator.open(engine_bundle) as generator:
        expected = images(generator)
        with ThreadPoolExecutor(8) as pool:
            for result in pool.map(lambda batch_size: images(generator, batch_size), [1, 2, 3] * 6):
                np.testing.assert_array_equal(result, expected)
        assert len(cuda.streams) <= 2


def test_closing_while_a_tensor_is_out_frees_it_later(cuda: FakeCuda, engine_bundle: Path) -> None:
    with Generator.open(engine_bundle) as generator:
        stream = generator.stream(CAPTIONS[0])
        next(stream)
    with pytest.raises(EngineError, match="closed"):
        next(stream)


def test_batches_are_cut_to_what_the_engine_takes(cuda: FakeCuda, engine_bundle: Path) -> None:
    with Generator.open(engine_bundle) as generator:
        assert generator.active.max_batch == 4
        assert len(generator.generate(["a heart"] * 5, batch_size=5)) == 5


def test_more_images_than_the_engine_takes_are_refused(cuda: FakeCuda, engine_bundle: Path) -> None:
    feeds = {"tokens": np.ones((5, MAX_WORDS), np.int64), "lengths": np.ones(5, np.int64)}
    with (
        Generator.open(engine_bundle) as generator,
        generator._engine.lease() as backend,
        pytest.raises(EngineError, match=r"given 5 images at once, and this engine takes 4 .* --max-batch 5"),
    ):
        backend.run("text_encoder", feeds, ["sentence_feature"])


def test_a_full_gpu_is_an_engine_error_and_passes(cuda: FakeCuda, engine_bundle: Path) -> None:
    with Generator.open(engine_bundle) as generator:
        left, cuda.memory_left = cuda.memory_left, 100
        with pytest.raises(EngineError, match=r"tensorrt failed in .*cudaMalloc failed: out of memory.*fewer images"):
            images(generator)
        cuda.memory_left = left
        assert len(images(generator)) == len(CAPTIONS)


@pytest.mark.parametrize(
    "feeds",
    [
        {"tokens": np.ones((2, 6), np.int32), "lengths": np.array([1, 1])},
        {"tokens": np.ones((2, 5), np.int64), "lengths": np.array([1, 1])},
        {"tokens": np.ones((2, 6), np.int64), "lengths": np.array([1])},
    ],
)
def test_an_array_of_another_shape_never_reaches_the_gpu(
    cuda: FakeCuda, engine_bundle: Path, feeds: dict[str, Any]
) -> None:
    with Bundle(engine_bundle) as bundle:
        backend = tensorrt.TensorRtBackend(bundle, index=0, precision="auto", threads=1)
        with pytest.raises(EngineError, match=r"(tokens|lengths) is int\d+\(.*, not int64\("):
            backend.run("text_encoder", feeds, ["sentence_feature"])
        backend.close()


def test_what_lies_idle_is_freed_before_memory_is_said_to_be_full(
    cuda: FakeCuda, engine_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = cuda.cudaFree

    def free_and_count(address: int) -> tuple[int]:
        cuda.memory_left += len(cuda.device[address])
        return free(address)

    monkeypatch.setattr(cuda, "cudaFree", free_and_count)
    with Generator.open(engine_bundle) as generator:
        images(generator, batch_size=1)
        cuda.memory_left = 0
        ours: Cuda = generator._engine.backend._lanes._cuda  # type: ignore[attr-defined]
        idle = sum(size * len(blocks) for size, blocks in ours._idle.items())
        assert DeviceTensor(ours, (idle,), np.uint8).size > 0
        with pytest.raises(EngineError, match="out of memory"):
            DeviceTensor(ours, (idle,) * 2, np.uint8)


def test_a_lane_that_failed_waits_for_the_gpu_before_others_get_its_memory(
    cuda: FakeCuda, engine_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    execute, synchronize, give_back = lanes._Program.execute, cuda.cudaStreamSynchronize, Cuda.give_back

    def execute_and_fill(program: Any, stream: Any) -> None:
        execute(program, stream)
        seen.append("run")
        cuda.memory_left = 0

    monkeypatch.setattr(lanes._Program, "execute", execute_and_fill)
    monkeypatch.setattr(cuda, "cudaStreamSynchronize", lambda stream: seen.append("wait") or synchronize(stream))
    monkeypatch.setattr(Cuda, "give_back", lambda *its: seen.append("give back") or give_back(*its))
    with Generator.open(engine_bundle) as generator, pytest.raises(EngineError, match="out of memory"):
        images(generator)
    assert seen[:3] == ["run", "wait", "give back"]


def test_an_error_is_told_with_what_tensorrt_said_of_it_and_nothing_older(cuda: FakeCuda, engine_bundle: Path) -> None:
    with Generator.open(engine_bundle) as generator:
        cuda.memory_left = 100
        generator._engine.backend._log.errors.append("of yesterday")  # type: ignore[attr-defined]
        with pytest.raises(EngineError, match="out of memory") as caught:
            images(generator)
        assert "yesterday" not in str(caught.value)


def test_a_generator_that_nobody_closes_frees_the_gpu(cuda: FakeCuda, engine_bundle: Path) -> None:
    generator = Generator.open(engine_bundle)
    images(generator)
    assert cuda.device
    del generator
    gc.collect()
    assert [cuda.device, cuda.pinned, cuda.streams, cuda.graphs] == [{}, {}, set(), {}]


class TestWhatLiesBesideTheEngines:
    @pytest.mark.parametrize("name", [".sm90-tensorrt11.4-fp16-b1-4-16.partial", "__MACOSX", "a:b", "notes"])
    def test_a_foreign_folder_is_passed_over(self, cuda: FakeCuda, engine_bundle: Path, name: str) -> None:
        (engine_bundle / "engines" / name / "inside").mkdir(parents=True)
        with Generator.open(engine_bundle) as generator:
            assert generator.active.backend == "tensorrt"

    def test_an_engine_in_a_folder_of_another_name_is_told(self, cuda: FakeCuda, engine_bundle: Path) -> None:
        (folder,) = (engine_bundle / "engines").iterdir()
        folder.rename(folder.with_name("a:b"))
        with pytest.raises(BackendError, match=r"engines/a:b is no engine: .*a name that no engine's folder has"):
            Generator.open(engine_bundle, backend="tensorrt")

    @pytest.mark.parametrize("content", [b"", b"{}", b'{"schema_version": "2.0"}'])
    def test_a_damaged_engine_is_an_obstacle(self, cuda: FakeCuda, engine_bundle: Path, content: bytes) -> None:
        (manifest,) = (engine_bundle / "engines").glob(f"*/{ENGINE_MANIFEST_NAME}")
        manifest.write_bytes(content)
        with pytest.raises(
            BackendError, match=r"engines/sm89-.* is no engine: .*engine.json: .*build the engine again"
        ):
            Generator.open(engine_bundle, backend="tensorrt")
        with Generator.open(engine_bundle) as generator:
            assert generator.active.backend == "onnxruntime"
            assert "is no engine" in generator.active.reason


class TestCodeForTheCpu:
    @pytest.fixture
    def allowed(self, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
        """What TensorRT was told each time."""
        told: list[bool] = []

        class Runtime(tensorrt.import_module("tensorrt").Runtime):  # type: ignore[misc]
            def __setattr__(self, name: str, value: Any) -> None:
                super().__setattr__(name, value)
                if name == "engine_host_code_allowed":
                    told.append(value)

        monkeypatch.setattr(tensorrt.import_module("tensorrt"), "Runtime", Runtime)
        return told

    def test_auto_never_runs_what_no_hash_vouches_for(
        self, cuda: FakeCuda, own_bundle: Path, allowed: list[bool]
    ) -> None:
        add_engine(own_bundle, version_compatible=True)
        for arguments in ({}, {"device": "cuda"}):
            try:
                with Generator.open(own_bundle, **arguments) as generator:
                    reason = generator.active.reason
            except BackendError as error:
                reason = str(error)
            assert "it holds code for the CPU, which 'auto' does not run; if you trust" in reason
            assert "pass backend='tensorrt'" in reason
        assert not any(allowed)

    def test_it_runs_for_those_who_name_the_engine(self, cuda: FakeCuda, own_bundle: Path, allowed: list[bool]) -> None:
        add_engine(own_bundle, version_compatible=True)
        with Generator.open(own_bundle, backend="tensorrt") as generator:
            assert generator.active.backend == "tensorrt"
        assert allowed == [True] * 4

    def test_a_plain_plan_is_never_allowed_to(self, cuda: FakeCuda, engine_bundle: Path, allowed: list[bool]) -> None:
        Generator.open(engine_bundle, backend="tensorrt").close()
        assert allowed == [False] * 4


def test_rtx_captures_by_itself(cuda: FakeCuda, own_bundle: Path) -> None:
    add_engine(own_bundle, engine="tensorrt_rtx", device=None, compute_capabilities=(80, 89))
    with Generator.open(own_bundle) as generator:
        first, second = images(generator), images(generator)
        assert generator.active.backend == "tensorrt_rtx"
    np.testing.assert_array_equal(first, second)
    assert cuda.calls["cudaGraphLaunch"] == 0


def test_an_engine_in_a_zip_is_used(cuda: FakeCuda, engine_bundle: Path, tmp_path: Path) -> None:
    with Generator.open(zip_bundle(engine_bundle, tmp_path / "b.zip", "inside/"), backend="tensorrt") as generator:
        assert images(generator)
