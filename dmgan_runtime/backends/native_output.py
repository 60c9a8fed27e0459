"""What a library prints from C, kept off the standard output, where pictures and JSON go."""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO

from dmgan_runtime.errors import EngineError

_STDOUT = 1
# Two threads that exchange the standard output would each give back what the other had put there.
_ONE_AT_A_TIME = threading.RLock()


@contextmanager
def native_output() -> Iterator[Callable[[], str]]:
    """Catches what the process writes to its standard output, from whatever thread, until the end of the block.

    Yields:
        A function that returns what was caught so far, in one line.

    Raises:
        EngineError: if there is no room for a temporary file.
    """
    with _ONE_AT_A_TIME, _temporary_file() as caught:
        try:
            kept = os.dup(_STDOUT)
        except OSError:  # a daemon may have none
            yield lambda: ""
            return

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


def _temporary_file() -> IO[bytes]:
    try:
        return tempfile.TemporaryFile()
    except OSError as error:
        raise EngineError(
            f"there is no room for a temporary file ({error}); make room, or set TMPDIR to another folder"
        ) from error


def _flush() -> None:
    """Empties the buffers of Python and of C, so that each line goes where it belonged when it was written."""
    if sys.stdout is not None:
        sys.stdout.flush()
    if os.name == "posix":
        ctypes.CDLL(None).fflush(None)
