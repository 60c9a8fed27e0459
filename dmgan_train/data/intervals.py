"""Which part of a distribution belongs to a picture, where a caption fits several pictures."""

from __future__ import annotations

from collections import defaultdict

from dmgan_runtime.tokenizer import split_words
from dmgan_train.data.examples import Split

Interval = tuple[float, float]
WHOLE: Interval = (0.0, 1.0)


class CaptionIntervals:
    """Cuts (0, 1) into one interval for each picture that a caption fits, in the order of the split.

    An interval is as long as the picture is likely when that caption is drawn in training (every picture as often as
    the others, and every caption of a picture as often as its others). So a uniform draw within the interval of the
    picture of the moment is uniform over (0, 1) for each caption.
    """

    def __init__(self, split: Split) -> None:
        """Args:
        split: The examples; captions are the same if their words are, which is all that a model sees of them.
        """
        self._weights: dict[tuple[str, ...], dict[int, float]] = defaultdict(lambda: defaultdict(float))
        for index, example in enumerate(split.examples):
            for caption in example.captions:
                self._weights[tuple(split_words(caption))][index] += 1 / len(example.captions)

    def of(self, caption: str, index: int) -> Interval:
        """The interval of a picture among those that a caption fits.

        Args:
            caption: One of the picture's.
            index: Its place in the split.
        """
        pictures = self._weights[tuple(split_words(caption))]
        if len(pictures) == 1:
            return WHOLE
        weights = list(pictures.values())
        place, whole = list(pictures).index(index), sum(weights)
        return sum(weights[:place]) / whole, min(1.0, sum(weights[: place + 1]) / whole)
