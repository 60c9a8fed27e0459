from __future__ import annotations

import dataclasses
import gc
import os
import pickle
import sys
import traceback
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime
import openvino
import pytest
from hypothesis import strategies as st

from dmgan_runtime import (
    BackendError,
    BundleError,
    EngineError,
    Generation,
    Generator,
    ModelSpec,
    SettingsError,
)
from dmgan_runtime.engine_handle import reopen
from dmgan_runtime.noise import draw_noise
from tests.bundles import MAX_WORDS, SPEC, WORDS, build_bundle, write_manifest, zip_bundle
from tests.dmgan_runtime.stand_ins import StandInBackend, stand_in_generator

CAPTION = "a small red heart"
CAPTIONS = st.lists(st.sampled_from(WORDS[1:]), min_size=1, max_size=MAX_WORDS).map(" ".join)


def pixels(generation: Generation) -> np.ndarray:
    return np.asarray(generation.image).astype(int)


class TestOpen:
    def test_it_says_what_it_serves_with(self, generator: Generator) -> None:
        assert generator.resolutions == (8, 16, 32)
        assert generator.manifest.name == "tiny"
        active = generator.active
        assert (active.backend, active.device, active.precision, active.threads) == (
            "onnxruntime",
            "cpu",
            "fp32",
            1,
        )
        assert str(active) == f"onnxruntime {active.version} on cpu in fp32"
        assert active.reason == "as asked for"
        with pytest.raises(dataclasses.FrozenInstanceError):
            active.device = "cuda"  # type: ignore[misc]

    def test_a_zip_generates_what_its_folder_does(self, bundle: Path, generator: Generator, tmp_path: Path) -> None:
        zipped = zip_bundle(bundle, tmp_path / "tiny.zip")
        with Generator.open(zipped, threads=1) as other:
            zipped.unlink()
            image = pixels(other.generate(CAPTION, seed=1)[0])
        np.testing.assert_array_equal(image, pixels(generator.generate(CAPTION, seed=1)[0]))

    @pytest.mark.parametrize(
        ("writing", "response"), [("gated", "concatenation"), ("words", "gated"), ("none", "concatenation")]
    )
    def test_an_ablation_has_the_gates_that_it_has(self, tmp_path: Path, writing: Any, response: Any) -> None:
        fields = {name: getattr(SPEC, name) for name in SPEC.__struct_fields__}
        spec = ModelSpec(**(fields | {"memory_writing": writing, "memory_response": response}))
        with Generator.open(build_bundle(tmp_path / "ablation", spec=spec), threads=1) as generator:
            (generation,) = generator.generate(CAPTION, attention=True)
        assert generation.gates is not None
        for gates in generation.gates.values():
            assert (gates.writing is not None) == (writing == "gated")
            assert (gates.response is not None) == (response == "gated")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"backend": "torch"}, "backend 'torch' is unknown; pass one of 'auto', 'tensorrt'"),
            ({"device": "tpu"}, "device 'tpu' is unknown; pass 'auto', 'cpu', 'cuda' or 'cuda:N'"),
            ({"device": None}, "device None is unknown"),
            ({"device": "cpu", "precision": "fp16"}, "has no generator graphs for precision 'fp16', but fp32"),
        ],
    )
    def test_what_cannot_be_had_is_an_error(self, bundle: Path, arguments: dict[str, str], message: str) -> None:
        with pytest.raises(BackendError, match=message):
            Generator.open(bundle, **arguments)  # type: ignore[arg-type]

    def test_a_bundle_without_a_graph_is_refused(self, own_bundle: Path, generator: Generator) -> None:
        write_manifest(own_bundle, graphs=generator.manifest.graphs[:3])
        with pytest.raises(BundleError, match="has no generator_2 graph in fp32"):
            Generator.open(own_bundle)

    def test_a_missing_bundle_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match="no such bundle"):
            Generator.open(tmp_path / "none")


@pytest.mark.parametrize("stages", [1, 2, 5])
def test_a_model_has_any_number_of_stages(tmp_path: Path, stages: int) -> None:
    spec = msgspec.structs.replace(SPEC, stages=stages)
    with Generator.open(build_bundle(tmp_path / "bundle", spec=spec), threads=1) as generator:
        sides = [8 << stage for stage in range(stages)]
        assert generator.resolutions == tuple(sides)
        (generation,) = generator.generate(CAPTION, seed=1, attention=True)
        assert list(generation.stages) == sides
        assert list(generation.attention or {}) == sides[1:]
        assert [each.image.width for each in generator.stream(CAPTION, seed=1)] == sides
        first, *_, last = generator.interpolate((CAPTION, "a blue square"), seeds=1, steps=3)
        assert first.tobytes() == generation.image.tobytes()
        assert last.size == generation.image.size


