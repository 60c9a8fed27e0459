"""One engine for many threads and processes: who uses it now, and when it may end."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from threading import Condition, get_ident
from weakref import WeakSet

from dmgan_runtime.backends.base import Backend
from dmgan_runtime.errors import EngineError

_engines: WeakSet[SharedEngine] = WeakSet()


class SharedEngine:
    """Lends a backend to threads, frees it once nobody uses it, and opens another one in a forked process.

    A forked process has a copy of the engine's memory but none of its threads and no right to its device: to use
    that copy, or even to free it, can hang for ever (ONNX Runtime waits for the threads). So the copy is left alone.
    """

    def __init__(self, backend: Backend, reopen: Callable[[], Backend]) -> None:
        """Args:
        backend: A loaded backend; it belongs to this object from now on.
        reopen: Loads the same graphs again, for a forked process.
        """
        self._backend: Backend | None = backend
        self._reopen = reopen
        self._closed = False
        self._users: list[int] = []
        self._changed = Condition()
        _engines.add(self)
        _watch_forks()

    @contextmanager
    def lease(self) -> Iterator[Backend]:
        """Lends the backend for one run of a graph, during which it is not freed.

        Raises:
            EngineError: if the engine is closed, or was opened before a fork and cannot be opened again.
        """
        # Entered before it is asked for: a signal's handler may close the engine between any two lines.
        self._users.append(get_ident())
        try:
            yield self.backend
        finally:
            with self._changed:
                self._users.remove(get_ident())
                self._changed.notify_all()
            if self._closed:
                self._free()

    @property
    def backend(self) -> Backend:
        """The backend.

        Raises:
            EngineError: as `lease`.
        """
        with self._changed:
            self.check_open()
            if self._backend is None:
                self._backend = self._reopen()
            return self._backend

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def check_open(self) -> None:
        """Raises an `EngineError` if the engine is closed."""
        if self._closed:
            raise EngineError("this generator is closed; open the bundle again with Generator.open")

    def close(self) -> None:
        """Refuses new leases, waits for those of other threads, and frees the backend. Closing twice is fine.

        A signal's handler that interrupts a run may close too: the backend is then freed when that run is over.
        """
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: set(self._users) <= {get_ident()})
        self._free()

    def _free(self) -> None:
        with self._changed:
            if self._users:
                return
            backend, self._backend = self._backend, None
        if backend is not None:
            backend.close()
            del backend
            _return_free_memory()

    def after_fork(self) -> None:
        """Starts anew in a forked process, whose other threads are gone with all that they held."""
        self._changed = Condition()
        self._users = []
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
        os.register_at_fork(after_in_child=_after_fork)


def _after_fork() -> None:
    for engine in _engines:
        engine.after_fork()
    _skip_engines_at_exit()


@cache
def _skip_engines_at_exit() -> None:
    """Ends a forked process right after Python is done.

    ONNX Runtime, once imported, has a thread that its C++ destructors wait for at exit. A forked process does not
    have it, and would hang or abort there (onnxruntime 1.32).
    """
    if hasattr(libc := ctypes.CDLL(None), "on_exit"):  # glibc: the last one registered is called first
        libc.on_exit(ctypes.cast(libc._exit, ctypes.c_void_p), None)
