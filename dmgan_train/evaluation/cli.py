"""`python -m dmgan_train evaluate` and `report`: what a run or a bundle is worth, in numbers and on one page."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from dmgan_runtime.cli.common import DmganCommand
from dmgan_runtime.errors import BackendError, DataError
from dmgan_runtime.noise import Condition
from dmgan_train import distributed
from dmgan_train.data import SOURCES
from dmgan_train.devices import choose_device
from dmgan_train.evaluation.image_source import is_bundle
from dmgan_train.evaluation.metrics.protocol import METRICS
from dmgan_train.published import digest
from dmgan_train.run_folder import RunFolder

if TYPE_CHECKING:
    import torch

    from dmgan_train.evaluation.metrics.evaluate import Plan
    from dmgan_train.evaluation.metrics.features import FeatureNetwork
    from dmgan_train.evaluation.metrics.protocol import Evaluation

FEATURE_NAMES = ("efficientnet_lite2", "efficientnet_lite0", "inception_v3_fid", "inception_v3")
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
MODEL = click.Path(exists=True, path_type=Path)


@contextmanager
def needs_extra() -> Iterator[None]:
    """Turns a missing package into a message that names the extra.

    Raises:
        BackendError: if a package of the extra `evaluate` is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise BackendError(f'this needs {error.name}, which is not installed; pip install "dmgan[evaluate]"') from error


def parse_metrics(_: click.Context, __: click.Parameter, value: str) -> tuple[str, ...]:
    """Splits `fid,is`; an unknown name is an error that lists the known ones."""
    names = tuple(dict.fromkeys(name.strip() for name in value.split(",")))
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise click.BadParameter(f"{', '.join(unknown)}: choose from {', '.join(METRICS)}, joined by commas")
    return names


@click.command(cls=DmganCommand)
@click.argument("model", metavar="RUN_OR_BUNDLE", type=MODEL)
@click.option("--data", type=FOLDER, required=True, help="The data set's folder.")
@click.option("--source", type=click.Choice(list(SOURCES)), help="Its kind.  [default: told from its layout]")
@click.option(
    "--metrics",
    default="fid,is,r_precision,diversity",
    callback=parse_metrics,
    metavar="NAME,...",
    help=f"Of {', '.join(METRICS)}. retrieval is for data in which a caption names one drawing.",
)
@click.option(
    "--step",
    type=click.IntRange(1),
    help="Take the generator of this snapshot (gan.snapshot_every).  [default: the newest]",
)
@click.option("--split", type=click.Choice(["train", "test"]), default="test", help="Whose captions and pictures.")
@click.option(
    "--images",
    type=click.IntRange(20, 10_000_000),
    default=30_000,
    help="Images to generate for FID, IS and R-precision; at most so many for the others.",
)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, help="Draws captions; image k has SEED + k.")
@click.option(
    "--truncation", type=click.FloatRange(0, 1, min_open=True), default=1.0, help="Multiplies the noise; 1 leaves it."
)
@click.option(
    "--condition",
    type=click.Choice(get_args(Condition)),
    help="Generate from a sample of the condition's distribution, or from its mean.  [default: the model's own]",
)
@click.option(
    "--resolution",
    type=click.IntRange(1),
    help="Shrink images to so many pixels a side, and real pictures too, to compare models of different sizes."
    "  [default: the model's own]",
)
@click.option(
    "--features",
    type=click.Choice(FEATURE_NAMES),
    default="efficientnet_lite2",
    help="The network that sees the images. inception_v3 is that of DM-GAN's published FIDs; the first two need no"
    " download.",
)
@click.option(
    "--feature-weights",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Its weights.  [default: packaged, or downloaded from their official address]",
)
@click.option(
    "--judge",
    metavar="RUN_OR_ENCODERS",
    type=FOLDER,
    help="Whose DAMSM judges R-precision: a run's, or a folder with the authors' text_encoder*.pth, image_encoder*.pth"
    " and captions.pickle.  [default: RUN itself]",
)
@click.option(
    "--real-statistics",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Take mu and sigma of the real pictures for FID from this .npz, in place of the split's pictures.",
)
@click.option(
    "--save-statistics",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write mu and sigma of the real pictures to this .npz, as pytorch-fid reads it.",
)
@click.option("--device", default="auto", metavar="[auto|cpu|cuda[:N]]", help="Where networks compute.")
@click.option("--batch-size", type=click.IntRange(1, 4096), default=16, help="Images at once.")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The JSON to write.  [default: in RUN/metrics, or beside the bundle]",
)
def evaluate(model: Path, device: str, **options: Any) -> None:
    """Measure a RUN's averaged generator, or a BUNDLE through the runtime.

    Every number is written with its protocol: images, split, seed, feature network and the digest of its weights,
    preprocessing, versions; and the command says with which published numbers it may be compared, or why with none.
    Under torchrun the processes share the images; the numbers stay the same.
    """
    chosen = choose_device(device)
    with distributed.joined(chosen), needs_extra():
        from dmgan_train.evaluation.metrics.comparison import comparisons
        from dmgan_train.evaluation.metrics.protocol import table

        path, evaluation = measure(model, device=chosen, **options)
        if distributed.is_main():
            for line in (*table(evaluation.results.values()), *comparisons(evaluation)):
                click.echo(line)
            evaluation.write(path)
            click.echo(f"{path}: written, with the protocol")
            if saved := options["save_statistics"]:
                click.echo(f"{saved}: written, mu and sigma of the real pictures")


