"""BatchNorm statistics of an averaged generator."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def settle_batch_norms(network: nn.Module, batches: Iterable[Callable[[], object]]) -> None:
    """Gives a network the BatchNorm statistics of its own activations, and leaves it in evaluation mode.

    The statistics that training kept belong to the weights of each step. Those of their average lie further inside,
    so that its activations are smaller, and by the wrong statistics its images would be pale. (Standing statistics:
    Brock et al., BigGAN, ICLR 2019, appendix A.)

    Args:
        network: Whose statistics are replaced.
        batches: Each call runs the network on one batch.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
    network.train()
    for run in batches:
        run()
    network.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
