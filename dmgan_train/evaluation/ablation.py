"""The ablations of the paper's table 3: four generators on one data set, judged by the same encoders and metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import torch

from dmgan_runtime.errors import SettingsError
from dmgan_runtime.manifest import MemoryResponse, MemoryWriting
from dmgan_train.evaluation.image_source import RunSource
from dmgan_train.evaluation.metrics.evaluate import Plan, evaluate
from dmgan_train.evaluation.metrics.features import FeatureNetwork
from dmgan_train.evaluation.metrics.protocol import Evaluation, MetricResult, read_evaluation
from dmgan_train.evaluation.metrics.r_precision import read_encoders
from dmgan_train.fit import TrainingData, begin, fit, pretrain
from dmgan_train.run_folder import RunFolder, share_encoders, write_whole
from dmgan_train.settings import Settings

Say = Callable[[str], None]


class Row(NamedTuple):
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
    Row("baseline", "baseline", "none", "concatenation"),
    Row("+M", "m", "words", "concatenation"),
    Row("+M+WG", "m-wg", "gated", "concatenation"),
    Row("+M+WG+RG", "m-wg-rg", "gated", "gated"),
)
ENCODERS = "encoders"


def row_settings(settings: Settings, row: Row) -> Settings:
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
) -> dict[str, Evaluation]:
    """Trains and measures every row; what is done already is kept, so the same call goes on from anywhere.

    Args:
        settings: Of every row, but for the memory.
        data: What all are trained on.
        out: A folder for the runs: `encoders`, whose DAMSM all share, and one for each row.
        network: Sees the images for the metrics.
        plan: What is measured of each row.
        device: Where to train.
        workers: Processes that read pictures ahead.
        say: Told what begins.

    Returns:
        By row's name, also written as `ablation.json` and `ablation.md`.

    Raises:
        TrainingError: if a loss is not a number, or the run was asked to stop.
        SettingsError: if `out` holds runs of other settings or data, or the model has no refinement stage.
        CheckpointError: if a row was begun with other encoders.
    """
    for row in ROWS:  # before the encoders that they share are trained on
        RunFolder(out / row.folder).check_settings(row_settings(settings, row))
    encoders = RunFolder(out / ENCODERS)
    say("the encoders that all rows share")
    with encoders.locked():
        begin(row_settings(settings, ROWS[-1]), data, encoders)
        pretrain(row_settings(settings, ROWS[-1]), data, encoders, device, workers)
    evaluations = {}
    for row in ROWS:
        run = RunFolder(out / row.folder)
        say(f"{row.name}: training")
        with run.locked():
            own = row_settings(settings, row)
            begin(own, data, run)
            share_encoders(encoders, run)
            fit(own, data, run, device, workers)
        say(f"{row.name}: measuring")
        evaluations[row.name] = _measure(run, network, plan, device)
    write_whole(out / "ablation.json", msgspec.json.format(msgspec.json.encode(evaluations), indent=2) + b"\n")
    write_whole(out / "ablation.md", to_markdown(evaluations).encode())
    return evaluations


def to_markdown(evaluations: Mapping[str, Evaluation]) -> str:
    """The table, a row for each generator, and under it what was measured."""
    first = next(iter(evaluations.values()))
    names = [result.name for result in first.results.values()]
    lines = [_line(["", *names]), _line(["---", *("---:" for _ in names)])]
    for row, evaluation in evaluations.items():
        lines.append(_line([row, *(_cell(result) for result in evaluation.results.values())]))
    shared = first.protocol
    model, data = shared["model"], shared["data"]
    notes = [
        f"{model['gan_steps']:,} steps each, {model['weights']}, on {data['name']}; one DAMSM for all rows.",
        f"{shared['images']:,} images of the split {data['split']} ({data['pictures']:,} pictures),"
        f" {shared['resolution']} px, seed {shared['seed'].partition(';')[0]}.",
        *(f"{result.name}: {result.definition}; {result.better} is better." for result in first.results.values()),
        "The whole protocol stands in ablation.json. One training each: no spread over seeds was measured.",
    ]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)]) + "\n"


def _measure(run: RunFolder, network: FeatureNetwork, plan: Plan, device: torch.device) -> Evaluation:
    """Measures a finished run, or reads what was measured with the very same protocol."""
    path = run.root / "metrics" / "ablation.json"
    source = RunSource(run, device)
    plan_fields = {**vars(plan), "metrics": list(plan.metrics), "data": plan.data.resolve().name}
    fresh = {"plan": plan_fields, "weights_sha256": network.sha256, "model": source.describe()}
    if path.exists():
        done = read_evaluation(path)
        if done.protocol.get("ablation") == fresh:
            return done
    judges = read_encoders(run, device) if "r_precision" in plan.metrics else None
    measured = evaluate(source, network, judges, plan)
    measured = msgspec.structs.replace(measured, protocol={**measured.protocol, "ablation": fresh})
    measured.write(path)
    return measured


def _cell(result: MetricResult) -> str:
    return f"{result.value:.4g}" + ("" if result.std is None else f" +- {result.std:.2g}")


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
