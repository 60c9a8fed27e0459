"""Writes a bundle whole or not at all: graphs, vocabulary, card and manifest."""

from __future__ import annotations

import math
import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import onnx
import onnxruntime
import torch

import dmgan_runtime
from dmgan_runtime.aliases import aliases_to_json
from dmgan_runtime.errors import BundleError, CaptionError, ExportError
from dmgan_runtime.manifest import (
    MANIFEST_NAME,
    SCHEMA_VERSION,
    Arithmetic,
    FileEntry,
    Manifest,
    Precision,
    SelfTestEntry,
    TokenizerEntry,
    UpBlocks,
)
from dmgan_runtime.self_test import make_self_test
from dmgan_runtime.tokenizer import Encoding, Tokenizer, Tokens
from dmgan_train.models import GeneratorNetwork, TextEncoder
from dmgan_train.staging import move_into_place, staging_folder
from export.card import model_card
from export.graph_files import (
    GraphFiles,
    Variant,
    choose_variants,
    rewritten_graphs,
    store_graphs_in_half,
    write_graphs,
)
from export.graphs import build_graphs
from export.half_weights import REQUIRED_PSNR
from export.parity import Case, check_images, random_captions, reference_case, reference_graphs
from export.rounding import bf16_psnr, fp16_psnr

