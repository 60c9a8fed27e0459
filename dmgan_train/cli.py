"""`python -m dmgan_train`: prepare data, train, and look at what a run has learned."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from dmgan_runtime.cli.common import DmganGroup
from dmgan_runtime.errors import DataError
from dmgan_train import __version__, distributed
from dmgan_train.data import SOURCES
from dmgan_train.data.prepare.cli import prepare
from dmgan_train.devices import choose_device, default_workers, resolve_precision
from dmgan_train.evaluation.ablation_cli import ablate
from dmgan_train.evaluation.cli import evaluate, report
from dmgan_train.evaluation.figures.cli import figure
from dmgan_train.fit import TrainingData, begin, describe_plan, read_data, with_vocabulary
from dmgan_train.fit import fit as fit_run
from dmgan_train.fit import pretrain as pretrain_run
from dmgan_train.interruption import stops_at_once
from dmgan_train.official import OfficialFiles, adopt
from dmgan_train.published import introduce
from dmgan_train.run_folder import RunFolder
from dmgan_train.settings import PRESETS, RECIPES, Settings, override_settings, resolve_settings

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
CONTEXT = {"show_default": True, "help_option_names": ["-h", "--help"], "max_content_width": 110}


@click.group(cls=DmganGroup, context_settings=CONTEXT)
@click.version_option(__version__, package_name="dmgan")
def main() -> None:
    """Train DM-GAN, a text-to-image GAN in stages with a dynamic memory (Zhu et al., CVPR 2019)."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")


main.add_command(prepare)
main.add_command(evaluate)
main.add_command(figure)
main.add_command(report)
main.add_command(ablate)


