"""The measures of contenders that generate images: latency, throughput, start-up and memory."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import click
import torch

from benchmarks.building import prepare_model
from benchmarks.contender import Contender, RuntimeContender, peak_memory, save_first_picture, select
from benchmarks.measure import PRESETS, WARM_UPS, Measure, Task, best_series, show_speed, speed_note
from benchmarks.plot import Bar
from benchmarks.pool import END_TO_END, IMAGES_PER_SECOND, Pool, compare_images
from benchmarks.results import BenchmarkResult, Entry, Series
from benchmarks.tables import Cell, cell, median, percentile, show_median, show_ms, show_number, write_table
from benchmarks.torch_contender import FORMS, TorchContender
from benchmarks.turns import Calls, calls_per_turn
from benchmarks.worker import Worker
from dmgan_runtime.backends.base import PRECISIONS
from dmgan_runtime.backends.registry import ENGINES
from dmgan_runtime.manifest import Role

CACHE = Path(".cache") / "benchmarks"
FIRST_IMAGE = "first_image"
PEAK_MEMORY, PEAK_DEVICE_MEMORY = "peak_memory", "peak_device_memory"
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
# On a GPU PyTorch rounds the inputs of convolutions to TF32 unless it is told not to: "fp32" here tells it.
_TORCH_PRECISIONS = {"cpu": ("fp32", "bf16"), "cuda": ("fp32", "tf32", "fp16")}


def numbers_option(name: str, default: str, text: str, least: int = 1) -> click.Option:
    """An option that takes numbers, joined by commas."""

    def numbers(value: str) -> tuple[int, ...]:
        try:
            found = tuple(int(part) for part in value.split(","))
        except ValueError:
            raise click.BadParameter(f"{value!r} is no list of numbers; write them as 1,4,16") from None
        if min(found) < least:
            raise click.BadParameter(f"{value!r} holds a number under {least}")
        return found

    return click.Option([name], type=numbers, metavar="N,N,...", default=default, help=text)


def batches_option(default: str) -> click.Option:
    """`--batches`."""
    return numbers_option("--batches", default, "Images at once.")


def serving_options(clients: str) -> tuple[click.Option, ...]:
    """`--clients` and `--turn`."""
    return (
        numbers_option("--clients", clients, "Threads that ask at once."),
        click.Option(["--turn", "turn_seconds"], type=click.FloatRange(0.01), default=5.0, help="Seconds of a turn."),
    )


def find_contenders(device: str, threads: int) -> list[Contender]:
    """Everything that may be had on a kind of device, the reference first; opening one shows whether it can.

    Args:
        device: `cpu` or `cuda:N`.
        threads: CPU threads for one operator.
    """
    kind = device.partition(":")[0]
    in_torch = [
        TorchContender(precision, device, threads, form=form)
        for precision in _TORCH_PRECISIONS[kind]
        for form in FORMS
        # A GPU without TF32 is no other machine for channels-last and torch.compile, and each takes minutes.
        if (kind, precision) != ("cuda", "fp32") or form == "eager"
    ]
    served = [
        RuntimeContender(precision, device, threads, engine.backend)
        for engine in ENGINES
        if engine.device == kind
        for precision in PRECISIONS
        if precision != "auto"
    ]
    return [*in_torch, *served]


class GenerationMeasure(Measure):
    """A measure of contenders that generate images with one set of weights."""

    task_options = (
        click.Option(
            ["--preset"],
            type=click.Choice(PRESETS),
            default="birds",
            help="Random weights of this shape, exported once and kept. birds is the paper's.",
        ),
        click.Option(["--run"], type=_FOLDER, help="The weights of a trained run, instead."),
        click.Option(["--bundle"], type=_FOLDER, help="What was exported from --run.  [default: it is exported]"),
        click.Option(["--cache"], type=click.Path(path_type=Path), default=CACHE, help="Where exports are kept."),
    )

    @classmethod
    def prepare(cls, device: str, threads: int, names: Sequence[str], **asked: Any) -> Task:
        contenders = select(find_contenders(device, threads), names)
        if asked["bundle"] is not None and asked["run"] is None:
            raise click.UsageError("--bundle needs the --run that it was exported from")
        model = prepare_model(device=device, **asked)
        return Task(model, contenders, compare_images(model))


@dataclass(frozen=True)
class Latency(GenerationMeasure):
    """Time images from caption to pixels, and graph by graph."""

    name = "latency"
    title = "Latency: from caption to pixels"
    axis = "ms; black: to the 95th percentile; orange: arithmetic at the machine's matrix rate"
    plotted = (END_TO_END,)
    options = (batches_option("1,4,16,64"),)

    batches: tuple[int, ...]

    def take(self, pool: Pool) -> Iterator[list[Series]]:
        pool.measure_matrix_rates()
        for batch in self.batches:
            captions = pool.model.take_captions(batch)
            pool.each(batch, "time_graphs", captions)
            warm = pool.each(batch, "time", captions, Calls(0, WARM_UPS))
            times = {name: seconds[-1] for name, seconds in warm.items()}
            click.echo(f"batch {batch}: {', '.join(f'{name} {t * 1e3:.1f} ms' for name, t in times.items())}", err=True)
            turn = partial(self._turn, pool, captions, calls_per_turn(max(times.values(), default=0.0)))
            yield pool.sample(times, turn, "s", self.limits, batch)
            pool.each(batch, "release")

    def _turn(self, pool: Pool, captions: list[str], calls: Calls, name: str) -> Mapping[str, Sequence[float]]:
        seconds = pool.workers[name].call("time", captions, calls)
        graphs = pool.workers[name].call("time_graphs", captions)
        return {END_TO_END: seconds, **{role: [lap] for role, lap in graphs.items()}}

    @classmethod
    def tables(cls, result: BenchmarkResult) -> Iterable[str]:
        for batch in result.batches():
            at = partial(cell, result, figure=END_TO_END, batch=batch)
            columns = latency_columns(result, batch) | {
                "PSNR, dB": at(partial(_show_quality, result)),
                "arithmetic, ms": at(lambda series: show_ms(series.arithmetic_s)),
                "p50 / arithmetic": at(
                    lambda series: f"{median(series) / series.arithmetic_s:.1f}" if series.arithmetic_s else None
                ),
            }
            yield write_table(result, f"{batch} image{'s' * (batch != 1)} at once", columns)
        for batch in result.batches():
            measured = {series.figure for series in result.series if series.batch == batch}
            graphs = {
                role.replace("_", " "): cell(result, _show_graph, role, batch)
                for role in get_args(Role)
                if role in measured
            }
            if graphs:
                yield write_table(result, f"p50, ms (arithmetic), batch {batch}", graphs)

    @classmethod
    def bar(cls, result: BenchmarkResult, entry: Entry, series: Series) -> Bar:
        plain, far = super().bar(result, entry, series), percentile(series, 95)
        quality = "" if entry.psnr_db is None else f", {entry.psnr_db:.0f} dB"
        return plain._replace(
            text=plain.text + speed_note(result, series) + quality,
            far=None if far is None else far * 1e3,
            line=None if series.arithmetic_s is None else series.arithmetic_s * 1e3,
        )


def latency_columns(result: BenchmarkResult, batch: int | None) -> dict[str, Cell]:
    """Percentiles from end to end, and how many times as fast as the reference."""
    at = partial(cell, result, figure=END_TO_END, batch=batch)
    return {
        "p50, ms": at(show_median),
        "p95": at(lambda series: show_ms(percentile(series, 95))),
        "p99": at(lambda series: show_ms(percentile(series, 99))),
        "speed": at(partial(show_speed, result)),
    }


def _show_quality(result: BenchmarkResult, series: Series) -> str:
    entry = next(entry for entry in result.entries if entry.name == series.contender)
    if entry == result.entries[0]:
        return "reference"
    return "equal" if entry.psnr_db is None else f"{entry.psnr_db:.0f}"


def _show_graph(series: Series) -> str:
    return f"{show_median(series)} ({show_ms(series.arithmetic_s) or '-'})"


@dataclass(frozen=True)
class Throughput(GenerationMeasure):
    """Count images a second when 1 to 8 threads ask at once."""

    name = "throughput"
    title = "Throughput"
    axis = "images a second, with the best number of clients"
    options = (batches_option("1"), *serving_options("1,2,4,8"))

    batches: tuple[int, ...]
    clients: tuple[int, ...]
    turn_seconds: float

    def take(self, pool: Pool) -> Iterator[list[Series]]:
        pool.measure_matrix_rates()
        for batch in self.batches:
            captions = pool.model.take_captions(batch)
            for clients in self.clients:
                click.echo(f"batch {batch}, clients: {clients} ...", err=True)
                # Engines prepare in a thread's first calls what they keep for it; the same threads have the turns.
                for _ in range(WARM_UPS):
                    able = pool.each(batch, "serve", captions, clients, 0)
                turn = partial(serve_turn, pool, captions, clients, self.turn_seconds)
                yield pool.sample(able, turn, "images/s", self.limits, batch, clients)
            pool.each(batch, "release")

    @classmethod
    def tables(cls, result: BenchmarkResult) -> Iterable[str]:
        for batch in result.batches():
            columns = client_columns(result, batch)
            columns["of the matrix rate"] = partial(_show_share, result, batch)
            yield write_table(result, f"images/s, batch {batch}", columns)

    @classmethod
    def bar(cls, result: BenchmarkResult, entry: Entry, series: Series) -> Bar:
        clients, share = series.clients, _show_share(result, series.batch, entry)
        shared = f", {share} of the matrix rate" if share else ""
        value = median(series)
        return Bar(entry, value, f"{show_number(value)}, {clients} client{'s' * (clients != 1)}{shared}")


def serve_turn(
    pool: Pool, captions: list[str], clients: int, seconds: float, name: str
) -> Mapping[str, Sequence[float]]:
    """A turn in which clients ask a contender again and again; see `Caller.serve`."""
    return {IMAGES_PER_SECOND: [pool.workers[name].call("serve", captions, clients, seconds)]}


def client_columns(result: BenchmarkResult, batch: int | None) -> dict[str, Cell]:
    """Images a second by the number of clients."""
    return {
        f"{count} client{'s' * (count > 1)}": cell(result, show_median, IMAGES_PER_SECOND, batch, count)
        for count in sorted({series.clients for series in result.series if series.clients is not None})
    }


def _show_share(result: BenchmarkResult, batch: int | None, entry: Entry) -> str | None:
    """How much of the machine's matrix rate the best number of clients uses."""
    best = best_series(result, entry, IMAGES_PER_SECOND, batch)
    if best is None or best.arithmetic_s is None or batch is None:
        return None
    return f"{median(best) / batch * best.arithmetic_s:.0%}"


