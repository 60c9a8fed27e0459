"""Results: a number never without what it is, how it was made, and what it can be compared with."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import msgspec

from dmgan_runtime.errors import DataError, shortened
from dmgan_train.run_folder import write_whole

MetricName = Literal["fid", "is", "r_precision", "diversity", "retrieval"]
METRICS: tuple[MetricName, ...] = ("fid", "is", "r_precision", "diversity", "retrieval")
_PACKAGES = ("dmgan", "torch", "torchmetrics", "numpy", "pillow")


class MetricResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one metric measured.

    Attributes:
        name: What a table calls it, with its feature network.
        value: The number.
        std: Its standard deviation over folds or splits, if it has any.
        better: Which direction is good.
        definition: What the number is, in a sentence.
        references: What it can be compared with: bounds and baselines, measured in the same way.
        protocol: The metric's own part of the protocol: counts, feature network, weights, preprocessing.
        details: Further numbers, named.
    """

    name: str
    value: float
    better: Literal["higher", "lower"]
    definition: str
    protocol: dict[str, Any]
    std: float | None = None
    references: dict[str, float] = {}
    details: dict[str, Any] = {}


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """The metrics of one model, and the protocol that they share.

    Attributes:
        results: By metric.
        protocol: Model, data, split, seed, truncation, versions.
    """

    results: dict[str, MetricResult]
    protocol: dict[str, Any]

    def write(self, path: Path) -> None:
        """Writes indented JSON, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n")


def read_evaluation(path: Path) -> Evaluation:
    """Reads what `Evaluation.write` wrote.

    Raises:
        DataError: if the file is missing or holds something else.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Evaluation)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: holds no results ({shortened(error)}); run `python -m dmgan_train evaluate` again"
        ) from error


def versions() -> dict[str, str]:
    """The versions of what computes."""
    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}


def table(results: Iterable[MetricResult]) -> list[str]:
    """Aligned lines for a person: name, value and deviation, direction, references; then details and cautions."""
    listed = list(results)
    rows = []
    for result in listed:
        spread = "" if result.std is None else f" +- {result.std:.4g}"
        rows.append(
            (result.name, f"{result.value:.4g}{spread}", f"{result.better} is better", _numbers(result.references))
        )
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = ["  ".join(map(str.ljust, row, [*widths, 0])).rstrip() for row in rows]
    details = [f"  {where}: {_numbers(numbers)}" for one in listed for where, numbers in detail_rows(one.details)]
    cautions = [f"  caution, {one.name}: {one.protocol['caution']}" for one in listed if "caution" in one.protocol]
    return lines + details + cautions


def _numbers(numbers: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())


def detail_rows(details: Mapping[str, Any], path: tuple[str, ...] = ()) -> list[tuple[str, dict[str, float]]]:
    """Nested numbers as rows: where they stand, and the numbers by name."""
    numbers = {name: value for name, value in details.items() if isinstance(value, int | float)}
    rows = [(" / ".join(path), numbers)] if numbers else []
    for name, value in details.items():
        if isinstance(value, Mapping):
            rows += detail_rows(value, (*path, name))
    return rows
