"""`dmgan-doctor`: what is here to serve with, what is wrong with it, and whether a bundle generates what it should."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import click
import msgspec

import dmgan_runtime
from dmgan_runtime.backends.base import Candidate
from dmgan_runtime.backends.choice import QUALITY, Quality
from dmgan_runtime.backends.gpus import Gpu, find_gpus
from dmgan_runtime.backends.ort_cpu import installed_rivals
from dmgan_runtime.backends.registry import ENGINES, find_engine_row, installed_versions
from dmgan_runtime.backends.registry import PACKAGES as ENGINE_PACKAGES
from dmgan_runtime.backends.tuned import write_tuning
from dmgan_runtime.bundle import Bundle, find_bundle
from dmgan_runtime.cli.common import DmganCommand
from dmgan_runtime.cli.opening import opening_options
from dmgan_runtime.cpus import Processor, find_processor, usable_cpus
from dmgan_runtime.errors import BackendError, BundleError, DmganError, printable, shortened
from dmgan_runtime.generator import Generator
from dmgan_runtime.self_test import SelfTestResult, run_self_test
from dmgan_runtime.tuning import tune

PACKAGES = ("dmgan", "numpy", "pillow", *ENGINE_PACKAGES)
_MARKS = {"chosen": "->", "missing": " -", "broken": "!!", "untried": "  "}


@click.command(cls=DmganCommand, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("bundle", required=False)
@opening_options
@click.option(
    "--tune",
    "measure",
    is_flag=True,
    help="First measure every engine and precision on this machine's CPU, and keep it for auto.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@click.version_option(dmgan_runtime.__version__, prog_name="dmgan-doctor")
def main(
    bundle: str | None,
    backend: str,
    device: str,
    precision: str,
    quality: Quality,
    threads: int | None,
    measure: bool,
    as_json: bool,
) -> None:
    """Say what is installed, which GPUs are here, and which engine serves, and why not the others.

    BUNDLE, a folder or .zip, or the name of a model that comes with dmgan (emoji-256 if it is left out): every file is
    checked by size and SHA-256; it is opened as Generator.open does; one image is generated and compared with the one
    that was generated at export.

    Exit status: 0 if all is well, 1 if something is broken, or cannot be had though it was asked for, 2 for a mistake
    in what was asked, such as a name that does not exist. A GPU or an engine that is not there is not broken.
    """
    path = find_bundle(bundle)
    if not path.exists():
        Bundle(path)  # says so
    if measure:
        click.echo("Measuring every way to serve this bundle on this CPU; nothing else should run", err=True)
        try:
            tuning = tune(path, lambda line: click.echo(f"  {printable(line)}", err=True))
            with Bundle(path) as opened:
                click.echo(f"  {write_tuning(opened, tuning)}", err=True)
        except DmganError as error:  # the diagnosis says what is broken
            click.echo(f"  nothing was kept: {printable(str(error))}", err=True)
    diagnosis = diagnose(path, backend=backend, device=device, precision=precision, quality=quality, threads=threads)
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(diagnosis), indent=2))
    else:
        click.echo(printable("\n".join(_lines(diagnosis))))
    raise SystemExit(1 if diagnosis.faults else 0)


def _lines(diagnosis: Diagnosis) -> Iterator[str]:
    yield f"Python {diagnosis.python} on {diagnosis.system}, {diagnosis.cpus} CPUs to use"
    abilities = diagnosis.processor.abilities
    shown = "abilities unknown" if abilities is None else ", ".join(abilities) or "none that engines use"
    yield f"Processor {diagnosis.processor.name}: {shown}"
    yield "Packages"
    for name, number in diagnosis.packages.items():
        yield f"  {name:<16} {number or '-'}"
    yield "GPUs"
    for gpu in diagnosis.gpus:
        yield f"  cuda:{gpu.index}  {gpu.name}, sm_{gpu.compute_capability}, driver for CUDA {gpu.cuda}"
    if not diagnosis.gpus:
        yield f"  none: {diagnosis.gpu_trouble or 'the NVIDIA driver shows none'}"
    taken = any(each.state == "chosen" for each in diagnosis.engines)
    yield f"Engines, best first; {'the arrow is the one that is taken' if taken else 'none is taken'}"
    for each in diagnosis.engines:
        yield f"  {_MARKS[each.state]} {each}"
    yield from _bundle_lines(diagnosis)
    yield from (f"FAULT: {fault}" for fault in diagnosis.faults)
    yield "Something is broken." if diagnosis.faults else "All is well."


def _bundle_lines(diagnosis: Diagnosis) -> Iterator[str]:
    report = diagnosis.bundle
    yield f"Bundle {report.path}" + (f", {shortened(report.name)}" if report.name else "")
    if (result := report.self_test) is not None:
        compared = "this bundle has no image to compare with"
        if result.difference is not None:
            compared = f"{result.difference} levels of 255 from the export's, {result.tolerance} allowed"
        yield f"  generated {result.resolution} pixels in {result.precision} in {result.seconds:.2f} s; {compared}"


@dataclass(frozen=True)
class BundleReport:
    """What came of checking a bundle's files, opening it and generating one image.

    Attributes:
        path: Where it lies.
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
        processor: What it can do.
        packages: Their versions; None for those that are not installed.
        gpus: The NVIDIA GPUs.
        gpu_trouble: Why there are none, if the driver was the reason.
        engines: Every engine, best first. If the bundle cannot be opened as it was asked for, none is chosen.
        bundle: What came of the bundle.
        faults: What is broken, each with its remedy; empty if all is well.
    """

    python: str
    system: str
    cpus: int
    processor: Processor
    packages: dict[str, str | None]
    gpus: tuple[Gpu, ...]
    gpu_trouble: str | None
    engines: tuple[Candidate, ...]
    bundle: BundleReport
    faults: tuple[str, ...]


def diagnose(
    bundle: Path,
    *,
    backend: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    quality: Quality = QUALITY,
    threads: int | None = None,
) -> Diagnosis:
    """Looks at everything. Trouble that was foreseen becomes a fault, never an error.

    Args:
        bundle: A folder or .zip to check, to open as `Generator.open` does, and to generate one image with.
        backend: As in `Generator.open`, like the arguments after it.
        device: "auto", "cpu", "cuda" or "cuda:N".
        precision: "auto" or a precision.
        quality: A PSNR in dB, or "exact".
        threads: CPU threads; None takes every CPU.
    """
    gpus, gpu_trouble = _gpus()
    versions = installed_versions(PACKAGES)
    faults = _package_faults()
    opening = partial(
        Generator.open, backend=backend, device=device, precision=precision, quality=quality, threads=threads
    )
    report, engines, trouble = _examine(bundle, opening)
    faults += trouble
    faults += [str(each) for each in engines if each.state == "broken"]
    if all(each.state == "missing" for each in engines):
        faults.append(f"no engine can be had; for a CPU: {find_engine_row('onnxruntime', 'cpu').install}")
    return Diagnosis(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        cpus=usable_cpus(),
        processor=find_processor(),
        packages={name: versions.get(name) for name in PACKAGES},
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
        name = engine.device_name(0)
        try:
            at_hand = engine.load_class().probe(0)
        except BackendError as error:
            found.append(Candidate(engine.backend, name, "missing", str(error)))
            continue
        plans = "" if engine.plans == "none" else "; it serves bundles that hold an engine for it"
        found.append(Candidate(engine.backend, name, "untried", f"{at_hand} is here{plans}"))
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
            report = replace(report, chosen=f"{generator.active}: {generator.active.reason}")
            try:
                report = replace(report, self_test=run_self_test(generator))
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
