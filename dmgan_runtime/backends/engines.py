"""Which of the TensorRT engines that lie in a bundle can be loaded here."""

from __future__ import annotations

from typing import NamedTuple

from dmgan_runtime.bundle import MAX_MANIFEST_BYTES, Bundle
from dmgan_runtime.engine_manifest import (
    ENGINE_MANIFEST_NAME,
    ENGINES_FOLDER,
    EngineManifest,
    EngineName,
    PlanEntry,
    parse_engine_manifest,
)
from dmgan_runtime.errors import BackendError
from dmgan_runtime.manifest import ROLES, FileEntry, Precision

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
    bundle: Bundle, engine: EngineName, version: str, compute_capability: int, precision: str
) -> FoundEngine:
    """The best engine of a bundle for this machine: the first precision of fp16, fp32, int8, then the largest batch.

    Args:
        bundle: An open bundle.
        engine: The Python module at hand.
        version: Its version in full.
        compute_capability: The GPU's, for example 89.
        precision: "auto" or a precision.

    Raises:
        BackendError: if none fits; the message says why not of each, and how to build one.
        BundleError: if an engine.json is damaged.
    """
    fitting: list[FoundEngine] = []
    obstacles: list[str] = []
    for name in bundle.folders(ENGINES_FOLDER):
        folder = f"{ENGINES_FOLDER}/{name}"
        content = bundle.read_unlisted(f"{folder}/{ENGINE_MANIFEST_NAME}", MAX_MANIFEST_BYTES)
        manifest = parse_engine_manifest(content, f"{bundle.path}/{folder}/{ENGINE_MANIFEST_NAME}")
        obstacle = manifest.obstacle(engine, version, compute_capability) or _obstacle(manifest, bundle, precision)
        if obstacle is None:
            fitting.append(FoundEngine(folder, manifest))
        else:
            obstacles.append(f"{folder} is {obstacle}")
    if not fitting:
        wanted = "" if precision == "auto" else f" --precision {precision}"
        raise BackendError(
            f"{bundle.path} has no engine for {engine} {version} on sm_{compute_capability}"
            f" ({'; '.join(obstacles) or 'none at all'}); build one with: dmgan-export build-engine {bundle.path}"
            f" --engine {engine}{wanted}"
        )
    return min(fitting, key=lambda found: (_PRECISIONS.index(found.manifest.precision), -found.manifest.profile.max))


def _obstacle(manifest: EngineManifest, bundle: Bundle, precision: str) -> str | None:
    if precision not in ("auto", manifest.precision):
        return f"built in {manifest.precision}, and {precision} is asked for"
    if not manifest.is_of(bundle.manifest):
        return "stale: its plans come from other ONNX files than those in the bundle"
    if missing := [role for role in ROLES if manifest.plan(role) is None]:
        return f"not whole: it has no plan for {', '.join(missing)}"
    if manifest.profile.min > 1:
        return f"built for batches from {manifest.profile.min}, and a single image is a batch of 1"
    return None
