"""One engine for many threads, and for processes that were forked.

Pre-fork servers (gunicorn with `--preload`, Celery) open a model once and then fork. The child has a copy of the
engine's memory but none of its threads: to use that copy, or even to free it at exit, waits for those threads for ever.
So the child leaves the copy alone, opens the bundle again at first use, and ends without the destructors of C++.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import RLock, get_ident
from typing import Any
from weakref import WeakSet

from dmgan_runtime.backends.base import Active, Backend, busy_at_fork
from dmgan_runtime.backends.choice import open_backend
from dmgan_runtime.backends.registry import find_engine_row
from dmgan_runtime.bundle import Bundle
from dmgan_runtime.errors import BackendError, BundleError, EngineError
from dmgan_runtime.manifest import Manifest

_POLL_SECONDS = 0.005
_handles: WeakSet[EngineHandle] = WeakSet()


class _Use:
    """One use of a backend; it ends with the frame that holds it, whatever exception ends that."""

    def __init__(self) -> None:
        self.thread = get_ident()


class EngineHandle:
    """Lends a backend to threads, and frees it once it is closed and nobody uses it.

    A signal's handler may raise, or close the handle, between any two lines: so uses are counted by weak references,
    and a lock of C guards them.
    """

    def __init__(self, backend: Backend, reopen: Callable[[], Backend]) -> None:
        """Takes a loaded backend over.

        Args:
            backend: It belongs to this object from now on.
            reopen: Loads the same graphs again, for a forked process.
        """
        self._backend: Backend | None = backend
        self._engine = backend.active.backend
        self._reopen = reopen
        self._closed = False
        self._uses: WeakSet[_Use] = WeakSet()
        self._lock = RLock()
        _handles.add(self)
        _watch_forks()

    @contextmanager
    def use(self) -> Iterator[Backend]:
        """Lends the backend; it is not freed until the block ends.

        Raises:
            EngineError: if the handle is closed, or the engine was opened before a fork and cannot be opened again.
        """
        use = _Use()
        try:
            with self._lock:
                self.check_open()
                self._uses.add(use)
                if self._backend is None:
                    self._backend = self._reopen()
                backend = self._backend
            yield backend
        finally:
            with self._lock:
                self._uses.discard(use)
            if self._closed:
                self._free()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def check_open(self) -> None:
        """Raises an `EngineError` if the handle is closed."""
        if self._closed:
            raise EngineError("this generator is closed; open the bundle again with Generator.open")

    def close(self) -> None:
        """Refuses new uses, waits for those of other threads, and frees the backend. Closing twice is fine.

        A signal's handler that interrupts a use may close too: the backend is then freed when the last use ends.
        """
        self._closed = True
        while threads := self._threads():
            if get_ident() in threads:
                return
            time.sleep(_POLL_SECONDS)
        self._free()

    def _threads(self) -> set[int]:
        """The threads that use the backend now."""
        with self._lock:
            return {use.thread for use in self._uses}

    def _free(self) -> None:
        with self._lock:
            if self._uses:
                return
            backend, self._backend = self._backend, None
            # Under the lock, so that `close` returns in no thread before all is freed.
            if backend is not None:
                backend.close()
                del backend
                _return_free_memory()

    def _after_fork(self) -> None:
        if self._uses:
            busy_at_fork.add(self._engine)
        self._uses = WeakSet()
        self._lock = RLock()
        if self._backend is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._backend))  # never freed, not even at exit
            self._backend = None


def _return_free_memory() -> None:
    """Gives memory that has been freed back to the system.

    glibc keeps much of it otherwise: 130 of the 370 MB that a paper-size model took (onnxruntime 1.32, two threads).
    """
    if os.name == "posix" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


@cache
def _watch_forks() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_in_child)


def _in_child() -> None:
    for handle in _handles:
        handle._after_fork()
    _end_without_destructors()


@cache
def _end_without_destructors() -> None:
    if hasattr(libc := ctypes.CDLL(None), "on_exit"):  # glibc: the last one registered is called first
        libc.on_exit(ctypes.cast(libc._exit, ctypes.c_void_p), None)


def reopen(path: Path, asked: Mapping[str, Any], manifest: Manifest, active: Active) -> Backend:
    """Loads an engine again in a forked process: the same one of the same bundle, or one seed would be two images.

    Args:
        path: Of the bundle.
        asked: What was asked of `Generator.open`.
        manifest: The bundle's when it was opened.
        active: What was opened.

    Raises:
        EngineError: if it cannot be had there.
        BundleError: if the bundle was replaced.
    """
    remedy = "start processes with spawn, not fork"
    if not find_engine_row(active.backend, active.device.partition(":")[0]).survives_fork:
        raise EngineError(f"{active.backend} cannot use a GPU in a forked process; {remedy}")
    same = {
        "backend": active.backend,
        "device": active.device,
        "precision": active.precision,
        "threads": active.threads,
    }
    with Bundle(path) as bundle:
        if bundle.manifest != manifest:
            raise BundleError(
                f"the bundle {manifest.name!r} was replaced after it was opened, and this forked process needs it"
                " again; open the new one here with Generator.open"
            )
        try:
            return open_backend(bundle, **{**asked, **same}, named=asked["backend"] != "auto")
        except (BackendError, EngineError) as error:
            raise EngineError(f"no engine for this forked process ({error}); {remedy}") from error
