"""The loop that both phases of training share: steps, log, checkpoints, and where to stop."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor

from dmgan_runtime.errors import TrainingError
from dmgan_train.checkpoint import load_checkpoint, save_checkpoint
from dmgan_train.data import Batch
from dmgan_train.journal import Journal
from dmgan_train.progress import Progress
from dmgan_train.run import RunFolder

LOG_EVERY = 20


class Phase(Protocol):
    """A phase of training, as the loop sees it.

    Attributes:
        name: `damsm` or `gan`; names its checkpoint and log entries.
        steps: How many steps it has in all.
        steps_per_epoch: Steps that see the whole training set once.
        batch_size: Images a step.
        checkpoint_every: Steps between checkpoints.
    """

    name: str
    steps: int
    steps_per_epoch: int
    batch_size: int
    checkpoint_every: int

    def batches(self, start_step: int) -> Iterator[Batch]:
        """The batches from a step on."""

    def step(self, batch: Batch, step: int) -> Mapping[str, Tensor]:
        """Trains on a batch; `step` counts from 0. Returns scalars to log, the losses among them."""

    def after_step(self, done: int) -> None:
        """Called when `done` steps are done, after any checkpoint."""

    def state(self) -> dict[str, Any]:
        """Everything that going on needs, but the step."""

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state` returned."""


class Interruption:
    """Turns the first Ctrl-C or SIGTERM into a wish to stop after the step; a second one acts as usual."""

    requested = False

    def __enter__(self) -> Interruption:
        self._old = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _: FrameType | None) -> None:
        self.requested = True
        signal.signal(number, self._old[signal.Signals(number)])


def phase_steps(epochs: int, steps: int | None, steps_per_epoch: int) -> int:
    """Steps of a phase: its epochs, or fewer if `steps` says so."""
    whole = epochs * steps_per_epoch
    return whole if steps is None else min(steps, whole)


def train(phase: Phase, run: RunFolder, seed: int) -> None:
    """Trains a phase to its end, from its checkpoint if there is one.

    Every random draw of a step follows from the seed and the step, so a run that was interrupted and one that
    was not come to the same weights.

    Raises:
        TrainingError: if a loss is not a number, or if the run was asked to stop (after saving).
    """
    path = run.checkpoint(phase.name)
    start = 0
    if path.exists():
        state = load_checkpoint(path, phase.name)
        phase.load_state(state)
        start = int(state["step"])
    if start >= phase.steps:
        return
    batches = phase.batches(start)
    with (
        Interruption() as interruption,
        Journal(run, phase.name, start) as journal,
        Progress(phase.steps, phase.name, "step", initial=start) as bar,
    ):
        meter = _Meter(phase.batch_size)
        for step in range(start, phase.steps):
            torch.manual_seed(seed * 1_000_003 + step)
            meter.add(_step(phase, next(batches), step))
            done = step + 1
            bar.update()
            if done % LOG_EVERY == 0 or done == phase.steps:
                means = meter.means()
                journal.record(done, means, epoch=step // phase.steps_per_epoch)
                bar.show(means)
            if interruption.requested or done % phase.checkpoint_every == 0 or done == phase.steps:
                save_checkpoint(path, {"phase": phase.name, "step": done, **phase.state()})
            phase.after_step(done)
            if interruption.requested:
                raise TrainingError(f"stopped after step {done:,} of {phase.name} and saved; the same command goes on")


class _Meter:
    """Means of what the steps measured since the last time they were asked for, and images a second."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._clear()

    def _clear(self) -> None:
        self._sums: dict[str, float] = {}
        self._steps = 0
        self._start = time.perf_counter()

    def add(self, values: Mapping[str, float]) -> None:
        self._sums = {name: self._sums.get(name, 0.0) + value for name, value in values.items()}
        self._steps += 1

    def means(self) -> dict[str, float]:
        seconds = time.perf_counter() - self._start
        means = {name: total / self._steps for name, total in self._sums.items()}
        means["images_per_second"] = self._batch_size * self._steps / seconds
        self._clear()
        return means


def _step(phase: Phase, batch: Batch, step: int) -> dict[str, float]:
    try:
        values = phase.step(batch, step)
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            f"the device ran out of memory at step {step + 1:,} of {phase.name}; use a smaller batch"
            f" (--set {phase.name}.batch_size=...) in a new --run"
        ) from error
    numbers = dict(
        zip(values, torch.stack([value.detach().float() for value in values.values()]).tolist(), strict=True)
    )
    bad = [name for name, number in numbers.items() if not math.isfinite(number)]
    if bad:
        raise TrainingError(
            f"{', '.join(bad)} is not a number at step {step + 1:,} of {phase.name}; the last checkpoint is untouched."
            " Try a lower learning rate, fp32 (gan.precision) or a larger batch, in a new --run"
        )
    return numbers
