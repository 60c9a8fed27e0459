"""Makes a model to measure: weights, the bundle that is exported from them, and how much arithmetic its graphs have."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Literal

import click
import msgspec
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.contender import AS_WRITTEN, BenchmarkModel
from benchmarks.worker import call_in_worker
from dmgan_runtime.atomic import replacing
from dmgan_runtime.backends.base import generator_precisions, graphs_of
from dmgan_runtime.backends.built_engines import BatchProfile
from dmgan_runtime.backends.registry import installed_versions
from dmgan_runtime.bundle import Bundle
from dmgan_runtime.errors import DataError, DmganError, ExportError
from dmgan_runtime.manifest import MANIFEST_NAME, Precision, UpBlocks
from dmgan_runtime.tokenizer import PAD, Tokenizer
from dmgan_train.ema import settle_batch_norms
from dmgan_train.models import GeneratorNetwork, TextEncoder
from dmgan_train.run_folder import RunFolder
from dmgan_train.settings import resolve_settings
from export.bundle import Model, write_bundle
from export.mnn import build_mnn_engine
from export.onnx_file import quiet_exporter
from export.operations import count_operations
from export.sources import read_model
from export.tensorrt.bindings import ENGINES, open_bindings
from export.tensorrt.engines import BuildSettings, build_engine, engine_precisions

MODEL_NAME = "model.json"
VOCABULARY = 5450  # CUB's
_CAPTIONS = 32
_CALIBRATION_BATCHES = 8
_CALIBRATION_BATCH = 4
_LARGEST_BATCH = 64
_PRECISIONS: dict[str, Precision] = {"cpu": "int8", "cuda": "fp16"}
_UP_BLOCKS: dict[str, UpBlocks | Literal["auto"]] = {"cpu": "auto", "cuda": "transposed"}
_ROOT = Path(__file__).parent.parent
_SOURCES = (
    "export/**/*.py",
    "dmgan_train/models/*.py",
    "dmgan_train/ema.py",
    "dmgan_train/settings.py",
    "dmgan_train/presets/**/*.yaml",
    "dmgan_runtime/graphs.py",
    "dmgan_runtime/manifest.py",
    "benchmarks/building.py",
)


def prepare_model(preset: str, run: Path | None, bundle: Path | None, cache: Path, device: str) -> BenchmarkModel:
    """A model, made once and then kept.

    Args:
        preset: Random weights of the shape of a preset; not used if there is a run.
        run: A run folder of `dmgan_train`.
        bundle: The bundle that was exported from the run; None exports it.
        cache: Folder of the models that were made.
        device: fp16 graphs are made for a GPU, int8 graphs for a CPU.

    Raises:
        DmganError: if it cannot be made.
    """
    if bundle is not None and not (bundle / MANIFEST_NAME).is_file():
        raise DataError(f"{bundle}: is no bundle's folder; unpack it if it is a .zip")
    kind = device.partition(":")[0]
    name = run.resolve().name if run else preset
    folder = cache / f"{name}-{kind}-{_key(preset, run, bundle)[:12]}"
    if not (folder / MODEL_NAME).is_file():
        call_in_worker(build_model, name, run, bundle, folder, kind)
    if bundle is None:  # also of a model that was made before: there may be another engine now, or another GPU
        try:
            call_in_worker(_build_engines, folder / "bundle", kind)
        except DmganError as error:  # even a crash only costs the contenders that need them
            _report(f"without engines: {error}")
    return msgspec.json.decode((folder / MODEL_NAME).read_bytes(), type=BenchmarkModel)


def build_model(name: str, run: Path | None, bundle: Path | None, folder: Path, kind: str) -> None:
    """Writes a model into a folder, whole or not at all; without a run its name is the preset's."""
    quiet_exporter()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    model = read_model(RunFolder(run), "run", "-") if run else random_model(name)
    weights, states = folder / "weights.pt", {"text_encoder": model.text_encoder, "generator": model.generator}
    torch.save({part: network.state_dict() for part, network in states.items()}, weights)
    lacks = {} if bundle else _export(model, folder / "bundle", kind)
    bundle = bundle or folder / "bundle"
    made = BenchmarkModel(
        name=name,
        origin="trained" if run else "random",
        bundle=str(bundle),
        weights=str(weights),
        resolution=model.generator.spec.resolutions[-1],
        captions=model.captions,
        operations={AS_WRITTEN: count_as_written(model), **count_exported(bundle)},
        lacks=lacks,
    )
    with replacing(folder / MODEL_NAME) as scratch:
        scratch.write_bytes(msgspec.json.encode(made))


