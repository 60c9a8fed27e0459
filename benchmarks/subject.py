"""What is measured: one set of weights, as PyTorch's and as a bundle."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

import click
import msgspec

from benchmarks.environment import installed
from benchmarks.floor import Work, graph_work
from benchmarks.results import SubjectEntry
from benchmarks.worker import call_in_worker
from dmgan_runtime.backends.base import graphs_of
from dmgan_runtime.bundle import Bundle
from dmgan_runtime.errors import DataError, DmganError
from dmgan_runtime.manifest import MANIFEST_NAME, Arithmetic, ModelSpec

SUBJECT_NAME = "subject.json"
_ROOT = Path(__file__).parent.parent
_SOURCES = (
    "export",
    "dmgan_train.models",
    "dmgan_train.settings",
    "dmgan_runtime.graphs",
    "dmgan_runtime.manifest",
    "benchmarks.building",
)


class SubjectSource(msgspec.Struct, frozen=True, kw_only=True):
    """Where the weights come from.

    Attributes:
        preset: Random weights of the shape of a preset; not used if there is a run.
        run: A run folder of `dmgan_train`.
        bundle: The bundle that was exported from the run; None exports it.
    """

    preset: str
    run: str | None = None
    bundle: str | None = None


class Subject(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One set of weights in both forms.

    Attributes:
        name: The model's.
        origin: Where the weights came from, in words.
        bundle: The bundle's folder.
        weights: A file of state dicts, `text_encoder` and `generator`.
        captions: Texts that the vocabulary knows.
        operations_as_written: Of an image, by graph, of the network as it is published.
        operations: The same of the bundle's graphs, by file.
        lacks: The precisions that these weights could not be exported in, and why.
    """

    name: str
    origin: str
    bundle: str
    weights: str
    captions: tuple[str, ...]
    operations_as_written: dict[str, int]
    operations: dict[str, int]
    lacks: dict[str, str] = {}

    @property
    def spec(self) -> ModelSpec:
        """The networks' shape."""
        with Bundle(self.bundle) as bundle:
            return bundle.manifest.model

    def take_captions(self, count: int) -> list[str]:
        """So many captions, over and over if need be."""
        return [self.captions[index % len(self.captions)] for index in range(count)]

    def work(self, precision: str, batch: int, *, as_written: bool) -> dict[str, Work]:
        """What each graph has to do at least.

        Args:
            precision: Of the engine; PyTorch's weights have the size of the fp32 or fp16 graphs'.
            batch: Images at once.
            as_written: The network as it is published, not as it was exported.
        """
        stored: Arithmetic = precision if precision in ("fp16", "int8") else "fp32"  # type: ignore[assignment]
        with Bundle(self.bundle) as bundle:
            if as_written and bundle.manifest.graph("generator_0", "fp16") is None:
                stored = "fp32"
            graphs = graphs_of(bundle, stored)
            embeddings = 4 * len(bundle.tokenizer()) * bundle.manifest.model.embedding_features
        work: dict[str, Work] = {}
        for role, graph in graphs.items():
            operations = self.operations_as_written[role] if as_written else self.operations[graph.file.path]
            work[role] = graph_work(graph, operations, batch, unread=embeddings if role == "text_encoder" else 0)
        return work

    def describe(self) -> SubjectEntry:
        """What a result says of it."""
        manifest = (Path(self.bundle) / MANIFEST_NAME).read_bytes()
        return SubjectEntry(
            name=self.name,
            weights=self.origin,
            manifest_sha256=hashlib.sha256(manifest).hexdigest(),
            resolution=self.spec.resolutions[-1],
            operations_as_written=self.operations_as_written,
        )


def prepare_subject(source: SubjectSource, cache: Path, device: str) -> Subject:
    """The subject of a source, made once and then kept.

    Args:
        source: Where the weights come from.
        cache: Folder of the subjects that were made.
        device: fp16 graphs are made for a GPU, int8 graphs for a CPU.

    Raises:
        DmganError: if it cannot be made.
    """
    if source.bundle is not None and not (Path(source.bundle) / MANIFEST_NAME).is_file():
        raise DataError(f"{source.bundle}: is no bundle's folder; unpack it if it is a .zip")
    kind = device.partition(":")[0]
    folder = cache / f"{Path(source.run).resolve().name if source.run else source.preset}-{kind}-{_key(source)[:12]}"
    if not (folder / SUBJECT_NAME).is_file():
        call_in_worker(_build, source, folder, kind)
        if source.bundle is None:
            _add_engines(folder / "bundle", kind)
    return msgspec.json.decode((folder / SUBJECT_NAME).read_bytes(), type=Subject)


def _build(source: SubjectSource, folder: Path, kind: str) -> None:
    from benchmarks.building import build_subject  # PyTorch and ONNX: only in the process that needs them

    build_subject(source, folder, kind)


def _add_engines(bundle: Path, kind: str) -> None:
    """The engines that are built for what is here: what goes wrong, even a crash, only costs those contenders."""
    try:
        call_in_worker(_build_engines, bundle, kind)
    except DmganError as error:
        click.echo(f"without engines: {error}", err=True)


def _build_engines(bundle: Path, kind: str) -> None:
    from benchmarks.building import add_engines

    add_engines(bundle, kind)


def _key(source: SubjectSource) -> str:
    """A digest of all that the subject follows from: another export is another subject."""
    digest = hashlib.sha256(msgspec.json.encode(source))
    digest.update(msgspec.json.encode(installed(("torch", "onnx", "onnxruntime", "mnn"))))
    files = [file for name in _SOURCES for file in _files(name)]
    files += sorted((_ROOT / "dmgan_train" / "presets").rglob("*.yaml"))
    for folder, pattern in ((source.run, "*/checkpoint.pt"), (source.bundle, MANIFEST_NAME)):
        files += sorted(Path(folder).glob(pattern)) if folder else []
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _files(name: str) -> list[Path]:
    found = find_spec(name)
    assert found is not None
    if found.submodule_search_locations:
        return [file for place in found.submodule_search_locations for file in sorted(Path(place).rglob("*.py"))]
    assert found.origin is not None
    return [Path(found.origin)]
