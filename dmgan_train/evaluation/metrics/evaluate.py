"""Measures a model: one pass over the real pictures, one over the generated ones, in memory that does not grow."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from dmgan_runtime.errors import DataError, SettingsError
from dmgan_train import distributed
from dmgan_train.checkpoint import fingerprint
from dmgan_train.data import MissingSplitError, Split, SplitName, check_files, check_left_out, keep_known
from dmgan_train.evaluation.image_source import ImageSource, choose_kind, read_split
from dmgan_train.evaluation.metrics.diversity import FeatureSpread, diversity_orders, measure_diversity
from dmgan_train.evaluation.metrics.features import FeatureNetwork, Seen
from dmgan_train.evaluation.metrics.fid import FrechetDistance
from dmgan_train.evaluation.metrics.inception_score import ClassScore
from dmgan_train.evaluation.metrics.orders import Order, generated, photographed, random_orders
from dmgan_train.evaluation.metrics.protocol import Evaluation, MetricName, MetricResult, versions
from dmgan_train.evaluation.metrics.r_precision import Encoders, RPrecision
from dmgan_train.evaluation.metrics.retrieval import Retrieval
from dmgan_train.evaluation.metrics.statistics import read_statistics, write_statistics


@dataclass(frozen=True)
class Plan:
    """What shall be measured.

    Attributes:
        metrics: Which.
        data: The data set's folder.
        data_source: Its kind, see `dmgan_train.data.SOURCES`; None tells it from the layout.
        split: Whose captions images are generated from, and whose pictures are real; `retrieval` takes all splits.
        images: How many are generated for FID, IS and R-precision; at most so many for the others.
        seed: Draws captions; image k has the seed `seed + k`.
        batch_size: Images at once.
        real_statistics: An .npz to take FID's real statistics from, in place of the split's pictures.
        save_statistics: The .npz to write FID's real statistics to.
    """

    metrics: tuple[MetricName, ...]
    data: Path
    data_source: str | None = None
    split: SplitName = "test"
    images: int = 30_000
    seed: int = 0
    batch_size: int = 16
    real_statistics: Path | None = None
    save_statistics: Path | None = None

    @property
    def needs_pictures(self) -> bool:
        """Whether real pictures are looked at, but for retrieval, which looks at those of every split."""
        own = {"is", "retrieval", "fid"} if self.real_statistics else {"is", "retrieval"}
        return not own.issuperset(self.metrics)


def evaluate(source: ImageSource, network: FeatureNetwork, encoders: Encoders | None, plan: Plan) -> Evaluation:
    """Runs the metrics of a plan. Captions that cannot be read are left out before anything is generated.

    Args:
        source: The model.
        network: Sees, for every metric but R-precision.
        encoders: Judge R-precision; needed only for it.
        plan: What to measure.

    Raises:
        DataError: if the data set cannot be read, or is too small for a metric.
        SettingsError: if R-precision has no encoders, statistics are named without FID, or the data's kind is in doubt.
    """
    for option in ("real_statistics", "save_statistics"):
        if getattr(plan, option) and "fid" not in plan.metrics:
            raise SettingsError(f"--{option.replace('_', '-')} is for FID; add fid to --metrics")
    if plan.real_statistics and plan.save_statistics:
        raise SettingsError(
            "--save-statistics writes our own, in whose place --real-statistics takes others; name one of the two"
        )
    if "r_precision" in plan.metrics and encoders is None:
        raise SettingsError(
            "R-precision is judged by image and text encoders, and a bundle has none of images; pass --judge with a run"
            " or a folder of the authors' encoders, or leave r_precision out of --metrics"
        )
    if encoders and source.teachers:
        own = {fingerprint(encoders.text), encoders.files.get("text encoder")}
        encoders = encoders._replace(taught=not source.teachers.isdisjoint(own))
    kind = choose_kind(plan.data_source, plan.data, source)
    splits = _read_splits(kind, source, encoders, plan)
    work = _Work(source, network, plan, splits[plan.split], encoders)
    # Before any image is generated: it refuses drawings of one class alone.
    retrieval = Retrieval(splits, network, source, plan.batch_size) if "retrieval" in plan.metrics else None
    results = work.measure()
    if retrieval:
        results["retrieval"] = retrieval.measure(plan.images, plan.seed)
    ordered: dict[str, MetricResult] = {name: results[name] for name in plan.metrics}
    return Evaluation(results=ordered, protocol=describe(source, plan, kind, splits[plan.split]))


def describe(source: ImageSource, plan: Plan, kind: str, split: Split) -> dict[str, Any]:
    """The protocol that all metrics share."""
    return {
        "model": source.describe(),
        "data": {"name": plan.data.resolve().name, "source": kind, "split": plan.split, "pictures": len(split)},
        "resolution": source.resolution,
        "real_pictures": f"cut as in training ({source.data.augment}), from the middle, not mirrored",
        "captions": "pass after pass over the split, each example with one of its captions at random",
        "captions_per_image": "all" if source.data.captions_per_image is None else source.data.captions_per_image,
        "images": plan.images,
        "seed": f"{plan.seed}; image k is generated with the seed {plan.seed} + k, unless a metric says otherwise",
        "truncation": source.truncation,
        "condition": source.condition,
        "batch_size": plan.batch_size,
        "versions": versions(),
    }


class _Work:
    """The metrics of one split: each real picture and each generated one is looked at once, for all of them."""

    def __init__(
        self, source: ImageSource, network: FeatureNetwork, plan: Plan, split: Split, encoders: Encoders | None
    ) -> None:
        self._source, self._network, self._plan, self._split = source, network, plan, split
        self._wanted = set(plan.metrics)
        self._distance = self._open_distance() if "fid" in self._wanted else None
        self._score, self._spread = ClassScore(plan.seed), FeatureSpread()
        judged = encoders if "r_precision" in self._wanted else None
        self._r_precision = RPrecision(judged, split, plan.seed) if judged else None

    def measure(self) -> dict[str, MetricResult]:
        if self._plan.needs_pictures:
            self._look_at_real()
        if self._distance and self._plan.save_statistics and distributed.is_main():
            write_statistics(
                self._distance.real_gaussian(),
                self._plan.save_statistics,
                self._network,
                self._distance.real_count,
                self._source.resolution,
            )
        if self._wanted & {"fid", "is", "r_precision"}:
            self._look_at_generated()
        results = {}
        if self._distance:
            results["fid"] = self._distance.result(self._network)
        if "is" in self._wanted:
            results["is"] = self._score.result(self._network)
        if self._r_precision:
            results["r_precision"] = self._r_precision.result()
        if "diversity" in self._wanted:
            results["diversity"] = self._diversity()
        return results

    def _open_distance(self) -> FrechetDistance:
        path, resolution = self._plan.real_statistics, self._source.resolution
        given = read_statistics(path, self._network) if path else None
        if given and (saved := given.origin.get("resolution", resolution)) != resolution:
            raise DataError(
                f"{path}: these are statistics of pictures of {saved} pixels, and the images have {resolution}; pass"
                f" --resolution {saved}, or leave out --real-statistics"
            )
        return FrechetDistance(self._network.dimensions(), given)

    def _look_at_real(self) -> None:
        collected = self._distance if not self._plan.real_statistics else None
        look = partial(self._look, seen=bool(collected) or "diversity" in self._wanted)
        pictures = photographed(self._split, self._source, self._plan.batch_size, "real pictures", look)
        for indices, (seen, judged) in pictures:
            if seen:
                self._spread.add(seen.features)
                if collected:
                    collected.add(seen.features, real=True)
            if self._r_precision and judged is not None:
                self._r_precision.add(judged, self._own_captions(indices), real=True)

    def _look_at_generated(self) -> None:
        plan = self._plan
        orders = random_orders(self._split, plan.images, plan.seed)
        look = partial(self._look, seen=bool(self._wanted & {"fid", "is"}))
        for batch, (seen, judged) in generated(self._source, orders, plan.batch_size, "generating", look):
            if seen and "is" in self._wanted:
                self._score.add(seen.logits)
            if seen and self._distance:
                self._distance.add(seen.features, real=False)
            if self._r_precision and judged is not None:
                self._r_precision.add(judged, batch)

    def _look(self, images: Tensor, *, seen: bool) -> tuple[Seen | None, Tensor | None]:
        """What the feature network and the judge of R-precision see of images, where they are asked."""
        judged = self._r_precision.image_features(images) if self._r_precision else None
        return self._see(images) if seen else None, judged

    def _see(self, images: Tensor) -> Seen:
        return Seen(*(values.cpu() for values in self._network.see(images)))

    def _diversity(self) -> MetricResult:
        orders = diversity_orders(self._split, self._plan.images, self._plan.seed)
        batches = generated(self._source, orders, self._plan.batch_size, "one caption, many seeds", self._see)
        return measure_diversity((seen.features for _, seen in batches), self._spread, self._network)

    def _own_captions(self, indices: list[int]) -> list[Order]:
        """Real pictures are judged by their first captions."""
        examples = [(index, self._split.examples[index]) for index in indices]
        return [Order(example.captions[0], 0, index, example.class_id) for index, example in examples]


def _read_splits(kind: str, source: ImageSource, encoders: Encoders | None, plan: Plan) -> dict[str, Split]:
    """The plan's split, and for retrieval every other, with the captions that all who read them know.

    Raises:
        DataError: if too many pictures are missing, or too many captions cannot be read: before anything is generated.
    """
    wanted, limit, splits = set(plan.metrics), source.data.broken_limit, dict[str, Split]()
    names: tuple[SplitName, ...] = ("train", "test") if "retrieval" in wanted else (plan.split,)
    for name in names:
        with suppress(*([MissingSplitError] if name != plan.split and name == "test" else [])):
            split = read_split(source, kind, plan.data, name)
            if encoders and "r_precision" in wanted and name == plan.split:
                split = keep_known(split, encoders.tokenizer.takes, encoders.name)
            (check_files if plan.needs_pictures or "retrieval" in wanted else check_left_out)(split, limit)
            splits[name] = split
    return splits
