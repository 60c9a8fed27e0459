"""With which published numbers an evaluation may be compared, and why with no other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dmgan_train.evaluation.metrics.protocol import Evaluation
from dmgan_train.published import PublishedResult, published

IMAGES = 30_000
"""So many images every published number of FID and R-precision was measured on."""
_PICTURES = 2_933  # of CUB's test split


def comparisons(evaluation: Evaluation) -> list[str]:
    """Says of an evaluation's FID and R-precision with which published numbers they may be compared, or why with none.

    Returns:
        A line for each of the two that was measured.
    """
    protocol, results = evaluation.protocol, evaluation.results
    shared = _shared_obstacles(protocol)
    lines = []
    for metric, title, check in (("fid", "FID", _fid_obstacles), ("r_precision", "R-precision", _judge_obstacles)):
        if metric not in results:
            continue
        obstacles = [*shared, *check(results[metric].protocol)]
        if obstacles:
            lines.append(f"{title} may be compared with no published number: {'; '.join(obstacles)}")
            continue
        rows = [row for row in _comparable(metric) if row.condition == protocol["condition"]]
        own = protocol["model"].get("published_files", {}).get("generator", "unknown")
        numbers = [
            f"{getattr(row, metric):.2f} {row.model}{', this very file' * (row.generator == own)} ({row.source})"
            for row in rows
        ]
        lines.append(f"{title} may be compared with: {'; '.join(numbers)}")
    return lines


def _comparable(metric: str) -> Iterable[PublishedResult]:
    proof = "statistics" if metric == "fid" else "judge"
    return (row for row in published().results if getattr(row, metric) is not None and getattr(row, proof) is not None)


def _shared_obstacles(protocol: Mapping[str, Any]) -> list[str]:
    data, obstacles = protocol["data"], []
    if (data["source"], data["split"], data["pictures"]) != ("cub", "test", _PICTURES):
        obstacles.append(f"the data are not the {_PICTURES:,} pictures of CUB's test split")
    if protocol["images"] != IMAGES:
        obstacles.append(f"{protocol['images']:,} images, where all have {IMAGES:,}")
    if protocol["truncation"] != 1:
        obstacles.append(f"the noise is multiplied by {protocol['truncation']}")
    if protocol["resolution"] != 256:
        obstacles.append(f"images of {protocol['resolution']} pixels, where all have 256")
    return obstacles


def _fid_obstacles(own: Mapping[str, Any]) -> list[str]:
    obstacles, real = [], own["real_images"]
    statistics = {row.statistics for row in _comparable("fid")}
    networks = {file.features for file in published().files if file.sha256 in statistics}
    if own["features"]["network"] not in networks:
        obstacles.append(f"the features are of {own['features']['network']}, not of {', '.join(map(str, networks))}")
    if not (isinstance(real, Mapping) and real["sha256"] in statistics):
        obstacles.append("the real statistics are not those of bird_val.npz (--real-statistics)")
    return obstacles


def _judge_obstacles(own: Mapping[str, Any]) -> list[str]:
    files = own["encoders"]["files"]
    if (files.get("image encoder"), files.get("text encoder")) in {row.judge for row in _comparable("r_precision")}:
        return []
    return ["the judge is not the authors' (--judge with their encoders)"]
