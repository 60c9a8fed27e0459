"""The Frechet inception distance (Heusel et al., NeurIPS 2017), in double precision."""

from __future__ import annotations

import torch
from torch import Tensor

from dmgan_runtime.errors import DataError
from dmgan_train.evaluation.metrics.features import FeatureNetwork
from dmgan_train.evaluation.metrics.protocol import MetricResult
from dmgan_train.evaluation.metrics.statistics import Gaussian, RealStatistics


def frechet_distance(one: Gaussian, other: Gaussian) -> float:
    """||mu - mu'||^2 + tr(S + S' - 2 (S S')^(1/2)), where the root's trace is the sum of the eigenvalues' roots."""
    between = (one.mean - other.mean).square().sum()
    within = one.covariance.trace() + other.covariance.trace()
    shared = torch.linalg.eigvals(one.covariance @ other.covariance).sqrt().real.sum()
    return float(between + within - 2 * shared)


class FrechetDistance:
    """Collects the features of generated images, and of real ones if their statistics are not given."""

    def __init__(self, dimensions: int, real: RealStatistics | None = None) -> None:
        """Args:
        dimensions: Of a feature.
        real: Published statistics of the real pictures, of that many features.
        """
        self._generated, self._real = _Moments(dimensions), _Moments(dimensions)
        self._given, self._dimensions = real, dimensions

    def add(self, features: Tensor, *, real: bool) -> None:
        """Takes features [N, dimensions] of real or of generated images."""
        (self._real if real else self._generated).add(features)

    @property
    def real_count(self) -> int:
        """Of how many real pictures features were collected."""
        return self._real.count

    def real_gaussian(self) -> Gaussian:
        """Of the real pictures, given or collected.

        Raises:
            DataError: if there are fewer than two.
        """
        return self._given.gaussian if self._given else self._real.gaussian("real")

    def result(self, network: FeatureNetwork) -> MetricResult:
        """The distance of the two Gaussians.

        Raises:
            DataError: if there are fewer than two images of a kind.
        """
        value = frechet_distance(self.real_gaussian(), self._generated.gaussian("generated"))
        protocol = {
            "generated_images": self._generated.count,
            "real_images": self._given.describe() if self._given else self._real.count,
            "features": network.describe() | {"layer": f"pooled, {self._dimensions}"},
            "computed_by": "eigenvalues of the product of the covariances, double precision",
        }
        cautions = [self._given.caution] if self._given and self._given.caution else []
        counts = {"generated": self._generated.count} | ({} if self._given else {"real": self._real.count})
        if min(counts.values()) <= self._dimensions:
            few = " and ".join(f"{count:,} {kind}" for kind, count in counts.items())
            cautions.append(
                f"{few} images are few for {self._dimensions:,} features: the covariances are singular and the distance"
                " is biased upwards; compare only with the same counts"
            )
        if cautions:
            protocol["caution"] = "; ".join(cautions)
        return MetricResult(
            name=f"FID ({network.name})",
            value=value,
            better="lower",
            definition="Frechet distance between the Gaussians of the features of generated and of real images",
            protocol=protocol,
        )


class _Moments:
    """Sums and products of features, so memory does not grow with the images."""

    def __init__(self, dimensions: int) -> None:
        self.count = 0
        self._sum = torch.zeros(dimensions, dtype=torch.float64)
        self._products = torch.zeros(dimensions, dimensions, dtype=torch.float64)

    def add(self, features: Tensor) -> None:
        values = features.cpu().double()  # on the CPU, because not every device has double precision
        self.count += len(values)
        self._sum += values.sum(dim=0)
        self._products += values.T @ values

    def gaussian(self, kind: str) -> Gaussian:
        if self.count < 2:
            raise DataError(f"FID has {self.count} {kind} images; it needs two of each kind")
        mean = self._sum / self.count
        covariance = (self._products - self.count * torch.outer(mean, mean)) / (self.count - 1)
        return Gaussian(mean, covariance)
