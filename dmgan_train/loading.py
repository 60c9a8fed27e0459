"""The trained networks of a run."""

from __future__ import annotations

from dmgan_train.checkpoint import load_checkpoint
from dmgan_train.damsm import build_encoders
from dmgan_train.models import Generator, ImageEncoder, TextEncoder
from dmgan_train.run import RunFolder


def load_encoders(run: RunFolder) -> tuple[TextEncoder, ImageEncoder]:
    """The encoders that a run's first phase has trained, on the CPU, in evaluation mode.

    Raises:
        CheckpointError: if there is no checkpoint, or it is damaged.
    """
    state = load_checkpoint(run.checkpoint("damsm"), "damsm")
    text_encoder, image_encoder = build_encoders(run.settings(), len(run.vocabulary()))
    text_encoder.load_state_dict(state["text_encoder"])
    image_encoder.load_state_dict(state["image_encoder"])
    return text_encoder.eval(), image_encoder.eval()


def load_generator(run: RunFolder) -> tuple[Generator, int]:
    """The averaged generator of a run, on the CPU, in evaluation mode, and the steps it was trained for.

    Raises:
        CheckpointError: if there is no checkpoint, or it is damaged.
    """
    state = load_checkpoint(run.checkpoint("gan"), "gan")
    generator = Generator(run.settings().model)
    prefix = "module."
    average = {key.removeprefix(prefix): value for key, value in state["average"].items() if key.startswith(prefix)}
    generator.load_state_dict(average)
    return generator.eval(), int(state["step"])