_CARD_NAME = "MODEL_CARD.md"
_SAMPLES_NAME = "samples.png"
VOCABULARY_NAME = "vocab.json"
ALIASES_NAME = "aliases.json"
CALIBRATION_BATCH = 8
EQUAL_PSNR = 200.0  # what the manifest has for images that are equal, since JSON has no infinity
VERSIONS = {"torch": str(torch.__version__), "onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}


@dataclass(frozen=True)
class Model:
    """A trained model and what is known of it.

    Attributes:
        name: Names the bundle.
        license: Of the weights.
        text_encoder: In evaluation mode.
        generator: The averaged one, in evaluation mode.
        tokenizer: The vocabulary and its aliases.
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
    generator: GeneratorNetwork
    tokenizer: Tokenizer
    max_words: int
    provenance: Mapping[str, Any] = field(default_factory=dict)
    samples: Path | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    captions: tuple[str, ...] = ()
    data_license: str = "not stated"
    notes: str = ""


def write_bundle(
    model: Model,
    destination: Path,
    report: Callable[[str], None],
    precisions: Sequence[Precision] = (),
    up_blocks: UpBlocks | Literal["auto"] = "auto",
    *,
    half_weights: bool = False,
) -> Manifest:
    """Exports every graph, proves that it equals PyTorch, and writes the bundle.

    Args:
        model: What to export.
        destination: A new folder, or a new .zip if it ends so.
        report: Told each step as it begins.
        precisions: `fp16` and `int8`, beside fp32.
        up_blocks: The form of the generators' up blocks; see `choose_variants`.
        half_weights: Whether the weights of the fp32 graphs are stored in fp16.

    Returns:
        The manifest that was written.

    Raises:
        BundleError: if the destination exists, or another process is making it.
        ExportError: if vocabulary and text encoder do not belong together, or a graph cannot be exported or differs
            from PyTorch; nothing is left behind.
        OSError: if the disk is full; nothing is left behind.
        SettingsError: if int8 is to have transposed up blocks.
    """
    variants = choose_variants(("fp32", *precisions), up_blocks)
    _check_vocabulary(model)
    _check_is_new(destination)
    with staging_folder(destination) as unfinished:
        _check_is_new(destination)  # another process may have made it before this one had the lock
        folder = unfinished / "bundle"
        (folder / "onnx").mkdir(parents=True)
        manifest = _fill(folder, model, variants, report, half_weights)
        finished = folder
        if destination.suffix.lower() == ".zip":
            report("packing")
            finished = _pack(folder, unfinished / "bundle.zip")
        move_into_place(finished, destination)
    return manifest


def _check_vocabulary(model: Model) -> None:
    words, embedded = len(model.tokenizer), model.text_encoder.embedding.num_embeddings
    if words != embedded:
        raise ExportError(
            f"{model.name}: its vocabulary has {words:,} words and its text encoder embeds {embedded:,}; take both from"
            " the same training"
        )


def _check_is_new(destination: Path) -> None:
    if destination.exists():
        raise BundleError(
            f"{destination}: exists already, and a bundle is never changed; remove it or choose another name"
        )


def _fill(
    folder: Path, model: Model, variants: Sequence[Variant], report: Callable[[str], None], half_weights: bool
) -> Manifest:
    report("running the model in PyTorch")
    reference = reference_graphs(model.text_encoder, model.generator, model.max_words)
    captions = random_captions(len(model.tokenizer), model.max_words)
    cases = [reference_case(reference, batch, seed) for seed, batch in enumerate(captions)]
    precisions = [variant.precision for variant in variants]
    calibration = _calibration_cases(model) if "int8" in precisions else []
    graphs = [rewritten_graphs(model.text_encoder, model.generator, model.max_words, each) for each in variants]
    files = [
        write_graphs(folder, rewritten, variant, cases, calibration, report)
        for rewritten, variant in zip(graphs, variants, strict=True)
    ]
    if half_weights:  # last, because int8 is made from what is exact
        files[0] = store_graphs_in_half(folder, files[0], graphs[0], cases, report)
    rounded = REQUIRED_PSNR if half_weights else None
    manifest = _write_manifest(folder, model, files)
    self_test, quality = _check_end_to_end(folder, model, precisions, cases, report, rounded)
    if "fp16" in quality:
        report("rounding to fp16")
        quality["fp16"] = min(quality["fp16"], fp16_psnr(graphs[precisions.index("fp16")], cases))
    report("rounding to bf16")
    quality["bf16"] = bf16_psnr(folder, manifest, cases)
    # Downwards, so that what is under a limit never reads as if it had reached it.
    stated = {name: math.floor(10 * min(decibels, EQUAL_PSNR)) / 10 for name, decibels in quality.items()}
    manifest = manifest.__replace__(self_test=self_test, image_psnr_db=stated)
    (folder / MANIFEST_NAME).write_bytes(manifest.to_json())
    return manifest


def _write_manifest(folder: Path, model: Model, files: Sequence[GraphFiles]) -> Manifest:
    """Writes vocabulary, card, samples and, last, the manifest that lists them; its self-test is still to come."""
    facts = {key: value for of_precision in files for key, value in of_precision.facts.items()}
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name=model.name,
        license=model.license,
        model=model.generator.spec,
        tokenizer=_write_tokenizer(folder, model.tokenizer, model.max_words),
        graphs=tuple(graph for of_precision in files for graph in of_precision.graphs),
        parity=tuple(entry for of_precision in files for entry in of_precision.parity),
        metrics=dict(model.metrics),
        provenance={**model.provenance, "data_license": model.data_license, **facts, "exported_with": VERSIONS},
    )
    names = [_CARD_NAME]
    if model.samples is not None:
        shutil.copyfile(model.samples, folder / _SAMPLES_NAME)
        names.append(_SAMPLES_NAME)
    known = {"words": len(model.tokenizer) - 1, "aliases": len(model.tokenizer.aliases)}
    card = model_card(manifest, **known, notes=model.notes, has_samples=model.samples is not None)
    (folder / _CARD_NAME).write_text(card, encoding="utf-8")
    manifest = manifest.__replace__(files=tuple(FileEntry.of(folder, name) for name in names))
    (folder / MANIFEST_NAME).write_bytes(manifest.to_json())
    return manifest


def _write_tokenizer(folder: Path, tokenizer: Tokenizer, max_words: int) -> TokenizerEntry:
    """Writes the vocabulary, and the aliases if there are any, into a bundle's folder."""
    (folder / VOCABULARY_NAME).write_bytes(tokenizer.to_json())
    entry = TokenizerEntry(file=FileEntry.of(folder, VOCABULARY_NAME), max_words=max_words)
    if not tokenizer.aliases:
        return entry
    (folder / ALIASES_NAME).write_bytes(aliases_to_json(tokenizer.aliases))
    return entry.__replace__(aliases=FileEntry.of(folder, ALIASES_NAME))


def _check_end_to_end(
    folder: Path,
    model: Model,
    precisions: Sequence[Precision],
    cases: Sequence[Case],
    report: Callable[[str], None],
    rounded: float | None,
) -> tuple[SelfTestEntry, dict[Arithmetic, float]]:
    """Opens the bundle as a user opens it and compares its images with PyTorch's.

    Returns:
        fp32's self-test, and of each precision the lowest PSNR of the largest images.
    """
    self_tests = {}
    quality: dict[Arithmetic, float] = {}
    for precision in precisions:
        report(f"checking the bundle from end to end in {precision}")
        with dmgan_runtime.Generator.open(folder, backend="onnxruntime", device="cpu", precision=precision) as bundle:
            allowed = rounded if precision == "fp32" else None
            quality[precision] = min(_check_case(bundle, case, precision, allowed) for case in cases)
            self_tests[precision] = make_self_test(bundle)
    return self_tests["fp32"], quality


def _calibration_cases(model: Model) -> list[Case]:
    """Runs the model in fp32, which is far closer than int8 can come, on captions of its training set."""
    graphs = build_graphs(model.text_encoder, model.generator, model.max_words)
    encodings = _encode_known(model)
    if len(encodings) < 2 * CALIBRATION_BATCH:
        raise ExportError(
            f"int8 is calibrated on at least {2 * CALIBRATION_BATCH} captions of the training set, and {model.name}"
            f" comes with {len(encodings)} that have a known word; export without --int8, or train with this version of"
            " dmgan"
        )
    cases = []
    for start in range(0, len(encodings) - CALIBRATION_BATCH + 1, CALIBRATION_BATCH):
        captions = Tokens.of(encodings[start : start + CALIBRATION_BATCH])
        cases.append(reference_case(graphs, captions, seed=start))
    return cases


def _encode_known(model: Model) -> list[Encoding]:
    """Encodes the captions that have a word of the vocabulary."""
    encodings = []
    for text in model.captions:
        with suppress(CaptionError):
            encodings.append(model.tokenizer.encode(text, model.max_words))
    return encodings


def _check_case(bundle: dmgan_runtime.Generator, case: Case, precision: Precision, rounded: float | None) -> float:
    """The PSNR of the largest images; those of every stage are checked."""
    inputs = (
        "text_encoder.tokens",
        "text_encoder.lengths",
        "generator_0.noise",
        "generator_0.condition_noise",
    )
    images = bundle.synthesize(*(case[name].numpy() for name in inputs)).images
    qualities = [
        check_images(image, case[f"generator_{stage}.image"].numpy(), precision, stage, rounded)
        for stage, image in enumerate(images.values())
    ]
    return qualities[-1]


def _pack(folder: Path, archive: Path) -> Path:
    # Stored, because weights do not compress, and so that a reader can seek in the file.
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as target:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            target.write(file, file.relative_to(folder).as_posix())
    return archive
