"""Conditioning augmentation (Zhang et al., StackGAN, ICCV 2017)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from dmgan_runtime.manifest import ModelSpec


class Condition(NamedTuple):
    """A sampled condition and the Gaussian that it came from; each [N, condition_features]."""

    sample: Tensor
    mean: Tensor
    log_variance: Tensor


class ConditioningAugmentation(nn.Module):
    """Turns a sentence feature into a Gaussian and draws the condition c from it: eq. 13's mu and Sigma."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.linear = nn.Linear(spec.text_features, 4 * spec.condition_features)
        self.glu = nn.GLU(dim=1)

    def forward(self, sentence_feature: Tensor, condition_noise: Tensor) -> Condition:
        """Draws c = mu + eps * exp(log variance / 2).

        Args:
            sentence_feature: [N, text_features] float.
            condition_noise: eps, [N, condition_features], from N(0, 1).
        """
        mean, log_variance = self.glu(self.linear(sentence_feature)).chunk(2, dim=1)
        return Condition(mean + condition_noise * torch.exp(log_variance / 2), mean, log_variance)
