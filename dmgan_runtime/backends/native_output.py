"""What a library prints from C, kept off the standard output, where pictures and JSON go."""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_STDOUT = 1


@contextmanager
def native_output() -> Iterator[Callable[[], str]]:
    """Catches what the process writes to its standard output, from whatever thread, until the end of the block.

    Yields:
        A function that returns what was caught so far, in one line.
    """
    try:
        kept = os.dup(_STDOUT)
    except OSError:  # a daemon may have none
        yield lambda: ""
        return
    with tempfile.TemporaryFile() as caught:

        def caught_text() -> str:
            _flush()
            caught.seek(0)
            return " ".join(caught.read().decode(errors="replace").split())

        _flush()
        os.dup2(caught.fileno(), _STDOUT)
        try:
            yield caught_text
        finally:
            _flush()
            os.dup2(kept, _STDOUT)
            os.close(kept)


def _flush() -> None:
    """Empties the buffers of Python and of C, so that each line goes where it belonged when it was written."""
    if sys.stdout is not None:
        sys.stdout.flush()
    if os.name == "posix":
        ctypes.CDLL(None).fflush(None)
