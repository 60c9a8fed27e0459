"""One engine for many threads, and for processes that were forked.

Pre-fork servers (gunicorn with `--preload`, Celery) open a model once and then fork. The child has a copy of the
engine's memory but none of its threads: to use that copy, or even to free it at exit, waits for those threads for ever.
So the child leaves the copy alone, opens the bundle again at first use, and ends without the destructors of C++.
"""

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

_handles: WeakSet[EngineHandle] = WeakSet()


class EngineHandle:
    """Lends a backend to threads, and frees it once it is closed and nobody uses it."""

    def __init__(self, backend: Backend, reopen: Callable[[], Backend]) -> None:
        """Takes a loaded backend over.

        Args:
            backend: It belongs to this object from now on.
            reopen: Loads the same graphs again, for a forked process.
        """
        self._backend: Backend | None = backend
        self._reopen = reopen
        self._closed = False
        self._users: list[int] = []
        self._changed = Condition()
        _handles.add(self)
        _watch_forks()

    @contextmanager
    def use(self) -> Iterator[Backend]:
        """Lends the backend; it is not freed until the block ends.

        Raises:
            EngineError: if the handle is closed, or the engine was opened before a fork and cannot be opened again.
        """
        # Entered before it is asked for: a signal's handler may close the handle between any two lines.
        self._users.append(get_ident())
        try:
            with self._changed:
                self.check_open()
                if self._backend is None:
                    self._backend = self._reopen()
                backend = self._backend
            yield backend
        finally:
            with self._changed:
                self._users.remove(get_ident())
                self._changed.notify_all()
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
        """Refuses new users, waits for those in other threads, and frees the backend. Closing twice is fine.

        A signal's handler that interrupts a user may close too: the backend is then freed when that user is done.
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

    def _after_fork(self) -> None:
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
        os.register_at_fork(after_in_child=_in_child)


def _in_child() -> None:
    for handle in _handles:
        handle._after_fork()
    _end_without_destructors()


@cache
def _end_without_destructors() -> None:
    if hasattr(libc := ctypes.CDLL(None), "on_exit"):  # glibc: the last one registered is called first
        libc.on_exit(ctypes.cast(libc._exit, ctypes.c_void_p), None)
