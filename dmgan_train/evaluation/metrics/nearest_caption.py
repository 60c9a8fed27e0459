"""The training caption nearest to a caption: what a search engine would answer in place of a generator."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np

from dmgan_runtime.tokenizer import split_words
from dmgan_train.data import Split


class NearestCaption:
    """Finds the example of a split whose caption is nearest by TF-IDF cosine of its words."""

    def __init__(self, split: Split) -> None:
        """Args:
        split: Whose captions are searched.
        """
        documents = [
            (index, sorted(set(split_words(caption))))  # so that sums are rounded alike in every process
            for index, example in enumerate(split.examples)
            for caption in example.captions
        ]
        rows = defaultdict(list)
        for row, (_, words) in enumerate(documents):
            for word in words:
                rows[word].append(row)
        self._examples = np.array([index for index, _ in documents])
        self._rows = {word: np.array(found) for word, found in rows.items()}
        self._weights = {word: math.log(1 + len(documents) / len(found)) for word, found in rows.items()}
        squares = [sum(self._weights[word] ** 2 for word in words) for _, words in documents]
        self._norms = np.sqrt(np.array(squares))

    def find(self, caption: str, leave_out: int | None = None) -> int:
        """The index of the nearest example.

        Args:
            caption: Any text; with no word of the split the first example that is not left out is returned.
            leave_out: An example that does not count.
        """
        scores = np.zeros(len(self._examples))
        for word in sorted(set(split_words(caption)) & self._rows.keys()):
            scores[self._rows[word]] += self._weights[word] ** 2
        scores /= self._norms
        if leave_out is not None:
            scores[self._examples == leave_out] = -1
        return int(self._examples[scores.argmax()])
