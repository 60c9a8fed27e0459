"""The image encoder of DAMSM: a trunk and two linear maps into the text's feature space."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from dmgan_train.models.trunks import Trunk, resize_images


class ImageFeatures(NamedTuple):
    """What the image encoder says of a batch of images.

    Attributes:
        regions: [N, text_features, h, w].
        image: [N, text_features], of the whole image.
    """

    regions: Tensor
    image: Tensor


class ImageEncoder(nn.Module):
    """Maps images to region features and one global feature that are comparable with the text's."""

    def __init__(self, trunk: Trunk, resolution: int, text_features: int, *, freeze_trunk: bool) -> None:
        """Args:
        trunk: What sees the image.
        resolution: Side in pixels that the trunk wants; images are resized to it.
        text_features: Channels of word and sentence features.
        freeze_trunk: Keep the trunk's weights and BatchNorm statistics as they are.
        """
        super().__init__()
        self.trunk = trunk
        self.resolution = resolution
        self.frozen = freeze_trunk
        if freeze_trunk:
            trunk.requires_grad_(False)
        self.to_regions = nn.Conv2d(trunk.region_channels, text_features, kernel_size=1, bias=False)
        self.to_global = nn.Linear(trunk.global_channels, text_features)
        nn.init.uniform_(self.to_regions.weight, -0.1, 0.1)
        nn.init.uniform_(self.to_global.weight, -0.1, 0.1)

    def train(self, mode: bool = True) -> ImageEncoder:
        """Sets the mode, leaving a frozen trunk in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.trunk.eval()
        return self

    def forward(self, images: Tensor) -> ImageFeatures:
        """Encodes images [N, 3, R, R] in [-1, 1]."""
        return self.project(*self.extract_features(images))

    def extract_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The trunk's own features: regions [N, region_channels, h, w] and pooled [N, global_channels]."""
        regions, pooled = self.trunk(resize_images(images, self.resolution))
        return regions, pooled

    def project(self, regions: Tensor, pooled: Tensor) -> ImageFeatures:
        """Maps the trunk's features into the text's space."""
        return ImageFeatures(self.to_regions(regions), self.to_global(pooled))
