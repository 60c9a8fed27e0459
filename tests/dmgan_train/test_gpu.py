"""Training on a GPU: finite in every precision, near the CPU's numbers, and going on from a checkpoint.

Every test runs on the CPU too, which shows that the test itself is right; without a GPU its other half is skipped. `-k
cpu` and `-k cuda` choose.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dmgan_runtime.errors import BackendError
from dmgan_train import distributed
from dmgan_train.checkpoint import load_checkpoint, load_model, save_checkpoint
from dmgan_train.damsm import DamsmPhase
from dmgan_train.data.pyramid import pyramid, to_levels
from dmgan_train.devices import choose_device
from dmgan_train.gan import GanPhase
from dmgan_train.models.trunks import SmallTrunk
from dmgan_train.run_folder import RunFolder
from tests.training import CPU, SMALL, damsm_phase_of, phase_of

# What PyTorch, Triton and cuDNN warn of on a new machine is no failure of training.
pytestmark = pytest.mark.filterwarnings("default")

Phase = DamsmPhase | GanPhase

OBJECTIVES = {
    "damsm": ("damsm.contrastive_weight=1",),
    "warm-up": ("gan.reconstruction_weight=10", "gan.warm_up_steps=[1, 1, 1]"),
    "full": (
        "gan.reconstruction_weight=10",
        "gan.perceptual_weight=1",
        "gan.r1_weight=1",
        "gan.r1_every=2",
        "gan.augmentation=true",
        "gan.contrastive_weight=0.2",
    ),
}
# fp16 is for a trunk that is frozen: Inception-v3, with random weights.
FROZEN = ("damsm.trunk=inception_v3", "damsm.freeze_trunk=true", "damsm.trunk_resolution=96")
# Sums come in another order, and cuDNN may take Winograd's algorithm: an error of some 1e-5 a layer, which BatchNorm
# over four images and the sharpness of the DAMSM loss enlarge. TF32 would be off by 1e-3 a layer, and must not pass.
LOSS = 1e-3
GRADIENT = 1e-2
# After one update weights differ by more than rounding: where a gradient is all rounding, Adam's step is too.
AFTER_AN_UPDATE = 1e-2


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    try:
        chosen = choose_device(request.param)
    except BackendError as error:
        pytest.skip(f"needs an NVIDIA GPU: {error}")
    with distributed.joined(chosen):
        yield chosen
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before


@pytest.fixture(autouse=True)
def same_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise of the CPU's generator: a GPU draws other numbers from the same seed."""
    draw = torch.randn
    monkeypatch.setattr(torch, "randn", lambda *size, device=None, **other: draw(*size, **other).to(device or CPU))


