"""Milliseconds an image in Chromium, under Node and in Python on one machine: `python -m scripts.browser`."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import click

import dmgan_runtime
from dmgan_runtime import Generator
from dmgan_runtime.bundle import find_bundle
from export.browser.onnxruntime_web import PACKAGE, find_runtime
from export.browser.site import write_site

WARM_UP = 20  # engines of WebAssembly compile well only what has run for a while

_TIMED = """
async function timed(generator, caption, images, warmUp) {
  const times = [];
  for (let seed = -warmUp; seed < images; seed++) {
    const began = performance.now();
    await generator.generate(caption, { seed: Math.abs(seed) });
    if (seed >= 0) times.push(performance.now() - began);
  }
  return times;
}
"""
_NODE = """
import { readFile } from "node:fs/promises";
const [module, runtime, bundle, caption, images, warmUp] = process.argv.slice(2);
const { Generator } = await import(module);
const fetch = async (url) => new Response(await readFile(url));
const generator = await Generator.open(bundle, { fetch, threads: 1, runtime: () => import(runtime) });
console.log(JSON.stringify(await timed(generator, caption, Number(images), Number(warmUp))));
process.exit(0);
"""
_PAGE = """async ([caption, images, warmUp]) => {
  const { PageGenerator } = await import(new URL("static/generator.js", location.href));
  const page = new PageGenerator();
  await page.open(() => {});
  return timed(page.generator, caption, images, warmUp);
}"""


class Times(NamedTuple):
    """One contender's times in milliseconds, of every round."""

    name: str
    times: list[float]


@click.command(context_settings={"show_default": True})
@click.argument("bundle", required=False)
@click.option("--caption", default="red heart")
@click.option("--images", type=click.IntRange(2), default=50, help="A round, each of another seed.")
@click.option("--rounds", type=click.IntRange(1), default=3, help="The contenders take turns.")
@click.option("--node-modules", type=click.Path(path_type=Path), default=Path(".cache/node/node_modules"))
def main(bundle: str | None, caption: str, images: int, rounds: int, node_modules: Path) -> None:
    """Measure BUNDLE (default: the packaged model): one image at once on one thread, and how long a visit takes."""
    package = node_modules.absolute() / PACKAGE
    path = find_bundle(bundle)
    rows = [Times("Chromium", []), Times("Node", []), Times("Python", [])]
    visits: list[list[float]] = []
    with tempfile.TemporaryDirectory() as folder, _served(path, Path(folder) / "site", package) as url:
        contenders: list[Callable[[], list[float]]] = [
            lambda: _in_chromium(url, caption, images, visits),
            lambda: _under_node(path, package, caption, images),
            lambda: _in_python(path, caption, images),
        ]
        for _ in range(rounds):
            for row, measure in zip(rows, contenders, strict=True):
                row.times.extend(measure())
    click.echo("| one image, one thread | p50, ms | fastest, ms |\n| --- | ---: | ---: |")
    for row in rows:
        click.echo(f"| {row.name} | {statistics.median(row.times):.1f} | {min(row.times):.1f} |")
    first, second = (statistics.median(times) for times in zip(*visits, strict=True))
    click.echo(f"\nto the first picture in Chromium: {first:.1f} s, on the second visit {second:.1f} s")


@contextmanager
def _served(bundle: Path, site: Path, package: Path) -> Iterator[str]:
    write_site(bundle, site, find_runtime(package, ("wasm",)), ("wasm",), lambda step: click.echo(step, err=True))
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(site))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://localhost:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


def _in_chromium(url: str, caption: str, images: int, visits: list[list[float]]) -> list[float]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        seconds = []
        for _ in range(2):
            start = time.perf_counter()
            page.goto(url)
            page.locator("#download:not([hidden])").wait_for(timeout=120_000)
            seconds.append(time.perf_counter() - start)
            page.goto("about:blank")
        visits.append(seconds)
        page.goto(url)
        page.add_script_tag(content=_TIMED)
        times: list[float] = page.evaluate(_PAGE, [caption, images, WARM_UP])
        browser.close()
        return times


def _under_node(bundle: Path, package: Path, caption: str, images: int) -> list[float]:
    module = Path(dmgan_runtime.__file__).parent / "web" / "index.js"
    places = [module.as_uri(), (package / "dist" / "ort.node.min.mjs").as_uri(), bundle.as_uri()]
    command = ["node", "--input-type=module", "--eval", _TIMED + _NODE, "--", "-", *places, caption]
    done = subprocess.run(
        [*command, str(images), str(WARM_UP)], capture_output=True, text=True, check=True, timeout=600
    )
    times: list[float] = json.loads(done.stdout)
    return times


def _in_python(bundle: Path, caption: str, images: int) -> list[float]:
    times = []
    with Generator.open(bundle, backend="onnxruntime", device="cpu", threads=1) as generator:
        generator.warm_up([1])
        for seed in range(images):
            start = time.perf_counter()
            generator.generate(caption, seed=seed)
            times.append(1000 * (time.perf_counter() - start))
    return times


if __name__ == "__main__":
    main()
