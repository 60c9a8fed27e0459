"""Tables whose rows are trained with one seed or with several, are measured alike, and are told with their spread."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import torch

from dmgan_train.evaluation.image_source import RunSource
from dmgan_train.evaluation.metrics.evaluate import Plan, evaluate
from dmgan_train.evaluation.metrics.features import FeatureNetwork
from dmgan_train.evaluation.metrics.protocol import Evaluation, read_evaluation
from dmgan_train.evaluation.metrics.r_precision import read_encoders, read_judge
from dmgan_train.run_folder import RunFolder, write_whole

Rows = Mapping[str, Mapping[int, Evaluation]]
"""What was measured of each row and seed."""


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """One metric of a row over its seeds.

    Attributes:
        name: What a table calls it.
        mean: Over the seeds.
        std: The sample standard deviation over the seeds (n - 1).
        values: By seed.
    """

    name: str
    mean: float
    std: float
    values: dict[int, float]


class SpreadRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row over several seeds.

    Attributes:
        results: By metric.
        seeds: All that was measured, by seed.
    """

    results: dict[str, Spread]
    seeds: dict[int, Evaluation]


def seed_folder(out: Path, first: int, seed: int) -> Path:
    """Where the runs of a seed are: those of the first in `out` itself, so that others may join them later."""
    return out if seed == first else out / f"seed-{seed}"


def measure_once(
    run: RunFolder, file: str, network: FeatureNetwork, plan: Plan, device: torch.device, judge: Path | None = None
) -> Evaluation:
    """Measures a finished run, or reads what was measured with the very same protocol.

    Args:
        run: With a trained generator.
        file: The name of the results in `metrics/`, without `.json`.
        network: Sees the images for the metrics.
        plan: What is measured.
        device: Where to compute.
        judge: The run whose encoders judge R-precision; None takes the run's own.
    """
    path = run.root / "metrics" / f"{file}.json"
    source = RunSource(run, device)
    plan_fields = {**vars(plan), "metrics": list(plan.metrics), "data": plan.data.resolve().name}
    judged = judge.resolve().name if judge else None
    fresh = {"plan": plan_fields, "weights_sha256": network.sha256, "model": source.describe(), "judge": judged}
    if path.exists():
        done = read_evaluation(path)
        if done.protocol.get(file) == fresh:
            return done
    judges = None
    if "r_precision" in plan.metrics:
        judges = read_judge(judge, device, source.max_words) if judge else read_encoders(run, device)
    measured = evaluate(source, network, judges, plan)
    measured = msgspec.structs.replace(measured, protocol={**measured.protocol, file: fresh})
    measured.write(path)
    return measured


def write_table(out: Path, file: str, rows: Rows, remark: str) -> str:
    """Writes the rows as `<file>.md`, and everything that was measured as `<file>.json`.

    Args:
        out: The folder for both.
        file: Their name.
        rows: All with the same seeds.
        remark: What else all rows share.

    Returns:
        The Markdown: a row each, with mean and spread if there are several seeds, and under it what was measured.
    """
    several = len(next(iter(rows.values()))) > 1
    everything = {row: _spread(by_seed) if several else _only(by_seed) for row, by_seed in rows.items()}
    write_whole(out / f"{file}.json", msgspec.json.format(msgspec.json.encode(everything), indent=2) + b"\n")
    text = _to_markdown(file, rows, remark)
    write_whole(out / f"{file}.md", text.encode())
    return text


def _to_markdown(file: str, rows: Rows, remark: str) -> str:
    seeds = list(next(iter(rows.values())))
    first = next(iter(rows.values()))[seeds[0]]
    lines = [_line(["", *(result.name for result in first.results.values())])]
    lines.append(_line(["---", *("---:" for _ in first.results)]))
    for row, by_seed in rows.items():
        if len(seeds) > 1:
            cells = [_cell(spread.mean, spread.std) for spread in _spread(by_seed).results.values()]
        else:
            cells = [_cell(result.value, result.std) for result in _only(by_seed).results.values()]
        lines.append(_line([row, *cells]))
    shared = first.protocol
    model, data = shared["model"], shared["data"]
    notes = [
        f"{model['gan_steps']:,} steps each, {model['weights']}, on {data['name']}; {remark}.",
        f"{shared['images']:,} images of the split {data['split']} ({data['pictures']:,} pictures),"
        f" {shared['resolution']} px, the images' seeds from {shared['seed'].partition(';')[0]} on.",
        *(f"{result.name}: {result.definition}; {result.better} is better." for result in first.results.values()),
        f"The whole protocol stands in {file}.json. {_trainings(seeds)}",
    ]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)]) + "\n"


def _trainings(seeds: Sequence[int]) -> str:
    if len(seeds) == 1:
        return "One training each: no spread over seeds was measured."
    return (
        f"Mean and sample standard deviation of {len(seeds)} trainings each, with the seeds"
        f" {', '.join(map(str, seeds))}; deviations within one training stand there too."
    )


def _only(by_seed: Mapping[int, Evaluation]) -> Evaluation:
    (evaluation,) = by_seed.values()
    return evaluation


def _spread(by_seed: Mapping[int, Evaluation]) -> SpreadRow:
    first = next(iter(by_seed.values()))
    results = {}
    for metric, result in first.results.items():
        values = {seed: one.results[metric].value for seed, one in by_seed.items()}
        mean, std = statistics.fmean(values.values()), statistics.stdev(values.values())
        results[metric] = Spread(name=result.name, mean=mean, std=std, values=values)
    return SpreadRow(results=results, seeds=dict(by_seed))


def _cell(value: float, std: float | None) -> str:
    return f"{value:.4g}" + ("" if std is None else f" +- {std:.2g}")


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
