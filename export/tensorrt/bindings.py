"""The differences between `tensorrt` 10, `tensorrt` 11 and `tensorrt_rtx`, where engines are built."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dmgan_runtime.backends import registry
from dmgan_runtime.backends.built_engines import EngineManifest
from dmgan_runtime.backends.gpus import Gpu, find_gpu
from dmgan_runtime.errors import BackendError, SettingsError

ENGINES = tuple(engine.backend for engine in registry.ENGINES if engine.plans == "all")
"""The names of the modules, the best first."""

_OLDEST_TENSORRT = 10
_STRONGLY_TYPED_ALWAYS = 11
_AMPERE = 80


@dataclass(frozen=True)
class TargetGpus:
    """The GPUs that an engine is built for.

    Attributes:
        compute_capabilities: For example (89,).
        device: The name of the GPU that it is built on, or None if it is built without one.
    """

    compute_capabilities: tuple[int, ...]
    device: str | None


@dataclass(frozen=True)
class Bindings:
    """An imported TensorRT.

    Attributes:
        name: The Python module's name, one of `ENGINES`.
        module: The module itself; it has no types.
    """

    name: str
    module: Any

    @property
    def version(self) -> str:
        """In full, for example `11.4.0.106`."""
        return str(self.module.__version__)

    @property
    def is_rtx(self) -> bool:
        """Whether it builds for many GPUs, on a machine that needs none."""
        return self.name == "tensorrt_rtx"

    def target(self, asked: Sequence[int]) -> TargetGpus:
        """Chooses the GPUs to build for.

        Args:
            asked: Compute capabilities; empty takes the GPU of this machine (tensorrt), or every one from Ampere on
                (tensorrt_rtx).

        Raises:
            BackendError: if a GPU is needed and there is none.
            SettingsError: if this engine cannot build for what was asked.
        """
        if not self.is_rtx:
            if asked:
                raise SettingsError(
                    f"{self.name} builds for the GPU that it runs on; leave out --target, or add"
                    " --engine tensorrt_rtx, which builds for any RTX GPU"
                )
            gpu = self._gpu()
            return TargetGpus((gpu.compute_capability,), gpu.name)
        offered = sorted(value for name, value in self._capabilities().items() if name.startswith("SM"))
        if unknown := sorted(set(asked) - set(offered)):
            raise SettingsError(
                f"{self.name} {self.version} cannot build for {_listed(unknown)}; it offers {_listed(offered)}"
            )
        # Turing is left out unless it is asked for: it lacks kernels, for example of fp32 matrix products.
        return TargetGpus(tuple(sorted(set(asked))) or tuple(value for value in offered if value >= _AMPERE), None)

    def _gpu(self) -> Gpu:
        try:
            return find_gpu(0)
        except BackendError as error:
            raise BackendError(
                f"{error}. {self.name} builds an engine on the GPU that will run it; build on that machine, or run"
                " dmgan-export build-engine BUNDLE --engine tensorrt_rtx, which needs no GPU"
            ) from error

    def check_switches(self, wanted: EngineManifest, *, timing_cache: bool) -> None:
        """Refuses what this engine would ignore.

        Raises:
            SettingsError: naming the switch, and why it is not for this engine.
        """
        refused = {
            "--version-compatible": wanted.version_compatible,
            "--hardware-compatibility": wanted.hardware_compatibility != "none",
            "--timing-cache": timing_cache,
        }
        if self.is_rtx and any(refused.values()):
            switches = ", ".join(switch for switch, is_set in refused.items() if is_set)
            raise SettingsError(
                f"{switches}: not with {self.name}, which times nothing, chooses its GPUs by --target and ties a plan"
                " to its version; leave it out, or use --engine tensorrt"
            )

    def create_network(self, builder: Any) -> Any:
        """Makes an empty, strongly typed network: its precision is the ONNX file's."""
        if self.is_rtx or _major(self.version) >= _STRONGLY_TYPED_ALWAYS:
            return builder.create_network(0)
        return builder.create_network(1 << int(self.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED))

    def create_config(self, builder: Any, wanted: EngineManifest) -> Any:
        """Makes a build configuration with the switches and the targets of an engine."""
        config = builder.create_builder_config()
        # TF32 has fp16's mantissa: with it an fp32 engine would be off by 1e-3.
        config.clear_flag(self.module.BuilderFlag.TF32)
        if wanted.version_compatible:
            config.set_flag(self.module.BuilderFlag.VERSION_COMPATIBLE)
        if self.is_rtx:
            config.num_compute_capabilities = len(wanted.compute_capabilities)
            for index, value in enumerate(wanted.compute_capabilities):
                config.set_compute_capability(self.module.ComputeCapability(value), index)
        elif wanted.hardware_compatibility != "none":
            levels = self.module.HardwareCompatibilityLevel.__members__
            level = levels.get(wanted.hardware_compatibility.upper())
            if level is None:
                raise SettingsError(
                    f"{self.name} {self.version} has no hardware compatibility {wanted.hardware_compatibility!r};"
                    " upgrade it, or choose another --hardware-compatibility"
                )
            config.hardware_compatibility_level = level
        return config

    def _capabilities(self) -> dict[str, int]:
        return {name: int(value) for name, value in self.module.ComputeCapability.__members__.items()}


def open_bindings(asked: str) -> Bindings:
    """Imports an engine.

    Args:
        asked: `tensorrt`, `tensorrt_rtx`, or `auto` for the first of them that is installed.

    Raises:
        BackendError: if it is not installed, does not load, or is too old.
    """
    names = ENGINES if asked == "auto" else tuple(name for name in ENGINES if name == asked)
    failures: list[str] = []
    for name in names:
        try:
            bindings = Bindings(name, importlib.import_module(name))
        except (ImportError, OSError) as error:  # OSError: a wheel without its libraries
            failures.append(f"{name} cannot be imported ({error})")
            continue
        _check_version(bindings)
        return bindings
    remedies = " or ".join(f'pip install "dmgan[{registry.find_engine_row(name).extra}]"' for name in names)
    raise BackendError(f"no TensorRT here: {'; '.join(failures)}; install it with: {remedies}")


def _check_version(bindings: Bindings) -> None:
    if not bindings.is_rtx and _major(bindings.version) < _OLDEST_TENSORRT:
        raise BackendError(
            f"tensorrt {bindings.version} is too old: strongly typed networks need {_OLDEST_TENSORRT} or later;"
            f' upgrade it with: pip install --upgrade "dmgan[{registry.find_engine_row(bindings.name).extra}]"'
        )


def _major(version: str) -> int:
    return int(version.split(".")[0])


def _listed(capabilities: Sequence[int]) -> str:
    return ", ".join(f"sm{capability}" for capability in capabilities)
