"""The discriminators: one for each resolution, spectrally normalised, judging image and caption."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.parametrize import register_parametrization

from dmgan_runtime.manifest import ModelSpec
from dmgan_train.models.layers import initialise

LAST_SIDE = 4


class SpectralNorm(_SpectralNorm):
    """PyTorch's spectral norm (Miyato et al., ICLR 2018), in fp32 on every device.

    Autocast on a GPU would round the power iteration's products to half precision, and with them the norm by which
    every weight is divided.
    """

    def forward(self, weight: Tensor) -> Tensor:
        """The weight, divided by its largest singular value."""
        if weight.is_meta:  # networks that are only counted; there is no autocast to turn off
            return super().forward(weight)
        with torch.autocast(weight.device.type, enabled=False):
            return super().forward(weight)


def _convolution(in_channels: int, out_channels: int, kernel: int, stride: int, padding: int) -> nn.Module:
    convolution = nn.Conv2d(in_channels, out_channels, kernel, stride, padding)
    initialise(convolution)
    register_parametrization(convolution, "weight", SpectralNorm(convolution.weight))
    return convolution


def _down(in_channels: int, out_channels: int) -> list[nn.Module]:
    return [_convolution(in_channels, out_channels, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]


def _joint(in_channels: int, out_channels: int) -> list[nn.Module]:
    return [_convolution(in_channels, out_channels, 3, 1, 1), nn.LeakyReLU(0.2, inplace=True)]


class Discriminator(nn.Module):
    """Judges images of one resolution, alone and together with a sentence feature.

    4x4 stride-2 convolutions lead down to 4x4; from 64 pixels up the widths are the paper's (Nd, 2 Nd, ...
    doubling each time), and 3x3 convolutions bring a wider end back to 8 Nd. Below 64 pixels there are fewer
    doublings, so the widths start higher and end at 8 Nd too.
    """

    def __init__(self, resolution: int, channels: int, text_features: int) -> None:
        """Args:
        resolution: Side of the images in pixels, a power of two from 8.
        channels: Nd.
        text_features: Channels of the sentence feature.
        """
        super().__init__()
        downs = (resolution // LAST_SIDE).bit_length() - 1
        width = channels << max(0, 4 - downs)
        layers = _down(3, width)
        for _ in range(downs - 1):
            layers += _down(width, 2 * width)
            width *= 2
        while width > 8 * channels:
            layers += _joint(width, width // 2)
            width //= 2
        self.features = nn.Sequential(*layers)
        self.unconditional = _convolution(width, 1, LAST_SIDE, LAST_SIDE, 0)
        self.joint = nn.Sequential(*_joint(width + text_features, width))
        self.conditional = _convolution(width, 1, LAST_SIDE, LAST_SIDE, 0)

    def forward(self, images: Tensor) -> Tensor:
        """Features [N, 8 Nd, 4, 4] of images [N, 3, R, R] in [-1, 1]."""
        return self.features(images)

    def unconditional_logits(self, features: Tensor) -> Tensor:
        """Logits [N] that the image is real, from `forward`'s features."""
        return self.unconditional(features).flatten()

    def conditional_logits(self, features: Tensor, sentence_feature: Tensor) -> Tensor:
        """Logits [N] that the image is real and fits the sentence feature [N, text_features]."""
        tiled = sentence_feature.to(features.dtype)[:, :, None, None].expand(-1, -1, LAST_SIDE, LAST_SIDE)
        return self.conditional(self.joint(torch.cat([features, tiled], dim=1))).flatten()


def build_discriminators(spec: ModelSpec, channels: int) -> nn.ModuleList:
    """One discriminator for each resolution of the pyramid, smallest first."""
    return nn.ModuleList(Discriminator(side, channels, spec.text_features) for side in spec.resolutions)
