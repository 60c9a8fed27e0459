"""Writing a bundle: graphs, vocabulary, card and manifest, whole or not at all."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from dmgan_runtime import Generator as Server
from dmgan_runtime.errors import BundleError, ExportError
from dmgan_runtime.manifest import (
    MANIFEST_NAME,
    SCHEMA_VERSION,
    FileEntry,
    GraphEntry,
    Manifest,
    ParityEntry,
    Precision,
    Role,
    TokenizerEntry,
)
from dmgan_runtime.selftest import make_self_test
from dmgan_runtime.tokenizer import Tokenizer
from dmgan_train.models import Generator, TextEncoder
from export.card import model_card
from export.graphs import Graph, build_graphs
from export.onnx_file import write_onnx
from export.parity import Captions, Case, check_images, measure_parity, random_captions, reference_case
from export.precision import HalfGraph
from export.quantize import write_int8
from export.reparameterize import reparameterize

CARD_NAME = "MODEL_CARD.md"
SAMPLES_NAME = "samples.png"
VOCABULARY_NAME = "vocab.json"
CALIBRATION_BATCH = 8
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
        data_license: Of what they were trained on.
        samples: A picture of samples, or None.
        metrics: What was measured of it, each with its protocol.
        captions: Some of the training set's, for calibration.
        notes: Markdown about its use and limits, for the card.
    """

    name: str
    license: str
    text_encoder: TextEncoder
    generator: Generator
    tokenizer: Tokenizer
    max_words: int
    provenance: Mapping[str, Any] = field(default_factory=dict)
    samples: Path | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    captions: tuple[str, ...] = ()
    data_license: str = "not stated"
    notes: str = ""


