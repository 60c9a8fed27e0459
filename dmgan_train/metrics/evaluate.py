"""Measures a model: one pass over the real pictures, one over the painted ones, in memory that does not grow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from dmgan_runtime.errors import SettingsError
from dmgan_train.data import MissingSplitError, Split, SplitName, detect_source, load_split
from dmgan_train.image_source import ImageSource
from dmgan_train.metrics.diversity import diversity_orders, measure_diversity
from dmgan_train.metrics.features import FeatureNetwork, Seen
from dmgan_train.metrics.fid import FrechetDistance
from dmgan_train.metrics.inception_score import ClassScore
from dmgan_train.metrics.orders import Order, painted, photographed, random_orders
from dmgan_train.metrics.protocol import Evaluation, MetricName, Result, versions
from dmgan_train.metrics.r_precision import Encoders, RPrecision
from dmgan_train.metrics.retrieval import Retrieval

_STREAMED = {"fid", "is", "r_precision"}


@dataclass(frozen=True)
class Plan:
    """What shall be measured.

    Attributes:
        metrics: Which.
        data: The data set's folder.
        data_source: Its kind, see `dmgan_train.data.SOURCES`; None tells it from the layout.
        split: Whose captions are painted and whose pictures are real; `retrieval` takes all splits.
        images: How many are painted for FID, IS and R-precision; at most so many for the others.
        seed: Draws captions; image k has the seed `seed + k`.
        batch_size: Images at once.
    """

    metrics: tuple[MetricName, ...]
    data: Path
    data_source: str | None = None
    split: SplitName = "test"
    images: int = 30_000
    seed: int = 0
    batch_size: int = 16


def evaluate(source: ImageSource, network: FeatureNetwork, encoders: Encoders | None, plan: Plan) -> Evaluation:
    """Runs the metrics of a plan.

    Args:
        source: Paints.
        network: Sees, for every metric but R-precision.
        encoders: Judge R-precision; needed only for it.
        plan: What to measure.

    Raises:
        DataError: if the data set cannot be read, or is too small for a metric.
        SettingsError: if R-precision has no encoders.
    """
    if "r_precision" in plan.metrics and encoders is None:
        raise SettingsError(
            "R-precision is judged by a run's encoders, and a bundle has none; pass --encoders RUN, or leave"
            " r_precision out of --metrics"
        )
    kind = plan.data_source or detect_source(plan.data)
    split = load_split(kind, plan.data, plan.split)
    work = _Work(source, network, plan, split)
    results: dict[str, Result] = {}
    if _STREAMED & set(plan.metrics):
        results |= work.stream(encoders)
    if "diversity" in plan.metrics:
        results["diversity"] = work.diversity()
    if "retrieval" in plan.metrics:
        retrieval = Retrieval(_all_splits(kind, plan.data), network, source, plan.batch_size)
        results["retrieval"] = retrieval.measure(plan.images, plan.seed)
    ordered: dict[str, Result] = {name: results[name] for name in plan.metrics}
    return Evaluation(results=ordered, protocol=describe(source, plan, kind, split))


def describe(source: ImageSource, plan: Plan, kind: str, split: Split) -> dict[str, Any]:
    """The protocol that all metrics share."""
    return {
        "model": source.describe(),
        "data": {"name": plan.data.resolve().name, "source": kind, "split": plan.split, "pictures": len(split)},
        "resolution": source.resolution,
        "real_pictures": f"cut as in training ({source.view}), from the middle, not mirrored",
        "captions": "pass after pass over the split, each example with one of its captions at random",
        "images": plan.images,
        "seed": f"{plan.seed}; image k of a metric is painted with the seed {plan.seed} + k",
        "truncation": source.truncation,
        "batch_size": plan.batch_size,
        "versions": versions(),
    }


class _Work:
    def __init__(self, source: ImageSource, network: FeatureNetwork, plan: Plan, split: Split) -> None:
        self._source, self._network, self._plan, self._split = source, network, plan, split

    def stream(self, encoders: Encoders | None) -> dict[str, Result]:
        """The metrics that look at each image once."""
        plan, wanted = self._plan, set(self._plan.metrics)
        judge = RPrecision(encoders, self._split, plan.seed) if encoders and "r_precision" in wanted else None
        score = ClassScore(plan.seed)
        distance: FrechetDistance | None = None
        if judge or "fid" in wanted:
            for indices, images in self._real():
                if "fid" in wanted:
                    features = self._network.see(images).features
                    distance = distance or FrechetDistance(features.shape[1])
                    distance.add(features, real=True)
                if judge:
                    judge.add(images, self._own_captions(indices), real=True)
        for orders, images in painted(
            self._source, random_orders(self._split, plan.images, plan.seed), plan.batch_size, "painting"
        ):
            if {"fid", "is"} & wanted:
                seen: Seen = self._network.see(images)
                if "is" in wanted:
                    score.add(seen.logits)
                if distance:
                    distance.add(seen.features, real=False)
            if judge:
                judge.add(images, orders)
        results = {}
        if distance:
            results["fid"] = distance.result(self._network)
        if "is" in wanted:
            results["is"] = score.result(self._network)
        if judge:
            results["r_precision"] = judge.result()
        return results

    def diversity(self) -> Result:
        """Intra-caption diversity."""
        orders = diversity_orders(self._split, self._plan.images, self._plan.seed)
        batches = painted(self._source, orders, self._plan.batch_size, "one caption, many seeds")
        return measure_diversity(
            (self._network.see(images).features for _, images in batches),
            (self._network.see(images).features for _, images in self._real()),
            self._network,
        )

    def _real(self) -> Iterator[tuple[list[int], Tensor]]:
        source = self._source
        return photographed(self._split, source.resolution, source.view, self._plan.batch_size, "real pictures")

    def _own_captions(self, indices: list[int]) -> list[Order]:
        """Real pictures are judged by their first captions."""
        examples = [(index, self._split.examples[index]) for index in indices]
        return [Order(example.captions[0], 0, index, example.class_id) for index, example in examples]


def _all_splits(kind: str, data: Path) -> dict[str, Split]:
    splits = {"train": load_split(kind, data, "train")}
    with suppress(MissingSplitError):
        splits["test"] = load_split(kind, data, "test")
    return splits
