"""The whole of training: data and settings in, a run folder with a trained DM-GAN out."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

import dmgan_train
from dmgan_runtime.tokenizer import Tokenizer
from dmgan_train import processes
from dmgan_train.checkpoint import load_checkpoint
from dmgan_train.damsm import DamsmPhase
from dmgan_train.data import MissingSplitError, Split, check_files, detect_source, load_split
from dmgan_train.evaluation.metrics.r_precision import Encoders
from dmgan_train.gan import GanPhase
from dmgan_train.loading import load_encoders
from dmgan_train.loop import train
from dmgan_train.run import RunFolder
from dmgan_train.samples import SampleSheet
from dmgan_train.settings import Settings
from dmgan_train.watch import Watch, held_out_slice

KEPT_CAPTIONS = 32


@dataclass(frozen=True)
class TrainingData:
    """A data set, read.

    Attributes:
        source: How it was read, see `dmgan_train.data.SOURCES`.
        train: The training split.
        test: The test split; None where the data set has none.
        tokenizer: The vocabulary of both.
    """

    source: str
    train: Split
    test: Split | None
    tokenizer: Tokenizer


def read_data(root: Path, source: str | None, settings: Settings) -> TrainingData:
    """Reads both splits and collects their vocabulary, as the published code does.

    Args:
        root: The data set's folder.
        source: One of `dmgan_train.data.SOURCES`; None tells it from the layout.
        settings: The run's.

    Raises:
        DataError: if the data set is not there, not of that layout, or lacks too many files.
    """
    source = source or detect_source(root)
    captions = settings.data.captions_per_image
    split = load_split(source, root, "train", captions)
    check_files(split, settings.data.broken_limit)
    texts = list(split.captions())
    test = None
    with suppress(MissingSplitError):
        test = load_split(source, root, "test", captions)
        texts += test.captions()
    return TrainingData(source, split, test, Tokenizer.from_captions(texts))


def begin(settings: Settings, data: TrainingData, run: RunFolder) -> None:
    """Writes what a new run is, or checks that an old one is the same.

    Args:
        settings: The run's.
        data: From `read_data` and `with_vocabulary`.
        run: New or old.

    Raises:
        SettingsError: if the run has other settings, another vocabulary or other data.
    """
    description = {
        "source": data.source,
        "name": data.train.root.resolve().name,
        "images": len(data.train),
        "captions": sum(1 for _ in data.train.captions()),
        "words": len(data.tokenizer) - 1,
    }
    versions = {"dmgan": dmgan_train.__version__, "torch": str(torch.__version__)}
    chosen = np.linspace(0, len(data.train) - 1, min(KEPT_CAPTIONS, len(data.train))).astype(int)
    captions = [data.train.examples[index].captions[0] for index in chosen]
    run.settle(settings, data.tokenizer, {**versions, "data": description}, captions)


def with_vocabulary(data: TrainingData, run: RunFolder) -> TrainingData:
    """The data with the vocabulary that the run's encoders know: its own, unless the authors' were adopted."""
    return replace(data, tokenizer=run.vocabulary()) if run.adopted else data


def pretrain(settings: Settings, data: TrainingData, run: RunFolder, device: torch.device, workers: int) -> None:
    """The first phase, DAMSM; nothing if it is finished.

    Raises:
        TrainingError: if a loss is not a number, or the run was asked to stop.
    """
    train(DamsmPhase(settings, data.train, data.tokenizer, device, workers), run, settings.seed)


def fit(settings: Settings, data: TrainingData, run: RunFolder, device: torch.device, workers: int) -> None:
    """Both phases, each from its checkpoint if there is one.

    Raises:
        TrainingError: if a loss is not a number, or the run was asked to stop.
    """
    pretrain(settings, data, run, device, workers)
    text, image = load_encoders(run)
    max_words = settings.data.serving_words
    sheet = SampleSheet(run.samples, [split for split in (data.train, data.test) if split], data.tokenizer, max_words)
    judge = Encoders(text, image, data.tokenizer, max_words, run.root.resolve().name)
    watch = Watch(run, sheet, held_out_slice(data.test, judge) if processes.is_main() else None)
    phase = GanPhase(settings, data.train, data.tokenizer, (text, image), watch, device, workers)
    if run.initial_generator.exists():
        phase.start_from(load_checkpoint(run.initial_generator, "gan")["generator"])
    train(phase, run, settings.seed)
