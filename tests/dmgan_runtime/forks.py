"""Runs a check in a forked process."""

from __future__ import annotations

import os
import signal
import traceback
import warnings
from collections.abc import Callable

import pytest

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


def in_fork(check: Callable[[], object]) -> None:
    """Runs a check in a fork of this process, as it is now; one that hangs there is ended after 20 seconds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 and later warn of any fork beside threads
        child = os.fork()
    if child == 0:
        signal.alarm(20)
        try:
            check()
            os._exit(0)
        finally:  # it has failed
            traceback.print_exc()
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
