"""Where training runs, and in which precision."""

from __future__ import annotations

import os

import torch

from dmgan_runtime.errors import BackendError
from dmgan_train.config import Precision


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU.

    Raises:
        BackendError: if the device cannot be had.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BackendError(f"--device {name}: there is no such device; use auto, cpu or cuda") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BackendError(
            f"--device {name}: PyTorch {torch.__version__} sees no CUDA device; install a CUDA build of PyTorch and"
            " the NVIDIA driver, or use --device cpu"
        )
    return device


def uses_bf16(precision: Precision, device: torch.device) -> bool:
    """Whether the networks run under bf16 autocast.

    Raises:
        BackendError: if bf16 was asked for and the processor has no instructions for it.
    """
    if precision == "fp32":
        return False
    # Without these instructions PyTorch falls back to convolutions that are some twenty times slower.
    able = torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if precision == "bf16" and not able:
        raise BackendError(
            f"gan.precision is bf16, and the {device.type} here has no bf16 instructions; use auto or fp32"
        )
    return bool(able)


def default_workers() -> int:
    """Processes that read pictures ahead: one for each core but one, at most four."""
    return min(4, max(0, (os.cpu_count() or 1) - 1))
