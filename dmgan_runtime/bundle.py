"""A bundle on disk: a folder or one .zip of it, whose files are proven before anything uses them."""

from __future__ import annotations

import hashlib
import os
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol, Self

from dmgan_runtime.errors import BundleError, shortened
from dmgan_runtime.graphs import check_interfaces
from dmgan_runtime.manifest import MANIFEST_NAME, FileEntry, parse_manifest, stays_inside
from dmgan_runtime.tokenizer import Tokenizer

PACKAGED_MODEL = "emoji-256"
_PACKAGED = Path(__file__).parent / "models"
MAX_MANIFEST_BYTES = 16 * 2**20
MAX_VOCABULARY_BYTES = 16 * 2**20
MAX_FILE_BYTES = 2 * 2**30  # what one ONNX file can hold at most
MAX_INFLATION = 100  # weights hardly shrink, JSON by ten; deflate reaches 1,000 on zeros
_ZIP_FLAG_ENCRYPTED = 0x1
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def packaged_bundle(name: str = PACKAGED_MODEL) -> Path:
    """The folder of a model that comes with the package; its card says what it is."""
    return _PACKAGED / name


def packaged_models() -> list[str]:
    """The names of the models that come with the package."""
    return sorted(folder.parent.name for folder in _PACKAGED.glob(f"*/{MANIFEST_NAME}"))


def find_bundle(bundle: str | os.PathLike[str] | None) -> Path:
    """The absolute path of a bundle.

    Args:
        bundle: A path; or the name of a packaged model, unless something of that name lies in the working directory;
            None is `PACKAGED_MODEL`.

    Raises:
        BundleError: if it is none of these, or the path cannot be looked at.
    """
    if bundle is None:
        return packaged_bundle()
    if not isinstance(bundle, str | os.PathLike):
        raise BundleError(
            f"bundle is {bundle!r}; pass the path of a folder or .zip, or the name of a packaged model:"
            f" {', '.join(packaged_models())}"
        )
    path = Path(bundle).absolute()
    with _reading(str(path)):
        there = path.exists()
    return packaged_bundle(str(bundle)) if not there and str(bundle) in packaged_models() else path


class Bundle:
    """An open bundle.

    A .zip is never unpacked: its files are read in memory, so nothing it says can reach the disk.

    Attributes:
        path: The folder or the .zip.
        manifest: What the bundle says of itself, checked against the schema and the graphs' interface.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Opens a bundle and reads its manifest; the other files are read when they are asked for.

        Args:
            path: A folder with a `manifest.json`, or a .zip of such a folder.

        Raises:
            BundleError: if there is no bundle, or its manifest is not valid.
        """
        self.path = Path(path)
        self._source = _open_source(self.path)
        try:
            source = f"{self.path}/{MANIFEST_NAME}"
            self.manifest = parse_manifest(self.read_unlisted(MANIFEST_NAME, MAX_MANIFEST_BYTES), source)
            check_interfaces(self.manifest, source)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes the .zip, if it is one."""
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, entry: FileEntry, limit: int = MAX_FILE_BYTES) -> bytes:
        """Reads a file once and returns exactly the bytes whose size and SHA-256 were checked.

        Args:
            entry: What the manifest says of the file.
            limit: How many bytes it may have.

        Raises:
            BundleError: if the file is missing, cannot be read, or is not the one that was exported.
        """
        content = self.read_unlisted(entry.path, limit)
        digest = hashlib.sha256(content).hexdigest()
        if (len(content), digest) == (entry.bytes, entry.sha256):
            return content
        found, expected = f"its SHA-256 is {digest}", entry.sha256
        if len(content) != entry.bytes:
            found, expected = f"it has {len(content):,} bytes", f"{entry.bytes:,}"
        remedy = "copy the bundle again from where it came"
        if b"\r\n" in content and hashlib.sha256(content.replace(b"\r\n", b"\n")).hexdigest() == entry.sha256:
            remedy = "its line breaks were changed, as Git for Windows does; check it out again with `* -text` in the"
            remedy += " .gitattributes beside it"
        raise BundleError(
            f"{self.path}/{entry.path}: damaged or replaced: {found}, the manifest says {expected}; {remedy}"
        )

    def folders(self, name: str) -> list[str]:
        """The names of the folders in the folder `name`, sorted; none if there is no such folder.

        Raises:
            BundleError: if it cannot be read.
        """
        with _reading(f"{self.path}/{name}"):
            return sorted(self._source.folders(name))

    def read_unlisted(self, name: str, limit: int) -> bytes:
        """Reads a file that no hash vouches for, or whose hash the caller checks, such as `engines/*/engine.json`.

        Args:
            name: Its path in the bundle.
            limit: How many bytes it has at most.

        Raises:
            BundleError: if it is missing, too long, or cannot be read.
        """
        where = f"{self.path}/{name}"
        with _reading(where):
            size, stream = self._source.open(name)
            with stream:
                if size > limit:
                    raise BundleError(f"{where}: {size:,} bytes, and at most {limit:,} are read; is it a bundle?")
                content = stream.read(size)
        if content.startswith(_LFS_POINTER):
            raise BundleError(f"{where}: a pointer of Git LFS in place of the file; fetch it with: git lfs pull")
        return content

    def tokenizer(self) -> Tokenizer:
        """The bundle's vocabulary, with its aliases.

        Raises:
            BundleError: as `read`, or if a file is no vocabulary, or no aliases.
        """
        entry = self.manifest.tokenizer
        content = self.read(entry.file, MAX_VOCABULARY_BYTES)
        tokenizer = Tokenizer.from_json(content, f"{self.path}/{entry.file.path}")
        if entry.aliases is None:
            return tokenizer
        return tokenizer.with_aliases(
            self.read(entry.aliases, MAX_VOCABULARY_BYTES), f"{self.path}/{entry.aliases.path}"
        )


class _Source(Protocol):
    """Where a bundle's files come from."""

    def open(self, name: str) -> tuple[int, IO[bytes]]:
        """The size of a file and a stream of its bytes."""
        ...

    def folders(self, name: str) -> set[str]:
        """The names of the folders in a folder."""
        ...

    def close(self) -> None: ...


