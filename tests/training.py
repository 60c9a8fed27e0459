"""A data set and settings so small that a test can train them."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dmgan_runtime.errors import TrainingError
from dmgan_train.checkpoint import load_encoders
from dmgan_train.damsm import DamsmPhase
from dmgan_train.data import TrainingBatch
from dmgan_train.fit import TrainingData, begin, fit, read_data
from dmgan_train.gan import GanPhase
from dmgan_train.monitor import Monitor, SampleSheet
from dmgan_train.run_folder import RunFolder
from dmgan_train.settings import Settings, resolve_settings

CPU = torch.device("cpu")
COLOURS = {"red": (200, 30, 30), "green": (30, 160, 60), "blue": (40, 60, 200)}
ALIASES = {"🟥": "red square", "🟦": "blue square", "🟨": "yellow square"}  # no caption says yellow
SMALL = (
    "model.base_resolution=8",
    "model.generator_channels=4",
    "model.text_features=8",
    "model.embedding_features=6",
    "model.noise_features=5",
    "model.condition_features=3",
    "model.memory_features=6",
    "data.training_words=6",
    "data.serving_words=7",
    "damsm.trunk_resolution=32",
    "damsm.words=6",
    "damsm.batch_size=6",
    "damsm.steps=4",
    "damsm.precision=fp32",  # the presets take what the machine can do, and tests compare numbers
    "gan.batch_size=4",
    "gan.discriminator_channels=2",
    "gan.steps=4",
    "gan.epochs=10",
    "data.cache=false",
    "gan.decay_steps=0",
    "gan.reconstruction_weight=0",
    "gan.warm_up_steps=[]",
    "gan.warm_up_learning_rate=null",
    "gan.warm_up_final_learning_rate=null",
    "gan.precision=fp32",
)


def write_images(root: Path, count: int = 12) -> Path:
    """An image folder of squares of one colour each, two thirds of them for training, with emoji for two of them."""
    root.mkdir(parents=True, exist_ok=True)
    lines = []
    for index in range(count):
        name, colour = list(COLOURS.items())[index % 3]
        pixels = np.full((36, 36, 3), 255, dtype=np.uint8)
        pixels[8:28, 8 : 20 + index % 8] = colour
        Image.fromarray(pixels).save(root / f"{index}.png")
        captions = [f"a {name} square on white", f"this square is {name} and it stands on a white background"]
        split = "test" if index % 3 == 2 else "train"
        lines.append({"file_name": f"{index}.png", "captions": captions, "class": index, "split": split})
    (root / "aliases.json").write_text(json.dumps(ALIASES))
    (root / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


def small_settings(*overrides: str) -> Settings:
    return resolve_settings("tiny", overrides=(*SMALL, *overrides))


def train_small(data: Path, run: Path, *overrides: str) -> RunFolder:
    """Trains both phases for a few steps on the CPU."""
    settings = small_settings(*overrides)
    read: TrainingData = read_data(data, None, settings)
    folder = RunFolder(run)
    with folder.locked():
        begin(settings, read, folder)
        fit(settings, read, folder, CPU, workers=0)
    return folder


def train_until(step: int, data: Path, run: Path, *overrides: str) -> None:
    """Trains, and is cut off at a step of the second phase."""
    take_step = GanPhase.step

    def cut(phase: GanPhase, batch: TrainingBatch, number: int) -> Mapping[str, Tensor]:
        if number == step:
            raise TrainingError("cut")
        return take_step(phase, batch, number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GanPhase, "step", cut)
        with pytest.raises(TrainingError, match="cut"):
            train_small(data, run, *overrides)


def phase_of(run: RunFolder, images: Path, *overrides: str, device: torch.device = CPU) -> GanPhase:
    """The second phase of a run, as new."""
    settings = small_settings(*overrides)
    data = read_data(images, None, settings)
    monitor = Monitor(run, SampleSheet(run.samples, [data.train], data.tokenizer, 7))
    return GanPhase(settings, data.train, data.tokenizer, load_encoders(run), monitor, device, workers=0)


def damsm_phase_of(images: Path, *overrides: str, device: torch.device = CPU) -> DamsmPhase:
    """The first phase, as new."""
    settings = small_settings(*overrides)
    data = read_data(images, None, settings)
    return DamsmPhase(settings, data.train, data.tokenizer, device, workers=0)
