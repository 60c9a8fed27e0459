"""`dmgan-export build-engine`: builds plans of TensorRT or MNN from a bundle's graphs; onnx is for int8 alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, get_args

import click
from click.core import ParameterSource

from dmgan_runtime.backends.built_engines import BatchProfile, HardwareCompatibility
from dmgan_runtime.backends.mnn import MnnBackend
from dmgan_runtime.backends.registry import PLANNED, find_engine_row
from dmgan_runtime.bundle import Bundle, find_bundle
from dmgan_runtime.cli.common import DmganCommand
from dmgan_runtime.errors import BackendError, BundleError, SettingsError
from dmgan_runtime.manifest import Precision
from export.engine_folder import EngineFolder
from export.mnn import build_mnn_engine
from export.tensorrt.bindings import Bindings, open_bindings
from export.tensorrt.engines import DEFAULT_PROFILE, BuildSettings, build_engine, engine_precisions


def _compute_capability(text: str) -> int:
    found = re.fullmatch(r"sm_?(\d{2,3})", text)
    if found is None:
        raise click.BadParameter(f"{text!r} is no compute capability; write sm89 for 8.9")
    return int(found[1])


@click.command(
    "build-engine",
    cls=DmganCommand,
    context_settings={"show_default": True, "help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--engine",
    type=click.Choice(["auto", *PLANNED]),
    default="auto",
    help="tensorrt builds on the GPU that will run the engine; tensorrt_rtx builds for RTX GPUs and needs none; mnn"
    " builds for CPUs, in fp32 and for every batch. auto takes the first that is installed.",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", *get_args(Precision)]),
    default="auto",
    help="Of the generators. auto is fp16 if BUNDLE has it, else fp32; mnn has fp32 only.",
)
@click.option(
    "--min-batch", type=click.IntRange(1, 2**16), default=DEFAULT_PROFILE.min, help="The smallest batch that it takes."
)
@click.option(
    "--opt-batch",
    type=click.IntRange(1, 2**16),
    show_default=f"{DEFAULT_PROFILE.opt}, or the nearest allowed",
    help="The batch that it is fastest at.",
)
@click.option(
    "--max-batch",
    type=click.IntRange(1, 2**16),
    default=DEFAULT_PROFILE.max,
    help="The largest batch; more takes more memory.",
)
@click.option("--version-compatible", is_flag=True, help="Later versions of the same TensorRT major version load it.")
@click.option(
    "--hardware-compatibility",
    type=click.Choice(get_args(HardwareCompatibility)),
    default="none",
    help="Which other GPUs load it; can cost speed. tensorrt only.",
)
@click.option(
    "--target",
    "targets",
    type=_compute_capability,
    metavar="SM",
    multiple=True,
    show_default="every one from Ampere on",
    help="A compute capability to build for, as sm89; may be repeated. tensorrt_rtx only.",
)
@click.option(
    "--timing-cache",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A file that makes later builds faster: read if it is there, then written. tensorrt only.",
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    show_default="BUNDLE/engines",
    help="The folder to put the engine's folder in.",
)
def main(
    bundle: Path,
    engine: str,
    precision: Precision | Literal["auto"],
    min_batch: int,
    opt_batch: int | None,
    max_batch: int,
    version_compatible: bool,
    hardware_compatibility: HardwareCompatibility,
    targets: tuple[int, ...],
    timing_cache: Path | None,
    output: Path | None,
) -> None:
    """Build an engine from the graphs of BUNDLE, beside them.

    The engine's folder is named by what it runs on, engine and version, precision and batches, and appears whole or
    not at all. If it is there already, its hashes are checked and it is kept; if anything differs, that is an error.

    Exit status: 0, 2 for a mistake in what was asked, 1 for other trouble.
    """
    bundle, bindings = find_bundle(bundle), _bindings(engine)
    if bindings is None:
        _refuse_switches("mnn" if engine == "mnn" else "mnn, which auto took because there is no TensorRT here")
        _print_result(build_mnn_engine(bundle, output, _report))
        return
    try:
        profile = BatchProfile(
            min=min_batch, opt=opt_batch or max(min_batch, min(DEFAULT_PROFILE.opt, max_batch)), max=max_batch
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    chosen = _precisions(bundle)[0] if precision == "auto" else precision
    settings = BuildSettings(
        precision=chosen,
        profile=profile,
        version_compatible=version_compatible,
        hardware_compatibility=hardware_compatibility,
        targets=targets,
        timing_cache=timing_cache,
    )
    _build(bundle, bindings, settings, output)


def _bindings(asked: str) -> Bindings | None:
    """Chooses the TensorRT to build with, or None for MNN.

    Raises:
        BackendError: if what was asked for is not installed.
    """
    if asked == "mnn":
        return None
    try:
        return open_bindings(asked)
    except BackendError as error:
        if asked != "auto":
            raise
        try:
            MnnBackend.probe(0)
        except BackendError as also:
            raise BackendError(f"{error}; {also}") from None
    return None


def _refuse_switches(taken: str) -> None:
    """Raises a `SettingsError` for switches that MNN would ignore; `taken` says why MNN was taken."""
    context = click.get_current_context()
    given = {name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    if context.params["precision"] in ("auto", "fp32"):
        given.discard("precision")
    if refused := sorted(given - {"bundle", "engine", "output"}):
        switches = ", ".join("--" + name.removesuffix("s").replace("_", "-") for name in refused)
        raise SettingsError(f"{switches}: not with {taken}; its engine is fp32 and takes every batch: leave it out")


def expect_engine(bundle: Path) -> Bindings:
    """Checks that engines can be built here, before the long export of their bundle.

    Args:
        bundle: Where it will be.

    Raises:
        BackendError: if TensorRT is missing, or the GPU that it needs.
        BundleError: if the bundle will be a .zip.
    """
    if bundle.suffix.lower() == ".zip":
        raise BundleError(f"{bundle}: engines are put into a bundle's folder; leave out --tensorrt or the .zip")
    bindings = open_bindings("auto")
    bindings.target(())
    return bindings


def build_engines(bundle: Path, bindings: Bindings) -> None:
    """Builds an engine of each precision that a bundle has, with the defaults of `dmgan-export build-engine`."""
    for precision in _precisions(bundle):
        _build(bundle, bindings, BuildSettings(precision=precision), None)


def _precisions(path: Path) -> tuple[Precision, ...]:
    with Bundle(path) as bundle:
        present = engine_precisions(bundle.manifest)
    if not present:
        raise BundleError(f"{path}: has no precision in which every generator is there; export the bundle again")
    return present


def _build(bundle: Path, bindings: Bindings, settings: BuildSettings, output: Path | None) -> None:
    profile = settings.profile
    _report(
        f"{bindings.name} {bindings.version}, {settings.precision}, batches of {profile.min} to {profile.max},"
        f" fastest at {profile.opt}"
    )
    _print_result(build_engine(bundle, bindings, settings, output, _report))


def _report(step: str) -> None:
    click.echo(step, err=True)


def _print_result(engine: EngineFolder) -> None:
    outcome = "written" if engine.is_new else "is there already, and every hash is right"
    backend = engine.manifest.engine
    by_name = "" if find_engine_row(backend).auto else f"; it serves those who name it: --backend {backend}"
    click.echo(f"{engine.path}: {outcome}{by_name}")
