"""The paper's recipe and the one for small data, side by side on one data set, with what else was thought of for it.

    python -m scripts.recipes --preset emoji --data data/emoji --out trials/recipes --steps 20000

All share one DAMSM, one seed and the number of steps; what differs is what the recipe says. Killed at any moment, the
same command goes on.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import torch

from dmgan_runtime.cli.common import DmganCommand
from dmgan_train.data import SplitName
from dmgan_train.devices import choose_device, default_workers, resolve_precision
from dmgan_train.evaluation.image_source import RunSource
from dmgan_train.evaluation.metrics.evaluate import Plan, evaluate
from dmgan_train.evaluation.metrics.features import load_features
from dmgan_train.evaluation.metrics.protocol import Evaluation, table
from dmgan_train.evaluation.metrics.r_precision import read_encoders
from dmgan_train.fit import TrainingData, begin, fit, pretrain, read_data
from dmgan_train.run_folder import RunFolder, share_encoders
from dmgan_train.settings import PRESETS, Settings, resolve_settings

_R1 = ("gan.r1_weight=1",)
_TWO_RATES = ("gan.generator_learning_rate=1e-4", "gan.discriminator_learning_rate=4e-4")
# Each a recipe and what is laid over it. R1: Mescheder et al., ICML 2018, every 16 steps as in StyleGAN2 (Karras et
# al., CVPR 2020). Two time scales: Heusel et al., NeurIPS 2017, with the rates of SAGAN (Zhang et al., ICML 2019).
VARIANTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "paper": ("paper", ()),
    "small-data": ("small-data", ()),
    "r1": ("paper", _R1),
    "two-rates": ("paper", _TWO_RATES),
    "small-data-r1": ("small-data", _R1),
    "small-data-r1-two-rates": ("small-data", (*_R1, *_TWO_RATES)),
}


def only(pictures: int | None, data: TrainingData) -> TrainingData:
    """The data with so many training pictures, evenly spread; None for all."""
    if pictures is None or pictures >= len(data.train):
        return data
    chosen = np.linspace(0, len(data.train) - 1, pictures).astype(int)
    return replace(data, train=replace(data.train, examples=tuple(data.train.examples[index] for index in chosen)))


def train_variant(
    name: str, settings: Settings, data: TrainingData, pictures: int | None, out: Path, device: torch.device
) -> RunFolder:
    """Trains one variant, with the first one's encoders: those learn from all pictures."""
    seen = only(pictures, data)
    first, run = RunFolder(out / next(iter(VARIANTS))), RunFolder(out / name)
    with run.locked():
        begin(settings, seen, run)
        if run.root == first.root:
            pretrain(settings, data, run, device, default_workers(settings))
        else:
            share_encoders(first, run)
        fit(settings, seen, run, device, default_workers(settings))
    return run


def measure(run: RunFolder, plan: Plan, device: torch.device) -> Evaluation:
    """The metrics of a plan, also written into the run's folder."""
    encoders = read_encoders(run, device) if "r_precision" in plan.metrics else None
    measured = evaluate(RunSource(run, device), load_features("efficientnet_lite2", device, None), encoders, plan)
    measured.write(run.root / "metrics" / "recipes.json")
    return measured


@click.command(cls=DmganCommand, context_settings={"show_default": True})
@click.option("--preset", type=click.Choice(PRESETS), default="emoji", help="Settings that all start from.")
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True, help="Data set.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="A folder for the runs.")
@click.option("--variant", "variants", type=click.Choice(tuple(VARIANTS)), multiple=True,
              show_default="all", help="Only this one; may be repeated. The first is always trained.")  # fmt: skip
@click.option("--pictures", type=click.IntRange(2), metavar="N", show_default="all",
              help="GANs learn from so many training pictures only; DAMSM learns from all.")  # fmt: skip
@click.option("--steps", type=click.IntRange(1), default=20_000, help="Steps of the second phase.")
@click.option("--images", type=click.IntRange(20), default=1000, help="Images that each metric takes.")
@click.option("--device", default="auto", metavar="[auto|cpu|cuda[:N]]", help="Where to train.")
@click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Override one setting of all.")
def main(
    preset: str,
    data: Path,
    out: Path,
    variants: tuple[str, ...],
    pictures: int | None,
    steps: int,
    images: int,
    device: str,
    overrides: tuple[str, ...],
) -> None:
    """Train recipes and what may be added to them, measure FID and R-precision of each, and print them."""
    chosen = choose_device(device)
    own = [f"gan.steps={steps}", "gan.epochs=1000000", *overrides]
    read = read_data(data, None, resolve_settings(preset, overrides=own))
    split: SplitName = "test" if read.test else "train"
    plan = Plan(metrics=("fid", "r_precision"), data=data, split=split, images=images)
    for name, (recipe, changes) in VARIANTS.items():
        if variants and name not in variants and name != next(iter(VARIANTS)):
            continue
        settings = resolve_settings(preset, recipe=recipe, overrides=[*own, *changes])
        run = train_variant(name, resolve_precision(settings, chosen), read, pictures, out, chosen)
        click.echo(f"{name}, {steps:,} steps, {len(only(pictures, read).train):,} pictures")
        for line in table(measure(run, plan, chosen).results.values()):
            click.echo(f"  {line}")


if __name__ == "__main__":
    main()
