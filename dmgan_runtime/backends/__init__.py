"""The engines that can serve a bundle. Each is imported only when it is chosen."""

from __future__ import annotations

from dmgan_runtime.backends.base import Backend, choose
from dmgan_runtime.bundle import Bundle

BACKENDS = ("onnxruntime",)


def open_backend(bundle: Bundle, *, backend: str, device: str, precision: str, threads: int | None) -> Backend:
    """Loads a bundle's graphs into an engine.

    Args:
        bundle: An open bundle; it may be closed afterwards.
        backend: "auto" or one of `BACKENDS`.
        device: "auto" or a device of that backend.
        precision: "auto" or a precision that both the backend and the bundle have.
        threads: CPU threads for one operator; None takes every CPU that this process may use.

    Raises:
        BackendError: if something that was asked for cannot be had here.
        BundleError: if a graph is missing, damaged, or not what the manifest says.
        EngineError: if the engine cannot load a graph.
        SettingsError: if the number of threads is out of range.
    """
    choose("backend", backend, BACKENDS, "this version of dmgan")
    from dmgan_runtime.backends.onnxruntime import OnnxRuntimeBackend

    return OnnxRuntimeBackend(bundle, device=device, precision=precision, threads=threads)
