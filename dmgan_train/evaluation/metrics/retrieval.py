"""Retrieval, for data sets in which a caption names one drawing: is the nearest real drawing the one that was named?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dmgan_runtime.errors import DataError
from dmgan_train.data import Split
from dmgan_train.evaluation.image_source import ImageSource
from dmgan_train.evaluation.metrics.colour_space import lab_pixels
from dmgan_train.evaluation.metrics.features import FeatureNetwork
from dmgan_train.evaluation.metrics.gallery import Answer, Gallery, Target, Vectors, shares
from dmgan_train.evaluation.metrics.nearest_caption import NearestCaption
from dmgan_train.evaluation.metrics.orders import Order, every_caption, generated, photographed
from dmgan_train.evaluation.metrics.protocol import MetricResult

LAB = "lab_16px"
_GENERATED, _WRONG = "generated", "wrong caption"
_NEIGHBOUR, _DEGRADED = "nearest training caption", "real drawings, degraded"
_SHRUNK = 40 / 64  # of the side: what degrades a real drawing for the upper bound


class Retrieval:
    """The real drawings of every split, ready to look images up in."""

    def __init__(
        self, splits: Mapping[str, Split], network: FeatureNetwork, source: ImageSource, batch_size: int
    ) -> None:
        """Args:
        splits: `train`, and `test` if there is one.
        network: Sees the drawings; the pixels in Lab are looked up beside it.
        source: The model; the drawings are cut and scaled as it was trained on them.
        batch_size: Images at once.

        Raises:
            DataError: if the drawings cannot be read, or those of a split are all of one class.
        """
        self._splits, self._network, self._source, self._batch_size = splits, network, source, batch_size
        places: dict[tuple[str, int], int] = {}
        whole: list[Vectors] = []
        degraded: list[Vectors] = []
        for name, split in splits.items():
            pictures = photographed(split, source, batch_size, f"drawings ({name})", self._whole_and_degraded)
            for indices, (own, worse) in pictures:
                for index in indices:
                    places[name, index] = len(places)
                whole.append(own)
                degraded.append(worse)
        self._targets = _targets(splits, places)
        class_ids = torch.tensor([target.class_id for target in self._targets.values()])
        for name in splits:
            known = {target.class_id for (split, _), target in self._targets.items() if split == name}
            if len(known) < 2:
                raise DataError(
                    f"retrieval needs drawings of at least two classes in each split, and {name!r} has {len(known)};"
                    " leave it out of --metrics"
                )
        self._gallery, self._degraded = Gallery(_join(whole), class_ids), _join(degraded)

    def measure(self, limit: int, seed: int) -> MetricResult:
        """Generates an image of every caption of every split, and looks the images up.

        Args:
            limit: Images a split at most; fewer captions are then taken, evenly spread.
            seed: Image k of a split has the seed `seed + k`.
        """
        details = {name: self._measure_split(name, limit, seed) for name in self._splits}
        name, space = list(self._splits)[-1], self._network.name
        at_1 = {kind: measured[space]["class_at_1"] for kind, measured in details[name].items()}
        return MetricResult(
            name=f"retrieval % ({name} captions, {space})",
            value=at_1.pop(_GENERATED),
            better="higher",
            definition="images whose nearest real drawing is of the class that the caption names",
            references=at_1,
            protocol=self._protocol(limit, seed),
            details=details,
        )

    def _measure_split(self, name: str, limit: int, seed: int) -> dict[str, dict[str, dict[str, float]]]:
        orders = [
            order for order in every_caption(self._splits[name], limit, seed) if (name, order.example) in self._targets
        ]
        targets = [self._targets[name, order.example] for order in orders]
        looked = generated(self._source, orders, self._batch_size, f"retrieval ({name})", self._vectors)
        vectors = _join([seen for _, seen in looked])
        own = [target for (split, _), target in self._targets.items() if split == name]
        answers = {
            _GENERATED: self._gallery.look_up(vectors, targets),
            _WRONG: self._gallery.look_up(vectors, wrong_targets(targets, own)),
            _NEIGHBOUR: self._gallery.look_up(*self._neighbours(name, orders, targets)),
            _DEGRADED: self._gallery.look_up(_take(self._degraded, [target.drawing for target in own]), own),
        }
        return {kind: self._shares(found) for kind, found in answers.items()}

    def _shares(self, found: Mapping[str, Sequence[Answer]]) -> dict[str, dict[str, float]]:
        return {space: shares(answers, len(self._gallery)) for space, answers in found.items()}

    def _neighbours(
        self, name: str, orders: Sequence[Order], targets: Sequence[Target]
    ) -> tuple[Vectors, list[Target]]:
        """The training drawings of the nearest other captions, as if they had been generated."""
        search = NearestCaption(self._splits["train"])
        places, sought = [], []
        for order, target in zip(orders, targets, strict=True):
            found = search.find(order.caption, leave_out=order.example if name == "train" else None)
            if ("train", found) in self._targets:
                places.append(self._targets["train", found].drawing)
                sought.append(target)
        return _take(self._gallery.vectors, places), sought

    def _whole_and_degraded(self, images: Tensor) -> tuple[Vectors, Vectors]:
        return self._vectors(images), self._vectors(degrade(images))

    def _vectors(self, images: Tensor) -> Vectors:
        features = F.normalize(self._network.see(images).features)
        return {self._network.name: features.cpu(), LAB: lab_pixels(images)}

    def _protocol(self, limit: int, seed: int) -> dict[str, Any]:
        resolution = self._source.resolution
        return {
            "gallery": f"{len(self._gallery)} real drawings of all splits at {resolution} px",
            "images": f"one for each caption, at most {limit} a split; seeds {seed}, {seed + 1}, ...",
            "spaces": {
                self._network.name: self._network.describe() | {"distance": "cosine of the pooled features"},
                LAB: "the image averaged to 16x16 pixels, in CIE Lab (D65); Euclidean distance",
            },
            "class_at_k": "a drawing of the caption's class is among the k nearest",
            "drawing_of_class": (
                "of the class's own drawings, held-out ones included, the nearest is the caption's own or shares a"
                " caption with it (for emoji: it has the right skin tone, in any style); classes without another"
                " drawing do not count"
            ),
            _DEGRADED: f"shrunk to {round(resolution * _SHRUNK)} px and back: the upper bound",
            _WRONG: "the same images, judged by another caption's class and drawing",
            _NEIGHBOUR: (
                "in place of an image the training drawing whose caption is nearest (TF-IDF; a training caption's own"
                " drawing does not count)"
            ),
        }


def degrade(images: Tensor) -> Tensor:
    """Shrinks images [N, 3, R, R] uint8 to 40/64 of the side and enlarges them again."""
    side = images.shape[-1]
    small = F.interpolate(images.float(), size=round(side * _SHRUNK), mode="bilinear", antialias=True)
    return F.interpolate(small, size=side, mode="bilinear").round().clamp(0, 255).to(torch.uint8)


def _targets(splits: Mapping[str, Split], places: Mapping[tuple[str, int], int]) -> dict[tuple[str, int], Target]:
    """What the captions of each drawing should find.

    Args:
        splits: By name.
        places: In the gallery, of each drawing by its split and its index there.
    """
    fitting: dict[str, set[int]] = defaultdict(set)
    for (name, index), place in places.items():
        for caption in splits[name].examples[index].captions:
            fitting[caption].add(place)
    targets = {}
    for (name, index), place in places.items():
        example = splits[name].examples[index]
        alike = frozenset[int]().union(*(fitting[caption] for caption in example.captions))
        targets[name, index] = Target(example.class_id, place, alike)
    return targets


def wrong_targets(targets: Sequence[Target], everything: Sequence[Target]) -> list[Target]:
    """For each target one of another class.

    Args:
        targets: What was asked for; the wrong one is about half the list further on.
        everything: Of at least two classes; from here it is where the targets are all of one.
    """
    count = len(targets)
    wrong = []
    for position, target in enumerate(targets):
        others = (targets[(position + count // 2 + step) % count] for step in range(count))
        wrong.append(next(other for other in chain(others, everything) if other.class_id != target.class_id))
    return wrong


def _join(parts: Sequence[Vectors]) -> Vectors:
    return {space: torch.cat([part[space] for part in parts]) for space in parts[0]}


def _take(vectors: Vectors, places: Sequence[int]) -> Vectors:
    return {space: own[torch.tensor(places, dtype=torch.long)] for space, own in vectors.items()}
