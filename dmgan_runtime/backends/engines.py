"""Which of the engines that lie in a bundle can be loaded here."""

from __future__ import annotations

from typing import NamedTuple

from dmgan_runtime.bundle import MAX_MANIFEST_BYTES, Bundle
from dmgan_runtime.engine_manifest import (
    ENGINE_MANIFEST_NAME,
    ENGINES_FOLDER,
    PLANNED_ROLES,
    EngineManifest,
    EngineName,
    PlanEntry,
    parse_engine_manifest,
)
from dmgan_runtime.errors import BackendError, BundleError
from dmgan_runtime.manifest import FileEntry, Precision, stays_inside

_PRECISIONS: tuple[Precision, ...] = ("fp16", "fp32", "int8")


class FoundEngine(NamedTuple):
    """An engine that fits.

    Attributes:
        folder: Its folder, relative to the bundle.
        manifest: Its engine.json.
    """

    folder: str
    manifest: EngineManifest

    def read(self, bundle: Bundle, plan: PlanEntry) -> bytes:
        """A plan, after its size and SHA-256 were checked.

        Raises:
            BundleError: if it is missing, cannot be read, or is not the one that was built.
        """
        file = plan.file
        return bundle.read(FileEntry(path=f"{self.folder}/{file.path}", bytes=file.bytes, sha256=file.sha256))


def find_engine(
    bundle: Bundle,
    engine: EngineName,
    version: str,
    compute_capability: int | None,
    precision: str,
    host_code: bool = False,
) -> FoundEngine:
    """The best engine of a bundle for this machine: the first precision of fp16, fp32, int8, then the largest batch.

    Args:
        bundle: An open bundle.
        engine: The engine at hand.
        version: Its version in full.
        compute_capability: The GPU's, for example 89; None for a CPU.
        precision: "auto" or a precision.
        host_code: Whether a plan may bring code for the CPU.

    Raises:
        BackendError: if none fits; the message says why not of each, and how to build one.
    """
    fitting: list[FoundEngine] = []
    obstacles: list[str] = []
    for folder in _folders(bundle, obstacles):
        try:
            manifest = _read_manifest(bundle, folder)
        except BundleError as error:
            obstacles.append(f"{folder} is no engine: {error}")
            continue
        obstacle = (
            manifest.obstacle(engine, version, compute_capability)
            or _obstacle(manifest, bundle, precision)
            or (None if host_code else _host_code(manifest))
        )
        if obstacle is None:
            fitting.append(FoundEngine(folder, manifest))
        else:
            obstacles.append(f"{folder} is {obstacle}")
    if not fitting:
        wanted = "" if precision == "auto" else f" --precision {precision}"
        device = "the CPU" if compute_capability is None else f"sm_{compute_capability}"
        raise BackendError(
            f"{bundle.path} has no engine for {engine} {version} on {device}"
            f" ({'; '.join(obstacles) or 'none at all'}); build one with: dmgan-export build-engine {bundle.path}"
            f" --engine {engine}{wanted}"
        )
    return min(fitting, key=_rank)


def _rank(found: FoundEngine) -> tuple[int, int]:
    profile = found.manifest.profile
    return _PRECISIONS.index(found.manifest.precision), 0 if profile is None else -profile.max


def _folders(bundle: Bundle, obstacles: list[str]) -> list[str]:
    """The folders that may hold an engine. Nothing that lies there makes the bundle itself unreadable."""
    try:
        names = bundle.folders(ENGINES_FOLDER)
    except BundleError as error:
        obstacles.append(str(error))
        return []
    # Hidden: what a build that was cut off has left, and what file managers leave.
    return [f"{ENGINES_FOLDER}/{name}" for name in names if not name.startswith(".")]


def _read_manifest(bundle: Bundle, folder: str) -> EngineManifest:
    where = f"{bundle.path}/{folder}"
    if not stays_inside(folder):
        raise BundleError(f"{where}: a name that no engine's folder has; rename it, or remove it")
    content = bundle.read_unlisted(f"{folder}/{ENGINE_MANIFEST_NAME}", MAX_MANIFEST_BYTES)
    return parse_engine_manifest(content, f"{where}/{ENGINE_MANIFEST_NAME}")


def _host_code(manifest: EngineManifest) -> str | None:
    """A version compatible plan brings the runtime that it was built with, and no hash in the bundle vouches for it."""
    if not manifest.version_compatible:
        return None
    return (
        "built for later versions too, so it holds code for the CPU, which 'auto' does not run; if you trust where it"
        f" came from, pass backend={manifest.engine!r}"
    )


def _obstacle(manifest: EngineManifest, bundle: Bundle, precision: str) -> str | None:
    if precision not in ("auto", manifest.precision):
        return f"built in {manifest.precision}, and {precision} is asked for"
    if not manifest.is_of(bundle.manifest):
        return "stale, remove it: its plans come from other ONNX files than those in the bundle"
    if missing := [role for role in PLANNED_ROLES[manifest.engine] if manifest.plan(role) is None]:
        return f"not whole: it has no plan for {', '.join(missing)}"
    if manifest.profile is not None and manifest.profile.min > 1:
        return f"built for batches from {manifest.profile.min}, and a single image is a batch of 1"
    return None
