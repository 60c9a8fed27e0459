"""Where training runs, and in which precision."""

from __future__ import annotations

import ctypes
import sys
from typing import Literal

import torch
import torch.distributed as dist
from torch import nn

from dmgan_runtime.cpus import usable_cpus
from dmgan_runtime.errors import BackendError
from dmgan_train import distributed
from dmgan_train.settings import Settings, TrainingPrecision

# What PyTorch's convolutions and products use, as `torch.cpu` names it: on x86 the first two, on ARM the last. The
# runtime, which has no PyTorch, asks Linux for the same (`dmgan_runtime.cpus`); PyTorch knows on other systems too.
_BF16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16")
# Of glibc's mallopt(3).
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU. Each of several processes takes a GPU of its own.

    For the whole process PyTorch is told how to compute there. It takes as many CPU threads as a container's quota
    leaves, of which it does not know. On a GPU fp32 is fp32: TF32 keeps 10 bits of a product, and whoever wants that
    speed has `gan.precision: bf16`. cuDNN times its algorithms for each shape there and takes the fastest, so two runs
    may round differently; resuming on a GPU is not bit-exact anyway, because many gradients are summed in no fixed
    order.

    Returns:
        A device whose index is set if it is a GPU, as `torch.cuda.set_device` demands.

    Raises:
        BackendError: if the device cannot be had.
    """
    if torch.get_num_threads() > (cpus := usable_cpus()):
        torch.set_num_threads(cpus)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{distributed.local_rank() if dist.is_torchelastic_launched() else 0}"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BackendError(f"--device {name}: there is no such device; use auto, cpu or cuda") from error
    if device.type not in ("cpu", "cuda"):
        raise BackendError(f"--device {name}: only the CPU and CUDA are supported; use auto, cpu or cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BackendError(
            f"--device {name}: PyTorch {torch.__version__} sees no CUDA device; install a CUDA build of PyTorch and"
            " the NVIDIA driver, or use --device cpu"
        )
    if device.type == "cuda" and device.index >= torch.cuda.device_count():
        raise BackendError(f"--device {name}: there are {torch.cuda.device_count()} CUDA devices, counted from 0")
    if device.type == "cuda" and device.index != distributed.local_rank() and distributed.local_count() > 1:
        raise BackendError(
            f"--device {name}: {distributed.local_count()} processes cannot share one GPU; use cuda or auto"
        )
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = True
    return device


def keep_freed_memory() -> None:
    """Lets the C library keep, for the whole process, what is freed for what is allocated next; glibc alone can.

    By default it gives large blocks back at once, and the system clears every page of the next ones: of a step of
    training on CPUs a fifth was measured to go there, and more in fp32 (docs/trials.md).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)


def place(network: nn.Module, device: torch.device, layout: torch.memory_format = torch.channels_last) -> None:
    """Moves a network's weights to a device and into a memory layout; convolutions compute in their weights' layout."""
    network.to(device=device, memory_format=layout)  # type: ignore[call-overload]


def autocast_type(
    precision: TrainingPrecision, device: torch.device, name: str = "gan.precision"
) -> torch.dtype | None:
    """What the networks run in under autocast; None runs them in fp32.

    Args:
        precision: What was asked for.
        device: Where they run.
        name: What an error calls the setting.

    Raises:
        BackendError: if it was asked for and the processor has no instructions for it.
    """
    if precision == "fp32":
        return None
    if precision == "fp16":
        if device.type != "cuda":
            raise BackendError(f"{name} is fp16, which is for GPUs; use auto or fp32")
        return torch.float16
    able = _has_bf16(device)
    if precision == "bf16" and not able:
        raise BackendError(
            f"{name} is bf16, and the {device.type} here has no bf16 instructions; use"
            f" {'auto, fp16 or fp32' if device.type == 'cuda' else 'auto or fp32'}"
        )
    return torch.bfloat16 if able else None


def _has_bf16(device: torch.device) -> bool:
    """Whether there are instructions for bf16; without them it is slower than fp32, on some CPUs twenty times."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Without oneDNN (mkldnn), PyTorch has no convolutions that use them.
    flags = torch.cpu.get_capabilities()
    return torch.backends.mkldnn.is_available() and any(flags.get(name, False) for name in _BF16_INSTRUCTIONS)


def resolve_precision(settings: Settings, device: torch.device, begun: Settings | None = None) -> Settings:
    """The settings with `auto` precision replaced, so that a run keeps to it on whatever machine it goes on.

    Args:
        settings: As they were asked for.
        device: Where the run trains now; a new run takes what it can do.
        begun: What the run began with; it goes on with the same.

    Raises:
        BackendError: if bf16 or fp16 was asked for, or begun with, and cannot be had.
    """
    names: dict[torch.dtype | None, TrainingPrecision] = {None: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}

    def resolve(phase: Literal["damsm", "gan"]) -> TrainingPrecision:
        asked: TrainingPrecision = getattr(settings, phase).precision
        kept: TrainingPrecision | None = getattr(begun, phase).precision if begun else None
        if kept is None or asked not in ("auto", kept):
            return names[autocast_type(asked, device, f"{phase}.precision")]
        try:
            return names[autocast_type(kept, device)]
        except BackendError as error:
            raise BackendError(
                f"this run began with {phase}.precision={kept}, for which the {device.type} here has no instructions;"
                " go on with it where there are some, or choose another --run"
            ) from error

    return settings.__replace__(
        damsm=settings.damsm.__replace__(precision=resolve("damsm")),
        gan=settings.gan.__replace__(precision=resolve("gan")),
    )


def default_workers(settings: Settings) -> int:
    """Processes that read pictures ahead: one for each CPU but one, which `torchrun`'s processes share.

    None where the pictures are kept in memory, and at most 16, which is what an H100 may ask for (docs/training.md).
    """
    if settings.data.cache:
        return 0
    return min(16, max(0, usable_cpus() // distributed.local_count() - 1))
