"""The Inception-v3 of the original FID (Heusel et al., NeurIPS 2017): TensorFlow's network of 2015-12-05.

Its blocks pool otherwise than the later Inception-v3 that torchvision has, and its weights are others, so the two
give different distances. The key names of the weights are the same.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from dmgan_train.models.inception import InceptionA, InceptionC, InceptionE, InceptionTrunk


def fid_inception_trunk() -> InceptionTrunk:
    """Inception-v3 with the pooling of TensorFlow's network, as `pytorch-fid` ported it; random weights."""
    trunk = InceptionTrunk()
    for block in trunk.modules():
        if isinstance(block, InceptionA | InceptionC | InceptionE):
            block.pool = _average_inside
    trunk.Mixed_7c.pool = _maximum
    return trunk


def _average_inside(x: Tensor) -> Tensor:
    """Averages over the pixels that are there: padding does not count."""
    return F.avg_pool2d(x, kernel_size=3, stride=1, padding=1, count_include_pad=False)


def _maximum(x: Tensor) -> Tensor:
    """The last block alone takes the maximum."""
    return F.max_pool2d(x, kernel_size=3, stride=1, padding=1)
