"""The bundle as it travels to browsers: fp32 graphs alone, their weights in fp16 where no picture shows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dmgan_runtime import Generator
from dmgan_runtime.backends.base import graphs_of
from dmgan_runtime.bundle import Bundle
from dmgan_runtime.manifest import MANIFEST_NAME, SCHEMA_VERSION, FileEntry, Manifest
from dmgan_runtime.noise import draw_noise
from dmgan_runtime.quality import decibels, psnr
from dmgan_runtime.self_test import run_self_test
from export.half_weights import REQUIRED_PSNR, STORED_IN_HALF, store_in_half

_IMAGES = 32
_BATCH = 4


class WireBundle(NamedTuple):
    """What became of a bundle.

    Attributes:
        bytes: Of its files.
        psnr: Of the worst image with weights in fp16, against fp32, in dB (if they were so already, what the export
            came to); None if they stay in fp32.
    """

    bytes: int
    psnr: float | None


def write_wire_bundle(path: Path, folder: Path, report: Callable[[str], None]) -> WireBundle:
    """Writes the bundle that browsers fetch, and generates its self-test.

    Args:
        path: A bundle, a folder or .zip.
        folder: Where to; a new folder.
        report: Told each step as it begins.

    Raises:
        BundleError: if the bundle is damaged, or a graph is not there in fp32.
        EngineError: if the new bundle does not generate what the old one did.
        OSError: if the disk is full.
    """
    folder.mkdir()
    with Bundle(path) as bundle:
        manifest = bundle.manifest
        graphs = list(graphs_of(bundle, "fp32").values())
        cards = [entry for entry in manifest.files if entry.path.lower().endswith(".md")]
        contents = {entry.file.path: bundle.read(entry.file) for entry in graphs}
        _write_all(folder, {entry.path: bundle.read(entry) for entry in (*manifest.tokenizer.files, *cards)})
    manifest = manifest.__replace__(schema_version=SCHEMA_VERSION, graphs=tuple(graphs), files=tuple(cards))
    if STORED_IN_HALF in manifest.provenance:
        _write_all(folder, contents)
        quality = manifest.image_psnr_db.get("fp32", manifest.provenance[STORED_IN_HALF])
    else:
        report("storing weights in fp16")
        manifest = _in_half(folder, manifest, path, contents, report)
        quality = manifest.provenance.get(STORED_IN_HALF)
    (folder / MANIFEST_NAME).write_bytes(manifest.to_json())
    with Generator.open(folder, backend="onnxruntime", device="cpu") as generator:
        run_self_test(generator)
    size = sum(entry.bytes for entry in manifest.every_file) + (folder / MANIFEST_NAME).stat().st_size
    return WireBundle(size, quality)


def _in_half(
    folder: Path, manifest: Manifest, path: Path, contents: Mapping[str, bytes], report: Callable[[str], None]
) -> Manifest:
    """Stores the weights in fp16 if the images stay near enough to those of the bundle at `path`, or else as before."""
    _write_all(folder, {name: store_in_half(content) for name, content in contents.items()})
    graphs = tuple(graph.__replace__(file=FileEntry.of(folder, graph.file.path)) for graph in manifest.graphs)
    # The measurements against PyTorch were of the other files.
    halved = manifest.__replace__(graphs=graphs, parity=(), image_psnr_db={})
    (folder / MANIFEST_NAME).write_bytes(halved.to_json())
    report("comparing its images with those of fp32")
    worst = _worst_psnr(path, folder)
    if worst >= REQUIRED_PSNR:
        return halved.__replace__(provenance={**manifest.provenance, STORED_IN_HALF: round(worst, 1)})
    report(f"{decibels(worst)}, and {REQUIRED_PSNR:.0f} are needed: the weights stay in fp32")
    _write_all(folder, contents)
    return manifest


def _write_all(folder: Path, contents: Mapping[str, bytes]) -> None:
    for name, content in contents.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def _worst_psnr(path: Path, changed: Path) -> float:
    """The PSNR of the worst image, over random words in captions of every length, and every stage."""
    with (
        Generator.open(path, backend="onnxruntime", device="cpu", precision="fp32") as expected,
        Generator.open(changed, backend="onnxruntime", device="cpu", precision="fp32") as actual,
    ):
        words, model = expected.manifest.tokenizer.max_words, expected.manifest.model
        random = np.random.default_rng(0)
        worst = np.inf
        for first in range(0, _IMAGES, _BATCH):
            seeds = range(first, first + _BATCH)
            lengths = np.arange(first, first + _BATCH) % words + 1
            tokens = random.integers(1, len(expected.tokenizer), (_BATCH, words)) * (
                np.arange(words) < lengths[:, None]
            )
            noises = draw_noise(seeds, model.noise_features, model.condition_features)
            was, now = (each.synthesize(tokens, lengths, *noises).images for each in (expected, actual))
            for side, images in was.items():
                worst = min(worst, *map(psnr, now[side], images))
    return float(worst)
