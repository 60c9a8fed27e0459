"""The paper's recipe and the one for small data, side by side on one data set.

    python -m benchmarks.recipes --preset emoji --data data/emoji --out trials/recipes --steps 20000

Both share one DAMSM, one seed and the number of steps; what differs is what the recipe says. Killed at any moment, the
same command goes on.
"""

from __future__ import annotations

from pathlib import Path

import click
import torch

from dmgan_runtime.commands import DmganCommand
from dmgan_train.config import PRESETS, resolve_settings
from dmgan_train.data import SplitName
from dmgan_train.devices import choose_device, default_workers, resolve_precision
from dmgan_train.fit import TrainingData, begin, fit, pretrain, read_data
from dmgan_train.image_source import RunSource
from dmgan_train.metrics.evaluate import Plan, evaluate
from dmgan_train.metrics.features import load_features
from dmgan_train.metrics.protocol import Evaluation, table
from dmgan_train.metrics.r_precision import read_encoders
from dmgan_train.run import RunFolder, share_encoders

_COMPARED = ("paper", "small-data")


def train_recipe(
    preset: str, recipe: str, overrides: list[str], data: TrainingData, out: Path, device: torch.device
) -> RunFolder:
    """Trains one recipe, with the first one's encoders."""
    settings = resolve_precision(resolve_settings(preset, recipe=recipe, overrides=overrides), device)
    first, run = RunFolder(out / _COMPARED[0]), RunFolder(out / recipe)
    with run.locked():
        begin(settings, data, run)
        if run.root == first.root:
            pretrain(settings, data, run, device, default_workers())
        else:
            share_encoders(first, run)
        fit(settings, data, run, device, default_workers())
    return run


def measure(run: RunFolder, plan: Plan, device: torch.device) -> Evaluation:
    """The metrics of a plan, also written into the run's folder."""
    encoders = read_encoders(run, device) if "r_precision" in plan.metrics else None
    measured = evaluate(RunSource(run, device), load_features("efficientnet_lite2", device, None), encoders, plan)
    measured.write(run.root / "metrics" / "recipes.json")
    return measured


@click.command(cls=DmganCommand, context_settings={"show_default": True})
@click.option("--preset", type=click.Choice(PRESETS), default="emoji", help="Settings that both start from.")
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True, help="Data set.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="A folder for both runs.")
@click.option("--steps", type=click.IntRange(1), default=20_000, help="Steps of the second phase.")
@click.option("--images", type=click.IntRange(20), default=1000, help="Images that each metric takes.")
@click.option("--device", default="auto", metavar="[auto|cpu|cuda[:N]]", help="Where to train.")
@click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Override one setting of both.")
def main(preset: str, data: Path, out: Path, steps: int, images: int, device: str, overrides: tuple[str, ...]) -> None:
    """Train both recipes, measure FID and R-precision of both, and print them one below the other."""
    chosen = choose_device(device)
    own = [f"gan.steps={steps}", "gan.epochs=1000000", *overrides]
    read = read_data(data, None, resolve_settings(preset, overrides=own))
    split: SplitName = "test" if read.test else "train"
    plan = Plan(metrics=("fid", "r_precision"), data=data, split=split, images=images)
    for recipe in _COMPARED:
        run = train_recipe(preset, recipe, own, read, out, chosen)
        click.echo(f"{recipe}, {steps:,} steps")
        for line in table(measure(run, plan, chosen).results.values()):
            click.echo(f"  {line}")


if __name__ == "__main__":
    main()
