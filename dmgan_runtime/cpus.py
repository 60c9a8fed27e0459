"""How many CPUs this process may use: the affinity of its threads, and the quota of its container."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePosixPath


def usable_cpus() -> int:
    """How many CPUs this process may use, at least 1; a share of one counts as one."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return math.ceil(min(cores, cpu_quota()))


@cache
def processor_flags(root: Path = Path("/")) -> frozenset[str]:
    """What Linux says that the processor can do, such as `avx2`, `avx512_vnni` or `amx_bf16`; empty elsewhere."""
    try:
        text = (root / "proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    names = re.findall(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)  # of x86, and of ARM
    return frozenset(names[0].split()) if names else frozenset()


def has_bf16(root: Path = Path("/")) -> bool:
    """Whether the processor multiplies bf16, as with AMX, AVX-512 BF16, or ARM's instructions."""
    return not processor_flags(root).isdisjoint({"amx_bf16", "avx512_bf16", "bf16"})


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
