"""Keeping Python's garbage collector out of TensorRT."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """For the making of a builder or a runtime.

    TensorRT holds a lock of the whole process then, and may call the log. If the collector ran there and freed an
    older builder or runtime, that would wait for the same lock, for ever.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
