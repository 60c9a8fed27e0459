"""The files of the npm package onnxruntime-web."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from dmgan_runtime.errors import SettingsError
from dmgan_train.data.prepare.npm import read_package

PACKAGE = "onnxruntime-web"
DEVICES: Mapping[str, tuple[str, str]] = {
    "wasm": ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"),
    "webgpu": ("ort.webgpu.bundle.min.mjs", "ort-wasm-simd-threaded.asyncify.wasm"),
}
"""The module and the WebAssembly of each device; each module knows its WebAssembly by name, beside it."""
_REMEDY = f"get it with: npm install {PACKAGE}, or npm pack {PACKAGE}, and pass the folder or the .tgz"


class RuntimePackage(NamedTuple):
    """What is taken of the package.

    Attributes:
        version: Its version.
        files: Contents by name.
    """

    version: str
    files: dict[str, bytes]


def find_runtime(named: Path | None, devices: tuple[str, ...]) -> RuntimePackage:
    """Reads the files for some devices.

    Args:
        named: The package's folder or its .tgz; None looks for node_modules here and in the folders above.
        devices: Of `DEVICES`.

    Raises:
        SettingsError: if there is no such package, or it has no such files.
        DataError: if the .tgz cannot be read.
    """
    wanted = [f"dist/{name}" for device in devices for name in DEVICES[device]]
    path = named or _at_hand()
    if path.is_file():
        package = read_package(path, lambda name: name in wanted)
        name, version, files = package.name, package.version, package.files
    else:
        try:
            facts = msgspec.json.decode((path / "package.json").read_bytes(), type=dict)
        except (OSError, ValueError) as error:
            raise SettingsError(f"{path}: no npm package ({error}); {_REMEDY}") from error
        name, version = str(facts.get("name")), str(facts.get("version"))
        files = {each: (path / each).read_bytes() for each in wanted if (path / each).is_file()}
    if name != PACKAGE:
        raise SettingsError(f"{path}: the npm package {name}; {_REMEDY}")
    if missing := [each for each in wanted if each not in files]:
        raise SettingsError(f"{path}: {PACKAGE} {version} has no {missing[0]}; take version 1.30 or a later one")
    return RuntimePackage(version, {Path(each).name: content for each, content in files.items()})


def _at_hand() -> Path:
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (found := folder / "node_modules" / PACKAGE).is_dir():
            return found
    raise SettingsError(f"there is no node_modules/{PACKAGE} here or above; {_REMEDY} with --{PACKAGE}")
