"""Every engine that dmgan can serve with, in one table; and which of them serves: never another in silence."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any, Literal, NamedTuple, cast

from dmgan_runtime.backends.base import (
    Backend,
    Candidate,
    EngineSettings,
    State,
    check_precision,
    check_threads,
    generator_precisions,
    graph_precision,
)
from dmgan_runtime.bundle import Bundle
from dmgan_runtime.cpus import has_bf16
from dmgan_runtime.errors import BackendError, EngineError, SettingsError
from dmgan_runtime.manifest import Arithmetic, Manifest, ModelSpec, Role

_LOG = logging.getLogger(__name__)
QUALITY = 40.0
"""The PSNR in dB that "auto" keeps to: nobody sees a difference from fp32."""

MAX_QUALITY = 200.0
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
        precisions: What it computes in; empty if its plans decide.
        automatic: Those of them that `auto` takes, fastest first; bf16 where the CPU has instructions for it.
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
    automatic: tuple[Arithmetic, ...] = ()
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
        automatic=("fp16", "fp32"),
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
        automatic=("fp32",),
    ),
    Engine(
        "onnxruntime",
        "ONNX Runtime",
        "cpu",
        "ort_cpu:OrtCpuBackend",
        "cpu",
        ("onnxruntime",),
        # Of fp16 graphs it computes the convolutions in fp32: good for looking at them, not for speed.
        # int8 is nowhere faster than fp32 (docs/benchmarks.md).
        precisions=("fp32", "fp16", "int8"),
        automatic=("fp32",),
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
        automatic=("bf16", "fp32"),
        options="properties of a compiled model",
        # Its child hangs otherwise, in most of 8 tries, when it loads a graph (2026.4).
        after_fork="if idle",
    ),
)
# Fastest first, as measured (docs/benchmarks.md). Winograd's algorithm, which MNN has, is the fastest way in fp32 on a
# CPU that has nothing better, and the slowest on one that has AMX.
CPU_ORDER: tuple[tuple[str, Arithmetic], ...] = (("mnn", "fp32"), ("onnxruntime", "fp32"), ("openvino", "fp32"))
CPU_ORDER_WITH_BF16: tuple[tuple[str, Arithmetic], ...] = (
    ("openvino", "bf16"),
    ("onnxruntime", "fp32"),
    ("openvino", "fp32"),
    ("mnn", "fp32"),
)
BACKENDS = tuple(dict.fromkeys(engine.backend for engine in ENGINES))
PLANNED = tuple(engine.backend for engine in ENGINES if engine.plans != "none")
"""The engines that serve from plans built beforehand."""


def find_engine_row(backend: str, device: str | None = None) -> Engine:
    """The row of an engine on a kind of device, or its first."""
    return next(engine for engine in ENGINES if engine.backend == backend and device in (None, engine.device))


class Way(NamedTuple):
    """An engine, and what it is to compute in; "auto" if its plans decide."""

    engine: Engine
    precision: Arithmetic | Literal["auto"]

    def candidate(self, index: int, state: State, verdict: str) -> Candidate:
        """What became of it."""
        precision = None if self.precision == "auto" else self.precision
        return Candidate(self.engine.backend, self.engine.device_name(index), state, verdict, precision)


def acceptable_precisions(manifest: Manifest, quality: float | Literal["exact"]) -> frozenset[Arithmetic]:
    """What `auto` may compute in: fp32, and what the export found to come near enough to it.

    Args:
        manifest: Whose `image_psnr_db` counts.
        quality: A PSNR in dB, or "exact".

    Raises:
        SettingsError: if it is neither.
    """
    exact: frozenset[Arithmetic] = frozenset({"fp32"})
    if quality == "exact":
        return exact
    if isinstance(quality, bool | str) or not isinstance(quality, int | float) or not 0 < quality <= MAX_QUALITY:
        raise SettingsError(
            f"quality is {quality!r}; pass a PSNR in dB over 0 and at most {MAX_QUALITY:g}, or 'exact' for fp32"
        )
    return exact | {precision for precision, decibels in manifest.image_psnr_db.items() if decibels >= quality}


def _ways(engines: Sequence[Engine], bundle: Bundle, precision: str, bf16: bool) -> list[Way]:
    """The ways to serve a bundle with some of the engines, fastest first."""
    if precision != "auto":
        return [Way(engine, cast(Arithmetic, precision)) for engine in engines]
    stored = generator_precisions(bundle)
    order = CPU_ORDER_WITH_BF16 if bf16 else CPU_ORDER
    ways: list[Way] = []
    for engine in engines:
        if not engine.automatic:
            ways.append(Way(engine, "auto"))
        ways += [
            Way(engine, each)
            for each in engine.automatic
            if graph_precision(each) in stored and (bf16 or each != "bf16")
        ]
    # Those for a GPU stay in front.
    return sorted(
        ways, key=lambda way: order.index((way.engine.backend, way.precision)) if way.engine.device == "cpu" else -1
    )


def open_backend(
    bundle: Bundle,
    *,
    backend: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    quality: float | Literal["exact"] = QUALITY,
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
        quality: What "auto" takes as a precision: the least PSNR in dB of `Manifest.image_psnr_db`, or "exact", fp32.
        threads: CPU threads for one operator; None takes every CPU that this process may use.
        engine_options: The named engine's own options.
        named: Whether the user named the engine; None if `backend` says so.

    Raises:
        BackendError: if something that was asked for cannot be had here; the message has the remedy.
        BundleError: if a graph is missing, damaged, or not what the manifest says.
        EngineError: if the engine cannot load a graph.
        SettingsError: if the number of threads is out of range, the quality is none, or the engine's options are no
            options.
    """
    counted = check_threads(threads)
    index = device_index(device)
    engines = _fitting(backend, device)
    if engine_options is not None:
        _check_options(engine_options, engines, backend)
    check_precision(bundle, precision)
    acceptable = acceptable_precisions(bundle.manifest, quality)
    ways = _ways(engines, bundle, precision, has_bf16())
    refused: list[Candidate] = []
    for place, way in enumerate(ways):
        engine, name = way.engine, way.engine.device_name(index)
        settings = EngineSettings(
            index,
            way.precision,
            acceptable,
            counted,
            backend != "auto" if named is None else named,
            engine_options or {},
        )
        try:
            backend_class = engine.load_class()
            backend_class.probe(index)
            if precision == "auto" and way.precision not in (*acceptable, "auto"):
                raise BackendError(_too_far(bundle.manifest, way.precision, quality))
            opened = backend_class(bundle, settings)
        except BackendError as error:
            refused.append(way.candidate(index, "missing", str(error)))
        except EngineError as error:
            # Over the bundle's own graphs there is no reason on a CPU but that they are broken, and then so they are
            # for the next engine. On a GPU there are many, from cuDNN to its memory; what lies in `engines/` may break.
            if engine_options:
                raise EngineError(f"{error}; or engine_options are wrong: {', '.join(engine_options)}") from error
            if (engine.device == "cpu" and engine.plans == "none") or len(ways) == 1:
                raise
            _LOG.warning("%s on %s is here but does not work, so another is taken: %s", engine.backend, name, error)
            refused.append(way.candidate(index, "broken", str(error)))
        else:
            return _explained(opened, way, refused, ways[place + 1 :], index, "auto" in (backend, device))
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


def _too_far(manifest: Manifest, precision: str, quality: float | Literal["exact"]) -> str:
    measured = manifest.image_psnr_db.get(cast(Arithmetic, precision))
    found = f"come to {measured:g} dB of fp32's" if measured is not None else "were not compared with fp32's at export"
    asked = "exact ones are" if quality == "exact" else f"{quality:g} dB are"
    return f"its images in {precision} {found}, and {asked} asked for; pass another quality, or precision={precision!r}"


def _explained(
    opened: Backend, way: Way, refused: Sequence[Candidate], untried: Sequence[Way], index: int, automatic: bool
) -> Backend:
    active = opened.active
    why = "the best that can be had here" if automatic else "as asked for"
    chosen = way.candidate(index, "chosen", active.reason or why)
    later = [each.candidate(index, "untried", f"{active.backend} comes first") for each in untried]
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
