"""Writes the folder that any static host serves."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import dmgan_runtime
from dmgan_runtime.errors import BundleError
from dmgan_train.staging import move_into_place, staging_folder
from export.browser.onnxruntime_web import DEVICES, RuntimePackage
from export.browser.wire import WireBundle, write_wire_bundle

BUNDLE, MODULE, RUNTIME, PAGE = "bundle", "dmgan", "onnxruntime", "static"
WORKER_NAME = "service_worker.js"
_RUNTIME_ROOT = Path(dmgan_runtime.__file__).parent
_OWN = Path(__file__).parent / "static"
_SITE = "/* SITE */ null"


class Site(NamedTuple):
    """What was written.

    Attributes:
        bytes: Of all files of a visit on wasm.
        compressed: Of the same files, as a host that compresses with gzip sends them.
        runtime: The version of onnxruntime-web.
        bundle: What became of the bundle.
    """

    bytes: int
    compressed: int
    runtime: str
    bundle: WireBundle


def write_site(
    bundle: Path, destination: Path, runtime: RuntimePackage, devices: Sequence[str], report: Callable[[str], None]
) -> Site:
    """Writes page, module, bundle and onnxruntime-web, and a service worker that keeps them all.

    Args:
        bundle: A folder or .zip.
        destination: A new folder.
        runtime: The files of onnxruntime-web.
        devices: Whose files these are.
        report: Told each step as it begins.

    Raises:
        BundleError: if the destination exists, or as `write_wire_bundle`.
        EngineError, OSError: as `write_wire_bundle`; nothing is left behind.
    """
    _check_is_new(destination)
    with staging_folder(destination) as unfinished:
        _check_is_new(destination)
        folder = unfinished / "site"
        folder.mkdir()
        wire = write_wire_bundle(bundle, folder / BUNDLE, report)
        report("writing the page")
        _copy_page(folder)
        (folder / RUNTIME).mkdir()
        for name, content in runtime.files.items():
            (folder / RUNTIME / name).write_bytes(content)
        _write_worker(folder, runtime, devices)
        visited = [file for file in _files(folder) if file.name not in DEVICES["webgpu"]]
        size = sum(file.stat().st_size for file in visited)
        compressed = sum(len(gzip.compress(file.read_bytes(), 6)) for file in visited)
        move_into_place(folder, destination)
    return Site(size, compressed, runtime.version, wire)


def _check_is_new(destination: Path) -> None:
    if destination.exists():
        raise BundleError(f"{destination}: exists already; remove it or choose another name")


def _copy_page(folder: Path) -> None:
    """The server's page, but for what makes its pictures; and the module that makes them here."""
    shutil.copytree(_RUNTIME_ROOT / "server" / "static", folder / PAGE)
    (folder / PAGE / "index.html").rename(folder / "index.html")
    for file in _OWN.glob("*.js"):
        if file.name != WORKER_NAME:
            shutil.copyfile(file, folder / PAGE / file.name)
    (folder / MODULE).mkdir()
    for file in (*(_RUNTIME_ROOT / "web").glob("*.js"), _RUNTIME_ROOT / "web" / "LICENSE"):
        shutil.copyfile(file, folder / MODULE / file.name)


def _write_worker(folder: Path, runtime: RuntimePackage, devices: Sequence[str]) -> None:
    """What the page and the service worker must know: `site.json`, and the same inside the worker."""
    digests = {file.relative_to(folder).as_posix(): _digest(file.read_bytes()) for file in _files(folder)}
    site = {
        "version": _digest(json.dumps(digests).encode()),
        "runtime": {
            device: {
                "module": f"{RUNTIME}/{module}",
                "wasm": f"{RUNTIME}/{wasm}",
                "bytes": len(runtime.files[wasm]),
                "sha256": digests[f"{RUNTIME}/{wasm}"],
            }
            for device, (module, wasm) in DEVICES.items()
            if device in devices
        },
    }
    (folder / "site.json").write_text(json.dumps(site, indent=2), encoding="utf-8")
    # The page itself is kept at once; what is large, when it comes.
    large = [name for name in digests if name.startswith((f"{BUNDLE}/", f"{RUNTIME}/"))]
    page = ["./", "site.json", *sorted(digests.keys() - {*large, "index.html"})]
    template = (_OWN / WORKER_NAME).read_text(encoding="utf-8")
    assert template.count(_SITE) == 1
    facts = {"version": site["version"], "page": page, "large": large}
    (folder / WORKER_NAME).write_text(template.replace(_SITE, json.dumps(facts)), encoding="utf-8")


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
