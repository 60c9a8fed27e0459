"""`python -m dmgan_train ablate`: the paper's table 3 on one data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from dmgan_runtime.cli.common import DmganCommand
from dmgan_train.data import SOURCES, SplitName
from dmgan_train.devices import choose_device, default_workers, resolve_precision
from dmgan_train.evaluation.cli import FEATURE_NAMES, FOLDER, needs_extra, parse_metrics
from dmgan_train.evaluation.metrics.protocol import METRICS
from dmgan_train.fit import describe_plan, read_data
from dmgan_train.run_folder import RunFolder
from dmgan_train.settings import PRESETS, RECIPES, resolve_settings

if TYPE_CHECKING:
    from dmgan_train.evaluation.metrics.features import FeatureName
    from dmgan_train.evaluation.metrics.protocol import MetricName

_PATH = click.Path(path_type=Path)


@click.command(cls=DmganCommand)
@click.option("--preset", type=click.Choice(PRESETS), default="birds", help="Settings to start from.")
@click.option(
    "--recipe", type=click.Choice(RECIPES), default="preset", help="What is laid over the preset; preset is nothing."
)
@click.option("--data", type=FOLDER, required=True, help="The data set's folder.")
@click.option("--source", type=click.Choice(list(SOURCES)), help="Its kind.  [default: told from its layout]")
@click.option("--out", type=_PATH, required=True, help="A folder for the runs and the table; made if it is new.")
@click.option("--config", type=_PATH, help="A YAML file of settings that override the preset's.")
@click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Override one setting; repeatable.")
@click.option(
    "--seeds",
    type=click.IntRange(1, 100),
    default=1,
    help="Trainings of each row, from the setting `seed` on; several give mean and spread.",
)
@click.option(
    "--metrics",
    default="is,fid,r_precision",
    callback=parse_metrics,
    metavar="NAME,...",
    help=f"Of {', '.join(METRICS)}.",
)
@click.option("--split", type=click.Choice(["train", "test"]), default="test", help="Whose captions and pictures.")
@click.option("--images", type=click.IntRange(20, 10_000_000), default=30_000, help="Images to generate for each row.")
@click.option(
    "--features", type=click.Choice(FEATURE_NAMES), default="efficientnet_lite2", help="The network that sees them."
)
@click.option(
    "--feature-weights",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Its weights.  [default: packaged, or downloaded from their official address]",
)
@click.option("--device", default="auto", metavar="[auto|cpu|cuda[:N]]", help="Where to train.")
@click.option(
    "--workers",
    type=click.IntRange(0, 64),
    help="Processes that read pictures ahead.  [default: one a spare CPU, at most 16; 0 with data.cache]",
)
@click.option("--dry-run", is_flag=True, help="Print the plan of one row, train nothing.")
def ablate(
    preset: str,
    recipe: str,
    data: Path,
    source: str | None,
    out: Path,
    config: Path | None,
    overrides: tuple[str, ...],
    seeds: int,
    metrics: tuple[str, ...],
    split: str,
    images: int,
    features: str,
    feature_weights: Path | None,
    device: str,
    workers: int | None,
    dry_run: bool,
) -> None:
    """Train and measure baseline, +M, +M+WG and +M+WG+RG (the paper's table 3), with one DAMSM for all.

    The same command goes on from where it was. The table goes to OUT/ablation.md, every number with its protocol to
    OUT/ablation.json.
    """
    with needs_extra():
        from dmgan_train.evaluation.ablation import ENCODERS, ROWS, row_settings
        from dmgan_train.evaluation.ablation import ablate as run_ablation
        from dmgan_train.evaluation.metrics.evaluate import Plan
        from dmgan_train.evaluation.metrics.features import load_features
    chosen = choose_device(device)
    settings = resolve_settings(preset, recipe=recipe, file=config, overrides=overrides)
    settings = resolve_precision(settings, chosen, RunFolder(out / ENCODERS).begun())
    read = read_data(data, source, settings)
    click.echo(describe_plan(row_settings(settings, ROWS[-1]), read, RunFolder(out / ENCODERS), chosen))
    click.echo(f"rows   {', '.join(row.name for row in ROWS)}")
    click.echo(f"seeds  {', '.join(map(str, range(settings.seed, settings.seed + seeds)))}")
    if dry_run:
        return
    with needs_extra():
        network = load_features(cast("FeatureName", features), chosen, feature_weights)
    chosen_metrics = cast("tuple[MetricName, ...]", metrics)
    plan = Plan(chosen_metrics, data, read.source, cast("SplitName", split), images)
    count = default_workers(settings) if workers is None else workers
    click.echo(run_ablation(settings, read, out, network, plan, chosen, count, click.echo, seeds))
    click.echo(f"{out / 'ablation.md'} and ablation.json: written")
