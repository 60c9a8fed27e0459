"""Checkpoints, written whole or not at all and read without running anything, and the trained networks in them."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from dmgan_runtime.atomic import replacing
from dmgan_runtime.errors import CheckpointError, TrainingError, shortened
from dmgan_train.models import GeneratorNetwork, ImageEncoder, TextEncoder
from dmgan_train.models.encoders import build_encoders
from dmgan_train.run_folder import RunFolder

_REMEDY = "restore it from a copy or, unless the run was adopted, remove it and run the same command to train it again"


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes a state of tensors and plain values; a process killed meanwhile leaves the file before it.

    Args:
        path: Where to; its folder is made.
        state: What `load_checkpoint` shall return.

    Raises:
        TrainingError: if the disk does not take it, naming what is kept.
    """
    try:
        # Through Python's own file: PyTorch's writer says of a full disk no more than at which byte it stood.
        with replacing(path, durable=True, locked=True) as scratch, scratch.open("wb") as stream:
            torch.save(state, stream)
    except (OSError, RuntimeError) as error:
        trouble = error if isinstance(error, OSError) else error.__context__  # PyTorch may fail again on its way out
        if not isinstance(trouble, OSError):
            raise
        kept = f"; the one of step {_step_of(path):,} is kept" if path.is_file() else ""
        free = shutil.disk_usage(path.parent).free / 1e6
        raise TrainingError(
            f"{path}: the checkpoint could not be saved ({trouble.strerror or trouble}; its disk has {free:,.0f} MB"
            f" for it){kept}. Make room, and the same command goes on"
        ) from error


def _step_of(path: Path) -> int:
    return int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["step"])


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
            f"{path}: the checkpoint is damaged ({type(error).__name__}: {shortened(error)}); {_REMEDY}"
        ) from error
    if not isinstance(state, dict) or state.get("phase") != phase:
        raise CheckpointError(f"{path}: is not a checkpoint of the phase {phase!r}; remove it or choose another run")
    step = state.get("step", 0)
    if type(step) is not int or not 0 <= step < 2**53:
        raise CheckpointError(f"{path}: its step is {shortened(repr(step))}, where a whole number is; {_REMEDY}")
    return cast("dict[str, Any]", state)


def restore(module: nn.Module, state: Mapping[str, Any], path: Path) -> None:
    """Loads a state dict into a network.

    Raises:
        CheckpointError: if it is of another shape, or is none.
    """
    try:
        module.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: does not fit {type(module).__name__}, so other settings or another version of dmgan wrote it;"
            f" begin a new run, or take the version that wrote it ({shortened(error, 1000)})"
        ) from error


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
    if state.get("text_encoder_sha256") != fingerprint(text_encoder):
        raise CheckpointError(
            "the generator was trained with another text encoder than damsm/checkpoint.pt now holds; restore that file,"
            " or remove gan/checkpoint.pt to train the generator again"
        )


class TrainedModel(NamedTuple):
    """What a run has learned, on the CPU, in evaluation mode.

    Attributes:
        text_encoder: Of the first phase.
        generator: The averaged one (EMA).
        steps: How many steps the generator was trained for.
    """

    text_encoder: TextEncoder
    generator: GeneratorNetwork
    steps: int


def load_encoders(run: RunFolder) -> tuple[TextEncoder, ImageEncoder]:
    """The encoders that a run's first phase has trained, on the CPU, in evaluation mode.

    Raises:
        CheckpointError: if there is no checkpoint, or it is damaged.
    """
    path = run.checkpoint("damsm")
    state = load_checkpoint(path, "damsm")
    text_encoder, image_encoder = build_encoders(run.settings(), len(run.vocabulary()))
    restore(text_encoder, _weights(state, "text_encoder", path), path)
    restore(image_encoder, _weights(state, "image_encoder", path), path)
    return text_encoder.eval(), image_encoder.eval()


def load_model(run: RunFolder, step: int | None = None) -> TrainedModel:
    """The text encoder and the averaged generator of a run, or the published one that an adopted run begins with.

    Args:
        run: A run whose second phase has begun, or that was adopted with a generator.
        step: Of a snapshot; None takes the newest checkpoint.

    Raises:
        CheckpointError: if a checkpoint is missing or damaged, there is no such snapshot, or the two do not belong
            together.
    """
    path, settings = _generator_file(run, step), run.settings()
    state = load_checkpoint(path, "gan")
    generator = GeneratorNetwork(settings.model)
    untrained = path == run.initial_generator
    weights = _weights(state, "generator" if untrained else "generator_ema", path)
    prefix = "" if untrained else "module."
    restore(generator, {key.removeprefix(prefix): weights[key] for key in weights if key.startswith(prefix)}, path)
    text_encoder = TextEncoder(len(run.vocabulary()), settings.model)
    path = run.checkpoint("damsm")
    restore(text_encoder, _weights(load_checkpoint(path, "damsm"), "text_encoder", path), path)
    if not untrained:
        check_fingerprint(state, text_encoder)
    return TrainedModel(text_encoder.eval(), generator.eval(), state.get("step", 0))


def _weights(state: Mapping[str, Any], name: str, path: Path) -> dict[str, Any]:
    weights = state.get(name)
    if not isinstance(weights, dict) or not all(isinstance(key, str) for key in weights):
        raise CheckpointError(
            f"{path}: has no weights {name!r}, so another version of dmgan wrote it; use that one, or another run"
        )
    return weights


def _generator_file(run: RunFolder, step: int | None) -> Path:
    if step is None:
        trained = run.checkpoint("gan")
        return run.initial_generator if run.initial_generator.exists() and not trained.exists() else trained
    path = run.snapshot(step)
    if not path.is_file():
        kept = ", ".join(str(one) for one in run.snapshots()) or "none; set gan.snapshot_every before training"
        raise CheckpointError(f"{path}: there is no snapshot of step {step}; there are: {kept}")
    return path