@dataclass(frozen=True)
class Startup(GenerationMeasure):
    """Time a process from its start to its first picture in a file."""

    name = "startup"
    title = "Start-up"
    axis = "ms; black: to the longest"

    def take(self, pool: Pool) -> Iterator[list[Series]]:
        """A new process in every turn. Files are in the system's cache, compiled kernels in PyTorch's."""
        pool.close_workers()
        with tempfile.TemporaryDirectory() as place:
            turn = partial(self._turn, pool, Path(place) / "first.png")
            yield pool.sample(pool.contenders, turn, "s", self.limits, batch=1)

    def _turn(self, pool: Pool, picture: Path, name: str) -> Mapping[str, Sequence[float]]:
        began = time.perf_counter()
        with Worker(save_first_picture, pool.contenders[name], pool.model, picture):
            # The process's end is not waited for: what an engine does at exit keeps nobody from the picture.
            return {FIRST_IMAGE: [time.perf_counter() - began]}

    @classmethod
    def tables(cls, result: BenchmarkResult) -> Iterable[str]:
        at = partial(cell, result, figure=FIRST_IMAGE, batch=1)
        columns: dict[str, Cell] = {
            "p50": at(lambda series: f"{median(series):.2f}"),
            "longest": at(lambda series: f"{max(series.samples):.2f}"),
            "speed": at(partial(show_speed, result)),
        }
        yield write_table(result, "from process to first picture, s", columns)

    @classmethod
    def bar(cls, result: BenchmarkResult, entry: Entry, series: Series) -> Bar:
        plain = super().bar(result, entry, series)
        return plain._replace(text=plain.text + speed_note(result, series), far=max(series.samples) * 1e3)


