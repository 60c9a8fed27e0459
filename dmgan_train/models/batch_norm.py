"""BatchNorm where it needs care: over the batches of several processes, and under averaged weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from dmgan_train import processes

_Norm = nn.modules.batchnorm._BatchNorm


def synchronise_batch_norms(module: nn.Module, device: torch.device) -> None:
    """Lets every BatchNorm of a network see the whole batch, if several processes share it.

    PyTorch's SyncBatchNorm does it on GPUs and refuses the CPU, where the same sums are written out.

    Args:
        module: Not itself a BatchNorm; names of parameters and buffers stay.
        device: Where it lives.
    """
    if processes.count() == 1:
        return
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(module)
        return
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, _Norm):
                setattr(parent, name, CpuSyncBatchNorm(child))


@torch.no_grad()
def settle_batch_norms(network: nn.Module, batches: Iterable[Callable[[], object]]) -> None:
    """Gives a network the BatchNorm statistics of its own activations, and leaves it in evaluation mode.

    The statistics that training keeps are those of each step's weights. The average of these weights is shorter than
    they are, and so are its activations: by the wrong statistics its images are pale. (Standing statistics: Brock et
    al., BigGAN, ICLR 2019, appendix A.)

    Args:
        network: Whose statistics are replaced.
        batches: Each call runs the network on one batch.
    """
    norms = [module for module in network.modules() if isinstance(module, _Norm)]
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


class CpuSyncBatchNorm(_Norm):
    """BatchNorm whose mean and variance are those of all processes' rows; takes over another's state."""

    def __init__(self, norm: _Norm) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        for name, parameter in norm.named_parameters():
            self.register_parameter(name, parameter)
        for name, buffer in norm.named_buffers():
            self.register_buffer(name, buffer)
        self.train(norm.training)

    def forward(self, features: Tensor) -> Tensor:
        """Normalises [N, C, ...]; N rows of each process."""
        if not self.training:
            return super().forward(features)
        axes = [axis for axis in range(features.dim()) if axis != 1]
        shape = [1, -1] + [1] * (features.dim() - 2)
        number = features.numel() // features.shape[1] * processes.count()
        wide = features.float()
        mean = processes.total(wide.sum(axes)) / number
        centred = wide - mean.view(shape)
        variance = processes.total(centred.square().sum(axes)) / number
        self._remember(mean.detach(), variance.detach() * number / (number - 1))
        scale = (variance + self.eps).rsqrt() * self.weight
        return (centred * scale.view(shape) + self.bias.view(shape)).to(features.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
        self.num_batches_tracked += 1

    def _check_input_dim(self, features: Tensor) -> None:
        """Any [N, C, ...] will do."""
