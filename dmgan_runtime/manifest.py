"""What a bundle says of itself: the schema of `manifest.json`, the model's shape in it, and how versions are read."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, get_args

import msgspec
from msgspec import inspect

from dmgan_runtime.errors import BundleError, shortened
from dmgan_runtime.noise import MAX_SEED, Condition

SCHEMA_VERSION = "2.1"
MANIFEST_NAME = "manifest.json"
_VERSION = re.compile(r"(\d{1,9})\.(\d{1,9})", re.ASCII)
_Schema = TypeVar("_Schema", bound=msgspec.Struct)

Role = Literal["text_encoder", "generator_0", "generator_1", "generator_2", "generator_3", "generator_4", "generator_5"]
"""A graph of a bundle; a model of N stages has the first N generators."""

Precision = Literal["fp32", "fp16", "int8"]
Arithmetic: TypeAlias = Precision | Literal["bf16"]
"""What an engine computes in: the precision of its graphs, or bf16, into which it rounds fp32 graphs itself."""
_GENERATOR_ROLES: tuple[Role, ...] = get_args(Role)[1:]
MAX_STAGES = len(_GENERATOR_ROLES)


PositiveInt = Annotated[int, msgspec.Meta(ge=1)]
Width = Annotated[int, msgspec.Meta(ge=1, le=2**16)]
"""Channels, or layers. Bounded far above any real model, so that no manifest of unknown origin asks for all memory."""

UpBlocks = Literal["phases", "transposed"]
"""How a generator's graph doubles the resolution: by four small convolutions (for CPUs), or a transposed one (GPUs)."""

