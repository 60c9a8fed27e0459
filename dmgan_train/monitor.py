"""What is looked at while the generator learns: sample sheets, gates, held-out R-precision, and snapshots."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from dmgan_runtime.errors import DataError
from dmgan_runtime.image_file import save
from dmgan_runtime.results import to_pil
from dmgan_runtime.tokenizer import Tokenizer
from dmgan_runtime.viz.pictures import enlarge, grid
from dmgan_train.checkpoint import load_model, save_checkpoint
from dmgan_train.data import Split
from dmgan_train.data.pyramid import to_levels
from dmgan_train.evaluation.metrics.orders import random_orders
from dmgan_train.evaluation.metrics.r_precision import MISMATCHED, Encoders, RPrecision
from dmgan_train.logging import Journal
from dmgan_train.models import GeneratorNetwork, MemoryOutput, TextEncoder
from dmgan_train.run_folder import RunFolder
from dmgan_train.sampling import generate

CAPTIONS = 8
EXAMPLES = IMAGES = 200
_AT_ONCE = 16
_SEED = 0


def gate_means(memories: Iterable[MemoryOutput], lengths: Tensor) -> dict[str, Tensor]:
    """The mean openness of each memory's gates, named after the resolution that its stage generates.

    Args:
        memories: Of the refinement stages that ran.
        lengths: [N] int64, words of each caption.
    """
    means = {}
    for memory in memories:
        side = 2 * memory.features.shape[-1]
        if memory.writing_gate is not None:
            means[f"writing_gate_{side}"] = (memory.writing_gate.detach().float().sum(dim=1) / lengths).mean()
        if memory.response_gate is not None:
            means[f"response_gate_{side}"] = memory.response_gate.detach().float().mean()
    return means


def sample_name(step: int) -> str:
    """The file name of a step's sheet."""
    return f"step-{step:07d}.png"


class SampleSheet:
    """Draws the same captions with the same noise into `step-<steps>.png`: each row's stages, its caption below."""

    def __init__(self, folder: Path, splits: Sequence[Split], tokenizer: Tokenizer, max_words: int) -> None:
        """Args:
        folder: Where the pictures go.
        splits: Eight captions of each are used, evenly spread: of what is learned, and of what training never sees.
        tokenizer: With the run's vocabulary.
        max_words: Words of a caption that are read.
        """
        self.captions = [caption for split in splits for caption in _spread(split)]
        self._folder = folder
        self._tokens = tokenizer.encode_batch(self.captions, max_words)

    def draw(self, generator: GeneratorNetwork, text_encoder: TextEncoder, step: int, stages: int) -> Image.Image:
        """Writes the sheet of a step, with so many stages, and returns it. It is left in evaluation mode."""
        seeds = range(len(self.captions))
        output = generate(generator, text_encoder, self._tokens, seeds, stages=stages)
        sheet = stage_rows(output.images, self.captions, columns=2)
        save(sheet, self._folder / sample_name(step))
        return sheet


def _spread(split: Split) -> list[str]:
    chosen = np.linspace(0, len(split) - 1, min(CAPTIONS, len(split))).astype(int)
    return [split.examples[index].captions[0] for index in chosen]


def stage_rows(images: Sequence[Tensor], captions: Sequence[str], columns: int) -> Image.Image:
    """Every caption's stages side by side, enlarged to the last one's size, the caption below.

    Args:
        images: One [N, 3, R, R] in [-1, 1] a stage.
        captions: N.
        columns: Captions in a row.
    """
    side = images[-1].shape[-1]
    strips = []
    for row in range(len(captions)):
        stages = [enlarge(to_pil(stage[row].float().cpu().numpy()), side) for stage in images]
        strips.append(grid(stages, columns=len(stages)))
    return grid(strips, captions, columns)


