from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dmgan_runtime import CaptionError, Generator, SettingsError
from dmgan_runtime.interpolation import align_words, blend_texts, slerp
from dmgan_runtime.request import TextFeatures

FLOATS = st.floats(-4, 4, width=32)
WORDS = hnp.arrays(np.float32, st.tuples(st.just(3), st.integers(1, 7)), elements=FLOATS)
HALF = [0.0, 0.5, 1.0]


def text(words: np.ndarray, slots: int = 7) -> TextFeatures:
    features = np.zeros((1, words.shape[0], slots), np.float32)
    features[0, :, : words.shape[1]] = words
    return TextFeatures(features, words.mean(axis=1)[None], np.array([words.shape[1]]))


@given(hnp.arrays(np.float32, 16, elements=FLOATS), hnp.arrays(np.float32, 16, elements=FLOATS))
def test_noise_begins_and_ends_exactly(start: np.ndarray, end: np.ndarray) -> None:
    path = slerp(start, end, HALF)
    assert path.dtype == np.float32
    assert np.isfinite(path).all()
    np.testing.assert_array_equal(path[[0, 2]], [start, end])


@given(st.integers(0, 2**32), st.floats(0, 1))
def test_noise_keeps_its_length(seed: int, position: float) -> None:
    """A straight line between two Gaussian vectors is 30% shorter in the middle."""
    start, end = np.random.default_rng(seed).standard_normal((2, 100), dtype=np.float32)
    lengths = sorted([np.linalg.norm(start), np.linalg.norm(end)])
    length = np.linalg.norm(slerp(start, end, [position])[0])
    assert 0.98 * lengths[0] <= length <= 1.02 * lengths[1]


def test_between_equal_and_opposite_noises_there_is_a_line() -> None:
    start = np.array([1, 2], np.float32)
    np.testing.assert_allclose(slerp(start, start, HALF), [start] * 3, atol=1e-6)
    np.testing.assert_allclose(slerp(start, -start, [0.5]), [[0, 0]], atol=1e-6)
    assert not slerp(0 * start, 0 * start, HALF).any()


@given(WORDS, WORDS)
def test_every_word_has_a_partner_in_reading_order(start: np.ndarray, end: np.ndarray) -> None:
    pairs = align_words(start, end)
    assert len(pairs) == max(start.shape[1], end.shape[1])
    assert pairs == sorted(pairs)
    assert {i for i, _ in pairs} == set(range(start.shape[1]))
    assert {j for _, j in pairs} == set(range(end.shape[1]))


@settings(max_examples=40)
@given(WORDS, WORDS)
def test_no_other_alignment_is_cheaper(start: np.ndarray, end: np.ndarray) -> None:
    if start.shape[1] < end.shape[1]:
        start, end = end, start
    distance = np.square(start[:, :, None] - end[:, None, :]).sum(axis=0).astype(float)

    def cheapest(i: int, j: int) -> float:
        if j < 0 or j > i:
            return float("inf")
        return distance[i, j] + (min(cheapest(i - 1, j), cheapest(i - 1, j - 1)) if i else 0)

    cost = sum(distance[pair] for pair in align_words(start, end))
    assert cost == pytest.approx(cheapest(start.shape[1] - 1, end.shape[1] - 1), rel=1e-4, abs=1e-4)


def test_equal_words_find_each_other() -> None:
    a, red, bird = np.eye(3, dtype=np.float32) * 5
    assert align_words(np.stack([a, red, bird], 1), np.stack([a, bird], 1)) == [(0, 0), (1, 0), (2, 1)]
    assert align_words(np.stack([red, bird], 1), np.stack([a, red, bird], 1)) == [(0, 0), (0, 1), (1, 2)]


