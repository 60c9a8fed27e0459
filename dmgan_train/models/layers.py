"""The blocks that the generator's stages share."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

SMALLEST_TRANSPOSED = 8


def conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size and has no bias (a BatchNorm or a tanh follows)."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False)


class UpBlock(nn.Sequential):
    """Doubles height and width: nearest x2, 3x3 convolution, BatchNorm, GLU.

    In training the first two run as the one transposed convolution that they are, which takes 4/9 of the arithmetic;
    on a 4x4 grid, where the kernel is larger than the features, building it would cost more than it saves.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.Upsample(scale_factor=2, mode="nearest"),
            conv3x3(in_channels, 2 * out_channels),
            nn.BatchNorm2d(2 * out_channels),
            nn.GLU(dim=1),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Maps [N, in_channels, H, W] to [N, out_channels, 2H, 2W]."""
        upsample, convolution, norm, glu = self
        if not self.training or features.shape[2] < SMALLEST_TRANSPOSED:
            return glu(norm(convolution(upsample(features))))
        assert isinstance(convolution, nn.Conv2d)
        kernel = transposed_kernel(convolution.weight)
        return glu(norm(F.conv_transpose2d(features, kernel, stride=2, padding=1)))


def transposed_kernel(weight: Tensor) -> Tensor:
    """The [in, out, 4, 4] stride-2 transposed convolution that equals nearest x2 and then [out, in, 3, 3]."""
    kernel = weight.flip(2, 3)
    kernel = F.pad(kernel, (0, 0, 0, 1)) + F.pad(kernel, (0, 0, 1, 0))
    return (F.pad(kernel, (0, 1)) + F.pad(kernel, (1, 0))).transpose(0, 1)


def image_head(channels: int) -> nn.Sequential:
    """Image features [N, channels, R, R] to an image [N, 3, R, R] in [-1, 1]."""
    return nn.Sequential(conv3x3(channels, 3), nn.Tanh())


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm, a GLU between them, and the input added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            conv3x3(channels, 2 * channels),
            nn.BatchNorm2d(2 * channels),
            nn.GLU(dim=1),
            conv3x3(channels, channels),
            nn.BatchNorm2d(channels),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Maps [N, C, H, W] to the same shape."""
        return features + self.block(features)


def initialise(module: nn.Module) -> None:
    """The published code's initialisation: orthogonal weights, BatchNorm scales from N(1, 0.02).

    Pass it to `Module.apply` before spectral norm is attached.
    """
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
        nn.init.orthogonal_(module.weight)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
