"""The way from one picture to another: between two noises, and between two captions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dmgan_runtime.request import FloatArray, TextFeatures

_PARALLEL = 1e-6
_Path = npt.NDArray[np.float64]


def slerp(start: FloatArray, end: FloatArray, positions: Sequence[float]) -> FloatArray:
    """Interpolates between two noises along a great circle (White, "Sampling Generative Networks", 2016).

    Gaussian noise of many dimensions lies close to a sphere. The middle of a straight line is well inside it, where
    the generator saw no noise while it was trained, and makes paler pictures; an arc stays where it was trained.

    Args:
        start: [z] float32.
        end: [z] float32.
        positions: P numbers from 0 (start) to 1 (end).

    Returns:
        [P, z] float32; exactly `start` at 0 and `end` at 1. Between parallel vectors, a straight line.
    """
    cosine = float(start @ end / max(float(np.linalg.norm(start) * np.linalg.norm(end)), _PARALLEL))
    angle = np.arccos(np.clip(cosine, -1, 1))
    along = np.asarray(positions, dtype=np.float64)[:, None]
    if np.sin(angle) < _PARALLEL:
        path = (1 - along) * start + along * end
    else:
        path = (np.sin((1 - along) * angle) * start + np.sin(along * angle) * end) / np.sin(angle)
    return _with_exact_ends(path, start, end, along)


def blend_texts(start: TextFeatures, end: TextFeatures, positions: Sequence[float]) -> TextFeatures:
    """Interpolates between the features of two captions.

    Sentence features are interpolated linearly: what lies between the features of two captions is close to what
    captions mean (Reed et al., "Generative Adversarial Text to Image Synthesis", 2016, section 4.3).

    Word features stand for a set: key addressing and value reading (eq. 4 and 5) are sums over memory slots in any
    order. So word i of one caption has no partner in the other by its place alone. Partners are the cheapest
    alignment in reading order that gives every word one (`align_words`), and each slot goes straight from one
    partner to the other. Where the captions differ in length, a word of the shorter one has several partners and so
    counts as often; only the two ends, which are the captions themselves, are free of that.

    Args:
        start: The features of one caption, [1, D, T], [1, D] and [1].
        end: Those of the other.
        positions: P numbers from 0 (start) to 1 (end).

    Returns:
        The features of P texts, [P, D, T], [P, D] and [P]; exactly `start` at 0 and `end` at 1.
    """
    first, last = int(start.lengths[0]), int(end.lengths[0])
    pairs = align_words(start.word_features[0, :, :first], end.word_features[0, :, :last])
    words = np.zeros((len(positions), *start.word_features.shape[1:]), dtype=np.float32)
    lengths = np.full(len(positions), len(pairs), dtype=np.int64)
    for row, position in enumerate(positions):
        if position in (0, 1):
            whole = end if position else start
            words[row], lengths[row] = whole.word_features[0], whole.lengths[0]
            continue
        for slot, (i, j) in enumerate(pairs):
            words[row, :, slot] = (1 - position) * start.word_features[0, :, i] + position * end.word_features[0, :, j]
    along = np.asarray(positions, dtype=np.float64)[:, None]
    path = (1 - along) * start.sentence_feature + along * end.sentence_feature
    sentences = _with_exact_ends(path, start.sentence_feature[0], end.sentence_feature[0], along)
    return TextFeatures(words, sentences, lengths)


def align_words(start: FloatArray, end: FloatArray) -> list[tuple[int, int]]:
    """Pairs the words of two captions in reading order, so that the pairs' features are nearest in total.

    Dynamic programming, as in dynamic time warping; but a word of the longer caption has exactly one partner, so there
    are as many pairs as it has words, and never more than the memory has slots.

    Args:
        start: [D, A] float32, the features of A words.
        end: [D, B] float32, those of B words.

    Returns:
        max(A, B) pairs of places (i, j), both never falling, in which every i < A and every j < B appears.
    """
    if start.shape[1] < end.shape[1]:
        return [(i, j) for j, i in align_words(end, start)]
    distance = np.square(start[:, :, None] - end[:, None, :]).sum(axis=0)
    rows, columns = distance.shape
    cost = np.full((rows, columns), np.inf)
    cost[0, 0] = distance[0, 0]
    for i in range(1, rows):
        before = np.minimum(cost[i - 1], np.concatenate([[np.inf], cost[i - 1, :-1]]))
        cost[i] = distance[i] + before
    j = columns - 1
    pairs = [(rows - 1, j)]
    for i in range(rows - 2, -1, -1):
        if j and cost[i, j - 1] <= cost[i, j]:
            j -= 1
        pairs.append((i, j))
    return pairs[::-1]


def _with_exact_ends(path: _Path, start: FloatArray, end: FloatArray, along: _Path) -> FloatArray:
    """The path in float32, free of rounding where it begins and ends."""
    ends = np.where(along == 0, start, np.where(along == 1, end, path))
    return ends.astype(np.float32)
