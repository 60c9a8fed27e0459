"""`dmgan-doctor`: what is here to serve with, and whether it works."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import msgspec

from dmgan_runtime.commands import DmganCommand, engine_options
from dmgan_runtime.diagnosis import Diagnosis, diagnose
from dmgan_runtime.errors import printable
from dmgan_runtime.packaged import packaged_bundle

_MARKS = {"chosen": "->", "missing": " -", "broken": "!!", "untried": "  "}


@click.command(cls=DmganCommand, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("bundle", required=False, type=click.Path(path_type=Path))
@engine_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def main(bundle: Path | None, backend: str, device: str, precision: str, threads: int | None, as_json: bool) -> None:
    """Say what is installed, which GPUs are here, and which engine serves, and why not the others.

    BUNDLE, a folder or .zip, or else the model that comes with dmgan: every file is checked by size and SHA-256; it is
    opened as Generator.open does; one image is painted and compared with the one that was painted at export.

    Exit status: 0 if all is well, 1 if something is broken, or cannot be had though it was asked for. A GPU or an
    engine that is not there is not broken.
    """
    diagnosis = diagnose(
        bundle or packaged_bundle(), backend=backend, device=device, precision=precision, threads=threads
    )
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(diagnosis)).decode())
    else:
        click.echo(printable("\n".join(_lines(diagnosis))))
    raise SystemExit(1 if diagnosis.faults else 0)


def _lines(diagnosis: Diagnosis) -> Iterator[str]:
    yield f"Python {diagnosis.python} on {diagnosis.system}, {diagnosis.cpus} CPUs to use"
    yield "Packages"
    for name, number in diagnosis.packages.items():
        yield f"  {name:<16} {number or '-'}"
    yield "GPUs"
    for gpu in diagnosis.gpus:
        yield f"  cuda:{gpu.index}  {gpu.name}, sm_{gpu.compute_capability}, driver for CUDA {gpu.cuda}"
    if not diagnosis.gpus:
        yield f"  none: {diagnosis.gpu_trouble or 'the NVIDIA driver shows none'}"
    yield "Engines, best first; the arrow is the one that is taken"
    for each in diagnosis.engines:
        yield f"  {_MARKS[each.state]} {each.backend} on {each.device}: {each.verdict}"
    yield from _bundle_lines(diagnosis)
    yield from (f"FAULT: {fault}" for fault in diagnosis.faults)
    yield "Something is broken." if diagnosis.faults else "All is well."


def _bundle_lines(diagnosis: Diagnosis) -> Iterator[str]:
    report = diagnosis.bundle
    yield f"Bundle {report.path}" + (f", {report.name}" if report.name else "")
    if (result := report.self_test) is not None:
        compared = "this bundle has no image to compare with"
        if result.difference is not None:
            compared = f"{result.difference} levels of 255 from the export's, {result.tolerance} allowed"
        yield f"  painted {result.resolution} pixels in {result.precision} in {result.seconds:.2f} s; {compared}"
