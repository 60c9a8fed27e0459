"""Files as people have them: byte-order marks, UTF-16, archives that were not unpacked, pointers of Git LFS."""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from dmgan_runtime.errors import DataError, shortened

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".jfif", ".avif")
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".rar", ".7z")
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_bytes(path: Path) -> bytes:
    """Reads a file of a data set.

    Raises:
        DataError: if it is missing or cannot be read, or Git LFS has left a pointer in its place.
    """
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        raise DataError(f"{shortened(path)}: cannot be read ({getattr(error, 'strerror', error)})") from error
    refuse_pointer(path, content)
    return content


def refuse_pointer(path: Path, beginning: bytes) -> None:
    """Raises a DataError that names the remedy if a file begins as a pointer of Git LFS does."""
    if beginning.startswith(_LFS_POINTER):
        raise DataError(f"{path}: is a Git LFS pointer, not the file itself; run 'git lfs pull' where it was cloned")


def read_text(path: Path, *, strict: bool = True) -> str:
    """Reads text in UTF-8, with or without a byte-order mark, or in UTF-16 with one, which Windows writes.

    Args:
        path: The file.
        strict: Whether bytes of another encoding are an error; else each becomes U+FFFD.

    Raises:
        DataError: if the file cannot be read, or is in another encoding.
    """
    content = read_bytes(path)
    encoding = "utf-16" if content.startswith(_UTF_16) else "utf-8-sig"
    try:
        return content.decode(encoding, "strict" if strict else "replace")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not in UTF-8 ({error.reason}, byte {error.start:,}); save it as UTF-8") from error


def inner_path(name: str) -> PurePosixPath | None:
    r"""A path that stays inside its folder, written for any system (`train\a.png` too); None if it does not."""
    path = PurePosixPath(name.replace("\\", "/"))
    drive = path.parts[:1] and path.parts[0][1:] == ":" and path.parts[0][0].isalpha()
    return path if path.parts and not (path.is_absolute() or drive or ".." in path.parts or "\0" in name) else None


def pictures_in(folder: Path) -> Iterator[Path]:
    """Every picture under a folder and the folders that it links to, in order of names, without what is hidden."""
    seen = {os.path.realpath(folder)}  # links may go in circles
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = {name: os.path.realpath(Path(parent, name)) for name in sorted(folders)}
        folders[:] = [name for name, path in real.items() if not name.startswith(".") and path not in seen]
        seen.update(real[name] for name in folders)
        for name in sorted(names):
            if not name.startswith(".") and Path(name).suffix.lower() in PICTURE_SUFFIXES:
                yield Path(parent, name)


def unpacked_hint(folders: Iterable[Path]) -> str:
    """Says which archives in some folders were not unpacked; empty if there are none."""
    names = [
        str(path)
        for folder in folders
        if folder.is_dir()
        for path in sorted(folder.iterdir())
        if path.name.lower().endswith(_ARCHIVES) and path.is_file()
    ]
    return f"; unpack {', '.join(names[:4])}" if names else ""
