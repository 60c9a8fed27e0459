"""`dmgan-export bundle`: turns a run folder, or the authors' weights, into a bundle."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import click
from rich.console import Console
from rich.table import Table

from dmgan_runtime.cli.common import DmganCommand
from dmgan_runtime.errors import SettingsError
from dmgan_runtime.manifest import Manifest, Precision, UpBlocks
from dmgan_train.official import OFFICIAL_WORDS
from dmgan_train.published import introduce
from dmgan_train.run_folder import RunFolder
from export.bundle import write_bundle
from export.card import allowed, likeness
from export.engine_cli import build_engines, expect_engine
from export.graph_files import EVERY_OPERATOR_ROUNDED, INT8_LAYERS, OPERATIONS, Variant
from export.onnx_file import quiet_exporter
from export.sources import read_model, read_official_model

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
UNSTATED_LICENSE = "not stated; it depends on the training data"


@click.command(
    "bundle",
    cls=DmganCommand,
    context_settings={"show_default": True, "help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.argument("run", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="The bundle to write: a new folder, or a new .zip.",
)
@click.option(
    "--step",
    type=click.IntRange(1),
    help="Take the generator of this snapshot (gan.snapshot_every).  [default: the newest]",
)
@click.option("--official-generator", type=_FILE, help="The authors' netG*.pth, in place of RUN.")
@click.option("--official-text-encoder", type=_FILE, help="The authors' text_encoder*.pth that belongs to it.")
@click.option("--captions", type=_FILE, help="The authors' captions.pickle, which holds the vocabulary.")
@click.option(
    "--max-words",
    type=click.IntRange(1, 512),
    show_default=str(OFFICIAL_WORDS),
    help="Words of a caption that official weights serve: 25 for CUB, 20 for COCO. A RUN has its own.",
)
@click.option("--fp16", is_flag=True, help="Add graphs in fp16, for GPUs.")
@click.option("--int8", is_flag=True, help="Add graphs in int8, calibrated on captions of the training set.")
@click.option(
    "--up-blocks",
    type=click.Choice(["auto", *get_args(UpBlocks)]),
    default="auto",
    help="How the generators double the resolution: phases (four small convolutions) are for CPUs, transposed"
    " convolutions for GPUs. auto makes fp32 and int8 phases and fp16 transposed. To serve fp32 on a GPU choose"
    " transposed, which int8 cannot be.",
)
@click.option(
    "--half-weights",
    is_flag=True,
    help="Store the weights of the fp32 graphs in fp16: half the size, and images a little less exact.",
)
@click.option("--name", help="The model's name.  [default: that of RUN or of the generator's file]")
@click.option("--license", "license_", default=UNSTATED_LICENSE, help="Licence of the weights, for the model card.")
@click.option("--data-license", default="not stated", help="Licence of the training data, for the model card.")
@click.option("--notes", type=_FILE, help="Markdown for the model card: what the model is for, and its limits.")
@click.option(
    "--tensorrt",
    is_flag=True,
    help="Then build a TensorRT engine of each of its precisions, as build-engine does by default.",
)
def main(
    run: Path | None,
    output: Path,
    step: int | None,
    official_generator: Path | None,
    official_text_encoder: Path | None,
    captions: Path | None,
    max_words: int | None,
    fp16: bool,
    int8: bool,
    up_blocks: UpBlocks | Literal["auto"],
    half_weights: bool,
    name: str | None,
    license_: str,
    data_license: str,
    notes: Path | None,
    tensorrt: bool,
) -> None:
    """Export a trained RUN, or the authors' weights, as a bundle that dmgan_runtime serves without PyTorch.

    Every graph is compared with PyTorch in ONNX Runtime; if one differs, nothing is written. TensorRT engines of a
    bundle are built by --tensorrt, or later by `dmgan-export build-engine BUNDLE`, which needs no PyTorch.
    """
    quiet_exporter()
    told = _read_notes(notes) if notes else ""
    bindings = expect_engine(output) if tensorrt else None
    official = (official_generator, official_text_encoder, captions)
    if run is not None and official == (None, None, None):
        if max_words is not None:
            raise click.UsageError("--max-words: only with official weights; a RUN has its own data.serving_words")
        model = read_model(RunFolder(run), name or run.resolve().name, license_, step)
    elif run is None and official_generator and official_text_encoder and captions:
        if step is not None:
            raise click.UsageError("--step: only with a RUN; official weights are of one step")
        for path in (official_generator, official_text_encoder):
            if said := introduce(path):
                click.echo(said, err=True)
        name, words = name or official_generator.stem, max_words or OFFICIAL_WORDS
        model = read_official_model(official_generator, official_text_encoder, captions, words, name, license_)
    else:
        raise click.UsageError("pass a RUN, or --official-generator, --official-text-encoder and --captions together")
    wanted: dict[Precision, bool] = {"fp16": fp16, "int8": int8}
    precisions = [precision for precision, asked in wanted.items() if asked]
    model = replace(model, data_license=data_license, notes=told)
    manifest = write_bundle(
        model,
        output,
        lambda step: click.echo(f"{step} ...", err=True),
        precisions,
        up_blocks,
        half_weights=half_weights,
    )
    _print_parity(manifest)
    _print_purposes(manifest)
    if bindings is not None:
        build_engines(output, bindings)
    click.echo(f'{output}: written. Next: dmgan-generate -b {output} "a caption" -o picture.png')


def _read_notes(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: is no text in UTF-8 ({error.reason}); save it as that") from error


def _print_parity(manifest: Manifest) -> None:
    table = Table("graph", "precision", "output", "largest difference", "PSNR", "allowed", title="Parity with PyTorch")
    for entry in manifest.parity:
        difference = f"{entry.max_abs_error:.1e}"
        table.add_row(entry.role, entry.precision, entry.output, difference, likeness(entry), allowed(entry))
    # Elsewhere than on a terminal rich would cut the table to 80 columns.
    Console(width=None if sys.stdout.isatty() else 110).print(table)
    facts = manifest.provenance
    if rounded := facts.get(EVERY_OPERATOR_ROUNDED):
        click.echo(f"fp16, every operator rounded as on a GPU: images of {_listed(rounded, 'dB')}")
    for role, layers in facts.get(INT8_LAYERS, {}).items():
        count, left = layers["in_int8"], len(layers["in_fp32"])
        click.echo(
            f"{role} in int8: {count} of {count + left} convolutions, {left} stay in fp32"
            + ("; it is fp32 throughout" if not count else "")
        )
    click.echo(f"{facts[OPERATIONS] / 1e9:.3g} GFLOP an image")


def _print_purposes(manifest: Manifest) -> None:
    variants = dict.fromkeys(
        Variant(graph.precision, graph.up_blocks) for graph in manifest.graphs if graph.up_blocks is not None
    )
    for variant in variants:
        click.echo(f"{variant.precision} (up blocks: {variant.up_blocks}) is {variant.purpose}")


def _listed(values: Mapping[str, float], unit: str) -> str:
    return ", ".join(f"{value:.1f}" for value in values.values()) + f" {unit}"
