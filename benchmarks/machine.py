"""The machine: what it is, what is installed, how busy it is, and how fast it multiplies matrices."""

from __future__ import annotations

import os
import platform
import subprocess
import time
import timeit
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import torch

from benchmarks.results import Environment
from dmgan_runtime.backends.base import check_threads
from dmgan_runtime.backends.choice import device_index
from dmgan_runtime.backends.gpus import find_gpu
from dmgan_runtime.backends.registry import ENGINES, installed_versions
from dmgan_runtime.cpus import find_processor
from dmgan_train.devices import autocast_type

ENGINE_PACKAGES = frozenset(name for engine in ENGINES for name in engine.distributions) | {"torch"}
_PACKAGES = sorted(ENGINE_PACKAGES | {"dmgan", "numpy", "onnx", "triton"})
_ROOT = Path(__file__).parent.parent
_TRIALS = 8
_SIDE = {"cpu": 2048, "cuda": 8192}
_DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def describe_environment(device: str) -> Environment:
    """Where a benchmark is about to run.

    Args:
        device: `cpu` or `cuda:N`.

    Raises:
        BackendError: if there is no such GPU.
    """
    gpu = find_gpu(device_index(device)) if device.startswith("cuda") else None
    return Environment(
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        system=f"{platform.system()} {platform.machine()}",
        cpu=find_processor().description,
        cpus=check_threads(None),
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        gpu=gpu.name if gpu else None,
        cuda=gpu.cuda if gpu else None,
        python=platform.python_version(),
        packages=installed_versions(_PACKAGES),
        commit=_commit(),
        busy_before=measure_others(),
    )


def measure_others(seconds: float = 1.0) -> float | None:
    """CPUs' worth of work that other processes do on this one's CPUs while it sleeps; None if the system does not tell.

    The load average would count this benchmark's last minute, and all CPUs of the host.
    """
    try:
        before = _busy_ticks()
        time.sleep(seconds)
        after = _busy_ticks()
    except OSError:
        return None
    return round((after - before) / os.sysconf("SC_CLK_TCK") / seconds, 2)


def share_cuda_libraries() -> None:
    """Lets the processes that are started from now on find the CUDA libraries that pip installed beside PyTorch.

    onnxruntime-gpu looks for them beside itself, and it may lie in another folder than they do.
    """
    found = find_spec("nvidia")
    places = list(found.submodule_search_locations or ()) if found else []
    folders = [str(folder) for place in places for folder in sorted(Path(place).glob("*/lib"))]
    if folders:
        known = filter(None, [os.environ.get("LD_LIBRARY_PATH")])
        os.environ["LD_LIBRARY_PATH"] = os.pathsep.join([*folders, *known])


def measure_matrix_rates(device: str, threads: int, precisions: Iterable[str]) -> dict[str, float]:
    """Operations a second, a multiplication and an addition being two: the best of several trials.

    Args:
        device: `cpu` or `cuda:N`.
        threads: CPU threads.
        precisions: Those whose rate is wanted. Left out are int8, fp16 on a CPU, and bf16 where there are no
            instructions for it.
    """
    torch.set_num_threads(threads)
    place = torch.device(device)
    rates = {}
    for precision in dict.fromkeys(precisions):
        product = _product(place, precision)
        if product is not None:
            rates[precision] = 2 * _SIDE[place.type] ** 3 / min(timeit.repeat(product, repeat=_TRIALS, number=1))
    return rates


def _busy_ticks() -> int:
    """What the CPUs that this process may use have worked since the start, stolen time too; not idle or waiting."""
    lines = (line.split() for line in Path("/proc/stat").read_text().splitlines())
    usable = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    ticks = [[int(field) for field in fields[1:9]] for fields in lines if fields[0] in usable]
    return sum(sum(each) - each[3] - each[4] for each in ticks)


def _commit() -> str | None:
    describe = ["git", "describe", "--always", "--exclude=*", "--abbrev=10", "--dirty=+"]
    try:
        return subprocess.run(describe, cwd=_ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _product(device: torch.device, precision: str) -> Callable[[], object] | None:
    lacks_bf16 = precision == "bf16" and not autocast_type("auto", device)
    if precision not in _DTYPES or lacks_bf16 or (device.type, precision) == ("cpu", "fp16"):
        return None
    side = _SIDE[device.type]
    left, right = (torch.randn(side, side, device=device).to(_DTYPES[precision]) for _ in range(2))
    out = torch.empty_like(left)

    def multiply() -> None:
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        torch.mm(left, right, out=out)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return multiply
