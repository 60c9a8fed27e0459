"""The processor, and how many CPUs of it this process may use: the affinity of its threads, its container's quota."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

# What engines make use of, by the names that Linux has for it on x86-64 and on ARM.
_ABILITIES = {
    "AVX2": {"avx2"},
    "AVX-512": {"avx512f"},
    "NEON": {"asimd"},
    "VNNI": {"avx512_vnni", "avx_vnni"},
    "int8 products": {"asimddp", "i8mm"},
    "bf16": {"avx512_bf16", "bf16"},
    "AMX": {"amx_bf16"},
}


def usable_cpus() -> int:
    """How many CPUs this process may use, at least 1; a share of one counts as one."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return math.ceil(min(cores, cpu_quota()))


@dataclass(frozen=True)
class Processor:
    """A processor.

    Attributes:
        name: As the system has it.
        abilities: Kinds of instructions that engines make use of; None if they are not known, as outside of Linux.
    """

    name: str
    abilities: tuple[str, ...] | None

    @property
    def description(self) -> str:
        """Its name and what it can do: processors of one name may differ in that."""
        return f"{self.name} ({', '.join(self.abilities)})" if self.abilities else self.name

    @property
    def has_bf16(self) -> bool:
        """Whether it multiplies bf16."""
        return bool({"bf16", "AMX"} & {*(self.abilities or ())})


@cache
def find_processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> Processor:
    """The processor of this machine.

    Args:
        cpuinfo: Where Linux describes it.
    """
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return Processor(platform.processor() or platform.machine(), None)
    facts: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    flags = {*facts.get("flags", facts.get("Features", "")).split()}
    abilities = tuple(name for name, names in _ABILITIES.items() if names & flags)
    return Processor(facts.get("model name", platform.machine()), abilities)


def cpu_quota(root: Path = Path("/")) -> float:
    """The seconds of CPU time that Linux gives to this process in a second of the clock; infinite if nothing limits it.

    A group may have a quota (`docker run --cpus`, limits of Kubernetes), and so may each group around it: the least
    counts. What cannot be read limits nothing.

    Args:
        root: Where `/proc` and the mounted groups are.
    """
    try:
        return min((quota for folder in _groups(root) for quota in _quotas(folder)), default=math.inf)
    except (OSError, ValueError, IndexError):
        return math.inf


def _groups(root: Path) -> Iterator[Path]:
    """The folders of this process's groups and of those around them, as far as they can be seen from here."""
    paths: dict[str, PurePosixPath] = {}
    for line in (root / "proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        # Version 2 has one group for all controllers, and names none.
        paths |= dict.fromkeys(controllers.split(","), PurePosixPath(path))
    for line in (root / "proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        (_, _, _, top, point, *_), (kind, _, options, *_) = left.split(), right.split()
        controller = {"cgroup": "cpu", "cgroup2": ""}.get(kind)
        if controller not in paths or (controller and controller not in options.split(",")):
            continue
        # In a container the top of what is mounted is a group below the real top, and may be the process's own.
        group = paths[controller]
        inner = group.relative_to(top) if group.is_relative_to(top) else PurePosixPath()
        folder = root / point.lstrip("/") / inner
        yield folder
        yield from (folder.parents[depth] for depth in range(len(inner.parts)))


def _quotas(folder: Path) -> Iterator[float]:
    """The quota of a group; none if it has none."""
    if (maximum := folder / "cpu.max").is_file():
        quota, period = maximum.read_text().split()
    elif (maximum := folder / "cpu.cfs_quota_us").is_file():
        quota, period = maximum.read_text(), (folder / "cpu.cfs_period_us").read_text()
    else:
        return
    if quota != "max" and int(quota) > 0:
        yield int(quota) / int(period)
