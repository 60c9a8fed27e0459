"""Every engine that dmgan can serve with, in one table."""

from __future__ import annotations

from importlib import import_module
from typing import Literal, NamedTuple, cast

from dmgan_runtime.backends.base import Backend
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
        plans: The graphs that it serves from plans built beforehand (`dmgan-export build-engine`): `none`, `all`, or
            the `refinements`; the others are served from the bundle's ONNX files.
        precisions: What it computes in, on a GPU fastest first; empty if its plans decide.
        options: What its `engine_options` are; empty if it takes none.
        after_fork: Whether a forked process can open it again: `always`, `if idle`, that is, if it was not at work when
            the process was forked, or `never`.
        auto: Whether `auto` may take it; otherwise it is for those who name it.
    """

    backend: str
    label: str
    device: Literal["cpu", "cuda"]
    implementation: str
    extra: str
    distributions: tuple[str, ...]
    plans: Literal["none", "all", "refinements"] = "none"
    precisions: tuple[Arithmetic, ...] = ()
    options: str = ""
    after_fork: Literal["always", "if idle", "never"] = "always"
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
        after_fork="never",
    ),
    Engine(
        "tensorrt_rtx",
        "TensorRT for RTX",
        "cuda",
        "tensorrt.backend:TensorRtRtxBackend",
        _RTX,
        (_RTX, _CUDA_BINDINGS),
        plans="all",
        after_fork="never",
    ),
    Engine(
        "onnxruntime",
        "ONNX Runtime",
        "cuda",
        "ort_cuda:OrtCudaBackend",
        "gpu",
        ("onnxruntime-gpu",),
        precisions=("fp16", "fp32"),
        options="options of its CUDA provider",
        after_fork="never",
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
        precisions=("fp32", "bf16", "int8"),
        options="properties of a compiled model",
        # Its child hangs otherwise, in most of 8 tries, when it loads a graph (2026.4).
        after_fork="if idle",
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


def find_engine_row(backend: str, device: str | None = None) -> Engine:
    """The row of an engine on a kind of device, or its first."""
    return next(engine for engine in ENGINES if engine.backend == backend and device in (None, engine.device))
