"""Writing a bundle: graphs, vocabulary, card and manifest, whole or not at all."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor

from dmgan_runtime import Generator as Server
from dmgan_runtime.errors import BundleError, ExportError
from dmgan_runtime.manifest import (
    MANIFEST_NAME,
    SCHEMA_VERSION,
    FileEntry,
    GraphEntry,
    Manifest,
    ParityEntry,
    TokenizerEntry,
)
from dmgan_runtime.selftest import make_self_test
from dmgan_runtime.tokenizer import Tokenizer
from dmgan_train.models import Generator, TextEncoder
from export.card import model_card
from export.graphs import build_graphs
from export.onnx_file import write_onnx
from export.parity import TOLERANCE, measure_parity, reference_cases

CARD_NAME = "MODEL_CARD.md"
SAMPLES_NAME = "samples.png"
VOCABULARY_NAME = "vocab.json"
VERSIONS = {"torch": str(torch.__version__), "onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}


@dataclass(frozen=True)
class Model:
    """A trained model and what is known of it.

    Attributes:
        name: Names the bundle.
        license: Of the weights.
        text_encoder: In evaluation mode.
        generator: The averaged one, in evaluation mode.
        tokenizer: The vocabulary.
        max_words: Words of a caption that the graphs take.
        provenance: Where the weights came from.
        samples: A picture of samples, or None.
    """

    name: str
    license: str
    text_encoder: TextEncoder
    generator: Generator
    tokenizer: Tokenizer
    max_words: int
    provenance: Mapping[str, Any] = field(default_factory=dict)
    samples: Path | None = None


def write_bundle(model: Model, destination: Path, report: Callable[[str], None]) -> Manifest:
    """Exports every graph, proves that it equals PyTorch, and writes the bundle.

    Args:
        model: What to export.
        destination: A new folder, or a new .zip if it ends so.
        report: Told each step as it begins.

    Returns:
        The manifest that was written.

    Raises:
        BundleError: if the destination exists.
        ExportError: if a graph cannot be exported or differs from PyTorch; nothing is left behind.
    """
    if destination.exists():
        raise BundleError(
            f"{destination}: exists already, and a bundle is never changed; remove it or choose another name"
        )
    destination.parent.mkdir(parents=True, exist_ok=True)
    workshop = destination.with_name(f".{destination.name}.partial")
    shutil.rmtree(workshop, ignore_errors=True)
    try:
        folder = workshop / "bundle"
        (folder / "onnx").mkdir(parents=True)
        manifest = _fill(folder, model, report)
        if destination.suffix.lower() == ".zip":
            report("packing")
            _pack(folder, workshop / "bundle.zip").replace(destination)
        else:
            folder.replace(destination)
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
    return manifest


def _fill(folder: Path, model: Model, report: Callable[[str], None]) -> Manifest:
    graphs = build_graphs(model.text_encoder, model.generator, model.max_words)
    report("running the model in PyTorch")
    cases = reference_cases(graphs, len(model.tokenizer))
    entries: list[GraphEntry] = []
    parity: list[ParityEntry] = []
    for role, graph in graphs.items():
        report(f"exporting and checking {role}")
        path = f"onnx/{role}.onnx"
        opset = write_onnx(graph, folder / path)
        parity += measure_parity(folder / path, graph, "fp32", cases)
        entries.append(
            GraphEntry(
                role=role,
                precision="fp32",
                file=FileEntry.of(folder, path),
                opset=opset,
                inputs=graph.inputs,
                outputs=graph.outputs,
            )
        )
    (folder / VOCABULARY_NAME).write_bytes(model.tokenizer.to_json())
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name=model.name,
        license=model.license,
        model=model.generator.spec,
        tokenizer=TokenizerEntry(file=FileEntry.of(folder, VOCABULARY_NAME), max_words=model.max_words),
        graphs=tuple(entries),
        parity=tuple(parity),
        provenance={**model.provenance, "exported_with": VERSIONS},
    )
    if model.samples is not None:
        shutil.copyfile(model.samples, folder / SAMPLES_NAME)
    (folder / CARD_NAME).write_text(model_card(manifest, has_samples=model.samples is not None), encoding="utf-8")
    names = [CARD_NAME] + ([SAMPLES_NAME] if model.samples is not None else [])
    manifest = manifest.__replace__(files=tuple(FileEntry.of(folder, name) for name in names))
    (folder / MANIFEST_NAME).write_bytes(manifest.to_json())
    report("checking the bundle from end to end")
    with Server.open(folder, backend="onnxruntime", device="cpu", precision="fp32") as server:
        for case in cases:
            _check_end_to_end(server, case)
        manifest = manifest.__replace__(self_test=make_self_test(server, model.tokenizer))
    (folder / MANIFEST_NAME).write_bytes(manifest.to_json())
    return manifest


def _check_end_to_end(server: Server, case: Mapping[str, Tensor]) -> None:
    """The bundle, opened as a user opens it, gives PyTorch's images."""
    inputs = (
        "text_encoder.tokens",
        "text_encoder.lengths",
        "generator_0.noise",
        "generator_0.condition_noise",
    )
    images = server.synthesize(*(case[name].numpy() for name in inputs)).images
    for stage, (resolution, image) in enumerate(images.items()):
        difference = float(np.abs(image - case[f"generator_{stage}.image"].numpy()).max())
        if not difference <= TOLERANCE["fp32"]:
            raise ExportError(
                f"the bundle's images at {resolution} pixels differ from PyTorch's by {difference:.2e}; no bundle was"
                " written. Please report this with the versions of torch and onnxruntime"
            )


def _pack(folder: Path, archive: Path) -> Path:
    # Stored, because weights do not compress, and so that a reader can seek in the file.
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as target:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            target.write(file, file.relative_to(folder).as_posix())
    return archive
