"""A sampler under a clock: what a worker holds."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.contenders import Contender
from benchmarks.samplers import open_sampler
from benchmarks.subject import Subject
from benchmarks.turns import Calls
from dmgan_runtime.manifest import Role
from dmgan_runtime.request import FloatArray


class Served(NamedTuple):
    """What many clients got at once.

    Attributes:
        images: How many they all got.
        seconds: Until the last one was done.
    """

    images: int
    seconds: float


class TimedSampler:
    """A contender, opened and timed."""

    def __init__(self, subject: Subject, contender: Contender) -> None:
        """Raises a `BackendError` if the contender cannot be had here."""
        self._sampler = open_sampler(subject, contender)

    def version(self) -> str:
        """The engine's."""
        return self._sampler.version

    def synthesize(self, captions: Sequence[str]) -> FloatArray:
        """See `Sampler.synthesize`."""
        return self._sampler.synthesize(captions)

    def warm_up(self, captions: Sequence[str], calls: int) -> float:
        """Generates a few times; returns the seconds of the last time."""
        times = [_seconds(lambda: self._sampler.generate(captions)) for _ in range(calls)]
        return times[-1]

    def time(self, captions: Sequence[str], calls: Calls) -> list[float]:
        """One turn: the seconds from captions to pictures of every counted call."""
        for _ in range(calls.uncounted):
            self._sampler.generate(captions)
        return [_seconds(lambda: self._sampler.generate(captions)) for _ in range(calls.counted)]

    def time_graphs(self, captions: Sequence[str]) -> dict[Role, float]:
        """See `Sampler.time_graphs`."""
        return self._sampler.time_graphs(captions)

    def serve_clients(self, captions: Sequence[str], clients: int, seconds: float) -> Served:
        """Lets many threads ask again and again, each for all captions at once, for so long."""
        done: list[int] = []
        errors: list[BaseException] = []
        began = time.perf_counter()

        def ask() -> None:
            try:
                while True:  # at least once, however long that takes
                    done.append(len(self._sampler.generate(captions)))
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
        return Served(sum(done), time.perf_counter() - began)

    def release(self) -> None:
        """See `Sampler.release`."""
        self._sampler.release()

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
