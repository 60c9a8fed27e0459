"""The model that contenders generate with, what each can be asked for, and the one that serves with `dmgan_runtime`.

A worker that holds an engine imports this module and nothing that imports PyTorch.
"""

from __future__ import annotations

import hashlib
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
from PIL import Image

from benchmarks.results import ModelEntry
from benchmarks.turns import Calls
from dmgan_runtime.backends.registry import find_engine_row
from dmgan_runtime.bundle import Bundle
from dmgan_runtime.errors import BackendError, SettingsError
from dmgan_runtime.generator import Generator
from dmgan_runtime.graphs import IMAGE
from dmgan_runtime.manifest import MANIFEST_NAME, Manifest
from dmgan_runtime.noise import draw_noise
from dmgan_runtime.request import Batch, FloatArray
from dmgan_runtime.tokenizer import Tokenizer, Tokens

SEED = 7
AS_WRITTEN = "as written"


class BenchmarkModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One set of weights in both forms.

    Attributes:
        name: The model's.
        origin: Where the weights came from, in words.
        bundle: The bundle's folder.
        weights: A file of state dicts, `text_encoder` and `generator`.
        resolution: Side of the largest image in pixels.
        captions: Texts that the vocabulary knows.
        operations: Of one image, by graph: of the bundle's graphs by their precision, and of the network as it is
            published as `AS_WRITTEN`.
        lacks: The precisions that these weights could not be exported in, and why.
    """

    name: str
    origin: str
    bundle: str
    weights: str
    resolution: int
    captions: tuple[str, ...]
    operations: dict[str, dict[str, int]]
    lacks: dict[str, str] = {}

    def take_captions(self, count: int) -> list[str]:
        """So many captions, over and over if need be."""
        return [self.captions[index % len(self.captions)] for index in range(count)]

    def describe(self) -> ModelEntry:
        """What a result tells of it."""
        return ModelEntry(
            name=self.name,
            weights=self.origin,
            manifest_sha256=hashlib.sha256((Path(self.bundle) / MANIFEST_NAME).read_bytes()).hexdigest(),
            resolution=self.resolution,
            operations_as_written=self.operations[AS_WRITTEN],
        )


class BundleFolder(NamedTuple):
    """The bundle that is served."""

    path: Path

    def take_captions(self, count: int) -> list[str]:
        """So many times the longest caption that the model reads whole."""
        with Bundle(self.path) as bundle:
            words = bundle.tokenizer().words[1 : bundle.manifest.tokenizer.max_words + 1]
        return [" ".join(words)] * count

    def describe(self) -> ModelEntry:
        """What a result tells of it."""
        with Bundle(self.path) as bundle:
            manifest = bundle.manifest
        return ModelEntry(
            name=manifest.name,
            weights="exported",
            manifest_sha256=hashlib.sha256((self.path / MANIFEST_NAME).read_bytes()).hexdigest(),
            resolution=manifest.model.resolutions[-1],
        )


@dataclass(frozen=True)
class Contender(ABC):
    """One engine, or one loop of training, in one precision on one device.

    Attributes:
        precision: What it computes in; `tf32` is PyTorch's default on a GPU.
        device: `cpu` or `cuda:N`.
        threads: CPU threads for one operator.
        engine: `torch`, a backend of `dmgan_runtime`, or whose loop.
    """

    precision: str
    device: str
    threads: int
    engine: str

    @property
    def name(self) -> str:
        """Names it in files and on the command line."""
        return f"{self.engine}-{self.precision}"

    @property
    @abstractmethod
    def label(self) -> str:
        """Names it for people."""

    @abstractmethod
    def open(self, model: Any) -> Any:
        """What a worker holds, in the worker's process; it has a method `version`.

        Raises:
            DmganError: if it cannot be had here.
        """

    def operations(self, model: Any) -> dict[str, int]:
        """Operations of one image, by graph; empty if nobody counted them."""
        return {}


AnyContender = TypeVar("AnyContender", bound=Contender)


class Caller(ABC):
    """What can be asked for pictures, and be timed at it.

    Attributes:
        clock: In seconds.
    """

    clock: Callable[[], float] = staticmethod(time.perf_counter)

    def __init__(self) -> None:
        self._clients: list[ThreadPoolExecutor] = []

    @abstractmethod
    def version(self) -> str:
        """The engine's."""

    @abstractmethod
    def generate(self, captions: Sequence[str]) -> list[Image.Image]:
        """The largest picture of every caption, in one batch."""

    def time(self, captions: Sequence[str], calls: Calls) -> list[float]:
        """One turn: the seconds from captions to pictures of every counted call."""
        times = []
        for _ in range(sum(calls)):
            began = self.clock()
            self.generate(captions)
            times.append(self.clock() - began)
        return times[calls.uncounted :]

    def serve(self, captions: Sequence[str], clients: int, seconds: float) -> float:
        """Images a second that clients get who ask again and again for so long, but at least once.

        A client is the same thread in every turn, as engines keep graphs and handles for each thread.

        Args:
            captions: What each client asks for at once.
            clients: How many ask at the same time.
            seconds: No client asks anew after that.
        """
        self._clients += [ThreadPoolExecutor(1) for _ in range(clients - len(self._clients))]
        began = self.clock()

        def ask() -> int:
            images = 0
            while not images or self.clock() - began < seconds:
                images += len(self.generate(captions))
            return images

        asked = [client.submit(ask) for client in self._clients[:clients]]
        return sum(each.result() for each in asked) / (self.clock() - began)