@dataclass(frozen=True)
class Memory(GenerationMeasure):
    """Measure the peak of main memory, and of the GPU's."""

    name = "memory"
    title = "Memory"
    options = (batches_option("1,16"),)

    batches: tuple[int, ...]

    def take(self, pool: Pool) -> Iterator[list[Series]]:
        """A new process in every turn, which opens the model and generates three times."""
        pool.close_workers()
        for batch in self.batches:
            turn = partial(self._turn, pool, pool.model.take_captions(batch))
            yield pool.sample(pool.contenders, turn, "bytes", self.limits, batch)

    def _turn(self, pool: Pool, captions: list[str], name: str) -> Mapping[str, Sequence[float]]:
        contender = pool.contenders[name]
        on_gpu = contender.device != "cpu"
        before = _free_memory(contender.device) if on_gpu else 0
        with Worker(contender.open, pool.model) as worker:
            worker.call("time", captions, Calls(0, WARM_UPS))
            peak = {PEAK_MEMORY: [worker.run(peak_memory)]}
            # Engines do not tell what they hold in all, and CUDA's share is theirs too. They give nothing back.
            return peak | ({PEAK_DEVICE_MEMORY: [before - _free_memory(contender.device)]} if on_gpu else {})

    @classmethod
    def tables(cls, result: BenchmarkResult) -> Iterable[str]:
        for figure, name in {PEAK_MEMORY: "main memory", PEAK_DEVICE_MEMORY: "GPU memory"}.items():
            if any(series.figure == figure for series in result.series):
                columns = {f"batch {batch}": cell(result, show_median, figure, batch) for batch in result.batches()}
                yield write_table(result, f"peak of {name}, MB", columns)


def _free_memory(device: str) -> int:
    """Bytes of a GPU's memory that nobody has taken."""
    return int(torch.cuda.mem_get_info(torch.device(device))[0])
