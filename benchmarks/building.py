"""Makes a subject: weights, the bundle that is exported from them, and how much arithmetic its graphs have."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import click
import msgspec
import torch
from torch import nn

from benchmarks.subject import SUBJECT_NAME, Subject, SubjectSource
from dmgan_runtime.backends.built_engines import BatchProfile
from dmgan_runtime.bundle import Bundle
from dmgan_runtime.errors import DmganError, ExportError
from dmgan_runtime.manifest import Precision
from dmgan_runtime.tokenizer import PAD, Tokenizer
from dmgan_train.models import GeneratorNetwork, TextEncoder
from dmgan_train.run_folder import RunFolder
from dmgan_train.settings import resolve_settings
from export.bundle import Model, write_bundle
from export.graphs import build_graphs
from export.mnn import build_mnn_engine
from export.onnx_file import quiet_exporter, write_onnx
from export.operations import count_operations
from export.sources import read_model
from export.tensorrt.bindings import ENGINES, open_bindings
from export.tensorrt.engines import BuildSettings, build_engine, engine_precisions

VOCABULARY = 5450  # CUB's
_CAPTIONS = 32
_CALIBRATION_BATCHES = 8
_CALIBRATION_BATCH = 4
_LARGEST_BATCH = 64
_PRECISIONS: dict[str, Precision] = {"cpu": "int8", "cuda": "fp16"}


def build_subject(source: SubjectSource, folder: Path, kind: str) -> None:
    """Writes a subject into a folder, whole or not at all.

    Args:
        source: Where the weights come from.
        folder: Where to.
        kind: `cpu` or `cuda`.

    Raises:
        DmganError: if it cannot be made.
    """
    quiet_exporter()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    model = read_model(RunFolder(Path(source.run)), "run", "-") if source.run else random_model(source.preset)
    weights = folder / "weights.pt"
    torch.save(
        {"text_encoder": model.text_encoder.state_dict(), "generator": model.generator.state_dict()},
        weights,
    )
    bundle = Path(source.bundle) if source.bundle else folder / "bundle"
    lacks = {} if source.bundle else _export(model, bundle, kind)
    subject = Subject(
        name=source.preset if source.run is None else Path(source.run).resolve().name,
        origin="trained" if source.run else "random",
        bundle=str(bundle),
        weights=str(weights),
        captions=model.captions,
        operations_as_written=_count_as_written(model),
        operations=_count(bundle),
        lacks=lacks,
    )
    (folder / SUBJECT_NAME).write_bytes(msgspec.json.encode(subject))


def random_model(preset: str) -> Model:
    """A model of a preset's shape with random weights, whose signals are as large as a trained one's.

    The BatchNorms know the statistics of what comes in; as they are initialised, an image would be nearly grey, and
    its PSNR would say nothing.
    """
    settings = resolve_settings(preset)
    torch.manual_seed(0)
    spec, words = settings.model, settings.data.serving_words
    generator, text_encoder = GeneratorNetwork(spec), TextEncoder(VOCABULARY, spec).eval()
    tokenizer = Tokenizer([PAD, *(f"word{index}" for index in range(1, VOCABULARY))])
    norms = [module for module in generator.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean of all batches
    generator.train()
    with torch.inference_mode():
        for _ in range(_CALIBRATION_BATCHES):
            lengths = torch.randint(1, words + 1, (_CALIBRATION_BATCH,))
            text = text_encoder(torch.randint(1, VOCABULARY, (_CALIBRATION_BATCH, words)), lengths)
            noise = torch.randn(_CALIBRATION_BATCH, spec.noise_features)
            condition_noise = torch.randn(_CALIBRATION_BATCH, spec.condition_features)
            generator(text.sentence, text.words, lengths, noise, condition_noise)
    return Model(
        name=f"{preset}-random",
        license="none: the weights are random",
        text_encoder=text_encoder,
        generator=generator.eval(),
        tokenizer=tokenizer,
        max_words=words,
        captions=tuple(random_captions(words)),
    )


def random_captions(words: int) -> list[str]:
    """Captions of six words up to the most, of the random model's vocabulary."""
    random = torch.Generator().manual_seed(0)
    shortest = min(6, words)
    captions = []
    for index in range(_CAPTIONS):
        length = shortest + index * 7 % (words + 1 - shortest)
        tokens = torch.randint(1, VOCABULARY, (length,), generator=random)
        captions.append(" ".join(f"word{token}" for token in tokens))
    return captions


def _export(model: Model, bundle: Path, kind: str) -> dict[str, str]:
    """Writes the bundle, with what such a device has beside fp32 if the weights bear it; else says why not."""
    precision = _PRECISIONS[kind]
    try:
        write_bundle(model, bundle, _report, [precision])
    except ExportError as error:
        _report(f"without {precision}: {error}")
        write_bundle(model, bundle, _report)
        return {precision: str(error)}
    return {}


def add_engines(bundle: Path, kind: str) -> None:
    """Adds every engine that can be built here for `cpu` or `cuda` to a bundle; says which cannot, and why."""
    if kind == "cpu":
        try:
            build_mnn_engine(bundle, None, _report)
        except DmganError as error:
            _report(f"mnn: {error}")
        return
    with Bundle(bundle) as opened:
        precisions = engine_precisions(opened.manifest)
    settings = [
        BuildSettings(precision=precision, profile=BatchProfile(min=1, opt=1, max=_LARGEST_BATCH))
        for precision in precisions
    ]
    for name in ENGINES:
        try:
            bindings = open_bindings(name)
            for each in settings:
                build_engine(bundle, bindings, each, None, _report)
        except DmganError as error:
            _report(f"{name}: {error}")


def _report(step: str) -> None:
    click.echo(f"{step} ...", err=True)


def _count_as_written(model: Model) -> dict[str, int]:
    """Operations of an image, by graph, before anything is rewritten."""
    counts: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as place:
        for role, graph in build_graphs(model.text_encoder, model.generator, model.max_words).items():
            write_onnx(graph, Path(place) / "graph.onnx")
            counts[role] = count_operations(Path(place) / "graph.onnx")
    return counts


def _count(folder: Path) -> dict[str, int]:
    with Bundle(folder) as bundle:
        paths = [graph.file.path for graph in bundle.manifest.graphs]
    return {path: count_operations(folder / path) for path in paths}
