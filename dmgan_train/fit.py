"""The whole of training: data and settings in, a run folder with a trained DM-GAN out; and what it is about to do."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

import dmgan_train
from dmgan_runtime.errors import CheckpointError
from dmgan_runtime.tokenizer import Tokenizer
from dmgan_train import distributed
from dmgan_train.checkpoint import load_checkpoint, load_encoders
from dmgan_train.damsm import DamsmPhase
from dmgan_train.data import (
    MissingSplitError,
    Split,
    check_files,
    check_left_out,
    detect_source,
    keep_known,
    load_split,
    read_aliases,
    steps_per_epoch,
    unread_layouts,
)
from dmgan_train.evaluation.metrics.r_precision import Encoders
from dmgan_train.gan import GanPhase
from dmgan_train.loop import phase_steps, train
from dmgan_train.models import GeneratorNetwork, build_discriminators
from dmgan_train.monitor import Monitor, SampleSheet, held_out_slice
from dmgan_train.run_folder import RunFolder
from dmgan_train.schedule import check_schedule
from dmgan_train.settings import Settings

KEPT_CAPTIONS = 32


@dataclass(frozen=True)
class TrainingData:
    """A data set, read.

    Attributes:
        source: How it was read, see `dmgan_train.data.SOURCES`.
        train: The training split.
        test: The test split; None where the data set has none.
        tokenizer: The vocabulary of both, and the data set's aliases.
        unusable: The keys of the training pictures whose files are missing or empty.
    """

    source: str
    train: Split
    test: Split | None
    tokenizer: Tokenizer
    unusable: frozenset[str] = frozenset()


def read_data(root: Path, source: str | None, settings: Settings) -> TrainingData:
    """Reads both splits and collects their vocabulary, as the published code does, and the aliases beside them.

    Args:
        root: The data set's folder.
        source: One of `dmgan_train.data.SOURCES`; None tells it from the layout.
        settings: The run's.

    Raises:
        DataError: if the data set is not there, not of that layout, or lacks too many files.
    """
    source = source or detect_source(root)
    captions, share = settings.data.captions_per_image, settings.data.held_out
    split = load_split(source, root, "train", captions, share)
    unusable = check_files(split, settings.data.broken_limit)
    texts = list(split.captions())
    test = None
    with suppress(MissingSplitError):
        test = load_split(source, root, "test", captions, share)
        check_left_out(test, settings.data.broken_limit)
        texts += test.captions()
    return TrainingData(source, split, test, Tokenizer.from_captions(texts, read_aliases(root)), unusable)


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
        "sha256": _digest(data.train),
    }
    versions = {"dmgan": dmgan_train.__version__, "torch": str(torch.__version__)}
    chosen = np.linspace(0, len(data.train) - 1, min(KEPT_CAPTIONS, len(data.train))).astype(int)
    captions = [data.train.examples[index].captions[0] for index in chosen]
    run.settle(settings, data.tokenizer, {**versions, "data": description}, captions, data.train.root)


def _digest(split: Split) -> str:
    """SHA-256 of what a split's examples are, without their folder and their pixels."""
    digest = hashlib.sha256()
    for example in split.examples:
        digest.update(repr((example.key, example.captions, example.class_id, example.box)).encode())
    return digest.hexdigest()


def with_vocabulary(data: TrainingData, run: RunFolder, settings: Settings) -> TrainingData:
    """The data with the vocabulary that the run's encoders know: its own, unless the authors' were adopted.

    Raises:
        DataError: if too many captions, or all, have no word of the authors' vocabulary.
    """
    if not run.adopted:
        return data
    tokenizer = Tokenizer(run.vocabulary().words, data.tokenizer.aliases)
    train = keep_known(data.train, tokenizer.takes, str(run.vocabulary_file))
    check_left_out(train, settings.data.broken_limit)
    test = data.test and keep_known(data.test, tokenizer.takes, str(run.vocabulary_file))
    if test:
        check_left_out(test, settings.data.broken_limit)
    return replace(data, train=train, test=test, tokenizer=tokenizer)


def pretrain(settings: Settings, data: TrainingData, run: RunFolder, device: torch.device, workers: int) -> None:
    """The first phase, DAMSM; nothing if it is finished.

    Raises:
        TrainingError: if a loss is not a number, or the run was asked to stop.
        CheckpointError: if it is not finished, and a generator or the authors' vocabulary belongs to its encoders.
    """
    finished = _has_encoders(settings, data, run)
    if not finished and (run.adopted or run.checkpoint("gan").exists()):
        remedy = "adopt them into a new --run" if run.adopted else "remove gan/checkpoint.pt too, to train both again"
        raise CheckpointError(
            f"{run.checkpoint('damsm')}: has no finished encoders, and this run's generator belongs to those that it"
            f" had; restore the file from a copy, or {remedy}"
        )
    if not distributed.any_process(not finished):
        return
    train(DamsmPhase(settings, data.train, data.tokenizer, device, workers), run, settings.seed)


