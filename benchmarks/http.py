"""What HTTP costs: a PNG from `dmgan-serve`, through the `openai` package, beside the same PNG from Python."""

from __future__ import annotations

import base64
import io
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image

from benchmarks.contender import SEED, BundleFolder, Caller, Contender, select
from benchmarks.generation import client_columns, latency_columns, serve_turn, serving_options
from benchmarks.measure import WARM_UPS, Measure, Task
from benchmarks.pool import END_TO_END, Pool
from benchmarks.results import BenchmarkResult, Series
from benchmarks.tables import write_table
from benchmarks.turns import Calls
from benchmarks.worker import Worker
from dmgan_runtime import Generator
from dmgan_runtime.backends.choice import QUALITY
from dmgan_runtime.bundle import packaged_bundle
from dmgan_runtime.errors import EngineError
from dmgan_runtime.quality import psnr
from dmgan_runtime.request import FloatArray
from dmgan_runtime.viz import encode

_CALLS = Calls(1, 10)
# The server ends when the process that holds the other end of its input does, in whatever way.
# Its output ends when it does, so the shell must not hold that too.
_UNTIL_INPUT_ENDS = ("sh", "-c", '"$@" & exec >&-; read -r _; kill $!; wait $!', "sh")


@dataclass(frozen=True)
class Transport(Contender):
    """How an engine is asked: in the asking process, or in that of a `dmgan-serve`."""

    served: bool = False

    @property
    def name(self) -> str:
        return self.label.lower()

    @property
    def label(self) -> str:
        return "HTTP" if self.served else "Python"

    def open(self, model: BundleFolder) -> Caller:
        return (HttpCaller if self.served else PythonCaller)(self, model)


class PythonCaller(Caller):
    """A generator."""

    def __init__(self, asked: Transport, model: BundleFolder) -> None:
        super().__init__()
        self._generator = Generator.open(
            model.path, backend=asked.engine, device=asked.device, precision=asked.precision, threads=asked.threads
        )

    def version(self) -> str:
        return self._generator.active.version

    def generate(self, captions: Sequence[str]) -> list[Image.Image]:
        made = self._generator.generate(captions, seed=SEED)
        return [_read(encode(each.image, "PNG", each.metadata)) for each in made]


class HttpCaller(Caller):
    """A server, and a client that asks it."""

    def __init__(self, asked: Transport, model: BundleFolder) -> None:
        super().__init__()
        import openai  # before the server is begun; here, so that the other benchmarks do without

        command = [*_UNTIL_INPUT_ENDS, sys.executable, "-m", "dmgan_runtime.cli.serve", str(model.path), "--port", "0"]
        command += ["--backend", asked.engine, "--device", asked.device, "--precision", asked.precision]
        command += ["--threads", str(asked.threads)]
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
            self._server = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
            assert self._server.stdout is not None
            url, started, _ = self._server.stdout.readline().partition("/ serves")
            if not started:
                self._server.communicate()
                log.seek(0)
                raise EngineError(f"dmgan-serve did not start: {log.read().strip()[-1000:]}")
        self._client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)

    def version(self) -> str:
        (model,) = self._client.models.list().data
        return str(model.model_dump()["dmgan"]["version"])

    def generate(self, captions: Sequence[str]) -> list[Image.Image]:
        (caption,) = captions
        made = self._client.images.generate(prompt=caption, extra_body={"seed": SEED})
        return [_read(base64.b64decode(each.b64_json or "")) for each in made.data or []]


def _read(content: bytes) -> Image.Image:
    """A picture that is decoded when somebody looks at it, which is not timed."""
    return Image.open(io.BytesIO(content))


@dataclass(frozen=True)
class Http(Measure):
    """Time a PNG from dmgan-serve, by the openai package, and from Python."""

    name = "http"
    title = "HTTP beside Python: from a caption to a PNG"
    plotted = (END_TO_END,)
    task_options = (
        click.Option(
            ["--bundle"],
            type=click.Path(exists=True, file_okay=False, path_type=Path),
            help="A folder.  [default: the packaged model]",
        ),
    )
    options = serving_options("1,2,4")

    clients: tuple[int, ...]
    turn_seconds: float

    @classmethod
    def prepare(cls, device: str, threads: int, names: Sequence[str], **asked: Any) -> Task:
        folder = BundleFolder(asked["bundle"] or packaged_bundle())
        with Generator.open(folder.path, device=device, threads=threads) as generator:
            active = generator.active
        transports = [Transport(active.precision, device, threads, active.backend, served) for served in (False, True)]
        reference: list[FloatArray] = []

        def check(worker: Worker) -> None:
            (picture,) = worker.call("generate", folder.take_captions(1))
            pixels = np.asarray(picture, np.float32)
            reference[:] = reference or [pixels]
            # A server computes stage by stage, which in bf16 rounds otherwise than all at once; equal is infinite.
            if psnr(pixels, reference[0]) < (QUALITY if active.precision == "bf16" else math.inf):
                raise EngineError("HTTP and Python give other pictures")

        return Task(folder, select(transports, names), check)

    def take(self, pool: Pool) -> Iterator[list[Series]]:
        captions = pool.model.take_captions(1)
        able = pool.each(1, "time", captions, Calls(0, WARM_UPS))
        yield pool.sample(able, partial(self._time, pool, captions), "s", self.limits, 1)
        for clients in self.clients:
            able = pool.each(1, "serve", captions, clients, 0)
            turn = partial(serve_turn, pool, captions, clients, self.turn_seconds)
            yield pool.sample(able, turn, "images/s", self.limits, 1, clients)

    def _time(self, pool: Pool, captions: list[str], name: str) -> Mapping[str, Sequence[float]]:
        return {END_TO_END: pool.workers[name].call("time", captions, _CALLS)}

    @classmethod
    def tables(cls, result: BenchmarkResult) -> Iterable[str]:
        columns = latency_columns(result, 1)
        columns |= {f"images/s, {asking}": cell for asking, cell in client_columns(result, 1).items()}
        yield write_table(result, "a PNG", columns)
