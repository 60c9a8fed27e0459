"""A painter under a clock: what a worker holds."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.contenders import Contender
from benchmarks.painters import open_painter
from benchmarks.subject import Subject
from benchmarks.turns import Calls
from dmgan_runtime.manifest import Role
from dmgan_runtime.results import FloatArray


class Rush(NamedTuple):
    """What many clients got at once.

    Attributes:
        images: How many they all got.
        seconds: Until the last one was done.
    """

    images: int
    seconds: float


class Performer:
    """A contender, opened and timed."""

    def __init__(self, subject: Subject, contender: Contender) -> None:
        """Raises a `BackendError` if the contender cannot be had here."""
        self._painter = open_painter(subject, contender)

    def version(self) -> str:
        """The engine's."""
        return self._painter.version

    def synthesize(self, captions: Sequence[str]) -> FloatArray:
        """See `Painter.synthesize`."""
        return self._painter.synthesize(captions)

    def warm_up(self, captions: Sequence[str], calls: int) -> float:
        """Paints a few times; returns the seconds of the last time."""
        times = [_seconds(lambda: self._painter.paint(captions)) for _ in range(calls)]
        return times[-1]

    def time(self, captions: Sequence[str], calls: Calls) -> list[float]:
        """One turn: the seconds from captions to pictures of every counted call."""
        for _ in range(calls.uncounted):
            self._painter.paint(captions)
        return [_seconds(lambda: self._painter.paint(captions)) for _ in range(calls.counted)]

    def time_graphs(self, captions: Sequence[str]) -> dict[Role, float]:
        """See `Painter.time_graphs`."""
        return self._painter.time_graphs(captions)

    def rush(self, captions: Sequence[str], clients: int, seconds: float) -> Rush:
        """Lets many threads ask again and again, each for all captions at once, for so long."""
        done: list[int] = []
        errors: list[BaseException] = []
        began = time.perf_counter()

        def ask() -> None:
            try:
                while True:  # at least once, however long that takes
                    done.append(len(self._painter.paint(captions)))
                    if time.perf_counter() - began >= seconds:
                        return
            except BaseException as error:  # noqa: BLE001 - it is raised again in the thread that asked
                errors.append(error)

        threads = [threading.Thread(target=ask) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return Rush(sum(done), time.perf_counter() - began)

    def rest(self) -> None:
        """See `Painter.rest`."""
        self._painter.rest()

    def peak_memory(self) -> int:
        """See `peak_memory`."""
        return peak_memory()


def peak_memory() -> int:
    """The most main memory that this process has held, in bytes."""
    if sys.platform == "linux":
        # getrusage would count what the parent held before the new program was loaded.
        lines = Path("/proc/self/status").read_text().splitlines()
        (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
        return int(peak) * 1024
    import resource  # Windows has none

    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held if sys.platform == "darwin" else held * 1024


def _seconds(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began
