"""What `dmgan-export web` writes, in a real browser, behind a plain static server."""

from __future__ import annotations

import io
import json
import re
import shutil
import threading
import time
from base64 import b64decode
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dmgan_runtime import Generator
from dmgan_runtime.bundle import packaged_bundle
from export.browser.onnxruntime_web import find_runtime
from export.browser.site import write_site

playwright = pytest.importorskip("playwright.sync_api")
GRAPH = "bundle/onnx/generator_1.onnx"
WASM = "onnxruntime/ort-wasm-simd-threaded.wasm"
READ = """async (selector) => {
    const content = await (await fetch(document.querySelector(selector).src)).arrayBuffer();
    return btoa(String.fromCharCode(...new Uint8Array(content)));
}"""


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


class Site:
    """A folder behind a server that can go away."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.url = f"http://localhost:{self._server.server_port}/"

    def close(self) -> None:
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()


@pytest.fixture(scope="module")
def exported(node_modules: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sites") / "site"
    runtime = find_runtime(node_modules / "onnxruntime-web", ("wasm",))
    write_site(packaged_bundle(), path, runtime, ("wasm",), lambda _: None)
    return path


@pytest.fixture
def site(exported: Path) -> Iterator[Site]:
    served = Site(exported)
    yield served
    served.close()


@pytest.fixture
def own_site(exported: Path, tmp_path: Path) -> Iterator[Site]:
    """One whose files a test may change."""
    served = Site(Path(shutil.copytree(exported, tmp_path / "site")))
    yield served
    served.close()


@pytest.fixture
def page(browser: playwright.Browser) -> Iterator[playwright.Page]:
    """A page of a browser that was never here; an error of a script fails the test."""
    context = browser.new_context()
    context.set_default_timeout(60_000)
    opened = context.new_page()
    troubles: list[str] = []
    opened.on("pageerror", lambda error: troubles.append(str(error)))
    opened.on(
        "request", lambda asked: asked.url.startswith(("http://localhost:", "blob:")) or troubles.append(asked.url)
    )
    yield opened
    context.close()
    assert troubles == []


def expect_pictures(page: playwright.Page) -> None:
    """Every stage of a picture; what the page says instead fails the test at once."""
    playwright.expect(page.locator("#note.alarm, #stages li:nth-child(5)")).to_have_count(1, timeout=60_000)
    assert page.locator("#note.alarm").count() == 0, page.locator("#note").inner_text()


def expect_refusal(page: playwright.Page, message: str) -> None:
    playwright.expect(page.locator("#note.alarm")).to_contain_text(message, timeout=60_000)


def picture(page: playwright.Page, selector: str) -> Image.Image:
    return Image.open(io.BytesIO(b64decode(page.evaluate(READ, selector))))


def wait_until(page: playwright.Page, condition: str) -> None:
    """Asks again and again: `wait_for_function` takes a promise for a yes."""
    end = time.monotonic() + 60
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        time.sleep(0.05)


def assert_near(found: Image.Image, expected: Image.Image) -> None:
    assert found.size == expected.size
    assert np.abs(np.asarray(found).astype(int) - np.asarray(expected)).max() <= 1


@pytest.fixture(scope="module")
def python(exported: Path) -> Iterator[Generator]:
    """Python's generator of the bundle that browsers fetch."""
    with Generator.open(exported / "bundle", backend="onnxruntime", device="cpu") as generator:
        yield generator


def test_a_picture_its_previews_and_its_text_are_pythons(page: Any, site: Site, python: Generator) -> None:
    page.goto(f"{site.url}#caption=red+heart+zebrafish&seed=7")
    expect_pictures(page)
    (expected,) = python.generate("red heart zebrafish", seed=7, attention=True)
    for place, (side, stage) in enumerate(expected.stages.items(), 1):
        assert_near(picture(page, f"#stages li:nth-child({place}) img"), stage)
        assert page.locator("#stages span").nth(place - 1).inner_text().startswith(f"{side} ")
    made = picture(page, "#image")
    assert_near(made, expected.image)
    assert made.text == {"Description": "red heart zebrafish", "Seed": "7"}  # type: ignore[attr-defined]
    assert "emoji-256 · onnxruntime-web 1.30.0 on wasm" in page.locator("#model").inner_text()
    assert "The model does not know “zebrafish”." in page.locator("#note").inner_text()
    assert expected.attention is not None
    shares = [f"{100 * weights.mean():.0f}%" for weights in expected.attention[256]]
    assert page.locator("#words td:nth-child(2) .number").all_inner_texts() == shares


def test_emoji_are_read_here_too(page: Any, site: Site, python: Generator) -> None:
    page.goto(f"{site.url}#caption=🍕&seed=7")
    expect_pictures(page)
    assert_near(picture(page, "#image"), python.generate("pizza", seed=7)[0].image)
    assert picture(page, "#image").text == {"Description": "🍕", "Seed": "7"}  # type: ignore[attr-defined]
    page.locator("#caption").fill("🍕🇩🇪")
    playwright.expect(page.locator(".mirror s")).to_have_text(["🇩🇪"])


