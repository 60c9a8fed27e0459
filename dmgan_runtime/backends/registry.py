"""Every engine that dmgan can serve with, in one table."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Literal, NamedTuple, cast

from dmgan_runtime.backends.base import Backend
from dmgan_runtime.errors import BackendError
from dmgan_runtime.manifest import Arithmetic, ModelSpec, Role


class Engine(NamedTuple):
    """An engine on a kind of device: a row of the table.

    Attributes:
        backend: Its name, as users write it.
        label: Its name, as its makers write it.
        device: `cpu` or `cuda`.
        implementation: The module and the class that serve with it.
        extra: What `pip install "dmgan[...]"` takes to bring it.
        distributions: The packages that it comes in.
        oldest: The oldest version that it is tested with, major and minor; engines with plans are of one version each.
        plans: The graphs that it serves from plans built beforehand (`dmgan-export build-engine`): `none`, `all`, or
            the `refinements`; the others are served from the bundle's ONNX files.
        precisions: What it computes in, on a GPU fastest first; empty if its plans decide.
        options: What its `engine_options` are; empty if it takes none.
        survives_fork: Whether a forked process can open it again.
        auto: Whether `auto` may take it; otherwise it is for those who name it.
    """

    backend: str
    label: str
    device: Literal["cpu", "cuda"]
    implementation: str
    extra: str
    distributions: tuple[str, ...]
    oldest: tuple[int, int] = (0, 0)
    plans: Literal["none", "all", "refinements"] = "none"
    precisions: tuple[Arithmetic, ...] = ()
    options: str = ""
    survives_fork: bool = True
    auto: bool = True

    @property
    def install(self) -> str:
        """The command that brings it."""
        return f'pip install "dmgan[{self.extra}]"'

    def planned_roles(self, spec: ModelSpec) -> tuple[Role, ...]:
        """The graphs of a model that it has plans of."""
        return {"none": (), "all": spec.roles, "refinements": spec.generator_roles[1:]}[self.plans]

    def device_name(self, index: int) -> str:
        """The device that it would run on, as `Active.device` has it."""
        return f"cuda:{index}" if self.device == "cuda" else self.device

    def import_package(self, name: str) -> ModuleType:
        """The engine's own Python package.

        Raises:
            BackendError: if it cannot be imported, is too old, or is something else.
        """
        try:
            package = import_module(name)
        except (ImportError, OSError) as error:  # OSError: the package without its libraries
            raise BackendError(f"{name} cannot be imported ({error}); install it with: {self.install}") from error
        number = getattr(package, "__version__", None)
        if number is not None and tuple(map(int, re.findall(r"\d+", number)[:2])) >= self.oldest:
            return package
        # Of two packages that share a folder, both must go: pip would take what is left for whole.
        installed = list(installed_versions((name, f"{name}-gpu"))) or [name]
        anew = f"pip uninstall {' '.join(installed)}, then {self.install}"
        if number is not None:
            raise BackendError(f"{name} {number} is older than {'.'.join(map(str, self.oldest))}; {anew}")
        place = getattr(package, "__file__", None) or ", ".join(package.__path__)
        raise BackendError(
            f"{name} is not the package ({place}), but what another one left of it, or something else of its name;"
            f" {anew}, and rename what is still there"
        )

    def load_class(self) -> type[Backend]:
        """The class that serves with it; its module is imported here."""
        module, _, name = self.implementation.partition(":")
        return cast("type[Backend]", getattr(import_module(f"dmgan_runtime.backends.{module}"), name))


# Those for a GPU best first.
_RTX, _CUDA_BINDINGS = "tensorrt-rtx", "cuda-bindings"
ENGINES = (
    Engine(
        "tensorrt",
        "TensorRT",
        "cuda",
        "tensorrt.backend:TensorRtBackend",
        "tensorrt",
        ("tensorrt", _CUDA_BINDINGS),
        plans="all",
        survives_fork=False,
    ),
    Engine(
        "tensorrt_rtx",
        "TensorRT for RTX",
        "cuda",
        "tensorrt.backend:TensorRtRtxBackend",
        _RTX,
        (_RTX, _CUDA_BINDINGS),
        plans="all",
        survives_fork=False,
    ),
    Engine(
        "onnxruntime",
        "ONNX Runtime",
        "cuda",
        "ort_cuda:OrtCudaBackend",
        "gpu",
        ("onnxruntime-gpu",),
        oldest=(1, 24),
        precisions=("fp16", "fp32"),
        options="options of its CUDA provider",
        survives_fork=False,
    ),
    # MNN's gain is in the 3x3 convolutions of the refinement stages; ONNX Runtime is faster at the others. Beside other
    # work its threads wait for each other without end (docs/mnn.md), and a damaged plan can crash it.
    Engine(
        "mnn",
        "MNN",
        "cpu",
        "mnn:MnnBackend",
        "mnn",
        ("mnn", "onnxruntime"),
        plans="refinements",
        precisions=("fp32",),
        auto=False,
    ),
    Engine(
        "onnxruntime",
        "ONNX Runtime",
        "cpu",
        "ort_cpu:OrtCpuBackend",
        "cpu",
        ("onnxruntime",),
        oldest=(1, 24),
        # Of fp16 graphs it computes the convolutions in fp32: good for looking at them, not for speed.
        precisions=("fp32", "fp16", "int8"),
        options="session configuration entries",
    ),
    Engine(
        "openvino",
        "OpenVINO",
        "cpu",
        "openvino:OpenVinoBackend",
        "openvino",
        ("openvino",),
        oldest=(2026, 4),
        precisions=("fp32", "bf16", "int8"),
        options="properties of a compiled model",
    ),
)
# What `auto` takes on a CPU, fastest first as measured (docs/benchmarks.md). int8 gains a tenth at most.
CPU_ORDER: tuple[tuple[str, Arithmetic], ...] = (("onnxruntime", "fp32"), ("openvino", "fp32"))
CPU_ORDER_WITH_BF16: tuple[tuple[str, Arithmetic], ...] = (("openvino", "bf16"), *CPU_ORDER)
BACKENDS = tuple(dict.fromkeys(engine.backend for engine in ENGINES))
PACKAGES = tuple(dict.fromkeys(name for engine in ENGINES for name in engine.distributions))
"""The packages of all engines."""

PLANNED = tuple(engine.backend for engine in ENGINES if engine.plans != "none")
"""The engines that serve from plans built beforehand."""


def installed_versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """The versions of those packages that are installed."""
    found = {}
    for name in packages:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def find_engine_row(backend: str, device: str | None = None) -> Engine:
    """The row of an engine on a kind of device, or its first."""
    return next(engine for engine in ENGINES if engine.backend == backend and device in (None, engine.device))
