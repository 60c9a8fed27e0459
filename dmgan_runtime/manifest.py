"""What a bundle says of itself: the schema of `manifest.json`."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import msgspec

from dmgan_runtime.noise import MAX_SEED
from dmgan_runtime.schema import read_versioned
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
        tolerance: The difference that was allowed; None where there is no bound on it.
        batches: The batch sizes that were compared.
        required_psnr_db: The PSNR that was asked for; None where none was.
    """

    role: Role
    precision: Precision
    output: str
    max_abs_error: float
    psnr_db: float | None
    tolerance: float | None
    batches: tuple[int, ...]
    required_psnr_db: float | None = None


class SelfTestEntry(_Part, frozen=True):
    """What the bundle painted when it was exported, small, so that any machine can see whether it paints the same.

    Attributes:
        caption: What was painted.
        seed: With this seed, from 0 to 2**64 - 1.
        thumbnails: By resolution, every one of the model's, that stage's picture averaged to 8x8 RGB pixels, row by
            row, three bytes each (base64 in the file).
    """

    caption: str
    seed: Annotated[int, msgspec.Meta(ge=0)]
    thumbnails: dict[int, Annotated[bytes, msgspec.Meta(min_length=192, max_length=192)]]

    def __post_init__(self) -> None:
        if self.seed > MAX_SEED:
            raise ValueError(f"self_test has the seed {self.seed}; seeds go up to {MAX_SEED}")


class Manifest(_Part, frozen=True):
    """The whole manifest.

    Attributes:
        schema_version: `major.minor`; a reader takes its own major version only, and of a higher minor version what it
            knows.
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

    def __post_init__(self) -> None:
        kinds = Counter((graph.role, graph.precision) for graph in self.graphs)
        for (role, precision), count in kinds.items():
            if count > 1:
                raise ValueError(f"there are {count} {role} graphs in {precision}; a bundle has one of a kind")
        if self.self_test is not None and set(self.self_test.thumbnails) != set(self.model.resolutions):
            raise ValueError(
                f"self_test has thumbnails of {sorted(self.self_test.thumbnails)}, and the model paints"
                f" {list(self.model.resolutions)}"
            )

    @property
    def every_file(self) -> tuple[FileEntry, ...]:
        """All files of the bundle but the manifest itself."""
        return (self.tokenizer.file, *(graph.file for graph in self.graphs), *self.files)

    def graph(self, role: Role, precision: Precision) -> GraphEntry | None:
        """The graph of that role and precision, or None if the bundle has none."""
        return next((graph for graph in self.graphs if (graph.role, graph.precision) == (role, precision)), None)

    def to_json(self) -> bytes:
        """The manifest as indented JSON."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


def parse_manifest(content: bytes, source: str) -> Manifest:
    """Reads a manifest strictly; of a newer minor version, what this one knows of it.

    Args:
        content: The JSON text.
        source: Where it came from, for messages.

    Raises:
        BundleError: if it is not JSON, is of another major version, or breaks the schema.
    """
    return read_versioned(
        content, Manifest, SCHEMA_VERSION, what="manifest", source=source, remedy="export the bundle again"
    )
