"""What it costs to fetch attention and gates beside the images.

    python -m scripts.outputs BUNDLE --batches 1,4

Every engine that can serve the bundle generates with the images alone and with everything, in turns.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click

from benchmarks.cli import make_command
from benchmarks.contender import BundleFolder, Contender, RuntimeContender, read_captions, select
from benchmarks.generation import batches_option, find_contenders
from benchmarks.measure import WARM_UPS, Measure, Task
from benchmarks.pool import Pool
from benchmarks.results import Series
from benchmarks.turns import Calls, calls_per_turn
from dmgan_runtime.backends.choice import open_backend
from dmgan_runtime.backends.registry import find_engine_row
from dmgan_runtime.bundle import Bundle
from dmgan_runtime.graphs import EVERYTHING, IMAGE
from dmgan_runtime.request import Batch

WAYS = {"images": IMAGE, "everything": EVERYTHING}


@dataclass(frozen=True)
class Fetcher(Contender):
    """An engine that is asked for some of a stage's outputs."""

    @property
    def label(self) -> str:
        return find_engine_row(self.engine).label

    def open(self, model: BundleFolder) -> FetchingEngine:
        return FetchingEngine(self, model.path)


class FetchingEngine:
    """An engine that has loaded a bundle: what a worker holds."""

    def __init__(self, fetcher: Fetcher, folder: Path) -> None:
        with Bundle(folder) as bundle:
            self._tokenizer, self._manifest = bundle.tokenizer(), bundle.manifest
            self._backend = open_backend(
                bundle,
                backend=fetcher.engine,
                device=fetcher.device,
                precision=fetcher.precision,
                threads=fetcher.threads,
            )

    def version(self) -> str:
        """The engine's."""
        return self._backend.active.version

    def time(self, batch: int, calls: Calls) -> dict[str, list[float]]:
        """The seconds of every counted call, the two ways one after the other."""
        seconds: dict[str, list[float]] = {name: [] for name in WAYS}
        for _ in range(sum(calls)):
            for name, wanted in WAYS.items():
                seconds[name].append(self._time(batch, wanted))
        return {name: values[calls.uncounted :] for name, values in seconds.items()}

    def _time(self, batch: int, wanted: Collection[str]) -> float:
        caption = " ".join(self._tokenizer.words[1 : self._manifest.tokenizer.max_words + 1])
        inputs = Batch(*read_captions([caption] * batch, self._tokenizer, self._manifest))
        began = time.perf_counter()
        for _ in self._backend.generate(inputs, self._manifest.model.stages, wanted):
            pass
        return time.perf_counter() - began


@dataclass(frozen=True)
class Outputs(Measure):
    """Time every engine with the images of BUNDLE, a folder, alone, and with attention and gates."""

    name = "outputs"
    task_options = (click.Argument(["bundle"], type=click.Path(exists=True, file_okay=False, path_type=Path)),)
    options = (batches_option("1,4"),)

    batches: tuple[int, ...]

    @classmethod
    def prepare(cls, device: str, threads: int, names: Sequence[str], **asked: Any) -> Task:
        folder = BundleFolder(asked["bundle"])
        folder.describe()  # refuses what is no bundle
        served = [each for each in find_contenders(device, threads) if isinstance(each, RuntimeContender)]
        fetchers = [Fetcher(each.precision, device, threads, each.engine) for each in served]
        fetchers.sort(key=lambda each: each.name != "onnxruntime-fp32")  # which every bundle can be served with
        return Task(folder, select(fetchers, names), lambda _: None)

    def take(self, pool: Pool) -> Iterator[list[Series]]:
        for batch in self.batches:
            warm = pool.each(batch, "time", batch, Calls(0, WARM_UPS))
            slowest = max((seconds["everything"][-1] for seconds in warm.values()), default=0.0)
            yield pool.sample(warm, partial(self._turn, pool, batch, calls_per_turn(slowest)), "s", self.limits, batch)

    def _turn(self, pool: Pool, batch: int, calls: Calls, name: str) -> Mapping[str, Sequence[float]]:
        times: dict[str, list[float]] = pool.workers[name].call("time", batch, calls)
        return times


main = make_command(Outputs)

if __name__ == "__main__":
    main()