def _open_source(path: Path) -> _Source:
    with _reading(str(path)):
        if path.is_dir():
            return _Folder(path)
        if not path.exists():
            raise BundleError(
                f"{path}: no such bundle; pass a folder or .zip that dmgan-export wrote, or the name of a"
                f" packaged model: {', '.join(packaged_models())}"
            )
        if not zipfile.is_zipfile(path):
            raise BundleError(
                f"{path}: neither a folder nor a readable .zip; pass one that dmgan-export wrote, or copy it again"
            )
        return _Zip(path)


class _Folder:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._root = path.resolve()

    def open(self, name: str) -> tuple[int, IO[bytes]]:
        file = self._root / name
        # A file may be a link, as in the caches of hubs and package managers: its hash says what it is.
        folder = file.parent.resolve()
        if not folder.is_relative_to(self._root):
            raise BundleError(
                f"{self._path / name}: in a folder that is a link to {folder}, outside the bundle; put the folder"
                " itself there (`cp -rL` copies one so)"
            )
        if not file.is_file():
            raise _missing(self._path / name)
        stream = file.open("rb")
        return os.fstat(stream.fileno()).st_size, stream

    def folders(self, name: str) -> set[str]:
        folder = self._root / name
        return {each.name for each in folder.iterdir() if each.is_dir()} if folder.is_dir() else set()

    def close(self) -> None: ...


class _Zip:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._bytes = path.stat().st_size
        self._zip = zipfile.ZipFile(path)
        self._entries: dict[str, zipfile.ZipInfo] = {}
        try:
            self._prefix = self._check()
        except BaseException:
            self.close()
            raise

    def _check(self) -> str:
        """Refuses what no exported bundle holds; returns the folder that the bundle is in, or an empty string."""
        for info in self._zip.infolist():
            # Windows PowerShell 5.1 writes backslashes.
            name = info.orig_filename.replace("\\", "/")
            if not stays_inside(name) or stat.S_ISLNK(info.external_attr >> 16) or name in self._entries:
                raise BundleError(
                    f"{self._path}: unsafe: its entry {info.orig_filename!r} is a link, comes twice or leaves the"
                    " bundle; use a .zip from a source that you trust"
                )
            plain = info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
            if info.flag_bits & _ZIP_FLAG_ENCRYPTED or not plain:
                raise BundleError(
                    f"{self._path}: its entry {name!r} is encrypted or compressed in a rare way; make the .zip"
                    " without a password, with the usual deflate"
                )
            self._entries[name] = info
        if MANIFEST_NAME in self._entries:
            return ""
        # Zipping a folder, not its content, is what file managers do.
        folders = [name.removesuffix(MANIFEST_NAME) for name in self._entries if name.endswith(f"/{MANIFEST_NAME}")]
        return folders[0] if len(folders) == 1 else ""

    def open(self, name: str) -> tuple[int, IO[bytes]]:
        info = self._entries.get(self._prefix + name)
        if info is None:
            raise _missing(self._path / name)
        packed = min(info.compress_size, self._bytes)  # which an entry may lie about
        if info.file_size > MAX_INFLATION * max(packed, 2**10):
            raise BundleError(
                f"{self._path / name}: unsafe: {packed:,} bytes that claim to become {info.file_size:,}, as"
                " in a decompression bomb; use a .zip from a source that you trust"
            )
        # The stream ends after file_size bytes, however far the entry would inflate.
        return info.file_size, self._zip.open(info)

    def folders(self, name: str) -> set[str]:
        start = f"{self._prefix}{name}/"
        inside = (entry.removeprefix(start) for entry in self._entries if entry.startswith(start))
        return {entry.partition("/")[0] for entry in inside if "/" in entry}

    def close(self) -> None:
        self._zip.close()


def _missing(file: Path) -> BundleError:
    return BundleError(f"{file}: missing; pass a whole bundle, a folder or .zip that dmgan-export wrote")


@contextmanager
def _reading(where: str) -> Iterator[None]:
    try:
        yield
    # RuntimeError is pathlib's word for a loop of links, ValueError zipfile's for names that are not UTF-8.
    except (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise BundleError(
            f"{where}: cannot be read ({shortened(error)}); copy the bundle again from where it came"
        ) from error
