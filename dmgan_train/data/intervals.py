"""Which part of a distribution belongs to a picture, where a caption fits several pictures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from dmgan_runtime.tokenizer import Tokenizer
from dmgan_train.data.examples import Split

Interval = tuple[float, float]
WHOLE: Interval = (0.0, 1.0)


class CaptionIntervals:
    """Cuts (0, 1) into one interval for each picture that a caption fits, in the order of the split.

    An interval is as long as the picture is likely when that caption is drawn in training (every picture as often as
    the others, and every caption of a picture as often as its others). So a uniform draw within the interval of the
    picture of the moment is uniform over (0, 1) for each caption.
    """

    def __init__(self, split: Split, tokenizer: Tokenizer) -> None:
        """Args:
        split: The examples.
        tokenizer: Captions are the same if their tokens are, which is all that a model sees of them.
        """
        self._pictures: dict[tuple[int, ...], list[int]] = defaultdict(list)  # once for each time that one says it
        self._weights = [1 / len(example.captions) for example in split.examples]
        for index, example in enumerate(split.examples):
            for caption in example.captions:
                self._pictures[tuple(tokenizer.indices(caption))].append(index)

    def of(self, tokens: Sequence[int], index: int) -> Interval:
        """The interval of a picture among those that a caption fits.

        Args:
            tokens: All of a caption of the picture.
            index: Its place in the split.
        """
        pictures = self._pictures[tuple(tokens)]
        place, times = pictures.index(index), pictures.count(index)
        if times == len(pictures):
            return WHOLE
        weights = [self._weights[picture] for picture in pictures]
        whole = sum(weights)
        return sum(weights[:place]) / whole, min(1.0, sum(weights[: place + times]) / whole)
