"""Which engine serves: what was asked for, or the best that can be had. Never another in silence."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from typing import NamedTuple, Protocol, cast

from dmgan_runtime.backends.base import Backend, Candidate, check_precision, check_threads
from dmgan_runtime.bundle import Bundle
from dmgan_runtime.engine_manifest import PLANNED_ROLES
from dmgan_runtime.errors import BackendError, EngineError

_LOG = logging.getLogger(__name__)
_CUDA = re.compile(r"cuda(?::(\d{1,3}))?")


class Engine(NamedTuple):
    """An engine on a kind of device.

    Attributes:
        backend: Its name.
        device: `cpu` or `cuda`.
        home: The module and the class that serve with it.
    """

    backend: str
    device: str
    home: str


class BackendClass(Protocol):
    """What every backend's class can do."""

    def __call__(self, bundle: Bundle, *, index: int, precision: str, threads: int, named: bool = False) -> Backend:
        """Loads a bundle's graphs.

        Args:
            bundle: An open bundle; it may be closed afterwards.
            index: N of `cuda:N`; 0 on a CPU.
            precision: "auto" or a precision.
            threads: CPU threads for one operator.
            named: Whether the user named this engine, and so trusts what the bundle holds for it alone.

        Raises:
            BackendError: if the precision, or something else that the engine needs, cannot be had.
            BundleError: if a graph is missing, damaged, or not what the manifest says.
            EngineError: if the engine cannot load a graph.
        """
        ...

    def probe(self, index: int) -> str:
        """The version of the engine, if it is installed and its device is there.

        Raises:
            BackendError: saying what is missing and how to get it.
        """
        ...


# Best first. ONNX Runtime comes before OpenVINO, because it is what the export proved the graphs with; MNN before both,
# because it serves those bundles only that somebody built an engine for.
ENGINES = (
    Engine("tensorrt", "cuda", "tensorrt:TensorRtBackend"),
    Engine("tensorrt_rtx", "cuda", "tensorrt:TensorRtRtxBackend"),
    Engine("onnxruntime", "cuda", "onnxruntime_cuda:OnnxRuntimeCudaBackend"),
    Engine("mnn", "cpu", "mnn:MnnBackend"),
    Engine("onnxruntime", "cpu", "onnxruntime:OnnxRuntimeBackend"),
    Engine("openvino", "cpu", "openvino:OpenVinoBackend"),
)
BACKENDS = tuple(dict.fromkeys(engine.backend for engine in ENGINES))


def open_backend(bundle: Bundle, *, backend: str, device: str, precision: str, threads: int | None) -> Backend:
    """Loads a bundle's graphs into an engine.

    Args:
        bundle: An open bundle; it may be closed afterwards.
        backend: "auto" or one of `BACKENDS`.
        device: "auto", "cpu", "cuda" (the first) or "cuda:N".
        precision: "auto" or a precision that both the engine and the bundle have.
        threads: CPU threads for one operator; None takes every CPU that this process may use.

    Raises:
        BackendError: if something that was asked for cannot be had here; the message has the remedy.
        BundleError: if a graph is missing, damaged, or not what the manifest says.
        EngineError: if the engine cannot load a graph.
        SettingsError: if the number of threads is out of range.
    """
    counted = check_threads(threads)
    index = device_index(device)
    engines = _fitting(backend, device)
    check_precision(bundle, precision)
    refused: list[Candidate] = []
    for place, engine in enumerate(engines):
        name = device_name(engine, index)
        try:
            home = backend_class(engine)
            home.probe(index)
            opened = home(bundle, index=index, precision=precision, threads=counted, named=backend != "auto")
        except BackendError as error:
            refused.append(Candidate(engine.backend, name, "missing", str(error)))
        except EngineError as error:
            # Over the bundle's own graphs there is no reason on a CPU but that they are broken, and then so they are
            # for the next engine. On a GPU there are many, from cuDNN to its memory; what lies in `engines/` may break.
            if (engine.device == "cpu" and engine.backend not in PLANNED_ROLES) or len(engines) == 1:
                raise
            _LOG.warning("%s on %s is here but does not work, so another is taken: %s", engine.backend, name, error)
            refused.append(Candidate(engine.backend, name, "broken", str(error)))
        else:
            return _explained(opened, refused, engines[place + 1 :], index, "auto" in (backend, device))
    raise BackendError(_nothing(backend, device, precision, refused))


def device_index(device: str) -> int:
    """N of `cuda:N`, 0 of the others.

    Raises:
        BackendError: if it is no device.
    """
    found = _CUDA.fullmatch(device) if isinstance(device, str) else None
    if found is None and device not in ("auto", "cpu"):
        raise BackendError(f"device {device!r} is unknown; pass 'auto', 'cpu', 'cuda' or 'cuda:N'")
    return int(found[1] or 0) if found else 0


def device_name(engine: Engine, index: int) -> str:
    """The device that an engine would run on, as `Active.device` has it."""
    return f"cuda:{index}" if engine.device == "cuda" else engine.device


def backend_class(engine: Engine) -> BackendClass:
    """The class that serves with an engine; its module is imported here."""
    module, _, name = engine.home.partition(":")
    return cast(BackendClass, getattr(import_module(f"dmgan_runtime.backends.{module}"), name))


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
    what = f"{active.backend} {active.version} on {active.device} in {active.precision}"
    why = "the best that can be had here" if automatic else "as asked for"
    nots = [f"not {each.backend} on {each.device}: {each.verdict}" for each in refused]
    chosen = Candidate(active.backend, active.device, "chosen", active.reason or why)
    later = [
        Candidate(each.backend, device_name(each, index), "untried", f"{active.backend} comes first")
        for each in untried
    ]
    opened.active = replace(
        active,
        reason="; ".join([f"{what}: {why}", *filter(None, [active.reason]), *nots]),
        considered=(*refused, chosen, *later),
    )
    return opened


def _nothing(backend: str, device: str, precision: str, refused: Sequence[Candidate]) -> str:
    asked = {"backend": backend, "device": device, "precision": precision}
    named = ", ".join(f"{name} {value!r}" for name, value in asked.items() if value != "auto") or "any engine"
    if len(refused) == 1:
        return f"{named} cannot be had: {refused[0].verdict}"
    reasons = "".join(f"\n  {each.backend} on {each.device}: {each.verdict}" for each in refused)
    return f"{named} cannot be had:{reasons}"
