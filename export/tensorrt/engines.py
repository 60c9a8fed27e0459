"""Builds a folder of TensorRT plans from a bundle's graphs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dmgan_runtime.atomic import replacing
from dmgan_runtime.backends.base import read_graph
from dmgan_runtime.backends.built_engines import (
    ENGINE_SCHEMA_VERSION,
    BatchProfile,
    EngineManifest,
    HardwareCompatibility,
)
from dmgan_runtime.bundle import Bundle
from dmgan_runtime.errors import BackendError, BundleError
from dmgan_runtime.manifest import GraphEntry, Manifest, Precision
from export.engine_folder import EngineFolder, EngineRecipe, Report, make_engine_folder
from export.tensorrt.bindings import Bindings
from export.tensorrt.builder import PlanBuilder

DEFAULT_PROFILE = BatchProfile(min=1, opt=4, max=16)
# Half the memory traffic first, then what every bundle has; int8 only if it is asked for.
_AUTO_PRECISIONS: tuple[Precision, ...] = ("fp16", "fp32")


@dataclass(frozen=True)
class BuildSettings:
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


def engine_precisions(manifest: Manifest) -> tuple[Precision, ...]:
    """Lists the precisions in which a bundle has all generators, the one that `auto` means first."""
    present = [
        precision
        for precision in (*_AUTO_PRECISIONS, "int8")
        if all(manifest.graph(role, precision) is not None for role in manifest.model.generator_roles)
    ]
    return tuple(present)


def build_engine(
    bundle: Path, bindings: Bindings, settings: BuildSettings, output: Path | None, report: Report
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
    builders: list[PlanBuilder] = []

    def new_builder() -> PlanBuilder:
        builders.append(PlanBuilder(bindings, wanted, _read_cache(settings.timing_cache)))
        return builders[0]

    with Bundle(bundle) as source:
        graphs = _graphs(source, settings.precision)
        wanted = _wanted(bindings, settings)
        recipe = EngineRecipe(
            wanted=wanted,
            graphs=graphs,
            suffix="plan",
            new_builder=new_builder,
            read=lambda graph: _content(source, graph),
        )
        made = make_engine_folder(source, recipe, output, report)
    if builders and settings.timing_cache is not None:
        with replacing(settings.timing_cache) as scratch:
            scratch.write_bytes(builders[0].timing_cache())
    return made


def _wanted(bindings: Bindings, settings: BuildSettings) -> EngineManifest:
    """Describes what will be built, without its plans."""
    target = bindings.target(settings.targets)
    wanted = EngineManifest(
        schema_version=ENGINE_SCHEMA_VERSION,
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
    present, roles = engine_precisions(bundle.manifest), bundle.manifest.model.roles
    if precision not in present:
        raise BundleError(
            f"{bundle.path}: has no generators in {precision}, but in {', '.join(present) or 'nothing'}; choose"
            f" another --precision, or export the bundle again with --{precision}"
        )
    graphs = [bundle.manifest.graph(role, precision) for role in roles]
    graphs[0] = graphs[0] or bundle.manifest.graph("text_encoder", "fp32")
    found = [graph for graph in graphs if graph is not None]
    if len(found) < len(roles):
        raise BundleError(f"{bundle.path}: has no text encoder in {precision} or fp32; export the bundle again")
    return found


def _content(bundle: Bundle, graph: GraphEntry) -> bytes:
    content = read_graph(bundle, graph)
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


def _read_cache(file: Path | None) -> bytes | None:
    if file is None:
        return None
    return file.read_bytes() if file.exists() else b""
