"""The shape of a DM-GAN: everything that the networks need to be built or fed."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

PositiveInt = Annotated[int, msgspec.Meta(ge=1)]
Width = Annotated[int, msgspec.Meta(ge=1, le=2**16)]
"""Channels, or layers. Bounded far above any real model, so that no manifest of unknown origin asks for all memory."""

MemoryWriting = Literal["gated", "words", "none"]
MemoryResponse = Literal["gated", "concatenation"]

STAGES = 3  # of the paper


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Widths, pyramid and memory of a DM-GAN. The defaults are the paper's (Zhu et al., CVPR 2019) on CUB.

    Attributes:
        stages: Images of the pyramid: the initial stage and `stages - 1` refinement stages. The paper has three, and
            says of its refinement that it "can be repeated multiple times".
        base_resolution: Side of the first stage's image in pixels, a power of two from 8 to 128. Each
            refinement stage doubles it.
        generator_channels: Channels of the image features, N_r in the paper and Ng in its code.
        text_features: Channels of a word feature and of the sentence feature, N_w; even, because one half
            comes from each direction of the LSTM.
        embedding_features: Width of a word's embedding, the LSTM's input.
        noise_features: Width of the noise z.
        condition_features: Width of the conditioning augmentation's sample c.
        memory_features: Channels of a memory slot, N_m.
        residual_blocks: Residual blocks in each refinement stage: 2 for CUB, 3 for COCO.
        memory_writing: `gated` is the paper's eq. 7 and 8; `words` writes the words alone (eq. 3, "+M" in
            table 3); `none` attends to the words themselves (the table's baseline, AttnGAN).
        memory_response: `gated` is eq. 9; `concatenation` is eq. 6, the table's rows without "RG".
    """

    stages: Annotated[int, msgspec.Meta(ge=1, le=6)] = STAGES
    base_resolution: Annotated[int, msgspec.Meta(ge=8, le=128)] = 64
    generator_channels: Width = 64
    text_features: Width = 256
    embedding_features: Width = 300
    noise_features: Width = 100
    condition_features: Width = 100
    memory_features: Width = 128
    residual_blocks: Width = 2
    memory_writing: MemoryWriting = "gated"
    memory_response: MemoryResponse = "gated"

    def __post_init__(self) -> None:
        if self.base_resolution & (self.base_resolution - 1):
            raise ValueError(f"base_resolution is {self.base_resolution}; use a power of two, such as 16 or 64")
        if self.text_features % 2:
            raise ValueError(f"text_features is {self.text_features}; use an even number (two LSTM directions)")
        if self.memory_writing == "none" and self.memory_response == "gated":
            raise ValueError("memory_response 'gated' needs a memory; with memory_writing 'none' use 'concatenation'")

    @property
    def resolutions(self) -> tuple[int, ...]:
        """The sides of the images in pixels, smallest first, for example (64, 128, 256)."""
        return tuple(self.base_resolution << stage for stage in range(self.stages))
