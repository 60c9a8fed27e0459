"""The ablations of the paper's table 3: four generators on one data set, judged by the same encoders and metrics."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
import torch

from dmgan_runtime.errors import SettingsError
from dmgan_runtime.manifest import MemoryResponse, MemoryWriting
from dmgan_train.data import check_files
from dmgan_train.evaluation.metrics.evaluate import Plan
from dmgan_train.evaluation.metrics.features import FeatureNetwork
from dmgan_train.evaluation.metrics.protocol import Evaluation
from dmgan_train.evaluation.metrics.r_precision import RPrecision, read_encoders
from dmgan_train.evaluation.seeds import measure_once, seed_folder, write_table
from dmgan_train.fit import TrainingData, begin, fit, pretrain
from dmgan_train.run_folder import RunFolder, share_encoders
from dmgan_train.settings import Settings, override_settings

Say = Callable[[str], None]


class AblationRow(NamedTuple):
    """A row of the table.

    Attributes:
        name: As the paper has it.
        folder: Of its run.
        writing: How the memory is written.
        response: How its answer enters the image features.
    """

    name: str
    folder: str
    writing: MemoryWriting
    response: MemoryResponse


ROWS = (
    AblationRow("baseline", "baseline", "none", "concatenation"),
    AblationRow("+M", "m", "words", "concatenation"),
    AblationRow("+M+WG", "m-wg", "gated", "concatenation"),
    AblationRow("+M+WG+RG", "m-wg-rg", "gated", "gated"),
)
ENCODERS = "encoders"


def row_settings(settings: Settings, row: AblationRow) -> Settings:
    """The settings of one row: all the same but the memory.

    Raises:
        SettingsError: if the model has no refinement stage.
    """
    if settings.model.stages == 1:
        raise SettingsError(
            "model.stages is 1, and the rows differ in the memory of refinement stages; set model.stages to 2 or more"
        )
    model = msgspec.structs.replace(settings.model, memory_writing=row.writing, memory_response=row.response)
    return msgspec.structs.replace(settings, model=model)


def ablate(
    settings: Settings,
    data: TrainingData,
    out: Path,
    network: FeatureNetwork,
    plan: Plan,
    device: torch.device,
    workers: int,
    say: Say,
    seeds: int = 1,
) -> str:
    """Trains and measures every row; what is done already is kept, so the same call goes on from anywhere.

    Args:
        settings: Of every row, but for the memory.
        data: What all are trained on.
        out: A folder for the runs: `encoders`, whose DAMSM all share, and one for each row and seed.
        network: Sees the images for the metrics.
        plan: What is measured of each row.
        device: Where to train.
        workers: Processes that read pictures ahead.
        say: Told what begins.
        seeds: Trainings of each row, from the settings' seed on.

    Returns:
        The table, also written as `ablation.md`; `ablation.json` has everything.

    Raises:
        TrainingError: if a loss is not a number, or the run was asked to stop.
        SettingsError: if `out` holds runs of other settings or data, the model has no refinement stage, or the data
            have no split to measure.
        DataError: if the pictures of that split are missing, or it has too few captions for R-precision.
        CheckpointError: if a row was begun with other encoders.
    """
    measured = data.test if plan.split == "test" else data.train
    if measured is None:
        raise SettingsError(
            "the data have no test split to measure; set data.held_out above 0 (--set data.held_out=0.1), or pass"
            " --split train"
        )
    check_files(measured, settings.data.broken_limit)
    first = settings.seed
    seeded = [override_settings(settings, overrides=[f"seed={seed}"]) for seed in range(first, first + seeds)]
    trainings = [
        (row, RunFolder(seed_folder(out, first, own.seed) / row.folder), row_settings(own, row))
        for own in seeded
        for row in ROWS
    ]
    for _, run, own in trainings:  # before the encoders that they share are trained on
        run.check_settings(own)
    encoders = RunFolder(out / ENCODERS)
    say("the encoders that all rows share")
    with encoders.locked():
        begin(row_settings(settings, ROWS[-1]), data, encoders)
        pretrain(row_settings(settings, ROWS[-1]), data, encoders, device, workers)
    if "r_precision" in plan.metrics:  # before hours of training: whether there are captions enough
        RPrecision(read_encoders(encoders, device), measured, plan.seed)
    rows: dict[str, dict[int, Evaluation]] = {row.name: {} for row in ROWS}
    for row, run, own in trainings:
        say(f"{row.name}, seed {own.seed}: training")
        with run.locked():
            begin(own, data, run)
            share_encoders(encoders, run)
            fit(own, data, run, device, workers)
        say(f"{row.name}, seed {own.seed}: measuring")
        rows[row.name][own.seed] = measure_once(run, "ablation", network, plan, device)
    return write_table(out, "ablation", rows, "one DAMSM for all rows")
