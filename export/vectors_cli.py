"""`dmgan-export vectors`: writes test vectors of a bundle, for readers in other languages."""

from __future__ import annotations

from pathlib import Path

import click

from dmgan_runtime.atomic import replacing
from dmgan_runtime.cli.common import DmganCommand
from export.vectors import PICTURES, write_vectors


@click.command(
    "vectors",
    cls=DmganCommand,
    context_settings={"show_default": True, "help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The JSON file to write."
)
@click.option("--count", type=click.IntRange(PICTURES, 100_000), default=1000, help="How many captions and seeds.")
def main(bundle: Path, output: Path, count: int) -> None:
    """Write what BUNDLE's captions, seeds and pictures are, so that a reader in another language can be held to it.

    The same bundle gives the same captions, tokens and noise to the bit; some pictures are made with ONNX Runtime.
    """
    with replacing(output) as scratch:
        write_vectors(bundle, scratch, count)
    click.echo(f"{output}: {count:,} captions and seeds, {PICTURES} pictures")
