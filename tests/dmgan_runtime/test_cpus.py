"""The CPUs that a container may use, as Linux shows them."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from dmgan_runtime import cpus
from dmgan_runtime.backends.base import check_threads
from dmgan_runtime.cpus import cpu_quota, find_processor, usable_cpus
from dmgan_train.devices import default_workers
from tests.training import small_settings

V2_IN = "31 23 0:28 {} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
V1_IN = "32 31 0:29 {} /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct"
V2, V1 = V2_IN.format("/"), V1_IN.format("/")
MEMORY = "33 31 0:30 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory"
UNIFIED = "34 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw"
CFS = "sys/fs/cgroup/cpu,cpuacct"


def machine(root: Path, groups: list[str], mounts: list[str], files: dict[str, str]) -> Path:
    files = {
        "proc/self/cgroup": "\n".join(groups),
        "proc/self/mountinfo": "\n".join(["1 0 8:1 / / rw - ext4 x rw", *mounts]),
    } | files
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content + "\n")
    return root


def v1(group: str, quota: int, period: int = 100_000) -> dict[str, str]:
    return {f"{CFS}{group}/cpu.cfs_quota_us": str(quota), f"{CFS}{group}/cpu.cfs_period_us": str(period)}


def v2(group: str, limit: str) -> dict[str, str]:
    return {f"sys/fs/cgroup{group}/cpu.max": limit}


@pytest.mark.parametrize(
    ("groups", "mounts", "files", "expected"),
    [
        pytest.param(["0::/"], [V2], v2("", "150000 100000"), 1.5, id="v2"),
        pytest.param(["0::/"], [V2], v2("", "max 100000"), math.inf, id="v2 without a limit"),
        pytest.param(["0::/"], [V2], {}, math.inf, id="v2 at the real top"),
        pytest.param(
            ["0::/kubepods/pod/box"],
            [V2],
            v2("/kubepods", "max 1000") | v2("/kubepods/pod", "500 1000") | v2("/kubepods/pod/box", "4000 1000"),
            0.5,
            id="v2, and the group around it has less",
        ),
        pytest.param(["0::/a/b"], [V2], v2("/a/b", "300 100") | v2("/a", "400 100"), 3, id="v2, and it has less"),
        pytest.param(
            ["0::/docker/box"], [V2_IN.format("/docker/box")], v2("", "200000 100000"), 2, id="v2, own group on top"
        ),
        pytest.param(["0::/../other"], [V2], v2("", "200000 100000"), 2, id="v2, outside of what is seen"),
        pytest.param(["4:cpu,cpuacct:/"], [MEMORY, V1], v1("", 250_000), 2.5, id="v1"),
        pytest.param(["4:cpu,cpuacct:/"], [V1], v1("", -1), math.inf, id="v1 without a limit"),
        pytest.param(
            ["4:cpu,cpuacct:/docker/box"], [V1_IN.format("/docker/box")], v1("", 50_000), 0.5, id="v1, own group on top"
        ),
        pytest.param(
            ["4:cpu,cpuacct:/slurm/job/step"],
            [V1],
            v1("/slurm/job/step", -1) | v1("/slurm/job", 200_000, 50_000) | v1("/slurm", -1),
            4,
            id="v1 nested",
        ),
        pytest.param(
            ["9:memory:/box", "1:cpu,cpuacct:/box", "0::/"],
            [V1, MEMORY, UNIFIED],
            v1("/box", 300_000) | {"sys/fs/cgroup/unified/cgroup.procs": "1"},
            3,
            id="hybrid",
        ),
        pytest.param(["9:memory:/", "0::/"], [MEMORY], {}, math.inf, id="no controller of CPUs"),
        pytest.param(["rubbish"], [V2], v2("", "1 1"), math.inf, id="rubbish in cgroup"),
        pytest.param(["0::/"], ["rubbish"], v2("", "1 1"), math.inf, id="rubbish in mountinfo"),
        pytest.param(["0::/"], [V2], v2("", "many few"), math.inf, id="rubbish in cpu.max"),
    ],
)
def test_the_quota_of_a_container_is_found(
    tmp_path: Path, groups: list[str], mounts: list[str], files: dict[str, str], expected: float
) -> None:
    assert cpu_quota(machine(tmp_path, groups, mounts, files)) == expected


def test_a_system_without_groups_limits_nothing(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) == math.inf


@pytest.mark.parametrize(
    ("quota", "cores", "expected", "workers"),
    [(math.inf, 8, 8, 7), (1.5, 8, 2, 1), (0.25, 8, 1, 0), (6, 2, 2, 1), (3.0, 8, 3, 2)],
)
def test_threads_and_workers_are_as_many_as_the_quota_allows(
    monkeypatch: pytest.MonkeyPatch, quota: float, cores: int, expected: int, workers: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.setattr(cpus, "cpu_quota", lambda: quota)
    assert usable_cpus() == check_threads(None) == expected
    assert default_workers(small_settings()) == workers


CPUINFO = "processor\t: 0\nmodel name\t: A {0}\nflags\t\t: fpu {0}\n\nprocessor\t: 1\nmodel name\t: B\nflags\t\t: fpu\n"


@pytest.mark.parametrize(
    ("content", "abilities", "bf16"),
    [
        (CPUINFO.format("avx2"), ("AVX2",), False),
        (CPUINFO.format("avx"), (), False),
        (CPUINFO.format("avx2 avx_vnni"), ("AVX2", "VNNI"), False),
        (
            CPUINFO.format("avx2 avx512f avx512_vnni avx512_bf16 amx_tile amx_bf16"),
            ("AVX2", "AVX-512", "VNNI", "bf16", "AMX"),
            True,
        ),
        ("processor : 0\nFeatures : fp asimd asimddp i8mm bf16\n", ("NEON", "int8 products", "bf16"), True),
        (None, None, False),
    ],
)
def test_a_processors_abilities_are_named(
    tmp_path: Path, content: str | None, abilities: tuple[str, ...] | None, bf16: bool
) -> None:
    if content is not None:
        (tmp_path / "cpuinfo").write_text(content)
    processor = find_processor(tmp_path / "cpuinfo")
    assert processor.abilities == abilities
    assert processor.has_bf16 == bf16
    assert processor.description == processor.name + (f" ({', '.join(abilities)})" if abilities else "")