def measure(
    model: Path, *, output: Path | None, device: torch.device, judge: Path | None, step: int | None, **options: Any
) -> tuple[Path, Evaluation]:
    """Runs the metrics; returns where the JSON belongs, in a folder that is there, and the evaluation."""
    from dmgan_train.checkpoint import fingerprint
    from dmgan_train.evaluation.bundle_source import open_source
    from dmgan_train.evaluation.metrics.evaluate import Plan
    from dmgan_train.evaluation.metrics.evaluate import evaluate as run_metrics
    from dmgan_train.evaluation.metrics.features import load_features
    from dmgan_train.evaluation.metrics.r_precision import read_encoders, read_judge

    plan = Plan(
        metrics=options["metrics"],
        data=options["data"],
        data_source=options["source"],
        split=options["split"],
        images=options["images"],
        seed=options["seed"],
        batch_size=options["batch_size"],
        real_statistics=options["real_statistics"],
        save_statistics=options["save_statistics"],
    )
    folder = output.parent if output else _results_folder(model)
    resolution = options["resolution"]
    with open_source(model, device, options["truncation"], step, options["condition"], resolution) as source:
        if distributed.is_main():
            for place in (folder, *([plan.save_statistics.parent] if plan.save_statistics else [])):
                _make_folder(place)
        network = load_features(options["features"], device, options["feature_weights"])
        judges = None
        if "r_precision" in plan.metrics and not (judge is None and is_bundle(model)):
            judges = read_judge(judge, device, source.max_words) if judge else read_encoders(RunFolder(model), device)
        evaluation = run_metrics(source, network, judges, plan)
        steps = source.steps
    parts = [
        f"step-{steps or 0:07d}",
        plan.split,
        network.name,
        *plan.metrics,
        *_unusual(plan, source.truncation),
        *([f"by-{judges.name}-{fingerprint(judges.image)[:8]}"] if judge and judges else []),
        *([f"condition-{source.condition}"] if options["condition"] else []),
        *([f"at-{resolution}px"] if resolution else []),
        *_elsewhere(plan, evaluation, network if options["feature_weights"] else None),
    ]
    return output or folder / ("-".join(parts) + ".json"), evaluation


def _make_folder(folder: Path) -> None:
    """Makes a folder for results before anything is generated, which may take hours.

    Raises:
        DataError: if it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise DataError(
            f"{folder}: results cannot be written there ({error.strerror}); choose another place"
        ) from error


def _results_folder(model: Path) -> Path:
    """A run's `metrics`, or a folder beside a bundle that has its name."""
    if not is_bundle(model):
        return model / "metrics"
    bundle = model.resolve()
    return bundle.with_name(f"{bundle.name.removesuffix('.zip')}-metrics")


def _unusual(plan: Plan, truncation: float) -> list[str]:
    """What differs from the defaults, so that another protocol is another file."""
    usual = type(plan)(plan.metrics, plan.data)
    own = {name: getattr(plan, name) for name in ("images", "seed")}
    named = [f"{name}-{value}" for name, value in own.items() if value != getattr(usual, name)]
    named += [f"truncation-{truncation}"] if truncation != 1 else []
    if plan.real_statistics:
        named.append(f"against-{plan.real_statistics.stem}-{digest(plan.real_statistics)[:8]}")
    return named


def _elsewhere(plan: Plan, evaluation: Evaluation, network: FeatureNetwork | None) -> list[str]:
    """Other data than the model was trained on, and weights that were named, so that these too are other files."""
    data = plan.data.resolve().name
    trained_on = evaluation.protocol["model"]["trained_on"].get("name", data)
    named = [] if data == trained_on else [f"on-{data}"]
    return named + ([f"weights-{network.sha256[:8]}"] if network else [])


@click.command(cls=DmganCommand)
@click.argument("run_folder", metavar="RUN", type=FOLDER)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The HTML to write.  [default: RUN/report.html]",
)
def report(run_folder: Path, output: Path | None) -> None:
    """Write one page about a RUN: settings, provenance, curves, samples, and the metrics of `evaluate`.

    Everything is inside the file: it opens from disk, without a network.
    """
    with needs_extra():
        from dmgan_train.evaluation.report import write_report

        path = output or run_folder / "report.html"
        write_report(RunFolder(run_folder), path)
    click.echo(f"{path}: written")
