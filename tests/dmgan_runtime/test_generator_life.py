from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from dmgan_runtime import (
    BackendError,
    BundleError,
    EngineError,
    Generation,
    Generator,
    ModelSpec,
)
from dmgan_runtime.noise import draw_noise
from tests.bundles import MAX_WORDS, SPEC, WORDS, build_bundle, write_manifest, zip_bundle

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
        assert active.version in active.reason
        with pytest.raises(dataclasses.FrozenInstanceError):
            active.device = "cuda"  # type: ignore[misc]

    def test_a_zip_paints_what_its_folder_paints(self, bundle: Path, generator: Generator, tmp_path: Path) -> None:
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


class TestThreads:
    def test_one_generator_serves_many(self, generator: Generator) -> None:
        alone = [pixels(generator.generate(CAPTION, seed=seed)[0]) for seed in range(96)]
        with ThreadPoolExecutor(32) as pool:
            together = pool.map(lambda seed: pixels(generator.generate(CAPTION, seed=seed)[0]), range(96))
        np.testing.assert_array_equal(alone, list(together))

    def test_closing_under_them_is_a_clean_error(self, bundle: Path) -> None:
        generator = Generator.open(bundle, threads=1)

        def paint(_: int) -> str:
            try:
                while True:
                    generator.generate(CAPTION)
            except EngineError as error:
                return str(error)

        with ThreadPoolExecutor(32) as pool:
            messages = pool.map(paint, range(32))
            generator.generate(CAPTION)
            generator.close()
        assert all("this generator is closed" in message for message in messages)