class Sampler(Caller):
    """A contender that generates, opened."""

    @abstractmethod
    def synthesize(self, captions: Sequence[str]) -> FloatArray:
        """The same as [N, 3, R, R] float32 in [-1, 1], not rounded to 255 levels."""

    @abstractmethod
    def time_graphs(self, captions: Sequence[str]) -> dict[str, float]:
        """Seconds of each graph, its images fetched to the host; empty if the engine has no separate graphs."""

    def release(self) -> None:
        """Gives back what it keeps for batches of the last size; most keep nothing that they could give."""
        return


class Stopwatch:
    """Laps, each since the one before."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.laps: dict[str, float] = {}
        self._clock, self._last = clock, clock()

    def lap(self, name: str) -> None:
        """Ends a lap."""
        now = self._clock()
        self.laps[name] = now - self._last
        self._last = now


@dataclass(frozen=True)
class RuntimeContender(Contender):
    """An engine that can serve the bundle."""

    @property
    def label(self) -> str:
        return find_engine_row(self.engine).label

    def open(self, model: BenchmarkModel) -> RuntimeSampler:
        if self.precision in model.lacks:
            raise BackendError(model.lacks[self.precision])
        return RuntimeSampler(self, model)

    def operations(self, model: BenchmarkModel) -> dict[str, int]:
        """Of the graphs that it computes; in bf16 these are the fp32 ones."""
        return model.operations["fp32" if self.precision == "bf16" else self.precision]


class RuntimeSampler(Sampler):
    """A bundle, opened by an engine."""

    def __init__(self, contender: RuntimeContender, model: BenchmarkModel) -> None:
        """Raises a `BackendError` if it cannot be had here."""
        super().__init__()
        self._generator = Generator.open(
            model.bundle,
            backend=contender.engine,
            device=contender.device,
            precision=contender.precision,
            threads=contender.threads,
        )

    def version(self) -> str:
        return self._generator.active.version

    def generate(self, captions: Sequence[str]) -> list[Image.Image]:
        """By `Generator.generate`, as a user would call it."""
        made = self._generator.generate(captions, seed=SEED, batch_size=len(captions))
        return [generation.image for generation in made]

    def synthesize(self, captions: Sequence[str]) -> FloatArray:
        """By `Generator.synthesize`."""
        text, noise, condition_noise = self._read(captions)
        made = self._generator.synthesize(text.tokens, text.lengths, noise, condition_noise)
        return made.images[self._generator.resolutions[-1]]

    def time_graphs(self, captions: Sequence[str]) -> dict[str, float]:
        """The text encoder alone, then the stages as the engine hands them out."""
        tokens, noise, condition_noise = self._read(captions)
        spec = self._generator.manifest.model
        # The generator's own engine: a second one would take the memory of the whole batch once more.
        with self._generator._engine.use() as backend:
            stopwatch = Stopwatch(self.clock)
            text = backend.encode(tokens)
            stopwatch.lap("text_encoder")
            outputs = backend.generate(Batch(text, noise, condition_noise), spec.stages, IMAGE)
            for role, _ in zip(spec.generator_roles, outputs, strict=True):
                stopwatch.lap(role)
        return stopwatch.laps

    def _read(self, captions: Sequence[str]) -> tuple[Tokens, FloatArray, FloatArray]:
        return read_captions(captions, self._generator.tokenizer, self._generator.manifest)


def select(found: Sequence[AnyContender], names: Sequence[str]) -> list[AnyContender]:
    """The contenders of some names, and the first, which is the reference; all if there are no names.

    Raises:
        SettingsError: if there is none of a name.
    """
    known = [each.name for each in found]
    if unknown := sorted(set(names) - set(known)):
        raise SettingsError(f"there is no contender {unknown[0]!r} here; there are: {', '.join(known)}")
    return [each for each in found if not names or each.name in (known[0], *names)]


def save_first_picture(contender: Contender, model: BenchmarkModel, path: Path) -> None:
    """From nothing to the first picture in a file."""
    (picture,) = contender.open(model).generate(model.take_captions(1))
    picture.save(path)


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


def read_captions(
    captions: Sequence[str], tokenizer: Tokenizer, manifest: Manifest
) -> tuple[Tokens, FloatArray, FloatArray]:
    """Captions as the runtime reads them: tokens, and noise and condition noise of one seed each."""
    model = manifest.model
    noise, condition_noise = draw_noise([SEED] * len(captions), model.noise_features, model.condition_features)
    return tokenizer.encode_batch(captions, manifest.tokenizer.max_words), noise, condition_noise
