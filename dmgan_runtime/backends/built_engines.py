"""Engines that were built beforehand and lie in a bundle: what `engine.json` says of each, and which fits here."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import msgspec
from platformdirs import user_cache_path

from dmgan_runtime.backends.base import EngineSettings
from dmgan_runtime.backends.registry import PLANNED, find_engine_row
from dmgan_runtime.bundle import MAX_MANIFEST_BYTES, Bundle
from dmgan_runtime.errors import BackendError, BundleError
from dmgan_runtime.manifest import FileEntry, GraphEntry, Manifest, Precision, Role, read_versioned, stays_inside

ENGINE_SCHEMA_VERSION = "2.0"
ENGINES_FOLDER = "engines"
ENGINE_MANIFEST_NAME = "engine.json"

HardwareCompatibility = Literal["none", "same_compute_capability", "ampere_plus"]
ComputeCapability = Annotated[int, msgspec.Meta(ge=10, le=999)]
"""Ten times the major version plus the minor one: 89 is compute capability 8.9, sm_89."""

_AMPERE: ComputeCapability = 80
_PRECISIONS: tuple[Precision, ...] = ("fp16", "fp32", "int8")
_Batch = Annotated[int, msgspec.Meta(ge=1, le=2**16)]


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of engine.json: immutable, named fields only, no unknown keys."""


class BatchProfile(_Part, frozen=True):
    """The batch sizes of an optimization profile.

    Attributes:
        min: The smallest batch that an engine takes.
        opt: The batch that its kernels were chosen for.
        max: The largest batch that it takes.
    """

    min: _Batch
    opt: _Batch
    max: _Batch

    def __post_init__(self) -> None:
        if not self.min <= self.opt <= self.max:
            raise ValueError(f"batches {self.min}, {self.opt}, {self.max}: must be min <= opt <= max")

    def __str__(self) -> str:
        return f"b{self.min}-{self.opt}-{self.max}"


