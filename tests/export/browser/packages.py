"""Stand-ins of the npm package onnxruntime-web, whose files nobody runs."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

from export.browser.onnxruntime_web import DEVICES


def build_package(folder: Path, name: str = "onnxruntime-web", devices: tuple[str, ...] = ("wasm", "webgpu")) -> Path:
    """Writes the package's folder."""
    (folder / "dist").mkdir(parents=True)
    (folder / "package.json").write_text(json.dumps({"name": name, "version": "1.30.0"}))
    for device in devices:
        for file in DEVICES[device]:
            (folder / "dist" / file).write_text(f"{file} of {name}")
    return folder


def pack_package(folder: Path, path: Path) -> Path:
    """Packs a package as npm does."""
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, "package")
    return path
