"""What `dmgan-doctor --tune` found to be fastest on this machine, kept in the user's cache."""

from __future__ import annotations

import hashlib
from datetime import date
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
from platformdirs import user_cache_path

from dmgan_runtime.atomic import replacing
from dmgan_runtime.backends.base import MAX_THREADS
from dmgan_runtime.backends.registry import installed_versions
from dmgan_runtime.bundle import Bundle
from dmgan_runtime.cpus import find_processor, usable_cpus
from dmgan_runtime.errors import shortened
from dmgan_runtime.manifest import Arithmetic

_MAX_BYTES = 2**18


class TunedWay(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A way to serve a bundle on the CPU, measured.

    Attributes:
        backend: The engine.
        precision: What it computes in.
        threads: CPU threads for one operator.
        milliseconds: The median time of one image, caption to pixels.
        psnr_db: How near its worst image comes to that of ONNX Runtime in fp32; None if they are equal.
    """

    backend: str
    precision: Arithmetic
    threads: Annotated[int, msgspec.Meta(ge=1, le=MAX_THREADS)]
    milliseconds: Annotated[float, msgspec.Meta(gt=0)]
    psnr_db: float | None


class Circumstances(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a measurement holds for.

    Attributes:
        processor: Its name.
        cpus: How many this process may use.
        versions: Of the packages of engines that are installed.
    """

    processor: str
    cpus: int
    versions: dict[str, str]

    def difference(self, now: Circumstances) -> str:
        """What is different now, in words; empty if nothing is."""
        names = {"processor": "another processor", "cpus": "another number of CPUs"}
        found = [words for name, words in names.items() if getattr(self, name) != getattr(now, name)]
        found += [
            f"{name} {self.versions.get(name, 'missing')}"
            for name in sorted({*self.versions, *now.versions})
            if self.versions.get(name) != now.versions.get(name)
        ]
        return ", ".join(found)


class Tuning(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole measurement.

    Attributes:
        measured_on: The day.
        circumstances: What it holds for.
        ways: Fastest first.
    """

    measured_on: date
    circumstances: Circumstances
    ways: Annotated[tuple[TunedWay, ...], msgspec.Meta(min_length=1, max_length=100)]

    def __post_init__(self) -> None:
        if max(way.threads for way in self.ways) > self.circumstances.cpus:
            raise ValueError(f"there were {self.circumstances.cpus} CPUs, and a way has more threads")


class FoundTuning(NamedTuple):
    """What was found in the cache.

    Attributes:
        tuning: None if there is none that holds.
        note: What a user should know of it.
    """

    tuning: Tuning | None
    note: str


def circumstances() -> Circumstances:
    """What a measurement made now would hold for."""
    return Circumstances(
        processor=find_processor().description,
        cpus=usable_cpus(),
        versions=installed_versions(),
    )


def read_tuning(bundle: Bundle) -> FoundTuning:
    """The measurement of a bundle on this machine; one that is stale or damaged is left aside with a word."""
    path = _path(bundle)
    try:
        if not path.exists():
            return FoundTuning(None, "")
        if not path.is_file() or path.stat().st_size > _MAX_BYTES:
            raise OSError(f"it is no file of at most {_MAX_BYTES:,} bytes")
        tuning = msgspec.json.decode(path.read_bytes(), type=Tuning)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return FoundTuning(None, f"what dmgan-doctor --tune kept cannot be read ({shortened(error)}); run it again")
    if difference := tuning.circumstances.difference(circumstances()):
        return FoundTuning(None, f"what dmgan-doctor --tune kept is of {shortened(difference)}; run it again")
    return FoundTuning(tuning, f"as dmgan-doctor --tune measured on {tuning.measured_on}")


def write_tuning(bundle: Bundle, tuning: Tuning) -> str:
    """Keeps a measurement, for every process of this user; returns where, or why not in words."""
    path = _path(bundle)
    try:
        with replacing(path) as scratch:
            scratch.write_bytes(msgspec.json.format(msgspec.json.encode(tuning), indent=2) + b"\n")
    except OSError as error:
        return f"not kept ({error}); make the cache folder writable, or set XDG_CACHE_HOME to one that is"
    return f"kept in {path}"


def _path(bundle: Bundle) -> Path:
    """A file for each bundle: one whose weights or graphs differ is another."""
    digest = hashlib.sha256(bundle.manifest.to_json()).hexdigest()
    return user_cache_path("dmgan", appauthor=False) / "tuning" / f"{digest[:32]}.json"
