"""The paper's recipe and the others, side by side on one data set, with what else was thought of for small data.

    python -m scripts.recipes --preset emoji --data data/emoji --out trials/recipes --steps 20000
    python -m scripts.recipes --preset tiny --data data/birds --out trials/contrastive --variant contrastive --seeds 3

All have the same number of steps, and what differs is what the recipe says: those with the same settings of DAMSM share
one for each seed. R-precision is judged by a DAMSM of the paper's recipe that taught none of them. A step of
`contrastive` takes two captions of each picture. Killed at any moment, the same command goes on, and with more
`--seeds` it adds to what is there; the table is printed, and written as `recipes.md` beside the runs.
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
from dmgan_train.evaluation.metrics.evaluate import Plan
from dmgan_train.evaluation.metrics.features import load_features
from dmgan_train.evaluation.metrics.protocol import Evaluation, table
from dmgan_train.evaluation.seeds import measure_once, seed_folder, write_table
from dmgan_train.fit import TrainingData, begin, fit, pretrain, read_data
from dmgan_train.run_folder import RunFolder, share_encoders
from dmgan_train.settings import PRESETS, DamsmSettings, Settings, override_settings, resolve_settings

_R1 = ("gan.r1_weight=1",)
_TWO_RATES = ("gan.generator_learning_rate=1e-4", "gan.discriminator_learning_rate=4e-4")
# Each a recipe and what is laid over it. R1: Mescheder et al., ICML 2018, every 16 steps as in StyleGAN2 (Karras et
# al., CVPR 2020). Two time scales: Heusel et al., NeurIPS 2017, with the rates of SAGAN (Zhang et al., ICML 2019).
VARIANTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "paper": ("paper", ()),
    "small-data": ("small-data", ()),
    "contrastive": ("contrastive", ()),
    "r1": ("paper", _R1),
    "two-rates": ("paper", _TWO_RATES),
    "small-data-r1": ("small-data", _R1),
    "small-data-r1-two-rates": ("small-data", (*_R1, *_TWO_RATES)),
}
FIRST = next(iter(VARIANTS))
JUDGE_SEED = 2**32 - 1  # of no training


def only(pictures: int | None, data: TrainingData) -> TrainingData:
    """The data with so many training pictures, evenly spread; None for all."""
    if pictures is None or pictures >= len(data.train):
        return data
    chosen = np.linspace(0, len(data.train) - 1, pictures).astype(int)
    return replace(data, train=replace(data.train, examples=tuple(data.train.examples[index] for index in chosen)))


def train_judge(settings: Settings, data: TrainingData, out: Path, device: torch.device) -> RunFolder:
    """Trains the encoders that judge R-precision."""
    own = override_settings(settings, overrides=[f"seed={JUDGE_SEED}"])
    run = RunFolder(out / "judge")
    with run.locked():
        begin(own, data, run)
        pretrain(own, data, run, device, default_workers(own))
    return run


def train_variant(
    run: RunFolder,
    settings: Settings,
    data: TrainingData,
    pictures: int | None,
    teachers: dict[DamsmSettings, RunFolder],
    device: torch.device,
) -> None:
    """Trains one variant, with the encoders of a teacher of the same settings; else it becomes one, on all pictures."""
    seen = only(pictures, data)
    with run.locked():
        begin(settings, seen, run)
        if settings.damsm in teachers:
            share_encoders(teachers[settings.damsm], run)
        else:
            pretrain(settings, data, run, device, default_workers(settings))
            teachers[settings.damsm] = run
        fit(settings, seen, run, device, default_workers(settings))


@click.command(cls=DmganCommand, context_settings={"show_default": True})
@click.option("--preset", type=click.Choice(PRESETS), default="emoji", help="Settings that all start from.")
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True, help="Data set.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="A folder for the runs.")
@click.option("--variant", "variants", type=click.Choice(tuple(VARIANTS)), multiple=True,
              show_default="all", help="Only this one; may be repeated. The first is always trained.")  # fmt: skip
@click.option("--seeds", type=click.IntRange(1, 100), default=1,
              help="Trainings of each, from the setting `seed` on; several give mean and spread.")  # fmt: skip
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
    seeds: int,
    pictures: int | None,
    steps: int,
    images: int,
    device: str,
    overrides: tuple[str, ...],
) -> None:
    """Train recipes and what may be added to them, measure FID and R-precision of each, and print them."""
    chosen = choose_device(device)
    own = [f"gan.steps={steps}", "gan.epochs=1000000", *overrides]
    wanted = [name for name in VARIANTS if not variants or name in (FIRST, *variants)]

    def settings_of(name: str, *seed: str) -> Settings:
        recipe, changes = VARIANTS[name]
        settings = resolve_settings(preset, recipe=recipe, overrides=[*own, *changes, *seed])
        return resolve_precision(settings, chosen)

    paper = settings_of(FIRST)
    read = read_data(data, None, paper)
    split: SplitName = "test" if read.test else "train"
    plan = Plan(metrics=("fid", "r_precision"), data=data, split=split, images=images)
    network = load_features("efficientnet_lite2", chosen, None)
    judge = train_judge(paper, read, out, chosen)
    rows: dict[str, dict[int, Evaluation]] = {name: {} for name in wanted}
    for seed in range(paper.seed, paper.seed + seeds):
        teachers: dict[DamsmSettings, RunFolder] = {}
        for name in wanted:
            run = RunFolder(seed_folder(out, paper.seed, seed) / name)
            train_variant(run, settings_of(name, f"seed={seed}"), read, pictures, teachers, chosen)
            measured = rows[name][seed] = measure_once(run, "recipes", network, plan, chosen, judge.root)
            click.echo(f"{name}, seed {seed}, {steps:,} steps, {len(only(pictures, read).train):,} pictures")
            for line in table(measured.results.values()):
                click.echo(f"  {line}")
    click.echo(write_table(out, "recipes", rows, "R-precision by a DAMSM that taught none of them"))


if __name__ == "__main__":
    main()
