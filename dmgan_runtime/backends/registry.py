"""Every engine that dmgan can serve with, in one table; and which of them serves: never another in silence."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any, Literal, NamedTuple, cast

from dmgan_runtime.backends.base import Backend, Candidate, EngineSettings, check_precision, check_threads
from dmgan_runtime.bundle import Bundle
from dmgan_runtime.errors import BackendError, EngineError, SettingsError
from dmgan_runtime.manifest import Arithmetic, ModelSpec, Role

_LOG = logging.getLogger(__name__)
_CUDA = re.compile(r"cuda(?::(\d{1,3}))?")


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
        precisions: What it computes in, best first; empty if its plans decide.
        options: What its `engine_options` are; empty if it takes none.
        after_fork: Whether a forked process can open it again: `always`, `if idle`, that is, if it was not at work when
            the process was forked, or `never`.
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


# Best first. ONNX Runtime comes before OpenVINO, because it is what the export proved the graphs with; MNN before both,
# because it serves those bundles only that somebody built an engine for.
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
    # MNN's gain is in the 3x3 convolutions of the refinement stages; ONNX Runtime is faster at the others.
    Engine(
        "mnn",
        "MNN",
        "cpu",
        "mnn:MnnBackend",
        "mnn",
        ("mnn", "onnxruntime"),
        plans="refinements",
        precisions=("fp32",),
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
BACKENDS = tuple(dict.fromkeys(engine.backend for engine in ENGINES))
PLANNED = tuple(engine.backend for engine in ENGINES if engine.plans != "none")
"""The engines that serve from plans built beforehand."""


def find_engine_row(backend: str, device: str | None = None) -> Engine:
    """The row of an engine on a kind of device, or its first."""
    return next(engine for engine in ENGINES if engine.backend == backend and device in (None, engine.device))


def open_backend(
    bundle: Bundle,
    *,
    backend: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    engine_options: Mapping[str, Any] | None = None,
    named: bool | None = None,
) -> Backend:
    """Loads a bundle's graphs into an engine.

    Args:
        bundle: An open bundle; it may be closed afterwards.
        backend: "auto" or one of `BACKENDS`.
        device: "auto", "cpu", "cuda" (the first) or "cuda:N".
        precision: "auto" or a precision that both the engine and the bundle have.
        threads: CPU threads for one operator; None takes every CPU that this process may use.
        engine_options: The named engine's own options.
        named: Whether the user named the engine; None if `backend` says so.

    Raises:
        BackendError: if something that was asked for cannot be had here; the message has the remedy.
        BundleError: if a graph is missing, damaged, or not what the manifest says.
        EngineError: if the engine cannot load a graph.
        SettingsError: if the number of threads is out of range, or the engine's options are no options.
    """
    counted = check_threads(threads)
    index = device_index(device)
    engines = _fitting(backend, device)
    if engine_options is not None:
        _check_options(engine_options, engines, backend)
    check_precision(bundle, precision)
    settings = EngineSettings(
        index, precision, counted, backend != "auto" if named is None else named, engine_options or {}
    )
    refused: list[Candidate] = []
    for place, engine in enumerate(engines):
        name = engine.device_name(index)
        try:
            backend_class = engine.load_class()
            backend_class.probe(index)
            opened = backend_class(bundle, settings)
        except BackendError as error:
            refused.append(Candidate(engine.backend, name, "missing", str(error)))
        except EngineError as error:
            # Over the bundle's own graphs there is no reason on a CPU but that they are broken, and then so they are
            # for the next engine. On a GPU there are many, from cuDNN to its memory; what lies in `engines/` may break.
            if engine_options:
                raise EngineError(f"{error}; or engine_options are wrong: {', '.join(engine_options)}") from error
            if (engine.device == "cpu" and engine.plans == "none") or len(engines) == 1:
                raise
            _LOG.warning("%s on %s is here but does not work, so another is taken: %s", engine.backend, name, error)
            refused.append(Candidate(engine.backend, name, "broken", str(error)))
        else:
            return _explained(opened, refused, engines[place + 1 :], index, "auto" in (backend, device))
    raise BackendError(_nothing(backend, device, precision, refused))


def _check_options(options: Mapping[str, Any], engines: Sequence[Engine], backend: str) -> None:
    """Checks that the options are named, and for one engine that takes some."""
    if not isinstance(options, Mapping) or not all(isinstance(name, str) and name for name in options):
        raise SettingsError(f"engine_options are {options!r}; pass a dict of names and values")
    if backend == "auto":
        names = dict.fromkeys(repr(engine.backend) for engine in ENGINES if engine.options)
        raise BackendError(f"engine_options are one engine's own; name it: backend={' or '.join(names)}")
    if len(engines) > 1:
        kinds = " and ".join(f"{engine.options} on device={engine.device!r}" for engine in engines)
        raise BackendError(f"engine_options of {backend} are {kinds}; pass the device too")
    if not engines[0].options:
        raise BackendError(f"{backend} takes no engine_options; leave them out")


def device_index(device: str) -> int:
    """N of `cuda:N`, 0 of the others.

    Raises:
        BackendError: if it is no device.
    """
    found = _CUDA.fullmatch(device) if isinstance(device, str) else None
    if found is None and device not in ("auto", "cpu"):
        raise BackendError(f"device {device!r} is unknown; pass 'auto', 'cpu', 'cuda' or 'cuda:N'")
    return int(found[1] or 0) if found else 0


def _fitting(backend: str, device: str) -> list[Engine]:
    if backend not in (*BACKENDS, "auto"):
        choices = ", ".join(map(repr, ("auto", *BACKENDS)))
        raise BackendError(f"backend {backend!r} is unknown; pass one of {choices}")
    kind = device.partition(":")[0]
    fitting = [each for each in ENGINES if backend in (each.backend, "auto") and kind in (each.device, "auto")]
    if not fitting:
        kinds = " or ".join(repr(each.device) for each in ENGINES if each.backend == backend)
        raise BackendError(f"the backend {backend} does not run on device {device!r}; pass device={kinds}")
    return fitting


def _explained(
    opened: Backend, refused: Sequence[Candidate], untried: Sequence[Engine], index: int, automatic: bool
) -> Backend:
    active = opened.active
    why = "the best that can be had here" if automatic else "as asked for"
    chosen = Candidate(active.backend, active.device, "chosen", active.reason or why)
    later = [
        Candidate(each.backend, each.device_name(index), "untried", f"{active.backend} comes first") for each in untried
    ]
    opened.active = replace(
        active, reason="; ".join(filter(None, [why, active.reason])), considered=(*refused, chosen, *later)
    )
    return opened


def _nothing(backend: str, device: str, precision: str, refused: Sequence[Candidate]) -> str:
    asked = {"backend": backend, "device": device, "precision": precision}
    named = ", ".join(f"{name} {value!r}" for name, value in asked.items() if value != "auto") or "any engine"
    if len(refused) == 1:
        return f"{named} cannot be had: {refused[0].verdict}"
    reasons = "".join(f"\n  {each}" for each in refused)
    return f"{named} cannot be had:{reasons}"
