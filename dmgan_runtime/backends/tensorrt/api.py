"""What serving with TensorRT and building its engines both need of TensorRT's Python API."""

from __future__ import annotations

import gc
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_KEPT_ERRORS = 8

# The switch of the garbage collector belongs to the whole process: without a lock, a second thread would find it off,
# leave it so, and lose its protection as soon as the first one turns it on again.
_COLLECTOR_IS_OFF = threading.Lock()


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Keeps Python's garbage collector from running, in every thread, until the block ends. Blocks must not nest.

    Two things need that. TensorRT holds a lock of the whole process while it makes a builder or a runtime; if the
    collector frees an older one then, that waits for the same lock for ever. And a thread that records a CUDA graph
    must not free GPU memory, which the collector may do for an object that somebody else left behind.
    """
    with _COLLECTOR_IS_OFF:
        was_enabled = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if was_enabled:
                gc.enable()


def new_log(module: Any) -> Any:
    """A TensorRT logger that prints nothing and keeps the last errors.

    Args:
        module: `tensorrt` or `tensorrt_rtx`.

    Returns:
        An `ILogger` whose attribute `errors` is a deque of messages, oldest first; in `of_thread.errors` are those of
        the thread that looks.
    """
    severe = (module.ILogger.Severity.INTERNAL_ERROR, module.ILogger.Severity.ERROR)

    class Log(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.errors = _new_errors()
            self.of_thread = _ErrorsOfThread()

        def log(self, severity: Any, message: str) -> None:
            if severity in severe:
                self.errors.append(message.strip())
                self.of_thread.errors.append(message.strip())

    return Log()


def _new_errors() -> deque[str]:
    return deque(maxlen=_KEPT_ERRORS)


class _ErrorsOfThread(threading.local):
    def __init__(self) -> None:
        """Called anew in each thread."""
        self.errors = _new_errors()
