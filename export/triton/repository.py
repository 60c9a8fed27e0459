"""Makes a model repository of a bundle, whole or not at all."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tritonclient.grpc.model_config_pb2 import ModelConfig

from dmgan_runtime.backends.base import check_precision, choose_precision, graphs_of, read_graph
from dmgan_runtime.backends.built_engines import (
    ENGINE_MANIFEST_NAME,
    engine_folders,
    parse_engine_manifest,
    read_engine,
)
from dmgan_runtime.backends.registry import find_engine_row
from dmgan_runtime.bundle import MAX_MANIFEST_BYTES, Bundle
from dmgan_runtime.errors import BundleError, SettingsError
from dmgan_runtime.graphs import graph_interfaces
from dmgan_runtime.manifest import MANIFEST_NAME, FileEntry, Role
from dmgan_train.staging import move_into_place, staging_folder
from export.triton.config import (
    LENGTHS_FILE,
    GraphBackend,
    Placement,
    ensemble_config,
    graph_config,
    graph_name,
    python_config,
    to_text,
)

_GRAPH_FILES = {"onnxruntime": "model.onnx", "tensorrt": "model.plan"}
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)


def write_python_repository(
    bundle: Path,
    output: Path,
    placement: Placement,
    *,
    name: str | None = None,
    backend: str = "auto",
    precision: str = "auto",
    stream: bool = True,
) -> str:
    """Writes a repository of one model: a copy of the bundle, and the Python that serves it through dmgan_runtime.

    Args:
        bundle: A folder or a .zip; the engines in a folder are copied as well.
        output: The repository, a new folder.
        placement: Where the model runs.
        name: The model's; None is the bundle's.
        backend: As `Generator.open` takes it, when Triton loads the model.
        precision: Likewise; the bundle must have it.
        stream: Whether a request may have a response for each stage. Plain `infer` does not take such a model.

    Returns:
        The model's name.

    Raises:
        BackendError: if the bundle does not have the precision.
        BundleError: if there is no such bundle, a file is not the one that was exported, or the repository exists.
        SettingsError: if Triton cannot have a model of that name.
        OSError: if the disk is full; nothing is left behind.
    """
    with Bundle(bundle) as source, _new_repository(output) as folder:
        check_precision(source, precision)
        name = _check_name(source, name)
        version = _add_model(folder, python_config(name, placement, backend, precision, stream))
        shutil.copyfile(Path(__file__).with_name("model.py"), version / "model.py")
        _copy_bundle(source, version / "bundle")
    return name


def write_onnx_repository(
    bundle: Path, output: Path, placement: Placement, *, name: str | None = None, precision: str = "auto"
) -> str:
    """Writes a repository of the bundle's graphs for Triton's ONNX Runtime, and an ensemble of them.

    Args:
        bundle: A folder or a .zip.
        output: The repository, a new folder.
        placement: Where the graphs run.
        name: The ensemble's, with which those of the graphs begin; None is the bundle's.
        precision: Of the generators; "auto" is fp16 on a GPU if the bundle has it, and fp32 elsewhere.

    Returns:
        The ensemble's name.

    Raises:
        BackendError, BundleError, SettingsError, OSError: as `write_python_repository`.
        EngineError: if a graph is no file that `dmgan-export` may have written.
    """
    with Bundle(bundle) as source, _new_repository(output) as folder:
        check_precision(source, precision)
        row = find_engine_row("onnxruntime", "cuda" if placement.device == "gpu" else "cpu")
        chosen = choose_precision(source, precision, row.precisions, f"onnxruntime on the {placement.device}")
        graphs = graphs_of(source, chosen)
        contents = {role: read_graph(source, graph) for role, graph in graphs.items()}
        name = _check_name(source, name)
        _add_graphs(folder, source, name, "onnxruntime", contents, placement)
    return name


def write_tensorrt_repository(
    bundle: Path, output: Path, placement: Placement, engine: Path, *, name: str | None = None
) -> str:
    """Writes a repository of the plans of an engine for Triton's TensorRT, and an ensemble of them.

    Args:
        bundle: A folder or a .zip.
        output: The repository, a new folder.
        placement: Where the plans run: on GPUs.
        engine: The engine's folder, as `dmgan-export build-engine --engine tensorrt` names it.
        name: The ensemble's, with which those of the graphs begin; None is the bundle's.

    Returns:
        The ensemble's name.

    Raises:
        BundleError, SettingsError, OSError: as `write_python_repository`; BundleError also if the engine is of another
            kind or another bundle, takes fewer images at once than `placement.max_batch`, or is damaged.
    """
    with Bundle(bundle) as source, _new_repository(output) as folder:
        contents = _read_plans(source, engine, placement.max_batch)
        name = _check_name(source, name)
        _add_graphs(folder, source, name, "tensorrt", contents, placement)
    return name


@contextmanager
def _new_repository(output: Path) -> Iterator[Path]:
    """Makes a folder that appears at `output` at the end of the block."""
    if output.exists():
        raise BundleError(f"{output}: exists already; remove it, or choose another name (Triton takes several folders)")
    with staging_folder(output) as unfinished:
        yield unfinished
        move_into_place(unfinished, output)


def _check_name(source: Bundle, asked: str | None) -> str:
    name = asked or source.manifest.name
    if not _NAME.fullmatch(name):
        raise SettingsError(
            f"the name {name!r} cannot be a model's in Triton, since it is a folder's and a part of URLs; pass --name"
            " with ASCII letters, digits, '.', '_' and '-'"
        )
    return name


def _add_model(folder: Path, config: ModelConfig) -> Path:
    """Adds a model, and returns the folder of its only version."""
    version = folder / config.name / "1"
    version.mkdir(parents=True)
    (folder / config.name / "config.pbtxt").write_text(to_text(config), encoding="utf-8")
    return version


def _copy_bundle(source: Bundle, target: Path) -> None:
    """Copies a bundle, every file of which is proven on the way."""
    target.mkdir()
    (target / MANIFEST_NAME).write_bytes(source.read_unlisted(MANIFEST_NAME, MAX_MANIFEST_BYTES))
    for entry in source.manifest.every_file:
        file = target / entry.path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(source.read(entry))
    for folder in engine_folders(source):
        engine, content = read_engine(source, folder)
        if not engine.manifest.is_of(source.manifest):  # which nobody would load
            continue
        (target / folder).mkdir(parents=True)
        (target / folder / ENGINE_MANIFEST_NAME).write_bytes(content)
        for plan in engine.manifest.plans:
            (target / folder / plan.file.path).write_bytes(engine.read(source, plan))


def _add_graphs(
    folder: Path,
    source: Bundle,
    name: str,
    backend: GraphBackend,
    contents: Mapping[Role, bytes],
    placement: Placement,
) -> None:
    """Adds a model for each graph, and the ensemble."""
    interfaces = graph_interfaces(source.manifest.model, source.manifest.tokenizer.max_words)
    for role, interface in interfaces.items():
        version = _add_model(folder, graph_config(graph_name(name, role), backend, interface, placement))
        (version / _GRAPH_FILES[backend]).write_bytes(contents[role])
        if any(entry.name == "lengths" for entry in interface.inputs):
            warm_up = version.parent / "warmup"
            warm_up.mkdir()
            (warm_up / LENGTHS_FILE).write_bytes(np.array([1], dtype="<i8").tobytes())
    _add_model(folder, ensemble_config(name, interfaces, placement.max_batch))


def _read_plans(source: Bundle, engine: Path, max_batch: int) -> dict[Role, bytes]:
    """The plans of an engine, after everything was checked that can be without TensorRT."""
    file = engine / ENGINE_MANIFEST_NAME
    if not file.is_file():
        raise BundleError(f"{engine}: no engine; pass the folder that dmgan-export build-engine names")
    manifest = parse_engine_manifest(file.read_bytes(), str(file))
    remedy = f"build one with: dmgan-export build-engine {source.path} --engine tensorrt --max-batch {max_batch}"
    if manifest.engine != "tensorrt" or manifest.profile is None:
        raise BundleError(f"{engine}: built by {manifest.engine}, and Triton has TensorRT; {remedy}")
    if not manifest.is_of(source.manifest):
        raise BundleError(f"{engine}: not built from the ONNX files that the bundle has now; {remedy}")
    if manifest.profile.min > 1 or manifest.profile.max < max_batch:
        raise BundleError(
            f"{engine}: takes batches from {manifest.profile.min} to {manifest.profile.max}, and those from 1 to"
            f" {max_batch} are asked for; pass another --max-batch, or {remedy}"
        )
    contents = {}
    for role in source.manifest.model.roles:
        plan = manifest.plan(role)
        if plan is None:
            raise BundleError(f"{engine}: has no plan of {role}; {remedy}")
        if not (engine / plan.file.path).is_file() or FileEntry.of(engine, plan.file.path) != plan.file:
            raise BundleError(f"{engine / plan.file.path}: missing, damaged or replaced; {remedy}")
        contents[role] = (engine / plan.file.path).read_bytes()
    return contents