MemoryWriting = Literal["gated", "words", "none"]
MemoryResponse = Literal["gated", "concatenation"]


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Widths, pyramid and memory of a DM-GAN. The defaults are the paper's (Zhu et al., CVPR 2019) on CUB.

    Attributes:
        stages: Images of the pyramid: the initial stage and `stages - 1` refinement stages. The paper has three, and
            says of its refinement that it "can be repeated multiple times".
        base_resolution: Side of the first stage's image in pixels, a power of two from 8 to 128. Each
            refinement stage doubles it.
        generator_channels: Channels of the image features, N_r in the paper and Ng in its code.
        text_features: Channels of a word feature and of the sentence feature, N_w; even, because one half
            comes from each direction of the LSTM.
        embedding_features: Width of a word's embedding, the LSTM's input.
        noise_features: Width of the noise z.
        condition_features: Width of the conditioning augmentation's sample c.
        memory_features: Channels of a memory slot, N_m.
        residual_blocks: Residual blocks in each refinement stage: 2 for CUB, 3 for COCO.
        memory_writing: `gated` is the paper's eq. 7 and 8; `words` writes the words alone (eq. 3, "+M" in
            table 3); `none` attends to the words themselves (the table's baseline, AttnGAN).
        memory_response: `gated` is eq. 9; `concatenation` is eq. 6, the table's rows without "RG".
        condition: What images are generated from: a sample of the condition's distribution, as the paper does, or its
            mean, with which images of one caption vary less. Training always samples.
    """

    stages: Annotated[int, msgspec.Meta(ge=1, le=MAX_STAGES)] = 3
    base_resolution: Annotated[int, msgspec.Meta(ge=8, le=128)] = 64
    generator_channels: Width = 64
    text_features: Width = 256
    embedding_features: Width = 300
    noise_features: Width = 100
    condition_features: Width = 100
    memory_features: Width = 128
    residual_blocks: Width = 2
    memory_writing: MemoryWriting = "gated"
    memory_response: MemoryResponse = "gated"
    condition: Condition = "sampled"

    def __post_init__(self) -> None:
        if self.base_resolution & (self.base_resolution - 1):
            raise ValueError(f"base_resolution is {self.base_resolution}; use a power of two, such as 16 or 64")
        if self.text_features % 2:
            raise ValueError(f"text_features is {self.text_features}; use an even number (two LSTM directions)")
        if self.memory_writing == "none" and self.memory_response == "gated":
            raise ValueError("memory_response 'gated' needs a memory; with memory_writing 'none' use 'concatenation'")

    @property
    def resolutions(self) -> tuple[int, ...]:
        """The sides of the images in pixels, smallest first, for example (64, 128, 256)."""
        return tuple(self.base_resolution << stage for stage in range(self.stages))

    @property
    def generator_roles(self) -> tuple[Role, ...]:
        """The graph of each stage, in the order in which they run."""
        return _GENERATOR_ROLES[: self.stages]

    @property
    def roles(self) -> tuple[Role, ...]:
        """Every graph, in the order in which they run."""
        return ("text_encoder", *self.generator_roles)


def stays_inside(path: str) -> bool:
    """Whether a path is relative, with forward slashes, without `..`, and so stays inside its bundle."""
    pure = PurePosixPath(path)
    return bool(pure.parts) and not (
        pure.is_absolute() or ".." in pure.parts or any(c in "\\:" or c < " " for c in path)
    )


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
    """One ONNX graph: which network it is, in which precision and form, and what goes in and out.

    Attributes:
        role: The network.
        precision: What it computes in.
        file: The ONNX file.
        opset: Its version of ONNX's operators.
        inputs: What goes in.
        outputs: What comes out.
        up_blocks: The form of a generator's up blocks; None for the text encoder, which has none.
    """

    role: Role
    precision: Precision
    file: FileEntry
    opset: int
    inputs: tuple[TensorEntry, ...]
    outputs: tuple[TensorEntry, ...]
    up_blocks: UpBlocks | None = None


class TokenizerEntry(_Part, frozen=True):
    """How captions are read.

    Attributes:
        file: The vocabulary.
        max_words: How many words of a caption the graphs take.
        aliases: The names of what captions may have in place of words, such as emoji; None if there are none.
    """

    file: FileEntry
    max_words: Annotated[int, msgspec.Meta(ge=1, le=512)]
    aliases: FileEntry | None = None

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """The vocabulary, and the aliases if there are any."""
        return (self.file,) if self.aliases is None else (self.file, self.aliases)


class ParityEntry(_Part, frozen=True):
    """How far a graph's output was from PyTorch's when it was exported.

    Attributes:
        role: The graph.
        precision: Its precision.
        output: The output's name.
        max_abs_error: The largest absolute difference over all cases.
        psnr_db: 10 log10(range^2 / mean squared error), range being PyTorch's largest minus smallest value;
            of images, that of the worst. None when the outputs were equal.
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
    """What the bundle generated when it was exported, small, so that any machine can see whether it generates the same.

    Attributes:
        caption: What was generated.
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
        image_psnr_db: How near the worst of the largest images comes to PyTorch's in float64 from end to end, by what
            it is computed in: the PSNR of `ParityEntry`, at most 200. Of fp16 and bf16, with every operator rounded.
        metrics: Each with the protocol that produced it; empty if none was measured.
        provenance: Where the weights came from: software versions, data, steps, settings.
        self_test: What the fp32 graphs generated at export, or None.
    """

    schema_version: str
    name: str
    license: str
    model: ModelSpec
    tokenizer: TokenizerEntry
    graphs: tuple[GraphEntry, ...]
    files: tuple[FileEntry, ...] = ()
    parity: tuple[ParityEntry, ...] = ()
    image_psnr_db: dict[Arithmetic, float] = {}
    metrics: dict[str, Any] = {}
    provenance: dict[str, Any] = {}
    self_test: SelfTestEntry | None = None

    def __post_init__(self) -> None:
        if strangers := [graph.role for graph in self.graphs if graph.role not in self.model.roles]:
            raise ValueError(f"there is a graph {strangers[0]}, and a model of {self.model.stages} stages has none")
        kinds = Counter((graph.role, graph.precision) for graph in self.graphs)
        for (role, precision), count in kinds.items():
            if count > 1:
                raise ValueError(f"there are {count} {role} graphs in {precision}; a bundle has one of a kind")
        if self.self_test is not None and set(self.self_test.thumbnails) != set(self.model.resolutions):
            raise ValueError(
                f"self_test has thumbnails of {sorted(self.self_test.thumbnails)}, and the model generates"
                f" {list(self.model.resolutions)}"
            )

    @property
    def every_file(self) -> tuple[FileEntry, ...]:
        """All files of the bundle but the manifest itself."""
        return (*self.tokenizer.files, *(graph.file for graph in self.graphs), *self.files)

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


class _Version(msgspec.Struct):
    schema_version: str = "missing"


def read_versioned(
    content: bytes, schema: type[_Schema], version: str, *, what: str, source: str, remedy: str
) -> _Schema:
    """Decodes JSON that has a `schema_version` of the form `major.minor`.

    Args:
        content: The JSON text.
        schema: What it must hold; unknown keys are refused.
        version: The schema's. A higher minor version may have more keys, which are left out.
        what: The kind of file, for messages.
        source: Where it came from, for messages.
        remedy: What to do about a file that is not valid.

    Raises:
        BundleError: if it is not JSON, is of another major version, or breaks the schema.
    """
    try:
        found = msgspec.json.decode(content, type=_Version).schema_version
        newer = _is_newer(found, version)
        if newer is None:
            raise BundleError(
                f"{source}: schema version {shortened(found)}, and this dmgan reads {version}; upgrade dmgan or"
                f" {remedy}"
            )
        if not newer:
            return msgspec.json.decode(content, type=schema)
    except msgspec.ValidationError as error:
        raise BundleError(f"{source}: not a valid {what} ({shortened(error)}); {remedy}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(
            f"{source}: not a valid {what} ({shortened(error)}); copy the bundle again from where it came, or {remedy}"
        ) from error
    try:
        known = _known_part(msgspec.json.decode(content), inspect.type_info(schema))
        return msgspec.convert(known, schema, str_keys=True)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(
            f"{source}: schema version {shortened(found)} is newer than {version}, which this dmgan reads, and it"
            f" cannot make do with what it knows of it ({shortened(error)}); upgrade dmgan"
        ) from error


def _is_newer(found: str, version: str) -> bool | None:
    """Whether a minor version is higher than ours; None if the major version is another."""
    numbers = _VERSION.fullmatch(found)
    major, minor = map(int, version.split("."))
    if numbers is None or int(numbers[1]) != major:
        return None
    return int(numbers[2]) > minor


def _known_part(value: Any, kind: inspect.Type) -> Any:
    """A decoded value without the keys that its schema lacks."""
    if isinstance(kind, inspect.UnionType):
        kind = next((each for each in kind.types if isinstance(each, inspect.StructType)), kind)
    if isinstance(kind, inspect.StructType) and isinstance(value, dict):
        fields = {field.encode_name: field.type for field in kind.fields}
        return {name: _known_part(inner, fields[name]) for name, inner in value.items() if name in fields}
    if isinstance(kind, inspect.VarTupleType) and isinstance(value, list):
        return [_known_part(inner, kind.item_type) for inner in value]
    return value