def test_the_second_visit_needs_no_network(page: Any, site: Site) -> None:
    page.goto(f"{site.url}#caption=pizza&seed=1")
    expect_pictures(page)
    assert not page.evaluate("crossOriginIsolated")
    first = picture(page, "#image")
    needed = [file for file in site.folder.rglob("*") if file.is_file() and file.suffix != ".md"]
    wait_until(
        page, f"async () => (await (await caches.open((await caches.keys())[0])).keys()).length >= {len(needed) - 1}"
    )
    site.close()
    page.context.set_offline(True)
    page.reload()
    expect_pictures(page)
    assert page.evaluate("crossOriginIsolated")  # so that threads may be used
    assert_near(picture(page, "#image"), first)
    page.goto(f"{site.url}index.html?device=wasm#caption=pizza&seed=2")
    expect_pictures(page)


def test_seeds_and_walks_are_made_here_too(page: Any, site: Site, python: Generator) -> None:
    page.goto(f"{site.url}#caption=red+heart&seed=3&view=seeds")
    playwright.expect(page.locator("#seeds img")).to_have_count(9, timeout=60_000)
    assert page.locator("#seeds span").all_inner_texts() == [f"seed {seed}" for seed in range(3, 12)]
    assert_near(picture(page, "#seeds button:nth-child(9) img"), python.generate("red heart", seed=11)[0].image)
    page.goto(f"{site.url}#caption=red+heart&seed=3&view=walk&to=pizza&to-seed=4")
    playwright.expect(page.locator("#step")).to_have_attribute("src", re.compile("^blob:"), timeout=60_000)
    page.locator("#position").fill("8")
    expected = python.interpolate(("red heart", "pizza"), seeds=(3, 4), steps=16)
    assert_near(picture(page, "#step"), expected[8])


def test_seeds_beyond_doubles_are_taken_whole_here_too(page: Any, site: Site, python: Generator) -> None:
    seed = 2**64 - 2
    page.goto(f"{site.url}#caption=red+heart&seed={seed}&view=seeds")
    playwright.expect(page.locator("#seeds img")).to_have_count(2, timeout=60_000)
    assert page.locator("#seeds span").all_inner_texts() == [f"seed {seed}", f"seed {seed + 1}"]
    made = python.generate("red heart", seed=seed + 1)[0].image
    assert_near(picture(page, "#seeds button:nth-child(2) img"), made)


def test_a_damaged_file_is_refused_by_name_and_fetched_anew(page: Any, own_site: Site) -> None:
    file = own_site.folder / GRAPH
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    page.goto(own_site.url)
    expect_refusal(page, f"{GRAPH}: damaged or replaced: its SHA-256 is")
    file.write_bytes(whole)
    page.reload()
    expect_pictures(page)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        (
            WASM,
            lambda content: content[: len(content) // 2],
            f"{WASM}: missing, damaged or replaced; copy the site again",
        ),
        ("bundle/vocab.json", None, "bundle/vocab.json: missing; pass a whole bundle"),
        ("bundle/manifest.json", lambda content: content[:-9], "bundle/manifest.json: not a valid manifest"),
    ],
)
def test_other_damage_is_named_too(page: Any, own_site: Site, name: str, damage: Any, message: str) -> None:
    file = own_site.folder / name
    content = file.read_bytes()
    file.unlink()
    if damage is not None:
        file.write_bytes(damage(content))
    page.goto(own_site.url)
    expect_refusal(page, message)


@pytest.mark.parametrize(
    ("script", "query", "message"),
    [
        ("delete globalThis.WebAssembly", "", "WebAssembly cannot run here; use a browser of 2023 or later"),
        ("Object.defineProperty(crypto, 'subtle', { value: undefined })", "", "open it over https or on localhost"),
        ("", "?device=webgpu", "This site has no files for the device webgpu"),
    ],
)
def test_where_it_cannot_run_the_page_says_why(page: Any, site: Site, script: str, query: str, message: str) -> None:
    page.add_init_script(script)
    page.goto(site.url + query)
    expect_refusal(page, message)


@pytest.mark.parametrize(
    ("trouble", "said"),
    [(lambda route: route.abort(), "Failed to fetch"), (lambda route: route.fulfill(status=503), "the host says 503")],
)
def test_a_lost_connection_is_no_damage(page: Any, site: Site, trouble: Any, said: str) -> None:
    page.add_init_script("delete Object.getPrototypeOf(navigator).serviceWorker")
    page.route(f"**/{WASM}", trouble)
    page.goto(site.url)
    expect_refusal(page, f"{WASM}: cannot be read ({said}); check the connection and load the page again")
    page.unroute(f"**/{WASM}")
    page.reload()
    expect_pictures(page)


def test_a_new_export_takes_the_old_ones_place(page: Any, own_site: Site) -> None:
    page.goto(own_site.url)
    expect_pictures(page)
    version = json.loads((own_site.folder / "site.json").read_bytes())["version"]
    for name in ("site.json", "service_worker.js"):
        file = own_site.folder / name
        file.write_text(file.read_text().replace(version, "another"))
    index = own_site.folder / "index.html"
    index.write_text(index.read_text().replace("<title>dmgan</title>", "<title>another</title>"))
    page.reload()
    page.wait_for_function("document.title === 'another'")
    expect_pictures(page)
    wait_until(page, "async () => (await caches.keys()).every((name) => name.endsWith(' another'))")
