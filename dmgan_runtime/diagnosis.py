"""What a machine has to serve with, what is wrong with it, and whether a bundle paints as it should."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from dmgan_runtime.backends.base import Candidate, check_threads
from dmgan_runtime.backends.driver import Gpu, find_gpus
from dmgan_runtime.backends.onnxruntime import installed_rivals
from dmgan_runtime.backends.selection import ENGINES, backend_class, device_name
from dmgan_runtime.bundle import Bundle
from dmgan_runtime.engine_manifest import PLANNED_ROLES
from dmgan_runtime.errors import BackendError, BundleError, DmganError
from dmgan_runtime.generator import Generator
from dmgan_runtime.selftest import SelfTestResult, run_self_test

PACKAGES = (
    "dmgan",
    "numpy",
    "pillow",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "mnn",
    "tensorrt",
    "tensorrt-rtx",
    "cuda-bindings",
)


@dataclass(frozen=True)
class BundleReport:
    """What came of checking a bundle's files, opening it and painting one image.

    Attributes:
        path: As it was given.
        name: The model's; None if the bundle cannot be opened.
        chosen: The engine that serves it, and why; None if none does.
        self_test: None if it failed.
    """

    path: str
    name: str | None = None
    chosen: str | None = None
    self_test: SelfTestResult | None = None


@dataclass(frozen=True)
class Diagnosis:
    """All that was found.

    Attributes:
        python: Its version.
        system: Operating system and processor.
        cpus: How many this process may use.
        packages: Their versions; None for those that are not installed.
        gpus: The NVIDIA GPUs.
        gpu_trouble: Why there are none, if the driver was the reason.
        engines: Every engine, best first. If the bundle cannot be opened, the first that any bundle can be served
            with is chosen.
        bundle: What came of the bundle.
        faults: What is broken, each with its remedy; empty if all is well.
    """

    python: str
    system: str
    cpus: int
    packages: dict[str, str | None]
    gpus: tuple[Gpu, ...]
    gpu_trouble: str | None
    engines: tuple[Candidate, ...]
    bundle: BundleReport
    faults: tuple[str, ...]


def diagnose(
    bundle: Path, *, backend: str = "auto", device: str = "auto", precision: str = "auto", threads: int | None = None
) -> Diagnosis:
    """Looks at everything. Trouble that was foreseen becomes a fault, never an error.

    Args:
        bundle: A folder or .zip to check, to open as `Generator.open` does, and to paint one image with.
        backend: As in `Generator.open`, like the arguments after it.
        device: See there.
        precision: See there.
        threads: See there.
    """
    gpus, gpu_trouble = _gpus()
    faults = _package_faults()
    opening = partial(Generator.open, backend=backend, device=device, precision=precision, threads=threads)
    report, engines, trouble = _examine(bundle, opening)
    faults += trouble
    faults += [f"{each.backend} on {each.device}: {each.verdict}" for each in engines if each.state == "broken"]
    if all(each.state == "missing" for each in engines):
        faults.append('no engine is installed; install one with: pip install "dmgan[cpu]"')
    return Diagnosis(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        cpus=check_threads(None),
        packages={name: _version(name) for name in PACKAGES},
        gpus=gpus,
        gpu_trouble=gpu_trouble,
        engines=engines,
        bundle=report,
        faults=tuple(faults),
    )


def probe_engines() -> tuple[Candidate, ...]:
    """Which engines are installed and have their device, without a bundle to open with them."""
    found: list[Candidate] = []
    for engine in ENGINES:
        name = device_name(engine, 0)
        try:
            at_hand = backend_class(engine).probe(0)
        except BackendError as error:
            found.append(Candidate(engine.backend, name, "missing", str(error)))
            continue
        needs_plans = engine.backend in PLANNED_ROLES
        first = not needs_plans and not any(each.state == "chosen" for each in found)
        verdict = f"{at_hand} is here" + ("; it serves bundles that hold an engine for it" if needs_plans else "")
        found.append(Candidate(engine.backend, name, "chosen" if first else "untried", verdict))
    return tuple(found)


def _examine(path: Path, opening: Callable[[Path], Generator]) -> tuple[BundleReport, tuple[Candidate, ...], list[str]]:
    """The bundle, the engines as it was opened with them, and what went wrong."""
    report = BundleReport(os.fspath(path))
    faults: list[str] = []
    try:
        with Bundle(path.absolute()) as bundle:
            report = replace(report, name=bundle.manifest.name)
            faults += _file_faults(bundle)
        with opening(path) as generator:
            engines = generator.active.considered
            report = replace(report, chosen=generator.active.reason)
            try:
                report = replace(report, self_test=run_self_test(generator, generator.tokenizer))
            except DmganError as error:
                faults.append(f"the self-test failed: {error}")
            return report, engines, faults
    except DmganError as error:
        # A damaged file may have been named already, when every file was read.
        return report, probe_engines(), list(dict.fromkeys([*faults, str(error)]))


def _file_faults(bundle: Bundle) -> list[str]:
    """What is wrong with the files of the manifest: those too that would not be loaded."""
    faults = []
    for entry in bundle.manifest.every_file:
        try:
            bundle.read(entry)
        except BundleError as error:
            faults.append(str(error))
    return faults


def _gpus() -> tuple[tuple[Gpu, ...], str | None]:
    try:
        return find_gpus(), None
    except BackendError as error:
        return (), str(error)


def _package_faults() -> list[str]:
    rivals = installed_rivals()
    if len(rivals) < 2:
        return []
    names = " and ".join(f"{name} {number}" for name, number in rivals.items())
    return [
        f"{names} are both installed, and overwrite each other's files; remove both with: pip uninstall"
        f' {" ".join(rivals)}, then pip install "dmgan[gpu]" or "dmgan[cpu]"'
    ]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
