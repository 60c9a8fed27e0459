"""The loop that both phases of training share: steps, log, checkpoints, and where to stop."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from dmgan_runtime.errors import CheckpointError, StoppedError, TrainingError, shortened
from dmgan_train import distributed
from dmgan_train.checkpoint import load_checkpoint, save_checkpoint
from dmgan_train.data import TrainingBatch
from dmgan_train.devices import keep_freed_memory
from dmgan_train.interruption import Interruption
from dmgan_train.logging import Journal
from dmgan_train.progress import Progress
from dmgan_train.run_folder import RunFolder

LOG_EVERY = 20


class Phase(Protocol):
    """A phase of training, as the loop sees it.

    Attributes:
        name: `damsm` or `gan`; names its checkpoint and log entries.
        steps: How many steps it has in all.
        steps_per_epoch: Steps that see the whole training set once.
        batch_size: Images a step, of all processes.
        checkpoint_every: Steps between checkpoints.
        headlines: What a progress bar shows of the measurements; the rest is for the journal.
    """

    name: str
    steps: int
    steps_per_epoch: int
    batch_size: int
    checkpoint_every: int
    headlines: tuple[str, ...]

    def batches(self, start_step: int) -> Generator[TrainingBatch]:
        """This process's share of the batches from a step on."""

    def step(self, batch: TrainingBatch, step: int) -> Mapping[str, Tensor]:
        """Trains on a batch; `step` counts from 0.

        Returns scalars to log, the losses among them. They stay on the device: reading one would wait for it.
        """

    def looks_after(self, done: int) -> bool:
        """Whether something shall be looked at when `done` steps are done."""

    def look(self, done: int, journal: Journal) -> None:
        """Looks at it, in the main process, after any checkpoint."""

    def has_looked(self, done: int) -> bool:
        """Whether `look` came to its end when `done` steps were done."""

    def state(self) -> dict[str, Any]:
        """Everything that going on needs, but the step."""

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state` returned."""


def phase_steps(epochs: int, steps: int | None, steps_per_epoch: int) -> int:
    """Steps of a phase: its epochs, or fewer if `steps` says so."""
    whole = epochs * steps_per_epoch
    return whole if steps is None else min(steps, whole)


def train(phase: Phase, run: RunFolder, seed: int) -> None:
    """Trains a phase to its end, from its checkpoint if there is one.

    Every random draw of a step follows from the seed and the step, so a run that was interrupted and one that
    was not come to the same weights.

    Raises:
        TrainingError: if a loss is not a number.
        StoppedError: if the run was asked to stop, after saving; at a second Ctrl-C without.
    """
    keep_freed_memory()
    try:
        _train(phase, run, seed)
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            f"the device ran out of memory in the phase {phase.name}; use a smaller batch (--set"
            f" {phase.name}.batch_size=...), {_in_this_run(phase)}"
        ) from error


def _train(phase: Phase, run: RunFolder, seed: int) -> None:
    path = run.checkpoint(phase.name)
    start, window = _resume(phase, path)
    main = distributed.is_main()
    # A run may end between a checkpoint and what was to be looked at then. The main process alone can tell, and the
    # others must not leave before it.
    missed = distributed.any_process(main and start > 0 and phase.looks_after(start) and not phase.has_looked(start))
    if start >= phase.steps and not missed:
        return
    saved = done = start
    with (
        closing(phase.batches(start)) as batches,
        Interruption() as interruption,
        Journal(run, phase.name, start) if main else nullcontext() as journal,
        Progress(phase.steps, phase.name, "step", initial=start, quiet=not main) as bar,
    ):
        try:
            if missed and journal:
                phase.look(start, journal)
            meter = _Meter(phase, window)
            for step in range(start, phase.steps):
                torch.manual_seed(seed * 1_000_003 + step)
                meter.add(step, phase.step(meter.wait_for(batches), step))
                done = step + 1
                bar.update()
                stop = distributed.any_process(interruption.number is not None)
                if main and not run.in_place():
                    raise TrainingError(
                        f"{run.root}: the run's folder was moved or removed while it trained; stopped after step"
                        f" {done:,} of {phase.name}, and nothing was written to the old place. With --run and the new"
                        f" one, the same command goes on after step {saved:,}"
                    )
                if done % LOG_EVERY == 0 or done == phase.steps:
                    means = meter.means()
                    bar.show({name: means[name] for name in (*phase.headlines, "images_per_second") if name in means})
                    if journal:
                        journal.record(done, means, epoch=step // phase.steps_per_epoch)
                if stop or done % phase.checkpoint_every == 0 or done == phase.steps:
                    meter.check()
                    with meter.paused():
                        if main:
                            own = {"phase": phase.name, "step": done, "window": meter.window()}
                            save_checkpoint(path, {**own, **phase.state()})
                    saved = done
                if phase.looks_after(done):
                    meter.check()
                    with meter.paused():
                        if journal:
                            phase.look(done, journal)
                if stop:
                    distributed.wait()  # torchrun ends the others as soon as one has left
                    raise StoppedError(
                        f"stopped after step {done:,} of {phase.name} and saved; the same command goes on",
                        interruption.number or signal.SIGTERM,
                    )
        except KeyboardInterrupt:
            raise StoppedError(
                f"stopped at once, without saving; the same command goes on after step {saved:,} of {phase.name}"
                f" (step {done:,} was reached)",
                signal.SIGINT,
            ) from None
    distributed.wait()  # until the last checkpoint is there for all to read


def _resume(phase: Phase, path: Path) -> tuple[int, dict[str, list[float]]]:
    """Loads the checkpoint if there is one; returns the steps that are done, and what they measured since the last log.

    Raises:
        CheckpointError: if it is damaged or of another phase, run or version.
        TrainingError: if the processes do not see the same checkpoint.
    """
    start, window = 0, {}
    if path.exists():
        state = load_checkpoint(path, phase.name)
        if state.get("finished"):  # weights that were adopted have no steps of ours
            return phase.steps, {}
        try:
            phase.load_state(state)
            start = state["step"]
        except KeyError as error:
            raise CheckpointError(
                f"{path}: has no {error}, so another version of dmgan wrote it; go on with that one, or choose another"
                " --run"
            ) from error
        except torch.OutOfMemoryError:  # a RuntimeError too
            raise
        except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise CheckpointError(
                f"{path}: is not a state of this run ({type(error).__name__}: {shortened(error)}); begin a new run"
                " if another version of dmgan wrote it, else restore it from a copy, or remove it and run the same"
                " command to train this phase again"
            ) from error
        window = state.get("window", {})
    if distributed.any_process(float(distributed.mean_of(torch.tensor(float(start), dtype=torch.float64))) != start):
        raise TrainingError(
            f"{path}: the processes see different checkpoints (here: step {start:,}); put --run on a folder that all"
            " machines share"
        )
    return start, window


class _Meter:
    """What the steps measured since the last means, their images a second, and the share of it that data took.

    The device runs ahead: its numbers are read only when they are asked for, of many steps at once.
    """

    def __init__(self, phase: Phase, window: dict[str, list[float]]) -> None:
        """Args:
        phase: Whose steps they are.
        window: What `window` of an earlier process returned; its seconds do not count.
        """
        self._phase = phase
        self._unread: list[tuple[int, Mapping[str, Tensor]]] = []
        self._clear()
        self._read.update(window)

    def window(self) -> dict[str, list[float]]:
        """What the steps since the last means have measured, for who goes on after them."""
        return self._read

    def _clear(self) -> None:
        self._read: dict[str, list[float]] = {}
        self._steps = 0
        self._waited = 0.0
        self._start = time.perf_counter()

    def wait_for(self, batches: Iterator[TrainingBatch]) -> TrainingBatch:
        """The next batch; how long it took to come is measured."""
        began = time.perf_counter()
        batch = next(batches)
        self._waited += time.perf_counter() - began
        return batch

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Keeps checkpoints and pictures out of the seconds."""
        began = time.perf_counter()
        yield
        self._start += time.perf_counter() - began

    def add(self, step: int, values: Mapping[str, Tensor]) -> None:
        self._unread.append((step, {name: value.detach().float() for name, value in values.items()}))
        self._steps += 1

    def check(self) -> None:
        """Reads what was not read yet.

        Raises:
            TrainingError: at the first step that gave something else than a number.
        """
        if not self._unread:
            return
        tensors = [value for _, values in self._unread for value in values.values()]
        numbers = iter(distributed.mean_of(torch.stack(tensors)).tolist())
        for step, values in self._unread:
            measured = {name: next(numbers) for name in values}
            _expect_numbers(self._phase, step, measured)
            for name, number in measured.items():
                self._read.setdefault(name, []).append(number)
        self._unread.clear()

    def means(self) -> dict[str, float]:
        """The means over all processes, each over the steps that measured it."""
        self.check()
        seconds = time.perf_counter() - self._start
        means = {name: sum(numbers) / len(numbers) for name, numbers in self._read.items()}
        means["images_per_second"] = self._phase.batch_size * self._steps / seconds
        means["data_wait"] = self._waited / seconds
        self._clear()
        return means


def _expect_numbers(phase: Phase, step: int, measured: Mapping[str, float]) -> None:
    bad = [name for name, number in measured.items() if not math.isfinite(number)]
    if bad:
        raise TrainingError(
            f"{', '.join(bad)} is not a number at step {step + 1:,} of {phase.name}; the last checkpoint is untouched."
            f" Try a lower learning rate, fp32 ({phase.name}.precision) or a larger batch, {_in_this_run(phase)}"
        )


def _in_this_run(phase: Phase) -> str:
    """Where settings that a phase began with can be changed; what the phase before it has learned stays."""
    return f"in a new --run, or in this one when {phase.name}/checkpoint.pt, if there is one, has been moved away"
