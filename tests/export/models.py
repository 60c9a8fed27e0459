"""Models of any number of stages, with random weights and so small that a test can export them."""

import pytest
import torch

from dmgan_runtime.manifest import ModelSpec
from dmgan_runtime.tokenizer import PAD, Tokenizer
from dmgan_train.models import GeneratorNetwork, TextEncoder
from export.bundle import Model
from export.parity import random_captions

WORDS = (PAD, "a", "red", "green", "blue", "round", "square", "heart", "on", "white")
MAX_WORDS = 6
CAPTIONS = tuple(f"a {colour} {form} on white" for colour in WORDS[2:5] for form in WORDS[5:8]) * 2


def small_spec(stages: int) -> ModelSpec:
    return ModelSpec(
        stages=stages,
        base_resolution=8,
        generator_channels=4,
        text_features=8,
        embedding_features=6,
        noise_features=5,
        condition_features=3,
        memory_features=6,
        residual_blocks=1,
    )


def compare_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports are compared with PyTorch on the smallest batches alone; the others are tested where parity is."""
    monkeypatch.setattr("export.bundle.random_captions", lambda *size: random_captions(*size)[:2])


def small_model(stages: int) -> Model:
    torch.manual_seed(stages)
    spec = small_spec(stages)
    return Model(
        name="small",
        license="MIT",
        text_encoder=TextEncoder(len(WORDS), spec).eval(),
        generator=GeneratorNetwork(spec).eval(),
        tokenizer=Tokenizer(WORDS),
        max_words=MAX_WORDS,
        captions=CAPTIONS,
    )
