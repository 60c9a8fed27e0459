"""What a bundle says of itself: the schema of `manifest.json`."""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import msgspec

from dmgan_runtime.errors import BundleError
from dmgan_runtime.spec import ModelSpec

SCHEMA_VERSION = "1.1"
MANIFEST_NAME = "manifest.json"

Role = Literal["text_encoder", "generator_0", "generator_1", "generator_2"]
Precision = Literal["fp32", "fp16", "int8"]
GENERATOR_ROLES: tuple[Role, ...] = ("generator_0", "generator_1", "generator_2")
ROLES: tuple[Role, ...] = ("text_encoder", *GENERATOR_ROLES)


def stays_inside(path: str) -> bool:
    """Whether a path is relative, with forward slashes, without `..`, and so stays inside its bundle."""
    pure = PurePosixPath(path)
    return bool(pure.parts) and not (pure.is_absolute() or ".." in pure.parts or any(c in path for c in "\\:\0"))


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the manifest: immutable, named fields only, no unknown keys."""


class FileEntry(_Part, frozen=True):
    """A file of the bundle and what proves that it is the one that was exported.

    Attributes:
        path: Relative to the bundle, with forward slashes, without `..`.
        bytes: Its size.
        sha256: Its digest, in lower-case hexadecimal.
    """

    path: str
    bytes: Annotated[int, msgspec.Meta(ge=0)]
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]

    def __post_init__(self) -> None:
        if not stays_inside(self.path):
            raise ValueError(f"path {self.path!r} leaves the bundle; only plain relative paths are allowed")

    @classmethod
    def of(cls, root: Path, path: str) -> FileEntry:
        """Describes the file `path` under the bundle folder `root`."""
        file = root / path
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return cls(path=path, bytes=file.stat().st_size, sha256=digest)


class TensorEntry(_Part, frozen=True):
    """An input or output of a graph.

    Attributes:
        name: As in the ONNX graph.
        dtype: `float32` or `int64`.
        shape: A number for each fixed axis, `"batch"` for the free one.
    """

    name: str
    dtype: Literal["float32", "int64"]
    shape: tuple[int | Literal["batch"], ...]


class GraphEntry(_Part, frozen=True):
    """One ONNX graph: which network it is, in which precision, and what goes in and out."""

    role: Role
    precision: Precision
    file: FileEntry
    opset: int
    inputs: tuple[TensorEntry, ...]
    outputs: tuple[TensorEntry, ...]


class TokenizerEntry(_Part, frozen=True):
    """The vocabulary, and how many words of a caption the graphs take."""

    file: FileEntry
    max_words: Annotated[int, msgspec.Meta(ge=1, le=512)]


class ParityEntry(_Part, frozen=True):
    """How far a graph's output was from PyTorch's when it was exported.

    Attributes:
        role: The graph.
        precision: Its precision.
        output: The output's name.
        max_abs_error: The largest absolute difference over all cases.
        psnr_db: 10 log10(range^2 / mean squared error), range being PyTorch's largest minus smallest value;
            None when the outputs were equal.
        tolerance: The difference that was allowed.
        batches: The batch sizes that were compared.
    """

    role: Role
    precision: Precision
    output: str
    max_abs_error: float
    psnr_db: float | None
    tolerance: float
    batches: tuple[int, ...]


class SelfTestEntry(_Part, frozen=True):
    """What the bundle painted when it was exported, small, so that any machine can see whether it paints the same.

    Attributes:
        caption: What was painted.
        seed: With this seed.
        thumbnails: By resolution, that stage's picture averaged to 8x8 RGB pixels, row by row, three bytes each
            (base64 in the file).
    """

    caption: str
    seed: Annotated[int, msgspec.Meta(ge=0)]
    thumbnails: dict[int, Annotated[bytes, msgspec.Meta(min_length=192, max_length=192)]]


class Manifest(_Part, frozen=True):
    """The whole manifest.

    Attributes:
        schema_version: `major.minor`; a reader takes its own major version only.
        name: The model's name.
        license: SPDX expression or a sentence, of the weights.
        model: The networks' shape.
        tokenizer: The vocabulary.
        graphs: Every graph in every precision.
        files: The other files: model card, samples.
        parity: Measured at export.
        metrics: Each with the protocol that produced it; empty if none was measured.
        provenance: Where the weights came from: software versions, data, steps, settings.
        self_test: What the fp32 graphs painted at export; None before schema 1.1.
    """

    schema_version: str
    name: str
    license: str
    model: ModelSpec
    tokenizer: TokenizerEntry
    graphs: tuple[GraphEntry, ...]
    files: tuple[FileEntry, ...] = ()
    parity: tuple[ParityEntry, ...] = ()
    metrics: dict[str, Any] = {}
    provenance: dict[str, Any] = {}
    self_test: SelfTestEntry | None = None

    def graph(self, role: Role, precision: Precision) -> GraphEntry | None:
        """The graph of that role and precision, or None if the bundle has none."""
        return next((graph for graph in self.graphs if (graph.role, graph.precision) == (role, precision)), None)

    def to_json(self) -> bytes:
        """The manifest as indented JSON."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


class _Version(msgspec.Struct):
    schema_version: str = "missing"


def parse_manifest(content: bytes, source: str) -> Manifest:
    """Reads a manifest strictly.

    Args:
        content: The JSON text.
        source: Where it came from, for messages.

    Raises:
        BundleError: if it is not JSON, is of another major version, or breaks the schema.
    """
    try:
        version = msgspec.json.decode(content, type=_Version).schema_version
        if version.split(".")[0] != SCHEMA_VERSION.split(".")[0]:
            raise BundleError(
                f"{source}: schema version {version}, and this dmgan reads {SCHEMA_VERSION};"
                " upgrade dmgan or export the bundle again"
            )
        return msgspec.json.decode(content, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(
            f"{source}: not a valid manifest ({error}); export the bundle again, or upgrade dmgan"
            " if a newer one wrote it"
        ) from error
