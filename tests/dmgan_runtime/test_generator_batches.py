from __future__ import annotations

import dataclasses
import threading
import tracemalloc
from collections.abc import Collection, Iterator
from contextlib import suppress
from itertools import count, islice, repeat
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st

from dmgan_runtime import (
    CaptionError,
    EngineError,
    Generation,
    Generator,
    SettingsError,
)
from dmgan_runtime.backends.base import EngineSettings
from dmgan_runtime.backends.ort_cpu import OrtCpuBackend
from dmgan_runtime.bundle import Bundle
from dmgan_runtime.noise import draw_noise
from dmgan_runtime.request import Batch
from dmgan_runtime.results import StageOutput
from tests.bundles import MAX_WORDS, SPEC, WORDS
from tests.dmgan_runtime.stand_ins import StandInBackend, stand_in_generator

CAPTION = "a small red heart"
CAPTIONS = st.lists(st.sampled_from(WORDS[1:]), min_size=1, max_size=MAX_WORDS).map(" ".join)


def pixels(generation: Generation) -> np.ndarray:
    return np.asarray(generation.image).astype(int)


@pytest.fixture
def fake(generator: Generator) -> tuple[Generator, StandInBackend]:
    backend = StandInBackend()
    return stand_in_generator(generator, backend), backend


