"""The Frechet inception distance (Heusel et al., NeurIPS 2017), by torchmetrics in double precision."""

from __future__ import annotations

from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from dmgan_runtime.errors import DataError
from dmgan_train.evaluation.metrics.features import FeatureNetwork
from dmgan_train.evaluation.metrics.protocol import MetricResult


class _Given(nn.Identity):
    """Stands where torchmetrics has its network: the features were computed once, for all metrics."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features


class FrechetDistance:
    """Collects two sets of features as sums and products, so memory does not grow with the images."""

    def __init__(self, dimensions: int) -> None:
        """Args:
        dimensions: Of a feature.
        """
        # Every process is told of all features, so there is nothing to add up over them.
        self._metric = FrechetInceptionDistance(feature=_Given(dimensions), sync_on_compute=False)
        self._dimensions = dimensions

    def add(self, features: Tensor, *, real: bool) -> None:
        """Takes features [N, dimensions] of real or of generated images."""
        # On the CPU, because not every device has double precision.
        self._metric.update(features.double().cpu(), real=real)

    def result(self, network: FeatureNetwork) -> MetricResult:
        """||mu - mu'||^2 + tr(S + S' - 2 (S S')^(1/2)).

        Raises:
            DataError: if there are fewer than two images of a kind.
        """
        real = int(self._metric.real_features_num_samples)
        generated = int(self._metric.fake_features_num_samples)
        if min(real, generated) < 2:
            raise DataError(f"FID compares {real} real with {generated} generated images; it needs two of each")
        protocol = {
            "generated_images": generated,
            "real_images": real,
            "features": network.describe() | {"layer": f"pooled, {self._dimensions}"},
            "computed_by": "torchmetrics, double precision",
        }
        if min(real, generated) <= self._dimensions:
            protocol["caution"] = (
                f"{generated:,} generated and {real:,} real images are few for {self._dimensions:,} features: the"
                " covariances are singular and the distance is biased upwards; compare only with the same counts"
            )
        return MetricResult(
            name=f"FID ({network.name})",
            value=float(self._metric.compute()),
            better="lower",
            definition="Frechet distance between the Gaussians of the features of generated and of real images",
            protocol=protocol,
        )