def test_it_says_what_it_is(own_bundle: Path) -> None:
    write_manifest(own_bundle, name="evil\x1b[2J")
    with Generator.open(own_bundle, backend="onnxruntime", device="cpu", threads=1) as generator:
        active = generator.active
        told = repr(generator)
    assert told == f"<Generator 'evil\\x1b[2J' of 8, 16, 32 pixels on onnxruntime {active.version} on cpu in fp32>"
    assert repr(generator) == f"{told[:-1]}, closed>"


@pytest.mark.parametrize("arguments", [(), ("birds.zip",), (None, None, None, None, None)])
def test_it_is_opened_and_not_constructed(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(SettingsError, match=r"use Generator\.open\(bundle\)"):
        Generator(*arguments)


def test_a_packaged_model_is_opened_by_name() -> None:
    with Generator.open("emoji-256", threads=1) as named, Generator.open(threads=1) as unnamed:
        assert named.manifest == unnamed.manifest
        with pickle.loads(pickle.dumps(named)) as copy:
            assert copy.manifest == named.manifest


@pytest.mark.parametrize("bundle", [5, b"bundle", ["bundle"]])
def test_what_is_no_path_is_refused(bundle: Any) -> None:
    with pytest.raises(BundleError, match=r"pass the path of a folder or .zip, or the name of a packaged model"):
        Generator.open(bundle)


class TestEngineOptions:
    def test_they_are_passed_to_the_named_engine(self, bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
        entry = {"session.intra_op_thread_affinities": "rubbish"}
        with pytest.raises(EngineError, match="only digits: rubbish"):
            Generator.open(bundle, backend="onnxruntime", device="cpu", engine_options=entry)
        assert capfd.readouterr().out == ""  # ONNX Runtime's own retry would print there
        options = {"INFERENCE_NUM_THREADS": 1, "NO_SUCH_PROPERTY": 1}
        with pytest.raises(EngineError, match="or engine_options are wrong: INFERENCE_NUM_THREADS, NO_SUCH_PROPERTY"):
            Generator.open(bundle, backend="openvino", engine_options=options)

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({}, BackendError, "engine_options are one engine's own; name it: backend='onnxruntime' or 'openvino'$"),
            (
                {"backend": "onnxruntime"},
                BackendError,
                "CUDA provider on device='cuda' and session .*; pass the device",
            ),
            ({"backend": "mnn"}, BackendError, "mnn takes no engine_options; leave them out"),
            ({"backend": "openvino", "engine_options": "foo"}, SettingsError, "engine_options are 'foo'; pass a dict"),
            ({"backend": "openvino", "engine_options": {1: 1}}, SettingsError, "pass a dict of names and values"),
            ({"backend": "onnxruntime", "device": "cpu", "engine_options": {"": 1}}, SettingsError, "pass a dict"),
            (
                {"backend": "onnxruntime", "device": "cpu", "engine_options": {"a" * 5000: 1}},
                SettingsError,
                "engine_options: onnxruntime refuses 'aaa",
            ),
        ],
    )
    def test_what_cannot_be_taken_is_named(
        self, bundle: Path, arguments: dict[str, Any], error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            Generator.open(bundle, **({"engine_options": {"a": 1}} | arguments))


class TestFork:
    """Which engine a forked process opens again; test_processes.py has real processes."""

    def test_a_gpu_is_refused_with_its_remedy(self, bundle: Path, generator: Generator) -> None:
        active = dataclasses.replace(generator.active, backend="onnxruntime", device="cuda:0")
        with pytest.raises(EngineError, match="onnxruntime cannot use a GPU in a forked process; start processes with"):
            reopen(bundle, {}, generator.manifest, active)

    @pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
    def test_the_same_engine_is_opened_whatever_was_asked(
        self, bundle: Path, generator: Generator, backend: str
    ) -> None:
        active = dataclasses.replace(generator.active, backend=backend)
        asked = {"backend": "auto", "device": "auto", "precision": "auto", "threads": 1}
        again = reopen(bundle, asked, generator.manifest, active)
        assert (again.active.backend, again.active.device, again.active.precision) == (backend, "cpu", "fp32")
        again.close()

    def test_openvino_that_was_at_work_is_refused_also_to_a_new_generator(
        self, bundle: Path, generator: Generator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("dmgan_runtime.backends.openvino.busy_at_fork", {"openvino"})
        active = dataclasses.replace(generator.active, backend="openvino")
        with pytest.raises(EngineError, match="openvino was at work when this process was forked"):
            reopen(bundle, {"backend": "auto"}, generator.manifest, active)
        with pytest.raises(BackendError, match=r"openvino was at work .*; start processes with spawn"):
            Generator.open(bundle, backend="openvino")
        with Generator.open(bundle) as other:
            assert other.active.backend == "onnxruntime"

    def test_an_engine_that_is_gone_is_an_error(
        self, bundle: Path, generator: Generator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        active = dataclasses.replace(generator.active, backend="openvino")
        monkeypatch.setitem(sys.modules, "openvino", None)
        with pytest.raises(EngineError, match=r"forked process \(.*openvino.*\); start processes with spawn"):
            reopen(bundle, {"backend": "openvino", "threads": 1}, generator.manifest, active)


class TestEngineFailures:
    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_values_that_are_no_numbers_are_an_error(self, generator: Generator, value: float) -> None:
        broken = stand_in_generator(generator, StandInBackend(value))
        message = "stand-in returned an image of 8 pixels with values that are no numbers; try another precision"
        with pytest.raises(EngineError, match=message):
            broken.generate(CAPTION)
        with pytest.raises(EngineError, match=message):
            next(broken.stream(CAPTION))

    def test_a_stage_is_computed_when_it_is_asked_for(self, generator: Generator) -> None:
        backend = StandInBackend()
        stream = stand_in_generator(generator, backend).stream(CAPTION)
        assert backend.computed == []
        next(stream)
        assert backend.computed == [8]
        assert [each.image.width for each in stream] == [16, 32]
        assert backend.computed == [8, 16, 32]


class TestFrames:
    """Few calls of ours lie between a user's call and the engine's own."""

    @pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
    def test_five_frames_lead_to_the_engine(self, bundle: Path, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
        def frames(*_: Any, **__: Any) -> None:
            ours = [each for each in traceback.extract_stack() if f"dmgan_runtime{os.sep}" in each.filename]
            raise Seen([each.name for each in ours if f"tests{os.sep}" not in each.filename])

        class Seen(Exception):  # noqa: N818
            pass

        with Generator.open(bundle, backend=backend, device="cpu", threads=1) as generator:
            engine = onnxruntime.InferenceSession if backend == "onnxruntime" else openvino.InferRequest
            monkeypatch.setattr(engine, "run" if backend == "onnxruntime" else "infer", frames)
            with pytest.raises(Seen) as caught:  # as it is: a signal's handler may raise it
                generator.generate(CAPTION)
        names = caught.value.args[0]
        assert names[0] == "generate"
        assert len(names) <= 5, names


def loaded(kind: type) -> int:
    """How many of an engine's objects there are."""
    return sum(issubclass(type(each), kind) for each in gc.get_objects())


class TestClose:
    def test_a_closed_generator_says_so(self, bundle: Path) -> None:
        with Generator.open(bundle, threads=1) as generator:
            stream = generator.stream(CAPTION)
            next(stream)
        generator.close()
        tokens, lengths = np.ones((1, MAX_WORDS), np.int64), np.array([1])
        noise = draw_noise([1], SPEC.noise_features, SPEC.condition_features)
        for call in (
            lambda: generator.generate(CAPTION),
            lambda: generator.generate([]),
            lambda: generator.stream(CAPTION),
            lambda: generator.synthesize(tokens, lengths, *noise),
            lambda: next(stream),
        ):
            with pytest.raises(EngineError, match="this generator is closed; open the bundle again"):
                call()
        assert generator.resolutions == (8, 16, 32)

    @pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
    def test_a_paused_stream_keeps_nothing(self, bundle: Path, backend: str) -> None:
        kind = onnxruntime.InferenceSession if backend == "onnxruntime" else openvino.CompiledModel
        gc.collect()  # what other tests left
        before = loaded(kind)
        with Generator.open(bundle, backend=backend, device="cpu", threads=1) as generator:
            stream = generator.stream(CAPTION)
            next(stream)
            assert loaded(kind) > before
        assert loaded(kind) == before

    def test_one_that_is_dropped_is_freed_at_once(self, generator: Generator) -> None:
        backend = StandInBackend()
        dropped, freed = stand_in_generator(generator, backend), weakref.ref(backend)
        gc.disable()
        try:
            del dropped, backend
            assert freed() is None
        finally:
            gc.enable()


class TestThreads:
    def test_one_generator_serves_many(self, generator: Generator) -> None:
        alone = [pixels(generator.generate(CAPTION, seed=seed)[0]) for seed in range(96)]
        with ThreadPoolExecutor(32) as pool:
            together = pool.map(lambda seed: pixels(generator.generate(CAPTION, seed=seed)[0]), range(96))
        np.testing.assert_array_equal(alone, list(together))

    def test_closing_under_them_is_a_clean_error(self, bundle: Path) -> None:
        generator = Generator.open(bundle, threads=1)

        def generate(_: int) -> str:
            try:
                while True:
                    generator.generate(CAPTION)
            except EngineError as error:
                return str(error)

        with ThreadPoolExecutor(32) as pool:
            messages = pool.map(generate, range(32))
            generator.generate(CAPTION)
            generator.close()
        assert all("this generator is closed" in message for message in messages)
