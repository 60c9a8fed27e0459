"""The blocks that the generator's stages share."""

from __future__ import annotations

from torch import Tensor, nn


def conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size and has no bias (a BatchNorm or a tanh follows)."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False)


def up_block(in_channels: int, out_channels: int) -> nn.Sequential:
    """Doubles height and width: nearest x2, 3x3 convolution, BatchNorm, GLU.

    Maps [N, in_channels, H, W] to [N, out_channels, 2H, 2W].
    """
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="nearest"),
        conv3x3(in_channels, 2 * out_channels),
        nn.BatchNorm2d(2 * out_channels),
        nn.GLU(dim=1),
    )


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
