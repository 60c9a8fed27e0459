"""The generator: conditioning augmentation, the initial stage, and refinement stages with a memory each."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from dmgan_runtime.manifest import ModelSpec
from dmgan_train.models.conditioning import Condition, ConditioningAugmentation
from dmgan_train.models.dynamic_memory import DynamicMemory, MemoryOutput
from dmgan_train.models.layers import ResidualBlock, UpBlock, image_head, initialise

FIRST_SIDE = 4


class GeneratorOutput(NamedTuple):
    """The images of every stage and what the memories did.

    Attributes:
        images: One [N, 3, R, R] in [-1, 1] a stage that ran, smallest first.
        condition: The condition and its Gaussian.
        memories: The memory's output of each refinement stage that ran.
    """

    images: tuple[Tensor, ...]
    condition: Condition
    memories: tuple[MemoryOutput, ...]


class InitialStage(nn.Module):
    """G0: noise and condition to the first image features R0.

    A linear layer to 4x4, then one up block for each doubling, each halving the channels, down to Ng at the
    base resolution (16 Ng at 4x4 for a base of 64, as in the paper).
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        channels = spec.generator_channels * spec.base_resolution // FIRST_SIDE
        self.first_shape = (channels, FIRST_SIDE, FIRST_SIDE)
        units = channels * FIRST_SIDE * FIRST_SIDE
        self.project = nn.Sequential(
            nn.Linear(spec.condition_features + spec.noise_features, 2 * units, bias=False),
            nn.BatchNorm1d(2 * units),
            nn.GLU(dim=1),
        )
        blocks = []
        while channels > spec.generator_channels:
            blocks.append(UpBlock(channels, channels // 2))
            channels //= 2
        self.upsample = nn.Sequential(*blocks)
        self.to_image = image_head(spec.generator_channels)

    def forward(self, condition: Tensor, noise: Tensor) -> Tensor:
        """R0, [N, Ng, R, R], from c [N, condition_features] and z [N, noise_features]."""
        first = self.project(torch.cat([condition, noise], dim=1)).unflatten(1, self.first_shape)
        return self.upsample(first)


class RefinementStage(nn.Module):
    """G1, G2, ...: the memory, residual blocks over its 2 Ng channels, and one up block."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        channels = spec.generator_channels
        self.memory = DynamicMemory(spec)
        self.residual = nn.Sequential(*(ResidualBlock(2 * channels) for _ in range(spec.residual_blocks)))
        self.upsample = UpBlock(2 * channels, channels)
        self.to_image = image_head(channels)

    def forward(self, features: Tensor, word_features: Tensor, valid: Tensor) -> tuple[Tensor, MemoryOutput]:
        """Image features at twice the resolution.

        Args:
            features: [N, Ng, R, R] of the stage before.
            word_features: [N, text_features, T].
            valid: [N, T] bool, True where there is a word.

        Returns:
            [N, Ng, 2R, 2R], and what the memory did.
        """
        memory = self.memory(features, word_features, valid)
        return self.upsample(self.residual(memory.features)), memory


class GeneratorNetwork(nn.Module):
    """The generator of `spec.stages` stages: the initial one and, beyond one stage, refinements."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.conditioning = ConditioningAugmentation(spec)
        self.initial = InitialStage(spec)
        self.refinements = nn.ModuleList(RefinementStage(spec) for _ in range(spec.stages - 1))
        self.apply(initialise)

    def forward(
        self,
        sentence_feature: Tensor,
        word_features: Tensor,
        lengths: Tensor,
        noise: Tensor,
        condition_noise: Tensor,
        stages: int | None = None,
    ) -> GeneratorOutput:
        """Draws the images of a batch of captions.

        Args:
            sentence_feature: [N, text_features].
            word_features: [N, text_features, T].
            lengths: [N] int64, words of each caption, from 1 to T.
            noise: z, [N, noise_features], from N(0, 1).
            condition_noise: eps of the conditioning augmentation, [N, condition_features], from N(0, 1).
            stages: How many stages run, from 1 to `spec.stages`; None runs all.
        """
        refinements = (self.spec.stages if stages is None else stages) - 1
        valid = valid_words(lengths, word_features.shape[2])
        condition = self.conditioning(sentence_feature, condition_noise)
        features = self.initial(condition.sample, noise)
        images, memories = [self.initial.to_image(features)], []
        for stage in self.refinements[:refinements]:
            features, memory = stage(features, word_features, valid)
            images.append(stage.to_image(features))  # type: ignore[operator]
            memories.append(memory)
        return GeneratorOutput(tuple(images), condition, tuple(memories))


def valid_words(lengths: Tensor, words: int) -> Tensor:
    """[N, words] bool, True where a caption of that length [N] has a word."""
    return torch.arange(words, device=lengths.device).unsqueeze(0) < lengths.unsqueeze(1)
