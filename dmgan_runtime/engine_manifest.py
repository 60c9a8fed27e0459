"""What an engine folder says of itself: the schema of `engine.json`, which lies beside an engine's plans."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from dmgan_runtime.manifest import GENERATOR_ROLES, ROLES, FileEntry, GraphEntry, Manifest, Precision, Role
from dmgan_runtime.schema import read_versioned

SCHEMA_VERSION = "1.1"
ENGINES_FOLDER = "engines"
ENGINE_MANIFEST_NAME = "engine.json"

EngineName = Literal["tensorrt", "tensorrt_rtx", "mnn"]
HardwareCompatibility = Literal["none", "same_compute_capability", "ampere_plus"]
ComputeCapability = Annotated[int, msgspec.Meta(ge=10, le=999)]
"""Ten times the major version plus the minor one: 89 is compute capability 8.9, sm_89."""

PLANNED_ROLES: dict[EngineName, tuple[Role, ...]] = {
    "tensorrt": ROLES,
    "tensorrt_rtx": ROLES,
    # Its gain is in the 3x3 convolutions of the refinement stages; ONNX Runtime is faster at the others.
    "mnn": GENERATOR_ROLES[1:],
}
"""The graphs that an engine has plans of. The others are served from the bundle's ONNX files."""

_AMPERE: ComputeCapability = 80
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
        engine: The engine that built the plans and can load them: the Python module of TensorRT, or `mnn`.
        version: Its version in full, for example `11.4.0.106`.
        compute_capabilities: Of the GPU that it was built on (tensorrt), or of all GPUs that it was built for
            (tensorrt_rtx); see `hardware_compatibility` for others. Empty for a CPU, and any will do (mnn).
        device: The name of the GPU that it was built on; None where none was needed.
        precision: Of the generators.
        profile: The batches that every plan takes; None for any.
        version_compatible: Whether later versions of the same major version load the plans.
        hardware_compatibility: Which other GPUs load them: none, those of the same compute capability at full speed,
            or every one from Ampere (8.0) on.
        plans: One for each of the engine's `PLANNED_ROLES`.
    """

    schema_version: str
    engine: EngineName
    version: Annotated[str, msgspec.Meta(pattern=r"^\d+\.\d+\.\d+(\.\w+)*$")]
    compute_capabilities: tuple[ComputeCapability, ...]
    device: str | None
    precision: Precision
    profile: BatchProfile | None
    version_compatible: bool
    hardware_compatibility: HardwareCompatibility
    plans: tuple[PlanEntry, ...]

    def __post_init__(self) -> None:
        if not (self.engine == "mnn") == (not self.compute_capabilities) == (self.profile is None):
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

    def obstacle(self, engine: EngineName, version: str, compute_capability: int | None) -> str | None:
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
        content, EngineManifest, SCHEMA_VERSION, what=ENGINE_MANIFEST_NAME, source=source, remedy=remedy
    )


def _follows(version: str, built_with: str) -> bool:
    """Whether a version is a later one of the same major version."""
    at_hand, built = ([int(part) for part in text.split(".")[:3]] for text in (version, built_with))
    return at_hand[0] == built[0] and at_hand >= built
