"""Intra-caption diversity: how much the images of one caption differ when only the seed does."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from dmgan_runtime.errors import DataError
from dmgan_train.data import Split
from dmgan_train.evaluation.metrics.features import FeatureNetwork
from dmgan_train.evaluation.metrics.orders import Order, random_orders
from dmgan_train.evaluation.metrics.protocol import MetricResult

IMAGES_A_CAPTION = 10
CAPTIONS = 100


def diversity_orders(split: Split, images: int, seed: int) -> list[Order]:
    """Up to 100 captions of different examples, ten seeds each, the images of a caption in a row."""
    captions = min(CAPTIONS, len(split), max(2, images // IMAGES_A_CAPTION))
    return [
        order._replace(seed=seed + k) for order in random_orders(split, captions, seed) for k in range(IMAGES_A_CAPTION)
    ]


class FeatureSpread:
    """Mean of 1 - cosine over all pairs of features, in memory that does not grow with them."""

    def __init__(self) -> None:
        self.count = 0
        self._sum = torch.zeros(())

    def add(self, features: Tensor) -> None:
        """Takes features [N, D]."""
        unit = F.normalize(features.cpu().double())
        self._sum = self._sum + unit.sum(dim=0)
        self.count += len(unit)

    def mean_distance(self) -> float:
        """In [0, 2].

        Raises:
            DataError: if there are fewer than two features.
        """
        if self.count < 2:
            raise DataError(f"diversity compares pairs of images, and {self.count} could be read; it needs two")
        # The sum of all products is the square of the sum; the diagonal's ones are no pairs.
        return float(1 - (self._sum.square().sum() - self.count) / (self.count * (self.count - 1)))


def measure_diversity(generated: Iterable[Tensor], real: FeatureSpread, network: FeatureNetwork) -> MetricResult:
    """Compares the spread within captions with the spread between them and among real images.

    Args:
        generated: Features of the images of `diversity_orders`, in order.
        real: Of the features of real images of the same split.
        network: What the features came from.

    Raises:
        DataError: if there are fewer than two real images.
    """
    features = torch.cat(list(generated)).cpu()
    captions = features.unflatten(0, (-1, IMAGES_A_CAPTION))
    within = torch.tensor([_mean_distance(one) for one in captions])
    between = torch.tensor([_mean_distance(one) for one in captions.transpose(0, 1)])
    return MetricResult(
        name=f"diversity ({network.name})",
        value=float(within.mean()),
        std=float(within.std(correction=0)),
        better="higher",
        definition="mean of 1 - cosine over the pairs of images of one caption with different seeds",
        references={
            "images of different captions": float(between.mean()),
            "different real images": real.mean_distance(),
        },
        protocol={
            "captions": len(captions),
            "images_a_caption": IMAGES_A_CAPTION,
            "seeds": "the same for every caption, from the protocol's seed upwards",
            "real_images": real.count,
            "std": "of the captions' means (n)",
            "features": network.describe() | {"layer": f"pooled, {features.shape[1]}"},
        },
    )


def _mean_distance(features: Tensor) -> float:
    spread = FeatureSpread()
    spread.add(features)
    return spread.mean_distance()
