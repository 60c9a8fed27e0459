"""How long an image takes while other work has the CPUs too: every engine, with one thread and with all.

    python -m scripts.busy [BUNDLE] --loops 0,2,8

A loop that never ends stands for the other work. An engine whose threads spin at a barrier for one that has no CPU is
told by how much more than its share it loses.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
from PIL import Image

from benchmarks.cli import make_command
from benchmarks.contender import SEED, BundleFolder, Caller, Contender, select
from benchmarks.generation import find_contenders, numbers_option
from benchmarks.measure import WARM_UPS, Measure, Task
from benchmarks.pool import Pool
from benchmarks.results import Series
from benchmarks.turns import Calls
from dmgan_runtime import Generator
from dmgan_runtime.backends.registry import find_engine_row
from dmgan_runtime.bundle import packaged_bundle

_CALLS = Calls(1, 4)


@dataclass(frozen=True)
class Serving(Contender):
    """An engine with a number of threads."""

    @property
    def name(self) -> str:
        return f"{super().name}-{self.threads}"

    @property
    def label(self) -> str:
        return f"{find_engine_row(self.engine).label}, {self.threads} thread{'s' * (self.threads > 1)}"

    def open(self, model: BundleFolder) -> Caller:
        return _Generating(self, model)


class _Generating(Caller):
    def __init__(self, asked: Serving, model: BundleFolder) -> None:
        super().__init__()
        self._generator = Generator.open(
            model.path, backend=asked.engine, device=asked.device, precision=asked.precision, threads=asked.threads
        )

    def version(self) -> str:
        return self._generator.active.version

    def generate(self, captions: Sequence[str]) -> list[Image.Image]:
        return [each.image for each in self._generator.generate(captions, seed=SEED, batch_size=len(captions))]


@contextmanager
def busy(loops: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """So many processes that compute without end, until the block ends."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(loops)]
    try:
        yield others
    finally:
        for process in others:
            process.kill()
            process.wait()


@dataclass(frozen=True)
class Busy(Measure):
    """Time an image of BUNDLE (default: the packaged model) while other work has the CPUs too."""

    name = "busy"
    task_options = (
        click.Argument(["bundle"], required=False, type=click.Path(exists=True, file_okay=False, path_type=Path)),
    )
    options = (numbers_option("--loops", "0,2,8", least=0, text="Endless loops beside it."),)

    loops: tuple[int, ...]

    @classmethod
    def prepare(cls, device: str, threads: int, names: Sequence[str], **asked: Any) -> Task:
        folder = BundleFolder(asked["bundle"] or packaged_bundle())
        served = [each for each in find_contenders(device, threads) if each.engine != "torch"]
        counts = dict.fromkeys((threads, 1))
        contenders = [Serving(each.precision, device, count, each.engine) for each in served for count in counts]
        contenders.sort(key=lambda each: not each.name.startswith("onnxruntime-fp32"))  # which every bundle has
        return Task(folder, select(contenders, names), lambda _: None)

    def take(self, pool: Pool) -> Iterator[list[Series]]:
        captions = pool.model.take_captions(1)
        able = pool.each(1, "time", captions, Calls(0, WARM_UPS))
        for loops in self.loops:
            with busy(loops):
                yield pool.sample(able, partial(self._turn, pool, captions, _figure(loops)), "s", self.limits, 1)

    def _turn(self, pool: Pool, captions: list[str], figure: str, name: str) -> Mapping[str, Sequence[float]]:
        return {figure: pool.workers[name].call("time", captions, _CALLS)}


def _figure(loops: int) -> str:
    return f"beside_{loops}_loops" if loops else "alone"


main = make_command(Busy)

if __name__ == "__main__":
    main()