class PlanEntry(_Part, frozen=True):
    """One graph as the engine serialized it.

    Attributes:
        role: The graph.
        precision: Of the ONNX file that it was built from; the text encoder of an fp16 engine is fp32.
        file: The plan; its path is relative to the folder of engine.json.
        onnx_sha256: Of that ONNX file, as the bundle's manifest has it.
    """

    role: Role
    precision: Precision
    file: FileEntry
    onnx_sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class EngineManifest(_Part, frozen=True):
    """The whole engine.json.

    Attributes:
        schema_version: `major.minor`; a reader takes its own major version only, and of a higher minor version what it
            knows.
        engine: The engine that built the plans and can load them: one of `registry.PLANNED`.
        version: Its version in full, for example `11.4.0.106`.
        compute_capabilities: Of the GPU that it was built on (tensorrt), or of all GPUs that it was built for
            (tensorrt_rtx); see `hardware_compatibility` for others. Empty for a CPU, and any will do (mnn).
        device: The name of the GPU that it was built on; None where none was needed.
        precision: Of the generators.
        profile: The batches that every plan takes; None for any.
        version_compatible: Whether later versions of the same major version load the plans.
        hardware_compatibility: Which other GPUs load them: none, those of the same compute capability at full speed,
            or every one from Ampere (8.0) on.
        plans: One for each of the engine's `planned_roles`.
    """

    schema_version: str
    engine: str
    version: Annotated[str, msgspec.Meta(pattern=r"^\d{1,9}\.\d{1,9}\.\d{1,9}(\.\w+)*$")]
    compute_capabilities: tuple[ComputeCapability, ...]
    device: str | None
    precision: Precision
    profile: BatchProfile | None
    version_compatible: bool
    hardware_compatibility: HardwareCompatibility
    plans: tuple[PlanEntry, ...]

    def __post_init__(self) -> None:
        if self.engine not in PLANNED:
            raise ValueError(f"engine is {self.engine!r}, and engines are built for {', '.join(PLANNED)}")
        on_cpu = find_engine_row(self.engine).device == "cpu"
        if not on_cpu == (not self.compute_capabilities) == (self.profile is None):
            raise ValueError("compute_capabilities and profile: of every engine for GPUs, and of no other")

    @property
    def folder(self) -> str:
        """The name of its folder, which tells two engines of one bundle apart."""
        if not self.compute_capabilities:
            return f"cpu-{self.engine}{self.version}-{self.precision}"
        capabilities = "sm" + "_".join(map(str, self.compute_capabilities))
        hardware = {"none": "", "same_compute_capability": "same", "ampere_plus": "plus"}[self.hardware_compatibility]
        version = f"{self.engine}{self.version}{'vc' if self.version_compatible else ''}"
        return f"{capabilities}{hardware}-{version}-{self.precision}-{self.profile}"

    def plan(self, role: Role) -> PlanEntry | None:
        """The plan of a graph, or None if there is none."""
        return next((plan for plan in self.plans if plan.role == role), None)

    def is_of(self, bundle: Manifest) -> bool:
        """Whether every plan was built from the ONNX file that the bundle has now, and so is not stale."""
        return all(self._fits(plan, bundle.graph(plan.role, plan.precision)) for plan in self.plans)

    def _fits(self, plan: PlanEntry, graph: GraphEntry | None) -> bool:
        precise = plan.role == "text_encoder" or plan.precision == self.precision
        return precise and graph is not None and graph.file.sha256 == plan.onnx_sha256

    def obstacle(self, engine: str, version: str, compute_capability: int | None) -> str | None:
        """Why an engine of some version cannot load the plans on some device, in words, or None if it can.

        TensorRT checks the same when it loads a plan; asked beforehand, the answer can name what would fit.

        Args:
            engine: The module at hand.
            version: Its version in full.
            compute_capability: The GPU's, for example 89; None for a CPU.
        """
        if engine != self.engine:
            return f"built by {self.engine}, and {engine} is at hand"
        if not (self.version_compatible and _follows(version, self.version)) and version != self.version:
            return f"built by {self.engine} {self.version}, and {version} is at hand"
        if compute_capability is None:
            return None
        ampere_plus = self.hardware_compatibility == "ampere_plus" and compute_capability >= _AMPERE
        if not ampere_plus and compute_capability not in self.compute_capabilities:
            built_for = ", ".join(f"sm_{capability}" for capability in self.compute_capabilities)
            return f"built for {built_for}, and this GPU is sm_{compute_capability}"
        return None

    def to_json(self) -> bytes:
        """The manifest as indented JSON."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


def parse_engine_manifest(content: bytes, source: str) -> EngineManifest:
    """Reads an engine.json strictly; of a newer minor version, what this one knows of it.

    Args:
        content: The JSON text.
        source: Where it came from, for messages.

    Raises:
        BundleError: if it is not JSON, is of another major version, or breaks the schema.
    """
    remedy = "remove its folder and build the engine again with dmgan-export build-engine"
    return read_versioned(
        content, EngineManifest, ENGINE_SCHEMA_VERSION, what=ENGINE_MANIFEST_NAME, source=source, remedy=remedy
    )


def _follows(version: str, built_with: str) -> bool:
    """Whether a version is a later one of the same major version."""
    at_hand, built = ([int(part) for part in text.split(".")[:3]] for text in (version, built_with))
    return at_hand[0] == built[0] and at_hand >= built


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
    bundle: Bundle, engine: str, version: str, compute_capability: int | None, settings: EngineSettings
) -> FoundEngine:
    """The best engine of a bundle for this machine: the first precision of fp16, fp32, int8, then the largest batch.

    Args:
        bundle: An open bundle.
        engine: The engine at hand.
        version: Its version in full.
        compute_capability: The GPU's, for example 89; None for a CPU.
        settings: What is asked for: the precision, and whether the engine was named. Else it is one that this user
            built on this machine: plans are machine code, or crash the process by one altered byte, and no hash in the
            bundle vouches for them.

    Raises:
        BackendError: if none fits; the message says why not of each, and how to build one.
    """
    fitting: list[FoundEngine] = []
    obstacles: list[str] = []
    try:
        folders = engine_folders(bundle)
    except BundleError as error:  # nothing that lies there makes the bundle itself unreadable
        obstacles.append(str(error))
        folders = []
    for folder in folders:
        try:
            found, content = read_engine(bundle, folder)
        except BundleError as error:
            obstacles.append(f"{folder} is no engine: {error}")
            continue
        manifest = found.manifest
        obstacle = manifest.obstacle(engine, version, compute_capability) or _obstacle(manifest, bundle, settings)
        if obstacle is None and not (settings.named or was_built_here(content)):
            obstacle = (
                f"not known to be built by you on this machine, and 'auto' takes no other; remove its folder to"
                f" build it again, or pass backend={engine!r} if you trust where it came from"
            )
        if obstacle is None:
            fitting.append(found)
        else:
            obstacles.append(f"{folder} is {obstacle}")
    if not fitting:
        if settings.precision == "bf16":
            raise BackendError(f"{engine} does not compute in precision 'bf16'; pass precision='auto'")
        wanted = "" if settings.precision == "auto" else f" --precision {settings.precision}"
        unpacked = "" if bundle.path.is_dir() else "unpack it first, and "
        device = "the CPU" if compute_capability is None else f"sm_{compute_capability}"
        raise BackendError(
            f"{bundle.path} has no engine for {engine} {version} on {device}"
            f" ({'; '.join(obstacles) or 'none at all'}); {unpacked}build one with: dmgan-export build-engine"
            f" {bundle.path.with_suffix('') if unpacked else bundle.path} --engine {engine}{wanted}"
        )
    return min(fitting, key=_rank)


def record_built_here(content: bytes) -> None:
    """Records in the user's cache that this user built an engine on this machine, so that `auto` takes it.

    Args:
        content: Its engine.json, which has the hashes of its plans.

    Raises:
        OSError: if nothing can be written there.
    """
    record = _record(content)
    record.parent.mkdir(parents=True, exist_ok=True)
    record.touch()


def was_built_here(content: bytes) -> bool:
    """Whether this user is known to have built the engine of an engine.json on this machine."""
    try:
        return _record(content).exists()
    except OSError:  # the cache of another user
        return False


def _record(content: bytes) -> Path:
    return user_cache_path("dmgan", appauthor=False) / "built-engines" / hashlib.sha256(content).hexdigest()


def _rank(found: FoundEngine) -> tuple[int, int]:
    profile = found.manifest.profile
    return _PRECISIONS.index(found.manifest.precision), 0 if profile is None else -profile.max


def engine_folders(bundle: Bundle) -> list[str]:
    """The folders that may hold an engine, relative to the bundle.

    Raises:
        BundleError: if they cannot be listed.
    """
    # Hidden: what a build that was cut off has left, and what file managers leave.
    return [f"{ENGINES_FOLDER}/{name}" for name in bundle.folders(ENGINES_FOLDER) if not name.startswith(".")]


def read_engine(bundle: Bundle, folder: str) -> tuple[FoundEngine, bytes]:
    """The engine in a folder, and its engine.json as it is.

    Raises:
        BundleError: if it is none.
    """
    if not stays_inside(folder):
        raise BundleError(f"{bundle.path}: {folder!r}: a name that no engine's folder has; rename it, or remove it")
    content = bundle.read_unlisted(f"{folder}/{ENGINE_MANIFEST_NAME}", MAX_MANIFEST_BYTES)
    manifest = parse_engine_manifest(content, f"{bundle.path}/{folder}/{ENGINE_MANIFEST_NAME}")
    return FoundEngine(folder, manifest), content


def _obstacle(manifest: EngineManifest, bundle: Bundle, settings: EngineSettings) -> str | None:
    if settings.precision not in ("auto", manifest.precision):
        return f"built in {manifest.precision}, and {settings.precision} is asked for"
    if settings.precision == "auto" and manifest.precision not in settings.acceptable:
        return f"built in {manifest.precision}, whose images are not as near to fp32's as is asked for"
    if not manifest.is_of(bundle.manifest):
        return "stale, remove it: its plans come from other ONNX files than those in the bundle"
    planned = find_engine_row(manifest.engine).planned_roles(bundle.manifest.model)
    if missing := [role for role in planned if manifest.plan(role) is None]:
        return f"not whole: it has no plan for {', '.join(missing)}"
    if manifest.profile is not None and manifest.profile.min > 1:
        return f"built for batches from {manifest.profile.min}, and a single image is a batch of 1"
    return None
