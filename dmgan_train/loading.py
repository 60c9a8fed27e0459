"""The trained networks of a run."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from dmgan_runtime.errors import CheckpointError
from dmgan_train.checkpoint import check_fingerprint, load_checkpoint, restore
from dmgan_train.damsm import build_encoders
from dmgan_train.models import GeneratorNetwork, ImageEncoder, TextEncoder
from dmgan_train.run import RunFolder


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
    restore(text_encoder, state["text_encoder"], path)
    restore(image_encoder, state["image_encoder"], path)
    return text_encoder.eval(), image_encoder.eval()


def load_model(run: RunFolder, step: int | None = None) -> TrainedModel:
    """The text encoder and the averaged generator of a run.

    Args:
        run: A run whose second phase has begun.
        step: Of a snapshot; None takes the newest checkpoint.

    Raises:
        CheckpointError: if a checkpoint is missing or damaged, there is no such snapshot, or the two do not belong
            together.
    """
    path, settings = _generator_file(run, step), run.settings()
    state = load_checkpoint(path, "gan")
    generator = GeneratorNetwork(settings.model)
    prefix = "module."
    ema = {key.removeprefix(prefix): value for key, value in state["generator_ema"].items() if key.startswith(prefix)}
    restore(generator, ema, path)
    text_encoder = TextEncoder(len(run.vocabulary()), settings.model)
    path = run.checkpoint("damsm")
    restore(text_encoder, load_checkpoint(path, "damsm")["text_encoder"], path)
    check_fingerprint(state, text_encoder)
    return TrainedModel(text_encoder.eval(), generator.eval(), int(state["step"]))


def _generator_file(run: RunFolder, step: int | None) -> Path:
    if step is None:
        return run.checkpoint("gan")
    path = run.snapshot(step)
    if not path.is_file():
        kept = ", ".join(str(one) for one in run.snapshots()) or "none; set gan.snapshot_every before training"
        raise CheckpointError(f"{path}: there is no snapshot of step {step}; there are: {kept}")
    return path