def _training_options(command: Callable[..., Any]) -> Callable[..., Any]:
    path = click.Path(path_type=Path)
    folder = click.Path(exists=True, file_okay=False, path_type=Path)
    options = [
        click.option(
            "--preset",
            type=click.Choice(PRESETS),
            help="Settings to start from.  [default: birds; of a run that has begun, its own]",
        ),
        click.option(
            "--recipe",
            type=click.Choice(RECIPES),
            help="What is laid over the preset.  [default: preset, which is nothing; of a run, its own]",
        ),
        click.option("--data", type=folder, help="The data set's folder.  [default: of a run, where it was]"),
        click.option(
            "--source",
            type=click.Choice(list(SOURCES)),
            help="Its kind.  [default: told from its layout; of a run, its own]",
        ),
        click.option("--run", "run_folder", type=path, required=True, help="The run's folder; made if it is new."),
        click.option("--config", type=path, help="A YAML file of settings that override the preset's."),
        click.option(
            "--set",
            "overrides",
            metavar="KEY=VALUE",
            multiple=True,
            help="Override one setting, e.g. gan.batch_size=16; repeatable.",
        ),
        click.option("--device", default="auto", metavar="[auto|cpu|cuda[:N]]", help="Where to train."),
        click.option(
            "--workers",
            type=click.IntRange(0, 64),
            help="Processes that read pictures ahead.  [default: one a spare CPU, at most 16; 0 with data.cache]",
        ),
        click.option("--dry-run", is_flag=True, help="Read the data, print the plan and the settings, train nothing."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _run(
    work: Callable[..., None],
    next_step: str,
    preset: str | None,
    recipe: str | None,
    data: Path | None,
    source: str | None,
    run_folder: Path,
    config: Path | None,
    overrides: tuple[str, ...],
    device: str,
    workers: int | None,
    dry_run: bool,
) -> None:
    chosen = choose_device(device)
    with stops_at_once(), distributed.joined(chosen):
        run = RunFolder(run_folder)
        begun = run.begun()
        if begun and not (preset or recipe):
            settings = override_settings(begun, file=config, overrides=overrides)
        else:
            own = begun or Settings()
            settings = resolve_settings(
                preset or own.preset, recipe=recipe or own.recipe, file=config, overrides=overrides
            )
        settings = resolve_precision(settings, chosen, begun)
        before, data = run.data_folder(), data or _recorded(run)
        recorded = run.provenance().get("data", {}).get("source")
        source = source or (recorded if recorded in tuple(SOURCES) else None)
        read: TrainingData = with_vocabulary(read_data(data, source, settings), run, settings)
        if distributed.is_main():
            click.echo(describe_plan(settings, read, run, chosen))
            if dry_run:
                click.echo(settings.to_yaml())
        if dry_run:
            return
        # One writes, the others read; none goes on before the folder is there.
        with run.locked() if distributed.is_main() else nullcontext():
            if distributed.is_main():
                begin(settings, read, run)
                if before and before != data.resolve():
                    click.echo(f"data   the same as in {before}, where this run's data were; it goes on with them here")
            distributed.wait()
            # As they were written: machines that train together may differ in what `auto` comes to.
            work(run.settings(), read, run, chosen, default_workers(settings) if workers is None else workers)
        if distributed.is_main():
            click.echo(f"Trained. Next: {next_step}")


def _recorded(run: RunFolder) -> Path:
    """The data set's folder as a run knows it.

    Raises:
        DataError: if it does not know it, or the folder is not there any more.
    """
    folder = run.data_folder()
    if folder is None:
        raise DataError(f"{run.root}: does not say where its data are; name their folder with --data")
    if not folder.is_dir():
        raise DataError(f"{folder}: the data of {run.root} are not there any more; name their folder with --data")
    return folder


@main.command()
@_training_options
def fit(**options: Any) -> None:
    """Train the whole model: DAMSM first, then the GAN.

    The same command goes on from the last checkpoint, however it ended; so does `fit --run RUN` alone, with the run's
    own data and settings.
    """
    _run(fit_run, f"dmgan-export {options['run_folder']} -o BUNDLE", **options)


@main.command()
@_training_options
def pretrain(**options: Any) -> None:
    """Train the text and the image encoder alone (DAMSM); `fit` goes on from there."""
    _run(pretrain_run, "the same with fit", **options)


@main.command(name="adopt")
@click.option("--official-text-encoder", type=_FILE, required=True, help="The authors' text_encoder*.pth.")
@click.option("--official-image-encoder", type=_FILE, required=True, help="The authors' image_encoder*.pth.")
@click.option("--captions", type=_FILE, required=True, help="Their captions.pickle, which holds the vocabulary.")
@click.option("--official-generator", type=_FILE, help="Their netG*.pth.  [default: a new generator]")
@click.option("--preset", type=click.Choice(PRESETS), default="birds", help="Settings of the run.")
@click.option("--recipe", type=click.Choice(RECIPES), default="preset", help="What is laid over the preset.")
@click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Override one setting; repeatable.")
@click.option("--run", "run_folder", type=click.Path(path_type=Path), required=True, help="The run to begin; new.")
def adopt_command(
    official_text_encoder: Path,
    official_image_encoder: Path,
    captions: Path,
    official_generator: Path | None,
    preset: str,
    recipe: str,
    overrides: tuple[str, ...],
    run_folder: Path,
) -> None:
    """Begin a run with the authors' published weights; `fit` with the same preset and settings trains on."""
    files = OfficialFiles(official_text_encoder, official_image_encoder, captions, official_generator)
    settings = resolve_settings(preset, recipe=recipe, overrides=overrides)
    settings = resolve_precision(settings, choose_device("auto"))
    adopt(files, settings, RunFolder(run_folder))
    for path in vars(files).values():
        if path is not None and (said := introduce(path)):
            click.echo(said)
    laid = f" --recipe {recipe}" if recipe != "preset" else ""
    same = laid + "".join(f" --set {override}" for override in overrides)
    click.echo(f"Begun. Next: python -m dmgan_train fit --preset {preset}{same} --data DATA --run {run_folder}")


@main.command()
@click.argument("run_folder", metavar="RUN", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("captions", metavar="CAPTION...", nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("sample.png"),
    help="The picture to write.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**64 - 1),
    default=0,
    help="Draws the noise; an exported bundle draws the same.",
)
@click.option(
    "--step",
    type=click.IntRange(1),
    help="Take the generator of this snapshot (gan.snapshot_every).  [default: the newest]",
)
def sample(run_folder: Path, captions: tuple[str, ...], output: Path, seed: int, step: int | None) -> None:
    """Draw captions with a run's averaged generator, all stages side by side, without exporting."""
    from dmgan_train.monitor import draw_captions

    steps = draw_captions(RunFolder(run_folder), captions, seed, output, step)
    plural = "" if len(captions) == 1 else "s"
    click.echo(f"{output}: {len(captions)} caption{plural}, seed {seed}, generator of step {steps:,}")
