"""What a benchmark leaves behind: the schema of its JSON, with every sample."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from dmgan_runtime.atomic import replacing
from dmgan_runtime.errors import DataError

SCHEMA_VERSION = "2.0"

Unit = Literal["s", "bytes", "images/s"]


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of a result: immutable, no unknown keys."""


class Environment(_Part, frozen=True):
    """Where it was measured.

    Attributes:
        time: When it began, UTC.
        cpus: How many this process may use.
        memory: Bytes of main memory.
        cuda: The newest CUDA that the driver supports.
        packages: Versions of what computes.
        commit: The project's, with `+` if files differ from it; None if it is not known.
        busy_before: CPUs' worth of work that others did just before it began; None where the system does not tell.
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
        """Whether other work ran beside the benchmark, so that its times mean little."""
        return self.busy_cpus > self.cpus / 4

    @property
    def busy_cpus(self) -> float:
        """CPUs' worth of others' work, before or after: the larger."""
        return max(self.busy_before or 0.0, self.busy_after or 0.0)


class ModelEntry(_Part, frozen=True):
    """What was measured.

    Attributes:
        name: The model's.
        weights: Where its weights came from.
        resolution: Side of the largest image in pixels.
        manifest_sha256: Of the bundle's manifest, which holds the hash of every file; None if no bundle took part.
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
        engine: `torch` or a backend; in training, whose loop.
        version: The engine's.
        device: Where it ran.
        precision: What it computed in.
        threads: CPU threads for one operator.
        psnr_db: How near its worst image is to the reference's, in dB; None if it is the reference, its images are
            equal, or no images were compared.
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
        batch: The batch size at which it failed; None if it could not be had at all.
    """

    contender: str
    reason: str
    batch: int | None = None


class Series(_Part, frozen=True):
    """Every sample of one figure of one contender.

    Attributes:
        contender: Its name.
        figure: `end_to_end`, a graph, `images_per_second`, `first_image`, `peak_memory` and so on.
        unit: Of the samples.
        samples: In the order in which they were taken.
        per_turn: Samples that were taken in one turn; sample i belongs to round i // per_turn.
        batch: Images at once.
        clients: Threads that asked at once.
        arithmetic_s: Seconds that the arithmetic of one such call takes at the machine's matrix rate; None where that
            rate was not measured or has no meaning.
    """

    contender: str
    figure: str
    unit: Unit
    samples: tuple[float, ...]
    per_turn: Annotated[int, msgspec.Meta(ge=1)] = 1
    batch: int | None = None
    clients: int | None = None
    arithmetic_s: float | None = None


class BenchmarkResult(_Part, frozen=True, kw_only=True):
    """One run of a benchmark.

    Attributes:
        schema_version: `major.minor`; a reader takes its own major version only.
        measure: Which measure, or which script, made it.
        environment: Where.
        model: Of what.
        settings: The measure's.
        entries: Who took part, the reference first.
        series: All samples.
        absences: What could not be measured.
        matrix_rates: By precision, the operations a second of a large matrix product on this machine.
    """

    schema_version: str = SCHEMA_VERSION
    measure: str
    environment: Environment
    model: ModelEntry
    settings: dict[str, Any]
    entries: tuple[Entry, ...]
    series: tuple[Series, ...]
    absences: tuple[Absence, ...] = ()
    matrix_rates: dict[str, float] = {}

    @property
    def was_disturbed(self) -> bool:
        """Whether other work on the machine spoils the result; bytes, in memory or on disk, it does not change."""
        return self.environment.was_busy and any(series.unit != "bytes" for series in self.series)

    def find(self, entry: Entry, figure: str, batch: int | None = None, clients: int | None = None) -> Series | None:
        """One series, or None if it was not measured."""
        key = (entry.name, figure, batch, clients)
        return next((s for s in self.series if (s.contender, s.figure, s.batch, s.clients) == key), None)

    def batches(self) -> list[int | None]:
        """The batch sizes, smallest first; None is that of what has no batch."""
        return sorted({series.batch for series in self.series}, key=lambda batch: batch or 0)

    def write(self, path: Path) -> None:
        """Writes the result as indented JSON, whole or not at all."""
        with replacing(path) as scratch:
            scratch.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n")


def read_result(path: Path) -> BenchmarkResult:
    """Reads a result.

    Raises:
        DataError: if the file is missing, of another major version, or no result.
    """
    try:
        content = path.read_bytes()
        version = str(msgspec.json.decode(content, type=dict[str, Any]).get("schema_version", "missing"))
        if version.split(".")[0] != SCHEMA_VERSION.split(".")[0]:
            raise DataError(f"{path}: schema version {version}, and this reads {SCHEMA_VERSION}; measure again")
        return msgspec.json.decode(content, type=BenchmarkResult)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: is no result ({error}); pass a file that `python -m benchmarks` wrote") from error
