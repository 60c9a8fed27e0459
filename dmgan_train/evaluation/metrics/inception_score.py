"""The inception score (Salimans et al., NeurIPS 2016), by torchmetrics."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.image.inception import InceptionScore

from dmgan_runtime.errors import DataError
from dmgan_train.evaluation.metrics.features import FeatureNetwork
from dmgan_train.evaluation.metrics.protocol import MetricResult

SPLITS = 10


class ClassScore:
    """Collects class logits: 4 kB an image, 120 MB for 30,000, and six times that while the score is computed."""

    def __init__(self, seed: int) -> None:
        """Args:
        seed: Shuffles the images before they are split.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that the logits are kept, which is said above
            self._metric = InceptionScore(feature=nn.Identity(), splits=SPLITS, sync_on_compute=False)
        self._seed = seed
        self._count = self._classes = 0

    def add(self, logits: Tensor) -> None:
        """Takes logits [N, classes] of generated images."""
        self._metric.update(logits.cpu())
        self._count += len(logits)
        self._classes = logits.shape[1]

    def result(self, network: FeatureNetwork) -> MetricResult:
        """exp(E KL(p(y|x) || p(y))), the mean of ten splits.

        Raises:
            DataError: if a split would be empty.
        """
        if self._count < SPLITS:
            raise DataError(f"IS needs at least {SPLITS} images, one for each split; there are {self._count}")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            mean, std = self._metric.compute()
        protocol: dict[str, Any] = {
            "generated_images": self._count,
            "splits": f"{_splits(self._count)}, shuffled; the standard deviation is the sample's (n - 1)",
            "features": network.describe() | {"layer": "softmax of the logits of its classes"},
            "computed_by": "torchmetrics",
        }
        if self._count < SPLITS * self._classes:
            protocol["caution"] = (
                f"{self._count // SPLITS:,} images a split are few for {self._classes:,} classes: the score cannot be"
                " over either and is biased downwards; compare only with the same count"
            )
        return MetricResult(
            name=f"IS ({network.name})",
            value=float(mean),
            std=float(std),
            better="higher",
            definition="exp of the mean divergence of an image's class distribution from that of its split",
            protocol=protocol,
        )


def _splits(count: int) -> int:
    """How many splits torchmetrics makes: equal ones but for the last, which may leave fewer than were asked for."""
    size = -(-count // SPLITS)
    return -(-count // size)