def write_bundle(
    model: Model, destination: Path, report: Callable[[str], None], precisions: Sequence[Precision] = ()
) -> Manifest:
    """Exports every graph, proves that it equals PyTorch, and writes the bundle.

    Args:
        model: What to export.
        destination: A new folder, or a new .zip if it ends so.
        report: Told each step as it begins.
        precisions: `fp16` and `int8`, beside fp32.

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
        manifest = _fill(folder, model, precisions, report)
        if destination.suffix.lower() == ".zip":
            report("packing")
            _pack(folder, workshop / "bundle.zip").replace(destination)
        else:
            folder.replace(destination)
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
    return manifest


def _fill(folder: Path, model: Model, precisions: Sequence[Precision], report: Callable[[str], None]) -> Manifest:
    written = build_graphs(model.text_encoder, model.generator, model.max_words)
    report("running the model in PyTorch")
    captions = random_captions(len(model.tokenizer), model.max_words)
    cases = [reference_case(written, batch, seed) for seed, batch in enumerate(captions)]
    calibration = _calibration_cases(model, written) if "int8" in precisions else []
    graphs: list[GraphEntry] = []
    parity: list[ParityEntry] = []
    provenance = {**model.provenance, "data_license": model.data_license, "exported_with": VERSIONS}
    for precision in ("fp32", *precisions):
        for role, graph in rewritten_graphs(model, precision).items():
            report(f"exporting and checking {role} in {precision}")
            path = f"onnx/{role}.onnx" if precision == "fp32" else f"onnx/{role}.{precision}.onnx"
            opset = write_onnx(graph, folder / path)
            if precision == "int8":
                in_fp32 = _quantize(folder / path, graph, calibration)
                provenance[f"{role}_int8_layers_in_fp32"] = len(in_fp32)
            parity += measure_parity(folder / path, graph, precision, cases)
            file = FileEntry.of(folder, path)
            interface = {"inputs": graph.inputs, "outputs": graph.outputs}
            graphs.append(GraphEntry(role=role, precision=precision, file=file, opset=opset, **interface))
    (folder / VOCABULARY_NAME).write_bytes(model.tokenizer.to_json())
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name=model.name,
        license=model.license,
        model=model.generator.spec,
        tokenizer=TokenizerEntry(file=FileEntry.of(folder, VOCABULARY_NAME), max_words=model.max_words),
        graphs=tuple(graphs),
        parity=tuple(parity),
        metrics=dict(model.metrics),
        provenance=provenance,
    )
    manifest = _add_papers(folder, manifest, model)
    for precision in ("fp32", *precisions):
        report(f"checking the bundle from end to end in {precision}")
        with Server.open(folder, backend="onnxruntime", device="cpu", precision=precision) as server:
            for case in cases:
                _check_end_to_end(server, case, precision)
            if precision == "fp32":
                manifest = manifest.__replace__(self_test=make_self_test(server, model.tokenizer))
    (folder / MANIFEST_NAME).write_bytes(manifest.to_json())
    return manifest


def rewritten_graphs(model: Model, precision: Precision) -> Mapping[Role, Graph]:
    """The graphs that are exported for a precision, in the form that suits it.

    The text encoder is exported in fp32 only: it takes little time, and engines refuse an fp16 LSTM that knows lengths.
    """
    # No engine here has an integer transposed convolution.
    generator = reparameterize(model.generator, "phases" if precision == "int8" else "transposed")
    graphs = dict(build_graphs(model.text_encoder, generator, model.max_words))
    if precision == "fp32":
        return graphs
    del graphs["text_encoder"]
    return {role: HalfGraph(graph).eval() for role, graph in graphs.items()} if precision == "fp16" else graphs


def _calibration_cases(model: Model, written: Mapping[Role, Graph]) -> list[Case]:
    """What the model does with captions of its training set."""
    if len(model.captions) < 2 * CALIBRATION_BATCH:
        raise ExportError(
            f"int8 is calibrated on at least {2 * CALIBRATION_BATCH} captions of the training set, and {model.name}"
            f" comes with {len(model.captions)}; export without --int8, or train with this version of dmgan"
        )
    cases = []
    for start in range(0, len(model.captions) - CALIBRATION_BATCH + 1, CALIBRATION_BATCH):
        texts = model.captions[start : start + CALIBRATION_BATCH]
        encodings = [model.tokenizer.encode(text, model.max_words) for text in texts]
        tokens = torch.from_numpy(np.stack([encoding.tokens for encoding in encodings]))
        captions = Captions(tokens, torch.tensor([encoding.length for encoding in encodings]))
        cases.append(reference_case(written, captions, seed=start))
    return cases


def _quantize(path: Path, graph: Graph, cases: Sequence[Case]) -> tuple[str, ...]:
    """Replaces an fp32 file by its int8 form, calibrated on half of the cases and judged on the others."""
    source = path.with_suffix(".fp32")
    path.replace(source)
    try:
        return write_int8(graph, source, path, cases[::2], cases[1::2])
    finally:
        source.unlink()


def _add_papers(folder: Path, manifest: Manifest, model: Model) -> Manifest:
    """Writes card, samples and, last, the manifest that lists them."""
    names = [CARD_NAME]
    if model.samples is not None:
        shutil.copyfile(model.samples, folder / SAMPLES_NAME)
        names.append(SAMPLES_NAME)
    card = model_card(manifest, words=len(model.tokenizer), notes=model.notes, has_samples=model.samples is not None)
    (folder / CARD_NAME).write_text(card, encoding="utf-8")
    manifest = manifest.__replace__(files=tuple(FileEntry.of(folder, name) for name in names))
    (folder / MANIFEST_NAME).write_bytes(manifest.to_json())
    return manifest


def _check_end_to_end(server: Server, case: Case, precision: Precision) -> None:
    """The bundle, opened as a user opens it, gives PyTorch's images."""
    inputs = (
        "text_encoder.tokens",
        "text_encoder.lengths",
        "generator_0.noise",
        "generator_0.condition_noise",
    )
    images = server.synthesize(*(case[name].numpy() for name in inputs)).images
    for stage, image in enumerate(images.values()):
        check_images(image, case[f"generator_{stage}.image"].numpy(), precision)


def _pack(folder: Path, archive: Path) -> Path:
    # Stored, because weights do not compress, and so that a reader can seek in the file.
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as target:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            target.write(file, file.relative_to(folder).as_posix())
    return archive
