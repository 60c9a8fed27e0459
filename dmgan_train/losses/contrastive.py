"""The contrastive loss between two captions of a picture, or the images of two captions (Ye et al., BMVC 2021).

Ye, Yang, Takac, Sunderraman and Ji ("Improving Text-to-Image Synthesis Using Contrastive Learning") add it to both
phases, in each of which a step takes two captions of every picture:

    first phase    L = L_DAMSM(first) + L_DAMSM(second) + weight NT-Xent(sentence features)
    second phase   L_G = L_G(first) + L_G(second) + weight NT-Xent(image features of the last stage's images)

NT-Xent, the normalised temperature-scaled cross-entropy, is SimCLR's (Chen et al., ICML 2020, eq. 1).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def contrastive_loss(first: Tensor, second: Tensor, *, temperature: float = 0.5) -> Tensor:
    """Finding the other feature of a picture among all features but one's own, by cosine; a scalar.

    With f_1 to f_2N the features of both, j(i) the other feature of the picture of f_i, and T the temperature:

        1 / 2N sum_i -log(exp(cos(f_i, f_j(i)) / T) / sum_{k != i} exp(cos(f_i, f_k) / T))

    Args:
        first: [N, D], a feature of each of N pictures: of the whole batch, whatever processes share it.
        second: [N, D], another of each, in the same order.
        temperature: T, over 0.
    """
    features = F.normalize(torch.cat([first, second]).float())
    itself = torch.eye(len(features), dtype=torch.bool, device=features.device)
    similarities = (features @ features.T / temperature).masked_fill(itself, -torch.inf)
    others = torch.arange(len(features), device=features.device).roll(len(first))
    return F.cross_entropy(similarities, others)
