"""The conditioning augmentation's regulariser, eq. 13."""

from __future__ import annotations

from torch import Tensor


def conditioning_loss(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, I)), averaged over batch and channels as in the published code.

    Args:
        mean: [N, condition_features].
        log_variance: The same shape.
    """
    return -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).mean()
