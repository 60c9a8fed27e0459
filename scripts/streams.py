"""Throughput and latency of one engine with every thread against several engines with one thread each.

    python -m scripts.streams [BUNDLE] --clients 1 --clients 4

Clients are threads that ask again as soon as they have their image, and wait in one queue for the engine that is free
first. Arrangements come in turns, round by round.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue

import click
import numpy as np

from benchmarks.contender import BundleFolder
from dmgan_runtime import Generator
from dmgan_runtime.bundle import packaged_bundle
from dmgan_runtime.cli.common import DmganCommand
from dmgan_runtime.cpus import usable_cpus


def ask(engines: Sequence[Generator], caption: str, clients: int, seconds: float) -> tuple[list[float], float]:
    """Lets clients ask for so long.

    Returns:
        Seconds from asking to the image, of every image, and seconds until the last was there.
    """
    free: SimpleQueue[Generator] = SimpleQueue()
    for engine in engines:
        free.put(engine)
    own = threading.local()

    def take() -> None:
        own.engine = free.get()

    start = time.perf_counter()

    def client(number: int) -> list[float]:
        taken = []
        while (began := time.perf_counter()) < start + seconds:
            servers.submit(lambda: own.engine.generate(caption, seed=number)).result()
            taken.append(time.perf_counter() - began)
        return taken

    with ThreadPoolExecutor(len(engines), initializer=take) as servers, ThreadPoolExecutor(clients) as pool:
        latencies = [each for part in pool.map(client, range(clients)) for each in part]
    return latencies, time.perf_counter() - start


@click.command(cls=DmganCommand, context_settings={"show_default": True})
@click.argument("bundle", required=False, type=click.Path(exists=True, path_type=Path))
@click.option("--clients", type=click.IntRange(1), multiple=True, default=(1, 2, 4, 8), help="Threads; repeatable.")
@click.option("--backend", "backends", multiple=True, default=("onnxruntime", "openvino"), help="Engine; repeatable.")
@click.option("--rounds", type=click.IntRange(1), default=5, help="How often each arrangement has its turn.")
@click.option("--seconds", type=click.FloatRange(0.1), default=5.0, help="Length of a turn.")
def main(bundle: Path | None, clients: Sequence[int], backends: tuple[str, ...], rounds: int, seconds: float) -> None:
    """Print images a second and the median and 95th percentile of the latency, for each number of clients."""
    path, cpus = bundle or packaged_bundle(), usable_cpus()
    with ExitStack() as opened:
        arrangements = {
            f"{backend}, {streams} x {cpus // streams} threads": [
                opened.enter_context(Generator.open(path, backend=backend, device="cpu", threads=cpus // streams))
                for _ in range(streams)
            ]
            for backend in backends
            for streams in dict.fromkeys((1, cpus))
        }
        (caption,) = BundleFolder(path).take_captions(1)
        latencies: dict[tuple[str, int], list[float]] = {}
        elapsed: dict[tuple[str, int], float] = {}
        for count in clients:
            for engines in arrangements.values():
                ask(engines, caption, len(engines), 0.5)
            for _ in range(rounds):
                for name, engines in arrangements.items():
                    taken, spent = ask(engines, caption, count, seconds)
                    latencies.setdefault((name, count), []).extend(taken)
                    elapsed[name, count] = elapsed.get((name, count), 0.0) + spent
    click.echo("| | clients | images/s | p50, ms | p95, ms |\n|---|---:|---:|---:|---:|")
    for (name, count), values in latencies.items():
        p50, p95 = 1000 * np.percentile(values, [50, 95])
        click.echo(f"| {name} | {count} | {len(values) / elapsed[name, count]:,.2f} | {p50:,.1f} | {p95:,.1f} |")


if __name__ == "__main__":
    main()
