"""Bundles in more than one precision, for tests that look at the choice and not at the numbers."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from dmgan_runtime.manifest import MANIFEST_NAME, FileEntry, Precision, Role, parse_manifest
from tests.bundles import GENERATOR_ROLES, write_manifest

PSNR: dict[Precision, float] = {"fp16": 60.0, "int8": 38.0}


def add_precision(bundle: Path, precision: Precision, roles: Sequence[Role] = GENERATOR_ROLES) -> None:
    """Adds the fp32 graphs of a bundle's folder again, under the name of another precision."""
    manifest = parse_manifest((bundle / MANIFEST_NAME).read_bytes(), "the bundle")
    graphs = list(manifest.graphs)
    for role in roles:
        graph = manifest.graph(role, "fp32")
        assert graph is not None
        path = f"onnx/{role}.{precision}.onnx"
        shutil.copy(bundle / graph.file.path, bundle / path)
        graphs.append(graph.__replace__(precision=precision, file=FileEntry.of(bundle, path)))
    quality = {**manifest.image_psnr_db, precision: PSNR[precision]}
    write_manifest(bundle, graphs=tuple(graphs), image_psnr_db=quality)
