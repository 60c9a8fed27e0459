"""An open model: its bundle, vocabulary and engine, and how they live through threads, forks and pickles."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Self

from dmgan_runtime.backends import open_backend
from dmgan_runtime.backends.base import Active, Backend
from dmgan_runtime.bundle import Bundle
from dmgan_runtime.errors import BackendError, BundleError, EngineError
from dmgan_runtime.lifetime import SharedEngine
from dmgan_runtime.manifest import Manifest
from dmgan_runtime.packaged import packaged_bundle
from dmgan_runtime.tokenizer import Tokenizer


class Session:
    """A bundle whose graphs are loaded.

    Attributes:
        manifest: What the bundle says of itself.
        tokenizer: The words that the model knows.
        active: The backend, device, precision and threads that were chosen, and why.
    """

    def __init__(
        self, manifest: Manifest, tokenizer: Tokenizer, backend: Backend, open_again: Callable[[], Session]
    ) -> None:
        """Use `open`; this takes parts that have been loaded, and what loads them in another process."""
        self.manifest = manifest
        self.active: Active = backend.active
        self.tokenizer = tokenizer
        self._open_again = open_again
        self._engine = SharedEngine(backend, partial(_reopen, open_again, manifest, backend.active))

    @classmethod
    def open(
        cls,
        bundle: str | os.PathLike[str] | None = None,
        *,
        backend: str = "auto",
        device: str = "auto",
        precision: str = "auto",
        threads: int | None = None,
    ) -> Self:
        """Checks a bundle and loads its graphs.

        What was asked for and cannot be had is an error; `active` says what "auto" took, and why not the others.

        Args:
            bundle: A folder or .zip that `dmgan-export` wrote; None is the model that comes with dmgan.
            backend: "auto" takes the best that can be had here; or "onnxruntime", "openvino", "mnn", "tensorrt"
                or "tensorrt_rtx".
            device: "auto", "cpu", "cuda" (the first GPU) or "cuda:N".
            precision: "auto" is fp16 on a GPU if the bundle has it, and fp32 elsewhere; or "fp32", "fp16" (GPU),
                "int8" (CPU, TensorRT) or "bf16" (OpenVINO, on a CPU that has it).
            threads: CPU threads for one operator, from 1 to 1024; None takes every CPU that the process may use.

        Raises:
            BundleError: if the bundle is missing, damaged or unsafe.
            BackendError: if the backend, device or precision that was asked for cannot be had here.
            EngineError: if the engine cannot load a graph.
            SettingsError: if the number of threads is out of range.
        """
        if not isinstance(bundle, str | os.PathLike | None):
            raise BundleError(
                f"bundle is {bundle!r}; pass the path of a folder or .zip, or None for the model that comes with dmgan"
            )
        path = packaged_bundle() if bundle is None else Path(bundle).absolute()
        open_again = partial(cls.open, path, backend=backend, device=device, precision=precision, threads=threads)
        with Bundle(path) as opened:
            tokenizer = opened.tokenizer()
            engine = open_backend(opened, backend=backend, device=device, precision=precision, threads=threads)
            return cls(opened.manifest, tokenizer, engine, open_again)

    @property
    def resolutions(self) -> tuple[int, ...]:
        """The sides of the three images in pixels, smallest first, for example (64, 128, 256)."""
        return self.manifest.model.resolutions

    def close(self) -> None:
        """Frees the engine once the graphs that run in other threads are done; closing twice is fine.

        A call that is under way in another thread, or comes later, ends with an `EngineError`.
        """
        self._engine.close()

    def __repr__(self) -> str:
        sides = ", ".join(map(str, self.resolutions))
        state = ", closed" if self._engine.closed else ""
        return f"<{type(self).__name__} {self.manifest.name!r} of {sides} pixels on {_engine_name(self.active)}{state}>"

    def __reduce__(self) -> tuple[Callable[[], Session], tuple[()]]:
        """Pickled, it is its bundle's path and what was asked of `open`; unpickled, it is opened again."""
        self._engine.check_open()
        return self._open_again, ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _reopen(open_again: Callable[[], Session], manifest: Manifest, active: Active) -> Backend:
    """Loads an engine for a forked process: the same one of the same bundle, or one seed would be two images."""
    try:
        again = open_again()
    except (BackendError, EngineError) as error:
        raise EngineError(
            f"no engine for this forked process ({error}); start processes with spawn, not fork"
        ) from error
    if again.manifest != manifest:
        again.close()
        raise BundleError(
            f"the bundle {manifest.name!r} was replaced after it was opened, and this forked process needs it again;"
            " open the new one here with Generator.open"
        )
    if _identity(again.active) != _identity(active):
        again.close()
        raise EngineError(
            f"this generator was opened with {_engine_name(active)}, and this forked process can only have"
            f" {_engine_name(again.active)}; start processes with spawn, not fork"
        )
    return again._engine.backend


def _identity(active: Active) -> tuple[object, ...]:
    """What decides which image a seed is, and which batches can be asked for."""
    return active.backend, active.version, active.device, active.precision, active.max_batch


def _engine_name(active: Active) -> str:
    return f"{active.backend} {active.version} on {active.device} in {active.precision}"
