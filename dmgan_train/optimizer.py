"""The optimizer of one network: Adam, gradients averaged over all processes, and fp16's loss scaling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dmgan_train import distributed

# Each skipped update halves the scale, which begins at 2^16: after so many no gradient would be too large.
_PATIENCE = 40


class ScaledAdam:
    """Adam for one network; it takes losses, and scales them in fp16.

    In fp16 small gradients would be lost, so losses are scaled before the backward pass (Micikevicius et al., Mixed
    Precision Training, ICLR 2018): by as much as goes, which shows when an update has no finite gradient and is
    skipped. Other precisions have range enough, and nothing is scaled.
    """

    def __init__(
        self, network: nn.Module, learning_rate: float, betas: tuple[float, float], device: torch.device, fp16: bool
    ) -> None:
        """Args:
        network: Where it shall be; its parameters are updated in place.
        learning_rate: Adam's.
        betas: Adam's momenta.
        device: Where the network is.
        fp16: Whether the losses come from fp16 autocast.
        """
        self._network = network
        self._optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate, betas=betas, fused=True)
        self._scaler = torch.amp.GradScaler(device.type, enabled=fp16)
        self._skipped = torch.zeros((), device=device)

    @property
    def learning_rate(self) -> float:
        """Adam's, of the next update."""
        return float(self._optimizer.param_groups[0]["lr"])

    @learning_rate.setter
    def learning_rate(self, rate: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = rate

    def step(self, loss: Tensor) -> dict[str, Tensor]:
        """Goes a step down a loss's gradient.

        Returns:
            `gradient`, its norm; in fp16 also `skipped`, 1 if the gradient was not finite and the weights stayed. The
            norm is 0 then, unless so many updates were skipped in a row that no scale can help.
        """
        self._optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()
        distributed.average_gradients(self._network.parameters())
        self._scaler.unscale_(self._optimizer)
        gradients = [parameter.grad for parameter in self._network.parameters() if parameter.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if not self._scaler.is_enabled():
            return {"gradient": norm}
        skipped = 1 - norm.isfinite().float()
        self._skipped = (self._skipped + 1) * skipped
        excused = (skipped > 0) & (self._skipped <= _PATIENCE)
        return {"gradient": torch.where(excused, 0, norm), "skipped": skipped}

    def state(self) -> dict[str, Any]:
        """What `load_state` takes: `optimizer`, and `scaler`, empty unless in fp16."""
        return {"optimizer": self._optimizer.state_dict(), "scaler": self._scaler.state_dict()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state` returned."""
        load_optimizer(self._optimizer, state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])


def load_optimizer(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Loads an optimizer's state, in the memory layout of its parameters, which a fused optimizer relies on."""
    optimizer.load_state_dict(dict(state))
    for parameter, moments in optimizer.state.items():
        for name, moment in moments.items():
            if moment.shape == parameter.shape and moment.stride() != parameter.stride():
                moments[name] = torch.empty_like(parameter).copy_(moment)
