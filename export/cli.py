"""`dmgan-export`: a run folder to a bundle."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from dmgan_runtime.commands import DmganCommand
from dmgan_runtime.manifest import Manifest
from dmgan_train.loading import load_model
from dmgan_train.run import RunFolder
from dmgan_train.samples import sample_name
from export.bundle import Model, write_bundle
from export.onnx_file import quiet_exporter

UNSTATED_LICENSE = "not stated; it depends on the training data"


@click.command(
    cls=DmganCommand,
    context_settings={"show_default": True, "help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="The bundle to write: a new folder, or a new .zip.",
)
@click.option("--name", help="The model's name.  [default: the run folder's]")
@click.option("--license", "license_", default=UNSTATED_LICENSE, help="Licence of the weights, for the model card.")
@click.version_option(package_name="dmgan")
def main(run: Path, output: Path, name: str | None, license_: str) -> None:
    """Export a trained RUN as a bundle that dmgan_runtime serves without PyTorch.

    Every graph is compared with PyTorch in ONNX Runtime; if one differs, nothing is written.
    """
    quiet_exporter()
    model = read_model(RunFolder(run), name or run.resolve().name, license_)
    manifest = write_bundle(model, output, lambda step: click.echo(f"{step} ...", err=True))
    _print_parity(manifest)
    click.echo(f'{output}: written. Next: dmgan-generate {output} "a caption" -o picture.png')


def read_model(run: RunFolder, name: str, license_: str) -> Model:
    """The trained model of a run.

    Args:
        run: A run whose second phase has begun.
        name: Names the bundle.
        license_: Of the weights.

    Raises:
        CheckpointError: if the run has no checkpoint of both phases.
    """
    settings = run.settings()
    text_encoder, generator, steps = load_model(run)
    samples = run.samples / sample_name(steps)
    return Model(
        name=name,
        license=license_,
        text_encoder=text_encoder,
        generator=generator,
        tokenizer=run.vocabulary(),
        max_words=settings.data.serving_words,
        provenance={**run.provenance(), "preset": settings.preset, "seed": settings.seed, "gan_steps": steps},
        samples=samples if samples.exists() else None,
    )


def _print_parity(manifest: Manifest) -> None:
    table = Table("graph", "precision", "output", "largest difference", "allowed", "PSNR", title="Parity with PyTorch")
    for entry in manifest.parity:
        psnr = "equal" if entry.psnr_db is None else f"{entry.psnr_db:.0f} dB"
        numbers = (f"{entry.max_abs_error:.1e}", f"{entry.tolerance:.1e}", psnr)
        table.add_row(entry.role, entry.precision, entry.output, *numbers)
    # Elsewhere than on a terminal rich would cut the table to 80 columns.
    Console(width=None if sys.stdout.isatty() else 110).print(table)
