"""`dmgan-export triton`: writes a model repository for Triton Inference Server, without PyTorch and onnx."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click
from click.core import ParameterSource

from dmgan_runtime.backends.base import MAX_THREADS, PRECISIONS
from dmgan_runtime.backends.registry import BACKENDS
from dmgan_runtime.bundle import find_bundle
from dmgan_runtime.cli.common import DmganCommand
from export.triton.config import Placement
from export.triton.repository import write_onnx_repository, write_python_repository, write_tensorrt_repository

_MOST = click.IntRange(1, 1024)
_IGNORED = {
    "python": {"engine"},
    "onnxruntime": {"engine", "backend", "stream"},
    "tensorrt": {"backend", "precision", "threads", "stream", "device"},
}


@click.command(
    "triton",
    cls=DmganCommand,
    context_settings={"show_default": True, "help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="The repository to write: a new folder."
)
@click.option(
    "--layout",
    type=click.Choice(tuple(_IGNORED)),
    default="python",
    help="python: one model, which takes captions and seeds and needs dmgan in Triton's Python. onnxruntime, tensorrt:"
    " the graphs and an ensemble of them, which takes tokens and noise, for Triton's backend of that name.",
)
@click.option(
    "--device",
    type=click.Choice(("cpu", "gpu")),
    default="cpu",
    help="Where it runs: on the CPU, one image at a time; or on every GPU that Triton has, where images of several"
    " requests are computed together.",
)
@click.option("--instances", type=_MOST, default=1, help="How many times it is loaded on that device.")
@click.option(
    "--max-batch",
    type=_MOST,
    default=8,
    help="How many images a request may ask for; on a GPU also how many of several requests a batch has.",
)
@click.option(
    "--stream/--no-stream",
    default=True,
    help="Whether a request may ask for every stage. Plain infer takes only models without that.  [python only]",
)
@click.option("--name", help="The model's name.  [default: the bundle's]")
@click.option(
    "--backend",
    type=click.Choice(["auto", *BACKENDS]),
    default="auto",
    help="The engine that dmgan takes in Triton.  [python only]",
)
@click.option("--precision", default="auto", help=f"{', '.join(PRECISIONS)}: as the bundle and the engine have it.")
@click.option("--threads", type=click.IntRange(1, MAX_THREADS), show_default="all CPUs", help="CPU threads.")
@click.option(
    "--engine",
    type=click.Path(path_type=Path),
    help="The engine's folder that build-engine --engine tensorrt made.  [tensorrt only, required]",
)
def main(
    bundle: Path,
    output: Path,
    layout: Literal["python", "onnxruntime", "tensorrt"],
    device: Literal["cpu", "gpu"],
    instances: int,
    max_batch: int,
    stream: bool,
    name: str | None,
    backend: str,
    precision: str,
    threads: int | None,
    engine: Path | None,
) -> None:
    """Write a model repository of BUNDLE for Triton Inference Server.

    The folder appears whole or not at all. Its models are complete: the bundle's files are copied, after their hashes
    were checked.

    Exit status: 0, 2 for a mistake in what was asked, 1 for other trouble.
    """
    _refuse_ignored(layout)
    bundle = find_bundle(bundle)
    if layout == "tensorrt":
        if engine is None:
            raise click.UsageError("--layout tensorrt needs --engine: the folder that dmgan-export build-engine named")
        placement = Placement("gpu", instances, max_batch, None)
        made = write_tensorrt_repository(bundle, output, placement, engine, name=name)
    else:
        placement = Placement(device, instances, max_batch, threads)
        if layout == "onnxruntime":
            made = write_onnx_repository(bundle, output, placement, name=name, precision=precision)
        else:
            made = write_python_repository(
                bundle, output, placement, name=name, backend=backend, precision=precision, stream=stream
            )
    click.echo(f"{output}: written, with the model {made}. Next: tritonserver --model-repository {output.resolve()}")


def _refuse_ignored(layout: str) -> None:
    context = click.get_current_context()
    given = {name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    if ignored := sorted(given & _IGNORED[layout]):
        raise click.UsageError(
            f"{', '.join('--' + name for name in ignored)}: not with --layout {layout}; leave it out"
        )