def random_model(preset: str) -> Model:
    """A model of a preset's shape with random weights, whose signals are as large as a trained one's.

    The BatchNorms know the statistics of what comes in; as they are initialised, an image would be nearly grey, and
    its PSNR would mean nothing.
    """
    settings = resolve_settings(preset)
    torch.manual_seed(0)
    spec, words = settings.model, settings.data.serving_words
    generator, text_encoder = GeneratorNetwork(spec), TextEncoder(VOCABULARY, spec).eval()

    def run() -> None:
        lengths = torch.randint(1, words + 1, (_CALIBRATION_BATCH,))
        text = text_encoder(torch.randint(1, VOCABULARY, (_CALIBRATION_BATCH, words)), lengths)
        noise = torch.randn(_CALIBRATION_BATCH, spec.noise_features)
        generator(text.sentence, text.words, lengths, noise, torch.randn(_CALIBRATION_BATCH, spec.condition_features))

    settle_batch_norms(generator, [run] * _CALIBRATION_BATCHES)
    return Model(
        name=f"{preset}-random",
        license="none: the weights are random",
        text_encoder=text_encoder,
        generator=generator,
        tokenizer=random_tokenizer(),
        max_words=words,
        captions=tuple(random_captions(words)),
    )


def random_tokenizer() -> Tokenizer:
    """The words of random captions."""
    return Tokenizer([PAD, *(f"word{index}" for index in range(1, VOCABULARY))])


def random_captions(words: int) -> list[str]:
    """Captions of six words up to the most."""
    random = torch.Generator().manual_seed(0)
    shortest = min(6, words)
    lengths = [shortest + index * 7 % (words + 1 - shortest) for index in range(_CAPTIONS)]
    drawn = [torch.randint(1, VOCABULARY, (length,), generator=random) for length in lengths]
    return [" ".join(f"word{token}" for token in tokens) for tokens in drawn]


def count_as_written(model: Model) -> dict[str, int]:
    """Operations of one image, by graph, before anything is rewritten: as PyTorch counts them."""
    spec = model.generator.spec
    lengths = torch.tensor([model.max_words])
    noise = torch.zeros(1, spec.noise_features), torch.zeros(1, spec.condition_features)
    with torch.inference_mode():
        with FlopCounterMode(display=False) as counter:
            text = model.text_encoder(torch.ones(1, model.max_words, dtype=torch.int64), lengths)
        counts, before = {"text_encoder": counter.get_total_flops()}, 0
        for stages, role in enumerate(spec.generator_roles, start=1):
            with FlopCounterMode(display=False) as counter:
                model.generator(text.sentence, text.words, lengths, *noise, stages)
            counts[role] = counter.get_total_flops() - before
            before += counts[role]
    return counts


def count_exported(folder: Path) -> dict[str, dict[str, int]]:
    """Operations of one image, by precision and graph, of a bundle's graphs."""
    with Bundle(folder) as bundle:
        precisions = generator_precisions(bundle)
        return {
            precision: {
                role: count_operations(folder / graph.file.path) for role, graph in graphs_of(bundle, precision).items()
            }
            for precision in precisions
        }


def _export(model: Model, bundle: Path, kind: str) -> dict[str, str]:
    """Writes the bundle, with what such a device has beside fp32 if the weights bear it; else returns why not."""
    precision, form = _PRECISIONS[kind], _UP_BLOCKS[kind]
    try:
        write_bundle(model, bundle, _report, [precision], form)
    except ExportError as error:
        _report(f"without {precision}: {error}")
        write_bundle(model, bundle, _report, (), form)
        return {precision: str(error)}
    return {}


def _build_engines(bundle: Path, kind: str) -> None:
    """Adds every engine that can be built here to a bundle."""
    if kind == "cpu":
        build_mnn_engine(bundle, None, _report)
        return
    with Bundle(bundle) as opened:
        precisions = engine_precisions(opened.manifest)
    profile = BatchProfile(min=1, opt=1, max=_LARGEST_BATCH)
    for name in ENGINES:
        try:
            bindings = open_bindings(name)
        except DmganError as error:
            _report(f"{name}: {error}")
            continue
        for precision in precisions:
            try:
                build_engine(bundle, bindings, BuildSettings(precision=precision, profile=profile), None, _report)
            except DmganError as error:
                _report(f"{name}, {precision}: {error}")


def _report(step: str) -> None:
    click.echo(f"{step} ...", err=True)


def _key(preset: str, run: Path | None, bundle: Path | None) -> str:
    """A digest of all that a model follows from: another export is another model."""
    versions = installed_versions(("torch", "onnx", "onnxruntime", "mnn"))
    digest = hashlib.sha256(repr((preset, run, bundle, versions)).encode())
    files = [file for pattern in _SOURCES for file in sorted(_ROOT.glob(pattern))]
    files += sorted(run.glob("*/checkpoint.pt")) if run else []
    files += [bundle / MANIFEST_NAME] if bundle else []
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()
