"""What a benchmark leaves behind: the schema of its JSON, with every sample."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from benchmarks.floor import Floor, MachineRates
from dmgan_runtime.errors import DataError

SCHEMA_VERSION = "1.0"

Measure = Literal["latency", "throughput", "startup", "memory", "size", "training", "outputs"]
Unit = Literal["s", "bytes", "images/s"]


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of a result: immutable, no unknown keys."""


class Environment(_Part, frozen=True):
    """Where it was measured.

    Attributes:
        time: When it began, UTC.
        system: Operating system and processor architecture.
        cpu: The processor's name.
        cpus: How many this process may use.
        memory: Bytes of main memory.
        gpu: The GPU's name; None on a CPU.
        cuda: The newest CUDA that the driver supports; None on a CPU.
        python: Its version.
        packages: Versions of what computes.
        commit: The project's commit, with `+` if files differ from it; None if it is not known.
        busy_before: CPUs' worth of work that others did just before it began; None where the system does not say.
        busy_after: The same just after its end.
    """

    time: str
    system: str
    cpu: str
    cpus: int
    memory: int
    python: str
    packages: dict[str, str]
    gpu: str | None = None
    cuda: str | None = None
    commit: str | None = None
    busy_before: float | None = None
    busy_after: float | None = None

    @property
    def was_busy(self) -> bool:
        """Whether other work ran beside the benchmark, so that its times say little."""
        return self.busy_cpus > self.cpus / 4

    @property
    def busy_cpus(self) -> float:
        """CPUs' worth of others' work, before or after: the larger."""
        return max(self.busy_before or 0.0, self.busy_after or 0.0)


class SubjectEntry(_Part, frozen=True):
    """What was measured.

    Attributes:
        name: The model's.
        weights: Where its weights came from.
        manifest_sha256: Of the bundle's manifest, which holds the hash of every file; None if no bundle took part.
        resolution: Side of the largest image in pixels.
        operations_as_written: Floating-point operations of an image by graph, as the network is published.
    """

    name: str
    weights: str
    resolution: int
    manifest_sha256: str | None = None
    operations_as_written: dict[str, int] = {}


class Entry(_Part, frozen=True):
    """A contender that took part.

    Attributes:
        name: Names it in `Series`.
        label: Names it for people.
        engine: `torch` or a backend; in training the loop.
        version: The engine's.
        device: Where it ran.
        precision: What it computed in.
        threads: CPU threads for one operator.
        psnr_db: How near its images are to the reference's, in dB; None if it is the reference, its images are equal,
            or no images were compared.
    """

    name: str
    label: str
    engine: str
    version: str
    device: str
    precision: str
    threads: int
    psnr_db: float | None = None


class Absence(_Part, frozen=True):
    """What could not be measured, and why.

    Attributes:
        contender: Its name.
        reason: In words.
        batch: The batch size at which it failed; None if it could not be had at all.
    """

    contender: str
    reason: str
    batch: int | None = None


class Series(_Part, frozen=True):
    """Every sample of one figure.

    Attributes:
        contender: Whose.
        measure: What: `end_to_end`, a graph, `images_per_second`, `first_image`, `peak_memory`, `everything` and so on.
        unit: Of the samples.
        samples: In the order in which they were taken.
        per_turn: Samples that were taken in one turn; sample i belongs to round i // per_turn.
        batch: Images at once.
        clients: Threads that asked at once.
        floor: What the machine's own limits allow for one such run; None where that has no meaning.
    """

    contender: str
    measure: str
    unit: Unit
    samples: tuple[float, ...]
    per_turn: Annotated[int, msgspec.Meta(ge=1)] = 1
    batch: int | None = None
    clients: int | None = None
    floor: Floor | None = None


class BenchmarkResult(_Part, frozen=True):
    """One run of a benchmark.

    Attributes:
        schema_version: `major.minor`; a reader takes its own major version only.
        measure: Which command made it.
        environment: Where.
        subject: Of what.
        settings: The command's.
        entries: Who took part, the reference first.
        series: All samples.
        absences: What could not be measured.
        rates: What the machine can do at most; None if no floor was asked for.
    """

    schema_version: str
    measure: Measure
    environment: Environment
    subject: SubjectEntry
    settings: dict[str, Any]
    entries: tuple[Entry, ...]
    series: tuple[Series, ...]
    absences: tuple[Absence, ...] = ()
    rates: MachineRates | None = None

    @property
    def was_disturbed(self) -> bool:
        """Whether other work on the machine spoils the result; bytes, in memory or on disk, it does not change."""
        return self.environment.was_busy and self.measure not in ("memory", "size")

    def entry(self, name: str) -> Entry:
        """The contender of a name."""
        return next(entry for entry in self.entries if entry.name == name)

    def find(self, contender: str, measure: str, batch: int | None = None, clients: int | None = None) -> Series | None:
        """One series, or None if it was not measured."""
        key = (contender, measure, batch, clients)
        return next((s for s in self.series if (s.contender, s.measure, s.batch, s.clients) == key), None)

    def batches(self) -> list[int]:
        """The batch sizes, smallest first."""
        return sorted({series.batch for series in self.series if series.batch is not None})

    def to_json(self) -> bytes:
        """The result as indented JSON, each list of samples in one line."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"


class _Version(msgspec.Struct):
    schema_version: str = "missing"


def read_result(path: Path) -> BenchmarkResult:
    """Reads a result.

    Raises:
        DataError: if the file is missing, of another major version, or no result.
    """
    try:
        content = path.read_bytes()
        version = msgspec.json.decode(content, type=_Version).schema_version
        if version.split(".")[0] != SCHEMA_VERSION.split(".")[0]:
            raise DataError(f"{path}: schema version {version}, and this reads {SCHEMA_VERSION}; measure again")
        return msgspec.json.decode(content, type=BenchmarkResult)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: is no result ({error}); pass a file that `python -m benchmarks` wrote") from error
