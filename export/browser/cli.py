"""`dmgan-export web`: writes a folder with which any static host serves a bundle to browsers."""

from __future__ import annotations

from pathlib import Path

import click

from dmgan_runtime.bundle import find_bundle
from dmgan_runtime.cli.common import DmganCommand
from dmgan_runtime.quality import decibels
from export.browser.onnxruntime_web import find_runtime
from export.browser.site import write_site


@click.command(
    "web",
    cls=DmganCommand,
    context_settings={"show_default": True, "help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="The folder to write; it must be new.",
)
@click.option(
    "--onnxruntime-web",
    "runtime",
    type=click.Path(exists=True, path_type=Path),
    show_default="node_modules here or above",
    help="The npm package onnxruntime-web: its folder, or the .tgz that npm pack makes.",
)
@click.option("--webgpu", is_flag=True, help="Add the files for WebGPU, which the page's ?device=webgpu asks for.")
def main(bundle: Path, output: Path, runtime: Path | None, webgpu: bool) -> None:
    """Write a page that makes the pictures of BUNDLE in the visitor's browser, for any static host.

    The page is that of dmgan-serve. Everything it needs lies in the folder, and is kept by the browser: the second
    visit needs no network. Weights travel in fp16 if the images keep 50 dB.
    """
    devices = ("wasm", "webgpu") if webgpu else ("wasm",)
    package = find_runtime(runtime, devices)
    site = write_site(find_bundle(bundle), output, package, devices, lambda step: click.echo(f"{step} ...", err=True))
    worst = site.bundle.psnr
    kind = "fp32" if worst is None else f"fp16, {decibels(worst)} from fp32 in the worst image"
    click.echo(f"bundle: {_megabytes(site.bundle.bytes)}, weights in {kind}")
    click.echo(
        f"a visit: {_megabytes(site.bytes)} with onnxruntime-web {site.runtime}, {_megabytes(site.compressed)} from a"
        " host that compresses"
    )
    click.echo(f"{output}: written. Next: python -m http.server --directory {output}, and open http://localhost:8000")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
