"""Real drawings to look images up in, and the count of what was found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

RANKS = (1, 5)
_QUERIES_AT_ONCE = 512

Vectors = dict[str, Tensor]
"""[N, D] of the same N images by the space that they lie in."""


class Target(NamedTuple):
    """What a query should find.

    Attributes:
        class_id: Whose drawings.
        drawing: The one of them that was described, by its place in the gallery.
        alike: Others that the same captions fit, such as the drawing in another style; they are as right.
    """

    class_id: int
    drawing: int
    alike: frozenset[int] = frozenset()


class Answer(NamedTuple):
    """What became of one query.

    Attributes:
        ranks: For each of `RANKS`, whether a drawing of the right class is among so many nearest.
        drawing: Whether the nearest drawing of the right class is a right one; None if all of the class's are.
        siblings: Drawings of the class.
        right: How many of them are right.
    """

    ranks: tuple[bool, ...]
    drawing: bool | None
    siblings: int
    right: int


class Gallery:
    """Drawings as vectors in several spaces; near is a small Euclidean distance (for unit vectors, a large cosine)."""

    def __init__(self, vectors: Vectors, class_ids: Tensor) -> None:
        """Args:
        vectors: Of each drawing in each space.
        class_ids: [drawings].
        """
        self.vectors, self.class_ids = vectors, class_ids
        self._members = {int(one): torch.nonzero(class_ids == one).flatten() for one in class_ids.unique()}

    def __len__(self) -> int:
        return len(self.class_ids)

    def look_up(self, queries: Vectors, targets: Sequence[Target]) -> dict[str, list[Answer]]:
        """The answer to each query, by space.

        Args:
            queries: Of N images.
            targets: What each should find.
        """
        return {
            space: [
                self._answer(row, target) for row, target in zip(self._distances(vectors, space), targets, strict=True)
            ]
            for space, vectors in queries.items()
        }

    def _distances(self, queries: Tensor, space: str) -> Iterator[Tensor]:
        """Of each query to the whole gallery; exact, since the faster way ranks near duplicates by their rounding."""
        for part in queries.split(_QUERIES_AT_ONCE):
            yield from torch.cdist(part, self.vectors[space], compute_mode="donot_use_mm_for_euclid_dist")

    def _answer(self, distances: Tensor, target: Target) -> Answer:
        nearest = distances.topk(min(max(RANKS), len(self)), largest=False).indices
        right = self.class_ids[nearest] == target.class_id
        own = self._members[target.class_id]
        sought = (target.alike | {target.drawing}) & set(own.tolist())
        drawing = int(own[distances[own].argmin()]) in sought if len(sought) < len(own) else None
        return Answer(tuple(bool(right[:rank].any()) for rank in RANKS), drawing, len(own), len(sought))


def shares(answers: Sequence[Answer], gallery: int) -> dict[str, float]:
    """How many answers, and how many of 100 are right, beside what chance would give.

    Args:
        answers: At least one.
        gallery: Drawings that were looked through.
    """
    result: dict[str, float] = {"queries": len(answers)}
    for position, rank in enumerate(RANKS):
        result[f"class_at_{rank}"] = _percent(answer.ranks[position] for answer in answers)
    result["class_at_1_by_chance"] = _percent(answer.siblings / gallery for answer in answers)
    several = [answer for answer in answers if answer.drawing is not None]
    if several:
        result["drawing_of_class_queries"] = len(several)
        result["drawing_of_class"] = _percent(bool(answer.drawing) for answer in several)
        result["drawing_of_class_by_chance"] = _percent(answer.right / answer.siblings for answer in several)
    return result


def _percent(values: Iterable[float]) -> float:
    listed = list(values)
    return 100 * sum(listed) / len(listed)
