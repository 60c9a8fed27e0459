"""What each of two processes does in test_distributed.py; that file starts them with torchrun."""

import json
import sys
from pathlib import Path

import msgspec
import torch

from dmgan_train import distributed
from dmgan_train.checkpoint import fingerprint
from dmgan_train.evaluation.image_source import RunSource
from dmgan_train.evaluation.metrics.evaluate import Plan, evaluate
from dmgan_train.evaluation.metrics.protocol import METRICS
from dmgan_train.evaluation.metrics.r_precision import read_encoders
from dmgan_train.run_folder import RunFolder
from tests.dmgan_train.evaluation.metrics.network import flat_network
from tests.training import damsm_phase_of, phase_of

EVERYTHING = ("gan.augmentation=true", "gan.r1_weight=1", "gan.reconstruction_weight=2", "gan.perceptual_weight=1")
WARM_UP = ("gan.reconstruction_weight=10", "gan.warm_up_steps=[0, 1, 0]")
CASES = {
    "paper": (),
    "everything": EVERYTHING,
    "warm up": WARM_UP,
    "contrastive": ("gan.contrastive_weight=5",),
    "damsm": (),
    "contrastive damsm": ("damsm.contrastive_weight=5",),
}


def measure(run: RunFolder, images: Path) -> dict[str, dict[str, float]]:
    """The first step's measurements of both phases, over all processes."""
    measured = {}
    for name, overrides in CASES.items():
        if name.endswith("damsm"):
            first = damsm_phase_of(images, *overrides)
            measured[name] = _step(first)
            measured[name]["state"] = _fingerprints(first.text_encoder, first.image_encoder)
        else:
            phase = phase_of(run, images, *overrides)
            measured[name] = _step(phase)
            measured[name]["state"] = _fingerprints(phase.generator, phase.generator_ema, phase.discriminators)
            if name == "paper":
                measured["settled"] = _statistics(phase.state()["generator_ema"])
    return measured


def evaluated(run: RunFolder, images: Path) -> dict[str, object]:
    """What `evaluate` finds, by every metric; batches of three leave a process without one at the end."""
    cpu = torch.device("cpu")
    plan = Plan(METRICS, images, split="train", images=25, batch_size=3)
    found = evaluate(RunSource(run, cpu), flat_network(), read_encoders(run, cpu), plan)
    return {name: msgspec.to_builtins(result) for name, result in found.results.items()}


def _step(phase) -> dict[str, object]:
    batches = phase.batches(0)
    torch.manual_seed(5)
    values = phase.step(next(batches), 0)
    return {name: float(distributed.mean_of(value)) for name, value in values.items()}


def _statistics(state: dict[str, torch.Tensor]) -> dict[str, float]:
    return {name: float(value.sum()) for name, value in state.items() if "running" in name}


def _begin_with_other_weights() -> None:
    """As on a machine whose libraries round otherwise."""
    for name in ("orthogonal_", "uniform_"):
        setattr(torch.nn.init, name, _otherwise(getattr(torch.nn.init, name)))


def _otherwise(initialise):
    def changed(weight, *how):
        with torch.no_grad():
            return initialise(weight, *how).mul_(1.01)

    return changed


def _fingerprints(*modules: torch.nn.Module) -> list[str]:
    return [fingerprint(module) for module in modules]


def main() -> None:
    run, images, captioned, out = map(Path, sys.argv[1:])
    with distributed.joined(torch.device("cpu")):
        if distributed.rank() == 1:
            _begin_with_other_weights()
        measured = measure(RunFolder(run), images)
        measured["evaluate"] = evaluated(RunFolder(run), captioned)
        measured["stop"] = distributed.any_process(distributed.rank() == 1)
        (out / f"{distributed.rank()}.json").write_text(json.dumps(measured))


if __name__ == "__main__":
    main()
