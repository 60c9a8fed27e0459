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
from dmgan_runtime.graphs import graph_interfaces
from tests.bundles import MAX_WORDS, SPEC, build_bundle, write_manifest
from tests.dmgan_runtime.backends.closing import close_under_users
from tests.dmgan_runtime.backends.fake_cuda import frames_of_ours
from tests.dmgan_runtime.backends.fake_onnxruntime import FakeOnnxRuntime
from tests.dmgan_runtime.backends.fakes import GPU

CAPTIONS = ["a red heart", "a small blue square and a", "round"]
GENERATORS = 3
BUFFERS = 4 + sum(len(interface.outputs) for interface in graph_interfaces(SPEC, MAX_WORDS).values())
"""Of one slot: what a caption and its noise take, and all outputs."""


@pytest.fixture
def served(fake_ort: FakeOnnxRuntime, bundle: Path) -> Iterator[Generator]:
    with Generator.open(bundle, backend="onnxruntime", device="cuda", threads=1) as generator:
        yield generator


def images(generator: Generator, batch_size: int, captions: list[str] = CAPTIONS) -> np.ndarray:
    made = generator.generate(captions, seed=1, batch_size=batch_size)
    return np.stack([np.asarray(each.image) for each in made])


def test_up_blocks_in_the_form_for_cpus_are_told(fake_ort: FakeOnnxRuntime, own_bundle: Path) -> None:
    with Generator.open(own_bundle, backend="onnxruntime", device="cuda", threads=1) as generator:
        assert "--up-blocks" not in generator.active.reason
        written = generator.manifest.graphs
    fake_ort.thread = None  # the next generator has a thread of its own
    form = dict.fromkeys(SPEC.generator_roles, "phases")
    write_manifest(own_bundle, graphs=tuple(graph.__replace__(up_blocks=form.get(graph.role)) for graph in written))
    with Generator.open(own_bundle, backend="onnxruntime", device="cuda", threads=1) as generator:
        assert "the form for CPUs; dmgan-export --fp16, or --up-blocks transposed" in generator.active.reason


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

    def test_a_model_of_one_stage_needs_no_words(self, fake_ort: FakeOnnxRuntime, tmp_path: Path) -> None:
        one = build_bundle(tmp_path / "one", spec=SPEC.__replace__(stages=1))
        made = []
        for device in ("cuda", "cpu"):
            with Generator.open(one, backend="onnxruntime", device=device, threads=1) as generator:
                frames = generator.interpolate(("a red heart", "round"), seeds=1, steps=3)
                made.append([np.asarray(frame) for frame in frames])
        np.testing.assert_array_equal(*made)

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
        close_under_users(generator, lambda generator: images(generator, 2))


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
        served.generate("a red heart")
        assert fake_ort.made == BUFFERS

    def test_the_garbage_collector_may_end_a_stream_in_any_thread(
        self, served: Generator, fake_ort: FakeOnnxRuntime
    ) -> None:
        class Cycle:
            pass

        kept = Cycle()
        kept.stream, kept.itself = served.stream("a red heart"), kept  # type: ignore[attr-defined]
        next(kept.stream)  # type: ignore[attr-defined]
        del kept
        with ThreadPoolExecutor(1) as pool:
            pool.submit(gc.collect).result()
        served.generate("a red heart")
        assert fake_ort.made == BUFFERS

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
        fake_ort.fails_at = ""
        np.testing.assert_array_equal(images(served, 2), expected)

    def test_a_copy_that_fails_leaves_nothing(self, served: Generator, fake_ort: FakeOnnxRuntime) -> None:
        images(served, 2)
        fake_ort.fails_to_copy = True
        for size in (2, 3):
            with pytest.raises(EngineError, match=r"failed in the copy of its inputs on cuda:0 \(CUDA failure 700\)"):
                images(served, size)
        gc.collect()
        assert len(fake_ort.buffers) == BUFFERS  # of the rest of CAPTIONS, a batch of one
        fake_ort.fails_to_copy = False
        assert len(images(served, 2)) == len(CAPTIONS)

    def test_idle_buffers_are_given_up_before_memory_is_said_to_be_full(
        self, served: Generator, fake_ort: FakeOnnxRuntime
    ) -> None:
        expected = images(served, 3)
        fake_ort.room = BUFFERS + 6
        for size in (1, 3):
            np.testing.assert_array_equal(images(served, size), expected)
        fake_ort.room = 4
        with pytest.raises(EngineError, match=r"Failed to allocate memory.*; try fewer images at once"):
            images(served, 2)
        gc.collect()
        assert not fake_ort.buffers


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
