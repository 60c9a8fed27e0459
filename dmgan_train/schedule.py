"""What the second phase trains at a step, and how fast: functions of the step and the settings alone."""

from __future__ import annotations

import itertools
from typing import NamedTuple

from dmgan_runtime.errors import SettingsError
from dmgan_train.settings import GanSettings, Settings


def check_schedule(steps: int, settings: GanSettings) -> None:
    """Refuses a phase that would end before all of its losses have joined.

    Args:
        steps: Of the whole phase.
        settings: Of the phase.

    Raises:
        SettingsError: naming what to change.
    """
    taken = sum(settings.warm_up_steps) + settings.decay_steps
    if taken > steps:
        raise SettingsError(
            f"gan.epochs is {settings.epochs:,}, which is {steps:,} steps of these data, and warm_up_steps and"
            f" decay_steps take {taken:,}; shorten them, or set more epochs"
        )


class LearningRates(NamedTuple):
    """The learning rates of a step."""

    generator: float
    discriminator: float


def stages_warming_up(step: int, settings: GanSettings) -> int:
    """How many stages train by reconstruction alone; 0 once the warm-up is over.

    Args:
        step: Steps done.
        settings: Of the phase.
    """
    ends = itertools.accumulate(settings.warm_up_steps)
    return next((stages for stages, end in enumerate(ends, start=1) if step < end), 0)


def stages_training(step: int, settings: Settings) -> int:
    """How many stages train, with the warm-up or after it.

    Args:
        step: Steps done.
        settings: The run's.
    """
    return stages_warming_up(step, settings.gan) or settings.model.stages


def stages_beginning(step: int, settings: GanSettings) -> range:
    """The stages, counted from 1, that train for the first time at a step of the warm-up.

    Args:
        step: Steps done.
        settings: Of the phase.
    """
    before = stages_warming_up(step - 1, settings) if step else 0
    return range(before + 1, stages_warming_up(step, settings) + 1)


def learning_rates(step: int, steps: int, settings: GanSettings) -> LearningRates:
    """Constant, but for a warm-up with rates of its own and a linear decay at the end.

    Args:
        step: Steps done.
        steps: Of the whole phase.
        settings: Of the phase.
    """
    left = min(1.0, (steps - step) / settings.decay_steps) if settings.decay_steps else 1.0
    generator = settings.generator_learning_rate
    if stages_warming_up(step, settings):
        generator = settings.warm_up_learning_rate or generator
        alone, *together = settings.warm_up_steps
        done = max(0, step - alone) / max(1, sum(together))
        generator *= ((settings.warm_up_final_learning_rate or generator) / generator) ** done
    return LearningRates(left * generator, left * settings.discriminator_learning_rate)
