"""Checkpoints: written whole or not at all, read without running anything."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.optim import Optimizer

from dmgan_runtime.atomic import replacing
from dmgan_runtime.errors import CheckpointError


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes a state of tensors and plain values; a process killed meanwhile leaves the file before it.

    Args:
        path: Where to; its folder is made.
        state: What `load_checkpoint` shall return.
    """
    with replacing(path, durable=True, locked=True) as scratch:
        torch.save(state, scratch)


def load_checkpoint(path: Path, phase: str) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU.

    Args:
        path: The file.
        phase: `damsm` or `gan`; the file must be of this phase.

    Raises:
        CheckpointError: if the file is missing, damaged, or of another phase.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no checkpoint; train first with `python -m dmgan_train fit`")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"{path}: the checkpoint is damaged ({type(error).__name__}: {error}); remove it and run the same"
            " command to train this phase again, or restore it from a copy"
        ) from error
    if not isinstance(state, dict) or state.get("phase") != phase:
        raise CheckpointError(f"{path}: is not a checkpoint of the phase {phase!r}; remove it or choose another run")
    return cast("dict[str, Any]", state)


def restore(module: nn.Module, state: Mapping[str, Any], path: Path) -> None:
    """Loads a state dict into a network.

    Raises:
        CheckpointError: if it is of another shape.
    """
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: does not fit {type(module).__name__}: {error}") from error


def load_optimizer(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Loads an optimizer's state, in the memory layout of its parameters, which a fused optimizer relies on."""
    optimizer.load_state_dict(dict(state))
    for parameter, moments in optimizer.state.items():
        for name, moment in moments.items():
            if moment.shape == parameter.shape and moment.stride() != parameter.stride():
                moments[name] = torch.empty_like(parameter).copy_(moment)


def fingerprint(module: nn.Module) -> str:
    """SHA-256 of a network's tensors, by name and in order."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def check_fingerprint(state: Mapping[str, Any], text_encoder: nn.Module) -> None:
    """Checks that a generator's checkpoint was trained with this text encoder.

    Raises:
        CheckpointError: if it was another.
    """
    if state["text_encoder_sha256"] != fingerprint(text_encoder):
        raise CheckpointError(
            "the generator was trained with another text encoder than damsm/checkpoint.pt now holds; restore that file,"
            " or remove gan/checkpoint.pt to train the generator again"
        )