class TestGenerateIter:
    def test_it_makes_what_generate_makes(self, generator: Generator) -> None:
        captions = ["a heart", "a small red square", "blue and green"]
        expected = generator.generate(captions, seed=3, images_per_caption=2, attention=True)
        generations = list(generator.generate_iter(iter(captions), seed=3, images_per_caption=2, attention=True))
        assert [(each.caption, each.seed) for each in generations] == [(each.caption, each.seed) for each in expected]
        for one, other in zip(generations, expected, strict=True):
            np.testing.assert_array_equal(pixels(one), pixels(other))
            assert (one.attention or {}).keys() == {16, 32}

    def test_one_caption_is_one_caption(self, generator: Generator) -> None:
        assert [each.caption for each in generator.generate_iter(CAPTION, seed=1)] == [CAPTION]

    def test_what_is_no_caption_is_an_error_at_the_call(self, generator: Generator) -> None:
        with pytest.raises(CaptionError, match="not NoneType"):
            generator.generate_iter(None)  # type: ignore[arg-type]

    def test_it_reads_no_more_than_a_batch_ahead(self, fake: tuple[Generator, StandInBackend]) -> None:
        read: list[int] = []

        def captions() -> Iterator[str]:
            for number in count():
                read.append(number)
                yield "a heart"

        generations = fake[0].generate_iter(captions(), batch_size=3)
        assert read == []
        for taken in range(1, 8):
            next(generations)
            assert len(read) == -(-taken // 3) * 3
        assert fake[1].batches == [3, 3, 3]

    def test_memory_does_not_grow_with_the_captions(self, fake: tuple[Generator, StandInBackend]) -> None:
        generations = fake[0].generate_iter(repeat("a small red heart"), resolution=8, batch_size=16, attention=True)
        tracemalloc.start()
        try:
            for _ in islice(generations, 64):
                pass
            settled, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            for _ in islice(generations, 3000):
                pass
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak - settled < 200_000  # 3,000 images would be 576,000 bytes in pixels alone

    def test_a_caption_that_cannot_be_read_comes_after_what_can(self, generator: Generator) -> None:
        generations = generator.generate_iter(["a heart", "a square", "zebra", "red"], batch_size=4)
        assert [next(generations).caption for _ in range(2)] == ["a heart", "a square"]
        with pytest.raises(CaptionError, match="zebra"):
            next(generations)

    def test_an_error_of_the_captions_themselves_comes_through(self, generator: Generator) -> None:
        def captions() -> Iterator[str]:
            yield "a heart"
            raise ConnectionError("the queue is gone")

        generations = generator.generate_iter(captions())
        assert next(generations).caption == "a heart"
        with pytest.raises(ConnectionError):
            next(generations)

    def test_a_wrong_argument_is_an_error_at_the_call(self, generator: Generator) -> None:
        with pytest.raises(SettingsError, match="batch_size is 0"):
            generator.generate_iter(["a heart"], batch_size=0)

    def test_threads_that_share_one_do_no_harm(self, generator: Generator) -> None:
        generations = generator.generate_iter(repeat("a heart", 60), seed=1, batch_size=1)
        taken: list[Generation] = []

        def take() -> None:
            with suppress(ValueError):  # another thread is at it
                taken.extend(generations)

        threads = [threading.Thread(target=take) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 0 < len(taken) <= 60
        assert generator.generate(CAPTION, seed=1)[0].seed == 1

    def test_closing_ends_it(self, bundle: Path) -> None:
        with Generator.open(bundle, threads=1) as generator:
            generations = generator.generate_iter(repeat("a heart"), batch_size=1)
            next(generations)
        with pytest.raises(EngineError, match="this generator is closed"):
            next(generations)


class TestEngineRange:
    @pytest.fixture
    def narrow(self, bundle: Path, generator: Generator) -> tuple[Generator, list[int]]:
        """A generator whose engine takes three images at once."""
        batches: list[int] = []

        class Narrow(OrtCpuBackend):
            def generate(
                self, batch: Batch, stages: int, wanted: Collection[str], *, at_once: bool = False
            ) -> Iterator[StageOutput]:
                batches.append(batch.size)
                return super().generate(batch, stages, wanted)

        with Bundle(bundle) as opened:
            backend = Narrow(opened, EngineSettings())
        backend.active = dataclasses.replace(backend.active, max_batch=3)
        return Generator._of(generator.manifest, generator.tokenizer, backend, bundle, {}), batches

    def test_batches_are_cut_to_it(self, narrow: tuple[Generator, list[int]], generator: Generator) -> None:
        cut = narrow[0].generate(CAPTION, seed=1, images_per_caption=7, batch_size=100)
        assert narrow[1] == [3, 3, 1]
        for one, other in zip(cut, generator.generate(CAPTION, seed=1, images_per_caption=7), strict=True):
            assert abs(pixels(one) - pixels(other)).max() <= 1
        narrow[0].warm_up([2, 50])
        assert narrow[1][3:] == [2, 3]

    def test_arrays_are_cut_to_it(self, narrow: tuple[Generator, list[int]], generator: Generator) -> None:
        noise = draw_noise(range(7), SPEC.noise_features, SPEC.condition_features)
        arrays = (np.ones((7, MAX_WORDS), np.int64), np.arange(7) % MAX_WORDS + 1, *noise)
        cut, whole = (each.synthesize(*arrays, attention=True) for each in (narrow[0], generator))
        assert narrow[1] == [3, 3, 1]
        for field in dataclasses.fields(cut):
            one, other = getattr(cut, field.name), getattr(whole, field.name)
            assert one.keys() == other.keys()
            for resolution in one:
                np.testing.assert_allclose(one[resolution], other[resolution], atol=1e-5)


class TestWarmUp:
    def test_on_a_gpu_every_batch_size_runs_twice(self, generator: Generator) -> None:
        backend = StandInBackend(device="cuda:0")
        stand_in_generator(generator, backend).warm_up([1, 4])
        assert backend.batches == [1, 1, 4, 4]

    def test_every_batch_size_runs_once(self, fake: tuple[Generator, StandInBackend]) -> None:
        fake[0].warm_up()
        assert fake[1].batches == [1, 4]
        fake[0].warm_up([7])
        assert fake[1].batches == [1, 4, 7]

    def test_a_wrong_batch_size_is_an_error(self, generator: Generator) -> None:
        with pytest.raises(SettingsError, match="batch_size is 0"):
            generator.warm_up([0])
        with pytest.raises(SettingsError, match=r"batch_sizes is 4; pass one or more in a list, such as \[4\]"):
            generator.warm_up(4)  # type: ignore[arg-type]
