"""The CUDA backend over an ONNX Runtime whose GPU is not there (`fake_onnxruntime`); `test_gpu` needs a real one."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from dmgan_runtime import BackendError, EngineError, Generator
from dmgan_runtime.backends import ort_cuda
from tests.dmgan_runtime.backends.fake_cuda import frames_of_ours
from tests.dmgan_runtime.backends.fake_onnxruntime import FakeOnnxRuntime
from tests.dmgan_runtime.backends.fakes import GPU

CAPTIONS = ["a red heart", "a small blue square and a", "round"]
GENERATORS = 3


@pytest.fixture
def served(fake_ort: FakeOnnxRuntime, bundle: Path) -> Iterator[Generator]:
    with Generator.open(bundle, backend="onnxruntime", device="cuda", threads=1) as generator:
        yield generator


def images(generator: Generator, batch_size: int, captions: list[str] = CAPTIONS) -> np.ndarray:
    made = generator.generate(captions, seed=1, batch_size=batch_size)
    return np.stack([np.asarray(each.image) for each in made])


def owner_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("dmgan-cuda")]


class TestImages:
    @pytest.mark.parametrize("batch_sizes", [(1, 3, 2, 3, 1), (2, 2, 2), tuple(range(1, 13)) * 3])
    def test_they_are_those_of_the_cpu(
        self, served: Generator, generator: Generator, batch_sizes: tuple[int, ...]
    ) -> None:
        assert served.active.device == "cuda:0"
        captions = CAPTIONS * 4
        expected = images(generator, 4, captions)
        for batch_size in batch_sizes:
            np.testing.assert_array_equal(images(served, batch_size, captions), expected)

    def test_attention_and_gates_come_when_they_are_asked_for(self, served: Generator, generator: Generator) -> None:
        for _ in range(3):
            got, expected = (each.generate(CAPTIONS, seed=1, attention=True)[1] for each in (served, generator))
            assert got.attention is not None
            assert expected.attention is not None
            assert got.gates is not None
            assert expected.gates is not None
            for resolution, attention in expected.attention.items():
                np.testing.assert_array_equal(got.attention[resolution], attention)
                np.testing.assert_array_equal(got.gates[resolution].response, expected.gates[resolution].response)
            assert served.generate(CAPTIONS, seed=1)[0].attention is None

    def test_interpolation_brings_its_own_text_features(self, served: Generator, generator: Generator) -> None:
        for _ in range(3):
            got, expected = (
                [np.asarray(frame) for frame in each.interpolate(("a red heart", "round"), seeds=1, steps=5)]
                for each in (served, generator)
            )
            np.testing.assert_array_equal(got, expected)

    def test_a_smaller_resolution_computes_no_further(self, served: Generator, fake_ort: FakeOnnxRuntime) -> None:
        served.generate(CAPTIONS, resolution=8)
        few = len(fake_ort.buffers)
        served.generate(CAPTIONS)
        assert few < len(fake_ort.buffers) / 2

    def test_only_what_is_wanted_is_copied(self, served: Generator, fake_ort: FakeOnnxRuntime) -> None:
        served.generate("a red heart")
        assert fake_ort.copies == {"to the GPU": 4, "to the host": GENERATORS}

    def test_few_functions_lie_between_a_call_and_the_engine(
        self, served: Generator, fake_ort: FakeOnnxRuntime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        submit, waiting = ThreadPoolExecutor.submit, []

        def count_and_submit(*arguments: Any, **named: Any) -> Any:
            waiting.append(frames_of_ours())
            return submit(*arguments, **named)

        monkeypatch.setattr(ThreadPoolExecutor, "submit", count_and_submit)
        served.generate(CAPTIONS)
        assert max(waiting) + fake_ort.frames <= 6


class TestGraphs:
    """The fake replays a graph with the buffers that it was captured with; images above are right all the same."""

    def test_the_generators_are_captured_in_the_second_run(self, served: Generator, fake_ort: FakeOnnxRuntime) -> None:
        for runs, captured in ((1, 0), (2, GENERATORS), (3, GENERATORS)):
            images(served, 3)
            assert fake_ort.captured == captured, runs

    def test_more_sizes_in_turn_than_are_kept_never_capture_and_never_leak(
        self, served: Generator, fake_ort: FakeOnnxRuntime
    ) -> None:
        for _ in range(3):
            for size in range(1, 11):
                images(served, size, ["a red heart"] * size)
        assert fake_ort.captured == 0
        assert fake_ort.most_buffers <= 10 * (len(fake_ort.buffers) // 9)

    def test_the_sizes_that_are_captured_are_those_in_use_and_not_the_first_ones(
        self, served: Generator, fake_ort: FakeOnnxRuntime
    ) -> None:
        for size in range(4, 16):
            images(served, size, ["a red heart"] * size)
        for _ in range(3):
            images(served, 3)
        assert fake_ort.captured == GENERATORS

    def test_their_number_is_limited_as_they_are_never_given_back(
        self, served: Generator, fake_ort: FakeOnnxRuntime
    ) -> None:
        for size in range(1, 80):
            for _ in range(2):
                served.generate(["round"] * size, resolution=8, batch_size=size)
        assert fake_ort.captured == 64

    def test_a_capture_that_fails_is_an_error(self, served: Generator, fake_ort: FakeOnnxRuntime) -> None:
        images(served, 3)
        fake_ort.fails_to_capture = True
        with pytest.raises(EngineError, match=r"onnxruntime failed in generator_0 on cuda:0 \(cannot capture\)"):
            images(served, 3)

    def test_the_text_encoder_is_never_captured(
        self, fake_ort: FakeOnnxRuntime, bundle: Path, generator: Generator
    ) -> None:
        options = {"enable_cuda_graph": 1}
        with Generator.open(bundle, backend="onnxruntime", device="cuda", engine_options=options) as served:
            for caption in CAPTIONS * 3:
                np.testing.assert_array_equal(images(served, 1, [caption]), images(generator, 1, [caption]))
            assert fake_ort.captured == GENERATORS

    def test_a_user_may_do_without(self, fake_ort: FakeOnnxRuntime, bundle: Path) -> None:
        options = {"enable_cuda_graph": 0, "arena_extend_strategy": "kSameAsRequested"}
        with Generator.open(bundle, backend="onnxruntime", device="cuda", engine_options=options) as generator:
            for _ in range(3):
                images(generator, 3)
            assert fake_ort.captured == 0
            (found,) = {tuple(sorted(session._options.items())) for session in fake_ort.sessions}
        assert dict(found) == {
            "device_id": "0",
            "enable_cuda_graph": "0",
            "prefer_nhwc": "1",
            "use_tf32": "0",
            "cudnn_conv_algo_search": "HEURISTIC",
            "arena_extend_strategy": "kSameAsRequested",
        }


class TestManyAtOnce:
    def test_threads_do_not_write_into_each_others_buffers(self, served: Generator) -> None:
        expected = images(served, 3)
        with ThreadPoolExecutor(6) as pool:
            for result in pool.map(lambda size: images(served, size), [1, 2, 3] * 12):
                np.testing.assert_array_equal(result, expected)

    def test_batches_between_the_stages_of_a_stream_leave_it_alone(
        self, served: Generator, generator: Generator
    ) -> None:
        expected = [np.asarray(each.image) for each in generator.stream("a red heart", seed=1)]
        for _ in range(3):
            streams = [served.stream("a red heart", seed=1) for _ in range(3)]
            for stage in expected:
                for stream in streams:
                    np.testing.assert_array_equal(np.asarray(next(stream).image), stage)
                    served.generate("round", seed=2)

    def test_closing_waits_for_batches_and_refuses_later_ones(self, fake_ort: FakeOnnxRuntime, bundle: Path) -> None:
        generator = Generator.open(bundle, backend="onnxruntime", device="cuda")
        expected = images(generator, 2)
        begun = threading.Barrier(4)

        def serve() -> None:
            begun.wait()
            while True:
                np.testing.assert_array_equal(images(generator, 2), expected)

        with ThreadPoolExecutor(3) as pool:
            users = [pool.submit(serve) for _ in range(3)]
            begun.wait()
            generator.close()
            for user in users:
                with pytest.raises(EngineError, match="closed"):
                    user.result()


class TestWhatIsGivenBack:
    def test_closing_frees_all_and_ends_the_thread(self, fake_ort: FakeOnnxRuntime, bundle: Path) -> None:
        with Generator.open(bundle, backend="onnxruntime", device="cuda") as generator:
            images(generator, 2)
            assert owner_threads()
        assert (list(fake_ort.buffers), list(fake_ort.sessions), owner_threads()) == ([], [], [])

    def test_closing_frees_also_what_an_unfinished_stream_has(self, fake_ort: FakeOnnxRuntime, bundle: Path) -> None:
        with Generator.open(bundle, backend="onnxruntime", device="cuda") as generator:
            stream = generator.stream("a red heart")
            next(stream)
        assert (list(fake_ort.buffers), list(fake_ort.sessions)) == ([], [])
        with pytest.raises(EngineError, match="closed"):
            next(stream)

    def test_a_generator_that_nobody_closes_frees_the_gpu(self, fake_ort: FakeOnnxRuntime, bundle: Path) -> None:
        generator = Generator.open(bundle, backend="onnxruntime", device="cuda")
        images(generator, 2)
        del generator
        gc.collect()
        assert (list(fake_ort.buffers), list(fake_ort.sessions)) == ([], [])

    def test_streams_that_are_abandoned_cost_nothing(self, served: Generator, fake_ort: FakeOnnxRuntime) -> None:
        for _ in range(20):
            next(served.stream("a red heart"))
        one = len(fake_ort.buffers)
        served.generate("a red heart")
        assert len(fake_ort.buffers) == one

    def test_the_garbage_collector_may_end_a_stream_in_any_thread(
        self, served: Generator, fake_ort: FakeOnnxRuntime
    ) -> None:
        class Cycle:
            pass

        kept = Cycle()
        kept.stream, kept.itself = served.stream("a red heart"), kept  # type: ignore[attr-defined]
        next(kept.stream)  # type: ignore[attr-defined]
        one = len(fake_ort.buffers)
        del kept
        with ThreadPoolExecutor(1) as pool:
            pool.submit(gc.collect).result()
        served.generate("a red heart")
        assert len(fake_ort.buffers) == one

    def test_a_batch_that_fails_is_an_error_and_leaves_nothing(
        self, served: Generator, fake_ort: FakeOnnxRuntime
    ) -> None:
        expected = images(served, 2)
        left = len(fake_ort.buffers)
        fake_ort.fails_at = "response_gate"
        message = r"onnxruntime failed in generator_1 on cuda:0 \(CUDA failure 2: out of memory\); try fewer images"
        for _ in range(20):
            with pytest.raises(EngineError, match=message):
                served.generate(CAPTIONS, attention=True)
        gc.collect()
        assert len(fake_ort.buffers) == left
        np.testing.assert_array_equal(images(served, 2), expected)


class TestWhatCannotBeHad:
    @pytest.fixture
    def without_cuda(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])

    @pytest.mark.usefixtures("without_cuda")
    def test_a_build_without_cuda_names_its_remedy(self, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ort_cuda, "installed_rivals", lambda: {"onnxruntime": "1"})
        message = r'built without CUDA; pip uninstall onnxruntime, then pip install "dmgan\[gpu\]"'
        with pytest.raises(BackendError, match=message):
            Generator.open(bundle, backend="onnxruntime", device="cuda")

    @pytest.mark.usefixtures("without_cuda")
    def test_two_packages_that_overwrite_each_other_are_named(
        self, bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ort_cuda, "installed_rivals", lambda: {"onnxruntime": "1", "onnxruntime-gpu": "1"})
        with pytest.raises(BackendError, match="are both installed and overwrite each other: pip uninstall"):
            Generator.open(bundle, backend="onnxruntime", device="cuda")

    @pytest.mark.filterwarnings("ignore:Specified provider")
    def test_what_would_fall_back_to_the_cpu_is_an_error(self, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """ONNX Runtime itself, which has no CUDA here: left alone it would log a line and serve from the CPU."""
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
        monkeypatch.setattr(ort_cuda, "find_gpu", lambda index: GPU)
        monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print("Failed to load libcublas"))  # noqa: T201
        with pytest.raises(
            EngineError, match=r'fallback to CPU EP has been .* disabled.*"dmgan\[gpu\]"; Failed to load'
        ):
            Generator.open(bundle, backend="onnxruntime", device="cuda")
        assert owner_threads() == []