def _has_encoders(settings: Settings, data: TrainingData, run: RunFolder) -> bool:
    """Whether the first phase is finished, here or by the authors whose encoders the run adopted."""
    path, own = run.checkpoint("damsm"), settings.damsm
    if not path.exists():
        return False
    state = load_checkpoint(path, "damsm")
    if state.get("finished"):
        return True
    an_epoch = steps_per_epoch(len(data.train), own.batch_size, "damsm.batch_size")
    return bool(state.get("step", 0) >= phase_steps(own.epochs, own.steps, an_epoch))


def fit(settings: Settings, data: TrainingData, run: RunFolder, device: torch.device, workers: int) -> None:
    """Both phases, each from its checkpoint if there is one.

    Raises:
        TrainingError: if a loss is not a number, or the run was asked to stop.
    """
    distributed.share_of(settings.gan.batch_size, "gan.batch_size")  # before the first phase takes its time
    pretrain(settings, data, run, device, workers)
    text, image = load_encoders(run)
    max_words = settings.data.serving_words
    sheet = SampleSheet(run.samples, [split for split in (data.train, data.test) if split], data.tokenizer, max_words)
    encoders = Encoders(text, image, data.tokenizer, max_words, run.root.resolve().name)
    monitor = Monitor(run, sheet, held_out_slice(data.test, encoders) if distributed.is_main() else None)
    phase = GanPhase(settings, data.train, data.tokenizer, (text, image), monitor, device, workers)
    if run.initial_generator.exists():
        phase.start_from(load_checkpoint(run.initial_generator, "gan")["generator"])
    train(phase, run, settings.seed)


def describe_plan(settings: Settings, data: TrainingData, run: RunFolder | None, device: torch.device) -> str:
    """Data, networks and lengths of both phases, for a person to read.

    Args:
        settings: The run's.
        data: From `read_data`.
        run: Whose first phase may be finished; None is a new one.
        device: What it trains on.

    Raises:
        SettingsError: if the data are too few for the settings' schedule.
    """
    with torch.device("meta"):
        generator = _parameters(GeneratorNetwork(settings.model))
        discriminators = _parameters(build_discriminators(settings.model, settings.gan.discriminator_channels))
    pyramid = "/".join(str(side) for side in settings.model.resolutions)
    lines = [
        f"preset {settings.preset}, recipe {settings.recipe}, on {device}",
        f"data   {data.train.root}: {data.source}, {_usable(data)} training and"
        f" {len(data.test) if data.test else 0:,} test images,"
        f" {len(data.tokenizer) - 1:,} words",
        *_unread_lines(data),
        *_held_out_line(data, settings),
        f"model  {pyramid} pixels, generator {generator:.1f} M parameters, discriminators {discriminators:.1f} M",
    ]
    for name, own in (("damsm", settings.damsm), ("gan", settings.gan)):
        if name == "damsm" and run and _has_encoders(settings, data, run):
            lines.append("damsm  is finished")
            continue
        an_epoch = steps_per_epoch(len(data.train), own.batch_size, f"{name}.batch_size")
        steps = phase_steps(own.epochs, own.steps, an_epoch)
        if own is settings.gan:
            check_schedule(steps, settings.gan)
        lines.append(
            f"{name:6} {steps:,} steps of {own.batch_size} images ({own.epochs} epochs at most) in {own.precision}"
        )
        if own.steps and steps < own.steps:
            lines.append(f"       not {own.steps:,} ({name}.steps): {name}.epochs ends it sooner; raise that too")
    return "\n".join(lines)


def _usable(data: TrainingData) -> str:
    unusable = sum(example.key in data.unusable for example in data.train.examples)
    return f"{len(data.train) - unusable:,} of {len(data.train):,}" if unusable else f"{len(data.train):,}"


def _unread_lines(data: TrainingData) -> list[str]:
    root = data.train.root
    return [
        f"       {path.relative_to(root)} is not read; --source {source} would read it"
        for source, path in unread_layouts(root, data.source).items()
    ]


def _held_out_line(data: TrainingData, settings: Settings) -> list[str]:
    if data.test is not None:
        return []
    return [
        "       nothing is held out, so nothing can be measured on pictures that training never saw;"
        " --set data.held_out=0.05 holds out a share"
    ]


def _parameters(module: nn.Module) -> float:
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6
