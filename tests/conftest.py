from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dmgan_runtime.cpus import Processor
from dmgan_train.run_folder import RunFolder
from tests.training import train_small, write_images

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Engines that tests build are recorded as built here, but not in the cache of who runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def without_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that does not compute in bf16, whatever the tests run on."""
    for module in ("backends.choice", "tuning"):
        monkeypatch.setattr(f"dmgan_runtime.{module}.find_processor", lambda: Processor("A chip", ("AVX2",)))


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small image folder."""
    return write_images(tmp_path_factory.mktemp("data") / "squares")


@pytest.fixture(scope="session")
def run(images: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that was trained for a few steps; do not change it."""
    return train_small(images, tmp_path_factory.mktemp("runs") / "squares")


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Graphs that were exported, for those who need the same ones: pytest-xdist's workers share them."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return tmp_path_factory.mktemp("exports")
    shared = tmp_path_factory.getbasetemp().parent / "exports"
    shared.mkdir(exist_ok=True)
    return shared


@pytest.fixture(scope="session")
def bundle(run: RunFolder, exports: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of that run; do not change it."""
    from export.bundle import write_bundle  # here, since tests of training do without onnx
    from export.sources import read_model
    from tests.exporting import exported_once

    path = tmp_path_factory.mktemp("bundles") / "squares"
    with exported_once(exports):
        write_bundle(read_model(run, "squares", "CC0-1.0"), path, lambda _: None)
    return path


@pytest.fixture(scope="module")  # of a session it would be an event loop that runs, which asyncio's own tests refuse
def browser() -> Iterator[Browser]:
    """Chromium."""
    playwright = pytest.importorskip("playwright.sync_api")
    if (chromium := shutil.which("chromium")) is None:
        pytest.skip("chromium is not installed (apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        launched = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield launched
        launched.close()
