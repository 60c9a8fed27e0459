from pathlib import Path

import pytest

from dmgan_runtime.tokenizer import Tokenizer
from dmgan_train.data import Example, Split
from dmgan_train.data.intervals import WHOLE, CaptionIntervals, Interval

ALIASES = {"🍕": "pizza", "💋": "kiss"}


class Intervals:
    """Of pictures with these captions."""

    def __init__(self, *captions: tuple[str, ...]) -> None:
        examples = [Example(str(index), Path(f"{index}.png"), own, index) for index, own in enumerate(captions)]
        split = Split("train", Path(), tuple(examples))
        self.tokenizer = Tokenizer.from_captions([*split.captions(), *ALIASES.values()], ALIASES)
        self.intervals = CaptionIntervals(split, self.tokenizer)

    def of(self, caption: str, index: int) -> Interval:
        return self.intervals.of(self.tokenizer.indices(caption), index)


def test_a_caption_of_one_picture_has_the_whole_interval():
    intervals = Intervals(("pizza", "flat pizza"), ("pizza", "3d pizza"), ("kiss",))
    assert intervals.of("flat pizza", 0) == WHOLE
    assert intervals.of("kiss", 2) == WHOLE


def test_the_pictures_of_a_caption_share_the_interval_in_their_order():
    intervals = Intervals(("pizza", "a"), ("kiss",), ("pizza", "b"), ("pizza", "c"))
    cuts = [intervals.of("pizza", index) for index in (0, 2, 3)]
    assert [low for low, _ in cuts] == pytest.approx([0, 1 / 3, 2 / 3])
    assert [high for _, high in cuts] == pytest.approx([1 / 3, 2 / 3, 1])


def test_a_picture_with_few_captions_says_each_more_often_and_has_more_of_the_interval():
    intervals = Intervals(("pizza",), ("pizza", "a", "b"), ("a",))
    assert intervals.of("pizza", 0) == pytest.approx((0, 0.75))
    assert intervals.of("pizza", 1) == pytest.approx((0.75, 1))


def test_a_caption_said_twice_of_a_picture_is_as_likely_as_two():
    intervals = Intervals(("pizza", "pizza"), ("kiss",), ("pizza", "a"))
    assert intervals.of("kiss", 1) == WHOLE
    assert intervals.of("pizza", 0) == pytest.approx((0, 2 / 3))
    assert intervals.of("pizza", 2) == pytest.approx((2 / 3, 1))


def test_captions_of_the_same_words_are_one():
    intervals = Intervals(("A red bird.",), ("a red bird",))
    assert intervals.of("A red bird.", 0) == (0, 0.5)
    assert intervals.of("a red bird", 1) == (0.5, 1)


def test_emoji_are_the_words_that_they_stand_for():
    intervals = Intervals(("a sticker of 🍕",), ("a sticker of 💋",), ("a sticker of pizza",))
    assert intervals.of("a sticker of 🍕", 0) == (0, 0.5)
    assert intervals.of("a sticker of pizza", 2) == (0.5, 1)
    assert intervals.of("a sticker of 💋", 1) == WHOLE
