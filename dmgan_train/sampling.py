"""Images of captions in PyTorch, with the noise that the runtime draws."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from dmgan_runtime.manifest import ModelSpec
from dmgan_runtime.noise import Condition, draw_noise
from dmgan_runtime.tokenizer import Tokens
from dmgan_train.models import GeneratorNetwork, GeneratorOutput, TextEncoder


@torch.inference_mode()
def generate(
    generator: GeneratorNetwork,
    text_encoder: TextEncoder,
    tokens: Tokens,
    seeds: Iterable[int],
    truncation: float = 1.0,
    condition: Condition | None = None,
    stages: int | None = None,
) -> GeneratorOutput:
    """Draws images with the noise that the runtime draws for these seeds.

    Args:
        generator: Left in evaluation mode.
        text_encoder: Left in evaluation mode.
        tokens: N captions.
        seeds: N seeds.
        truncation: Over 0 and at most 1; multiplies both noises.
        condition: Whether the condition is sampled or its mean; None is what the generator's shape says.
        stages: How many of them; None is all.
    """
    generator.eval()
    text_encoder.eval()
    device = next(generator.parameters()).device
    spec: ModelSpec = generator.spec
    noise, condition_noise = draw_noise(
        seeds, spec.noise_features, spec.condition_features, truncation, condition or spec.condition
    )
    indices, lengths = map(torch.from_numpy, tokens)
    text = text_encoder(indices.to(device), lengths)
    return generator(
        text.sentence,
        text.words,
        lengths.to(device),
        torch.from_numpy(noise).to(device),
        torch.from_numpy(condition_noise).to(device),
        stages,
    )