@pytest.fixture
def any_precision(request: pytest.FixtureRequest, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU half precision is refused where it is slow; a few small steps may be slow."""
    asked = request.node.callspec.params
    if device == CPU and asked["precision"] != "fp32" and asked["objective"] == "full":
        pytest.skip("takes half a minute on a CPU, and test_fit.py takes such a step")
    if device == CPU:
        halves = {"bf16": torch.bfloat16, "fp16": torch.float16}
        for module in ("gan", "damsm"):
            monkeypatch.setattr(f"dmgan_train.{module}.autocast_type", lambda precision, *_: halves.get(precision))


def build(objective: str, run: RunFolder, images: Path, device: torch.device, *overrides: str) -> Phase:
    overrides = (*OBJECTIVES[objective], *overrides)
    if objective == "damsm":
        return damsm_phase_of(images, *overrides, device=device)
    return phase_of(run, images, *overrides, device=device)


def take_steps(phase: Phase, *steps: int) -> list[dict[str, float]]:
    """What each step measures; its draws follow from its number, as in `dmgan_train.loop`."""
    measured = []
    for step, batch in zip(steps, phase.batches(steps[0]), strict=False):
        torch.manual_seed(step)
        measured.append(to_numbers(phase.step(batch, step)))
    return measured


def to_numbers(values: Mapping[str, Tensor]) -> dict[str, float]:
    assert all(value.isfinite() for value in values.values()), values
    return {name: float(value.detach()) for name, value in values.items()}


def assert_near(measured: Mapping[str, float], expected: Mapping[str, float], rel: float) -> None:
    """Losses and gates; accuracies are left out, which jump."""
    assert measured.keys() == expected.keys()
    for name, value in expected.items():
        if "accuracy" not in name and name != "top1":
            allowed = max(rel, GRADIENT) if "gradient" in name or name.startswith("r1") else rel
            assert measured[name] == pytest.approx(value, rel=allowed, abs=1e-5), name


def assert_finite(phase: Phase) -> None:
    parts = (phase.generator, phase.generator_ema, phase.discriminators) if isinstance(phase, GanPhase) else ()
    for network in (*parts, phase.text_encoder, phase.image_encoder):
        for name, tensor in network.state_dict().items():
            assert tensor.device == phase.device or name == "n_averaged"
            assert tensor.isfinite().all(), name


@pytest.mark.usefixtures("any_precision")
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_three_steps_are_finite(run, images, device, precision, objective) -> None:
    overrides = [f"gan.precision={precision}", f"damsm.precision={precision}"]
    if precision == "fp16":
        overrides += FROZEN if objective == "damsm" else ["damsm.precision=fp32"]
    phase = build(objective, run, images, device, *overrides)
    assert len(take_steps(phase, 0, 1, 2)) == 3
    phase.state()  # for it the average gets statistics of its own
    assert_finite(phase)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_losses_are_those_of_the_cpu(run, images, device, objective) -> None:
    same = ("gan.augmentation=false", "damsm.dropout=0")  # both draw on the device
    expected, measured = (take_steps(build(objective, run, images, on, *same), 0)[0] for on in (CPU, device))
    assert_near(measured, expected, LOSS)


@pytest.mark.usefixtures("any_precision")
@pytest.mark.parametrize(("objective", "precision"), [("damsm", "fp32"), ("full", "fp32"), ("full", "fp16")])
def test_it_goes_on_from_its_checkpoint(run, images, device, objective, precision, tmp_path) -> None:
    """The saved run and the one that goes on differ by rounding alone."""
    overrides = (f"gan.precision={precision}",)
    whole = build(objective, run, images, device, *overrides)
    take_steps(whole, 0, 1)
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"phase": whole.name, **whole.state()})
    resumed = build(objective, run, images, device, *overrides)
    resumed.load_state(load_checkpoint(path, whole.name))
    for measured, expected in zip(take_steps(resumed, 2, 3), take_steps(whole, 2, 3), strict=True):
        assert_near(measured, expected, AFTER_AN_UPDATE)


def test_compiled_steps_are_near_those_that_are_not(run, images, device, tmp_path, monkeypatch) -> None:
    """With Inductor, and gone on from a checkpoint.

    On the CPU one stage, and not the trunk, as g++ takes a second for each kernel; test_gan.py captures the others.
    """
    stages = 1 if device == CPU else 2
    if device == CPU and shutil.which("g++") is None:
        pytest.skip("needs a C++ compiler: there is no g++")
    if device != CPU and find_spec("triton") is None:
        pytest.skip("needs triton, with which Inductor compiles for GPUs")
    if device == CPU:
        monkeypatch.setattr(SmallTrunk, "compile", lambda _: None)
    torch.compiler.reset()
    overrides = (f"model.stages={stages}", "gan.augmentation=false")
    plain, compiled, resumed = (
        phase_of(run, images, *overrides, f"gan.compile={value}", device=device) for value in ("false", "true", "true")
    )
    expected, measured = take_steps(plain, 0, 1, 2), take_steps(compiled, 0, 1)
    assert_near(measured[0], expected[0], LOSS)
    assert_near(measured[1], expected[1], AFTER_AN_UPDATE)
    save_checkpoint(tmp_path / "checkpoint.pt", {"phase": "gan", **compiled.state()})
    resumed.load_state(load_checkpoint(tmp_path / "checkpoint.pt", "gan"))
    (gone_on,), (third,) = take_steps(resumed, 2), take_steps(compiled, 2)
    assert_near(gone_on, third, LOSS)
    assert_near(gone_on, expected[2], AFTER_AN_UPDATE)
    torch.compiler.reset()


def test_fit_runs_as_a_process(images, device, tmp_path) -> None:
    run, steps = RunFolder(tmp_path / "run"), ("damsm.steps=2", "gan.steps=2")
    command = [sys.executable, "-m", "dmgan_train", "fit", "--preset", "tiny", "--data", images, "--run", run.root]
    command += ["--device", "auto" if device.type == "cuda" else "cpu", "--workers", "1"]
    command += [flag for override in (*SMALL, *steps) for flag in ("--set", override)]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert f"on {device}" in done.stdout
    _, generator, trained = load_model(run)
    assert trained == 2
    assert all(value.isfinite().all() for value in generator.state_dict().values())


def test_the_pyramid_is_that_of_pillow_to_the_last_level(device) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    batch = torch.from_numpy(pixels).permute(2, 0, 1)[None].to(device)
    for level in pyramid(batch, torch.tensor([False], device=device), (8, 16, 32, 64, 128, 256)):
        side = level.shape[-1]
        resized = np.array(Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR))
        assert torch.equal(to_levels(level)[0].cpu(), torch.from_numpy(resized).permute(2, 0, 1))
