"""A bundle's graphs to a folder of TensorRT plans, whole or not at all, and never silently stale."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dmgan_runtime.bundle import Bundle
from dmgan_runtime.engine_manifest import (
    ENGINE_MANIFEST_NAME,
    ENGINES_FOLDER,
    SCHEMA_VERSION,
    BatchProfile,
    EngineManifest,
    HardwareCompatibility,
    PlanEntry,
    parse_engine_manifest,
)
from dmgan_runtime.errors import BackendError, BundleError
from dmgan_runtime.manifest import GENERATOR_ROLES, ROLES, FileEntry, GraphEntry, Manifest, Precision
from export.staging import put_in_place, workshop
from export.tensorrt.bindings import Bindings
from export.tensorrt.builder import PlanBuilder

DEFAULT_PROFILE = BatchProfile(min=1, opt=4, max=16)
# Half the memory traffic first, then what every bundle has; int8 only if it is asked for.
_AUTO_PRECISIONS: tuple[Precision, ...] = ("fp16", "fp32")


@dataclass(frozen=True)
class EngineSettings:
    """What to build.

    Attributes:
        precision: Of the generators; the text encoder is taken in it too if the bundle has it so, else in fp32.
        profile: The batches.
        version_compatible: Whether later versions of the same major version shall load the plans.
        hardware_compatibility: Which other GPUs shall load them.
        targets: Compute capabilities to build for; see `Bindings.target`.
        timing_cache: A file that is read, if it is there, and written; None for none.
    """

    precision: Precision
    profile: BatchProfile = DEFAULT_PROFILE
    version_compatible: bool = False
    hardware_compatibility: HardwareCompatibility = "none"
    targets: tuple[int, ...] = ()
    timing_cache: Path | None = None


@dataclass(frozen=True)
class EngineFolder:
    """A finished engine.

    Attributes:
        path: Its folder.
        manifest: Its engine.json.
        is_new: Whether it was built just now; else it was there, and every hash was right.
    """

    path: Path
    manifest: EngineManifest
    is_new: bool


def engine_precisions(manifest: Manifest) -> tuple[Precision, ...]:
    """The precisions that a bundle has all generators in, the one that `auto` means first."""
    present = [
        precision
        for precision in (*_AUTO_PRECISIONS, "int8")
        if all(manifest.graph(role, precision) is not None for role in GENERATOR_ROLES)
    ]
    return tuple(present)


def build_engine(
    bundle: Path,
    bindings: Bindings,
    settings: EngineSettings,
    output: Path | None,
    report: Callable[[str], None],
) -> EngineFolder:
    """Builds every graph of a bundle in one precision.

    Args:
        bundle: A folder; or a .zip if `output` is given.
        bindings: The engine.
        settings: What to build.
        output: Where to put the engine's folder; None is `engines` in the bundle.
        report: Told each step as it begins or ends.

    Returns:
        The folder. If the same engine is there already, it is checked and kept.

    Raises:
        BackendError: if a GPU is needed and there is none.
        BundleError: if there is no such bundle, a graph is missing or is not the one that was exported, or another
            engine lies under the same name.
        EngineError: if TensorRT cannot parse or build a graph; nothing is left behind.
        SettingsError: if the engine cannot do what was asked.
    """
    with Bundle(bundle) as source:
        graphs = _graphs(source, settings.precision)
        if output is None and not bundle.is_dir():
            raise BundleError(
                f"{bundle}: engines are put into a bundle's folder, and this is a .zip; unpack it, or pass --output"
            )
        wanted = _wanted(bindings, settings)
        folder = (output or bundle / ENGINES_FOLDER) / wanted.folder
        if folder.exists():
            return EngineFolder(folder, _check_existing(folder, wanted, source.manifest), is_new=False)
        with workshop(folder) as unfinished:
            if folder.exists():  # another process built it until the lock was had
                return EngineFolder(folder, _check_existing(folder, wanted, source.manifest), is_new=False)
            builder = PlanBuilder(bindings, wanted, _read_cache(settings.timing_cache))
            manifest = _fill(unfinished, source, graphs, builder, report)
            put_in_place(unfinished, folder)
        if settings.timing_cache is not None:
            _write_cache(settings.timing_cache, builder.timing_cache())
    return EngineFolder(folder, manifest, is_new=True)


def _wanted(bindings: Bindings, settings: EngineSettings) -> EngineManifest:
    """What will be built, without its plans."""
    target = bindings.target(settings.targets)
    wanted = EngineManifest(
        schema_version=SCHEMA_VERSION,
        engine=bindings.name,
        version=bindings.version,
        compute_capabilities=target.compute_capabilities,
        device=target.device,
        precision=settings.precision,
        profile=settings.profile,
        version_compatible=settings.version_compatible,
        hardware_compatibility=settings.hardware_compatibility,
        plans=(),
    )
    bindings.check_switches(wanted, timing_cache=settings.timing_cache is not None)
    return wanted


def _graphs(bundle: Bundle, precision: Precision) -> list[GraphEntry]:
    present = engine_precisions(bundle.manifest)
    if precision not in present:
        raise BundleError(
            f"{bundle.path}: has no generators in {precision}, but in {', '.join(present) or 'nothing'}; choose"
            f" another --precision, or export the bundle again with --{precision}"
        )
    graphs = [bundle.manifest.graph(role, precision) for role in ROLES]
    graphs[0] = graphs[0] or bundle.manifest.graph("text_encoder", "fp32")
    found = [graph for graph in graphs if graph is not None]
    if len(found) < len(ROLES):
        raise BundleError(f"{bundle.path}: has no text encoder in {precision} or fp32; export the bundle again")
    return found


def _fill(
    unfinished: Path, bundle: Bundle, graphs: list[GraphEntry], builder: PlanBuilder, report: Callable[[str], None]
) -> EngineManifest:
    # All are proven before the first is built: building takes minutes.
    contents = [_content(bundle, graph) for graph in graphs]
    plans = []
    for graph, content in zip(graphs, contents, strict=True):
        report(f"building {graph.role} in {graph.precision} ...")
        begin = time.perf_counter()
        name = f"{graph.role}.plan"
        plan = builder.build(content, f"{bundle.path}/{graph.file.path}")
        (unfinished / name).write_bytes(plan)
        report(f"{name}: {plan.nbytes / 1e6:,.1f} MB in {time.perf_counter() - begin:.1f} s")
        file = FileEntry.of(unfinished, name)
        plans.append(PlanEntry(role=graph.role, precision=graph.precision, file=file, onnx_sha256=graph.file.sha256))
    manifest = builder.engine.__replace__(plans=tuple(plans))
    (unfinished / ENGINE_MANIFEST_NAME).write_bytes(manifest.to_json())
    return manifest


def _content(bundle: Bundle, graph: GraphEntry) -> bytes:
    content = bundle.read(graph.file)
    if graph.precision != "int8":
        return content
    try:
        # Here, because nothing else that builds engines needs onnx.
        from export.tensorrt.integers import signed_graph
    except ImportError as error:
        raise BackendError(
            f'an int8 engine needs onnx ({error}); install it with: pip install "dmgan[export]"'
        ) from error
    return signed_graph(content)


def _check_existing(folder: Path, wanted: EngineManifest, bundle: Manifest) -> EngineManifest:
    """The manifest of an engine that is there already, if it is in every respect what would be built."""
    remedy = "remove that folder to build it again"
    file = folder / ENGINE_MANIFEST_NAME
    if not file.is_file():
        raise BundleError(f"{folder}: exists and has no {ENGINE_MANIFEST_NAME}; {remedy}")
    found = parse_engine_manifest(file.read_bytes(), str(file))
    if found.__replace__(plans=()) != wanted:
        raise BundleError(f"{folder}: exists and was built with other settings or on another GPU; {remedy}")
    if not found.is_of(bundle):
        raise BundleError(f"{folder}: stale: not built from the ONNX files that the bundle has now; {remedy}")
    if [plan.role for plan in found.plans] != list(ROLES):
        raise BundleError(f"{folder}: has not one plan for each graph; {remedy}")
    for plan in found.plans:
        if not (folder / plan.file.path).is_file() or FileEntry.of(folder, plan.file.path) != plan.file:
            raise BundleError(f"{folder / plan.file.path}: missing, damaged or replaced; {remedy}")
    return found


def _read_cache(file: Path | None) -> bytes | None:
    if file is None:
        return None
    return file.read_bytes() if file.exists() else b""


def _write_cache(file: Path, content: bytes) -> None:
    partial = file.with_name(f".{file.name}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
