"""Distributed training: `torchrun` starts several processes, and each takes its share of every batch.

What they compute is what one process would compute with the whole batch, up to rounding: where a loss or a BatchNorm
needs the whole batch, it is summed or put together here, with gradients. A process alone pays nothing for it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dmgan_runtime.errors import SettingsError
from dmgan_train.data import TrainingBatch

_Norm = nn.modules.batchnorm._BatchNorm
Part = TypeVar("Part")
Result = TypeVar("Result")


class CaptionBatch(NamedTuple):
    """One caption of every image of a whole batch, as every process has them, on the CPU.

    Attributes:
        tokens: [N, T] int64, padded with 0.
        lengths: [N] int64, from 1 to T.
        class_ids: [N] int64.
    """

    tokens: Tensor
    lengths: Tensor
    class_ids: Tensor


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Joins the processes that `torchrun` has started; does nothing in a process that it has not.

    A process that has joined ends with this context, if that ends without an error.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)  # else what names no device takes the first, in every process
    if not dist.is_torchelastic_launched():
        yield
        return
    # Both: gradients travel between GPUs, captions and the wish to stop between CPUs.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, device_id=device if device.type == "cuda" else None)
    try:
        yield
    except BaseException:
        dist.destroy_process_group()
        raise
    # None leaves while another still needs it. Then at once: while the interpreter ends, threads of gloo's sometimes
    # abort it ("terminate called without an active exception"), and torchrun calls a finished training failed.
    dist.barrier()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def local_rank() -> int:
    """This process's number on its machine, which is its GPU's."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def local_count() -> int:
    """How many processes train on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def count() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's number among all, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this process is the one that writes and shows."""
    return rank() == 0


def wait() -> None:
    """Returns once every process has come here."""
    if count() > 1:
        dist.barrier()


def share_of(batch_size: int, name: str) -> range:
    """The rows of every batch that this process takes.

    Args:
        batch_size: Of all processes together.
        name: What an error calls it.

    Raises:
        SettingsError: if the processes cannot share a batch evenly, or have less than two images each.
    """
    own, left = divmod(batch_size, count())
    if left or own < 2:
        raise SettingsError(
            f"{name} is {batch_size}, which {count()} processes cannot share evenly; set it to a multiple of {count()},"
            f" at least {2 * count()}, or start as many processes as divide it"
        )
    return range(rank() * own, (rank() + 1) * own)


def share(whole: Tensor) -> Tensor:
    """This process's rows of a tensor that every process holds whole, [N, ...] to [N / processes, ...]."""
    return whole.chunk(count())[rank()]


def gather(rows: Tensor) -> Tensor:
    """Every process's rows, [N / processes, ...] to [N, ...], with a gradient to their own process.

    Where all processes compute the same loss of what was gathered, the gradient counts once for each of them, so that
    the mean that `average_gradients` takes is the gradient of the loss.
    """
    if count() == 1:
        return rows
    others = torch.zeros_like(rows)
    return total(torch.cat([rows if process == rank() else others for process in range(count())]))


def gather_captions(batch: TrainingBatch) -> list[CaptionBatch]:
    """The captions of all processes' shares of a batch: small, and every image is compared with all of them.

    Returns:
        The first caption of every image and, where the batch has them, the second.
    """
    captions = [(batch.tokens, batch.lengths), *([batch.second] if batch.second else [])]
    return [_gather_captions(tokens, lengths, batch.class_ids) for tokens, lengths in captions]


def _gather_captions(tokens: Tensor, lengths: Tensor, class_ids: Tensor) -> CaptionBatch:
    if count() == 1:
        return CaptionBatch(tokens, lengths, class_ids)
    whole = gather(torch.cat([tokens, lengths[:, None], class_ids[:, None]], dim=1))
    return CaptionBatch(whole[:, :-2], whole[:, -2], whole[:, -1])


def total(value: Tensor) -> Tensor:
    """The sum over all processes, with a gradient."""
    return cast("Tensor", _Total.apply(value)) if count() > 1 else value  # type: ignore[no-untyped-call]


def mean_of(values: Tensor) -> Tensor:
    """The mean over all processes, without a gradient."""
    return total(values.detach()) / count()


def in_turns(parts: Sequence[Part], work: Callable[[Part], Result]) -> Iterator[Result]:
    """Works on parts, the processes taking turns; every process gets every result, in the order of the parts.

    Args:
        parts: The same in every process.
        work: What is done with a part, in one process. What it returns is pickled if there are several, so tensors
            should be on the CPU.
    """
    for first in range(0, len(parts), count()):
        turn = parts[first : first + count()]
        result = work(turn[rank()]) if rank() < len(turn) else None
        results = [result]
        if count() > 1:
            results = [None] * count()
            dist.all_gather_object(results, result)
        yield from cast("list[Result]", results[: len(turn)])


def any_process(flag: bool) -> bool:
    """Whether a flag is set in any process: what one does alone, the others would wait for."""
    return bool(total(torch.tensor(int(flag))))


@torch.no_grad()
def broadcast(network: nn.Module) -> None:
    """Gives every process the first one's weights and buffers.

    The seed alone does not: another processor or another build of a library may round the first weights otherwise, and
    as only gradients are averaged, that would never heal.
    """
    if count() > 1:
        for tensor in (*network.parameters(), *network.buffers()):
            dist.broadcast(tensor, src=0)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replaces every gradient by its mean over all processes."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if count() == 1 or not gradients:
        return
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= count()
    for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        value = value.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(value)
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient


def synchronise_batch_norms(module: nn.Module, device: torch.device) -> None:
    """Lets every BatchNorm of a network see the whole batch, if several processes share it.

    PyTorch's SyncBatchNorm does it on GPUs and refuses the CPU, where the same sums are written out.

    Args:
        module: Not itself a BatchNorm; names of parameters and buffers stay.
        device: Where it lives.
    """
    if count() == 1:
        return
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(module)
        return
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, _Norm):
                setattr(parent, name, CpuSyncBatchNorm(child))


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
        number = features.numel() // features.shape[1] * count()
        wide = features.float()
        mean = total(wide.sum(axes)) / number
        centred = wide - mean.view(shape)
        variance = total(centred.square().sum(axes)) / number
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