class HeldOut:
    """A slice of a split: 200 images of its captions, judged by the run's own encoders."""

    def __init__(self, split: Split, encoders: Encoders) -> None:
        """Args:
        split: Up to 200 of its examples are used, evenly spread.
        encoders: Those that taught the generator; they may move to another device later.

        Raises:
            DataError: if the slice has too few captions of other classes.
        """
        chosen = np.linspace(0, len(split) - 1, min(EXAMPLES, len(split))).astype(int)
        self._split = replace(split, examples=tuple(split.examples[index] for index in chosen))
        self._encoders = encoders
        self._orders = random_orders(self._split, IMAGES, _SEED)
        self._r_precision()

    def r_precision(self, generator: GeneratorNetwork, stages: int) -> float:
        """Of the last of so many stages, in percent, see `RPrecision`. The generator is left in evaluation mode."""
        metric, own = self._r_precision(), self._encoders
        for start in range(0, len(self._orders), _AT_ONCE):
            orders = self._orders[start : start + _AT_ONCE]
            tokens = own.tokenizer.encode_batch([order.caption for order in orders], own.max_words)
            output = generate(generator, own.text, tokens, [order.seed for order in orders], stages=stages)
            metric.add(metric.image_features(to_levels(output.images[-1])), orders)
        return metric.result().value

    def _r_precision(self) -> RPrecision:
        return RPrecision(self._encoders, self._split, _SEED, MISMATCHED)


def held_out_slice(split: Split | None, encoders: Encoders) -> HeldOut | None:
    """A slice of the test split; None if there is no such split, or it is too small for R-precision."""
    if split is not None:
        with suppress(DataError):
            return HeldOut(split, encoders)
    return None


class Monitor:
    """Monitors the averaged generator of a run, in the main process."""

    def __init__(self, run: RunFolder, sheet: SampleSheet, held_out: HeldOut | None = None) -> None:
        """Args:
        run: Keeps the snapshots.
        sheet: Draws the pictures of fixed captions.
        held_out: Judges it; None judges nothing.
        """
        self._run, self._sheet, self._held_out = run, sheet, held_out

    def sample_and_evaluate(
        self, generator: GeneratorNetwork, text_encoder: TextEncoder, done: int, stages: int, journal: Journal
    ) -> None:
        """Draws samples and measures held-out R-precision after so many steps, of the stages that were trained in them.

        The generator is left in evaluation mode.
        """
        measured = {"r_precision": self._held_out.r_precision(generator, stages)} if self._held_out else {}
        sheet = self._sheet.draw(generator, text_encoder, done, stages)
        if measured:  # only now: a run that is killed before the sheet is there looks again
            journal.record(done, measured)
        journal.picture(done, "samples", sheet)

    def has_sampled(self, done: int) -> bool:
        """Whether `sample_and_evaluate` came to its end: the sheet is the last that it makes."""
        return (self._run.samples / sample_name(done)).exists()

    def has_snapshot(self, done: int) -> bool:
        """Whether there is a snapshot of so many steps."""
        return self._run.snapshot(done).exists()

    def save_snapshot(self, state: Mapping[str, Any], done: int) -> None:
        """Writes a snapshot: of a phase's state what `load_model` reads."""
        kept = {name: state[name] for name in ("generator_ema", "text_encoder_sha256")}
        save_checkpoint(self._run.snapshot(done), {"phase": "gan", "step": done, **kept})


def draw_captions(run: RunFolder, captions: Sequence[str], seed: int, output: Path, step: int | None = None) -> int:
    """Draws captions with a run's averaged generator and writes one picture, a row for each.

    Args:
        run: A run whose second phase has begun.
        captions: At least one.
        seed: The noise of every caption.
        output: Where to.
        step: Of a snapshot; None takes the newest checkpoint.

    Returns:
        The steps that the generator was trained for.

    Raises:
        CaptionError: if a caption has no known word.
        CheckpointError: if the run has no checkpoint yet, or no such snapshot.
    """
    text_encoder, generator, steps = load_model(run, step)
    tokenizer, max_words = run.vocabulary(), run.settings().data.serving_words
    tokens = tokenizer.encode_batch(captions, max_words)
    images = generate(generator, text_encoder, tokens, [seed] * len(captions)).images
    save(stage_rows(images, captions, columns=1), output)
    return steps