@given(WORDS, WORDS)
def test_captions_begin_and_end_exactly(first: np.ndarray, last: np.ndarray) -> None:
    start, end = text(first), text(last)
    path = blend_texts(start, end, HALF)
    for row, whole in ((0, start), (2, end)):
        np.testing.assert_array_equal(path.word_features[row], whole.word_features[0])
        np.testing.assert_array_equal(path.sentence_feature[row], whole.sentence_feature[0])
        assert path.lengths[row] == whole.lengths[0]
    longer = max(first.shape[1], last.shape[1])
    assert path.lengths[1] == longer
    assert not path.word_features[1, :, longer:].any()
    np.testing.assert_allclose(path.sentence_feature[1], (first.mean(1) + last.mean(1)) / 2, atol=1e-5)


class TestInterpolate:
    @pytest.mark.parametrize(
        ("captions", "seeds"),
        [("a red heart", (1, 2)), (("a red heart", "a small blue square"), 1), (("a heart", "red and blue"), (1, 2))],
    )
    @pytest.mark.parametrize("batch_size", [1, 2, 9])
    def test_its_ends_are_what_generate_makes(
        self, generator: Generator, captions: str | tuple[str, str], seeds: int | tuple[int, int], batch_size: int
    ) -> None:
        path = [
            np.asarray(picture).astype(int)
            for picture in generator.interpolate(captions, seeds=seeds, steps=5, batch_size=batch_size)
        ]
        first, last = (captions, captions) if isinstance(captions, str) else captions
        start, end = (seeds, seeds) if isinstance(seeds, int) else seeds
        assert len(path) == 5
        for picture, caption, seed in ((path[0], first, start), (path[-1], last, end)):
            whole = np.asarray(generator.generate(caption, seed=seed)[0].image).astype(int)
            assert abs(picture - whole).max() <= 1
        steps = [abs(one - other).mean() for one, other in pairwise(path)]
        assert 0 < max(steps) < abs(path[0] - path[-1]).mean()

    def test_a_random_seed_is_the_same_all_the_way(self, generator: Generator) -> None:
        first, second = generator.interpolate("a red heart", steps=2, resolution=16)
        assert first.size == (16, 16)
        np.testing.assert_array_equal(np.asarray(first), np.asarray(second))

    def test_a_wrong_argument_is_named(self, generator: Generator) -> None:
        with pytest.raises(SettingsError, match="steps is 1; pass a whole number, at least 2"):
            generator.interpolate("a heart", seeds=(1, 2), steps=1)
        with pytest.raises(SettingsError, match="seed -1"):
            generator.interpolate("a heart", seeds=(1, -1))
        with pytest.raises(CaptionError, match="zebra"):
            generator.interpolate(("a heart", "zebra"), seeds=1)
        for captions in (("a heart",), ("a heart",) * 3, None):
            with pytest.raises(CaptionError, match="pass one caption, or the first and the last"):
                generator.interpolate(captions, seeds=1)  # type: ignore[arg-type]
        for seeds in ((1,), (1, 2, 3)):
            with pytest.raises(SettingsError, match="pass one seed, or the first and the last"):
                generator.interpolate("a heart", seeds=seeds)  # type: ignore[arg-type]

    def test_steps_may_be_numpys(self, generator: Generator) -> None:
        assert len(generator.interpolate("a heart", seeds=1, steps=np.int64(3))) == 3


def test_progress_is_told_and_can_end_it(bundle: Path) -> None:
    told: list[tuple[int, int]] = []

    def enough(done: int, total: int) -> None:
        told.append((done, total))
        if done > 2:
            raise KeyboardInterrupt

    with Generator.open(bundle) as generator:
        generator.interpolate("a heart", seeds=(1, 2), steps=2, progress=lambda *numbers: told.append(numbers))
        assert told == [(2, 2)]
        with pytest.raises(KeyboardInterrupt):
            generator.interpolate("a heart", seeds=(1, 2), steps=9, batch_size=2, progress=enough)
        assert told[1:] == [(2, 9), (4, 9)]
        with pytest.raises(SettingsError, match="progress is 5"):
            generator.interpolate("a heart", progress=5)  # type: ignore[arg-type]
