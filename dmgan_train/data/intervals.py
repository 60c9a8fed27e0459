"""Which part of a distribution belongs to a picture, where a caption fits several pictures."""

from __future__ import annotations

from collections import defaultdict

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
        split: The examples; captions are the same if their texts are.
        """
        self._pictures: dict[str, list[int]] = defaultdict(list)
        self._weights = [1 / len(example.captions) for example in split.examples]
        for index, example in enumerate(split.examples):
            for caption in dict.fromkeys(example.captions):
                self._pictures[caption].append(index)

    def of(self, caption: str, index: int) -> Interval:
        """The interval of a picture among those that a caption fits.

        Args:
            caption: One of the picture's.
            index: Its place in the split.
        """
        pictures = self._pictures[caption]
        if len(pictures) == 1:
            return WHOLE
        weights = [self._weights[picture] for picture in pictures]
        place, whole = pictures.index(index), sum(weights)
        return sum(weights[:place]) / whole, min(1.0, sum(weights[: place + 1]) / whole)
