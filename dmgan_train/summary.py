"""What a run is about to do, in a few lines."""

from __future__ import annotations

import torch
from torch import nn

from dmgan_train.data import steps_per_epoch
from dmgan_train.fit import TrainingData
from dmgan_train.loop import phase_steps
from dmgan_train.models import GeneratorNetwork, build_discriminators
from dmgan_train.schedule import check_schedule
from dmgan_train.settings import Settings


def describe_plan(settings: Settings, data: TrainingData, device: torch.device) -> str:
    """Data, networks and lengths of both phases, for a person to read.

    Raises:
        SettingsError: if the data are too few for the settings' schedule.
    """
    with torch.device("meta"):
        generator = _parameters(GeneratorNetwork(settings.model))
        discriminators = _parameters(build_discriminators(settings.model, settings.gan.discriminator_channels))
    pyramid = "/".join(str(side) for side in settings.model.resolutions)
    lines = [
        f"preset {settings.preset}, recipe {settings.recipe}, on {device}",
        f"data   {data.train.root}: {data.source}, {len(data.train):,} training and"
        f" {len(data.test) if data.test else 0:,} test images,"
        f" {len(data.tokenizer) - 1:,} words",
        f"model  {pyramid} pixels, generator {generator:.1f} M parameters, discriminators {discriminators:.1f} M",
    ]
    for name, own in (("damsm", settings.damsm), ("gan", settings.gan)):
        steps = phase_steps(own.epochs, own.steps, steps_per_epoch(len(data.train), own.batch_size))
        if own is settings.gan:
            check_schedule(steps, settings.gan)
        lines.append(f"{name:6} {steps:,} steps of {own.batch_size} images ({own.epochs} epochs at most)")
    return "\n".join(lines)


def _parameters(module: nn.Module) -> float:
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6
