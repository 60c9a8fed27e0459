"""The authors' published weights, read strictly into our networks.

The published files are plain state dicts: `netG*.pth` for the generator, `text_encoder*.pth` and `image_encoder*.pth`
for the encoders; `captions.pickle` holds the vocabulary. Every key must be known and every shape must fit; nothing is
unpickled but tensors, plain containers, strings and numbers.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from dmgan_runtime.errors import CheckpointError
from dmgan_runtime.manifest import ModelSpec
from dmgan_runtime.tokenizer import Tokenizer
from dmgan_train.data.unpickle import load_pickle
from dmgan_train.models import GeneratorNetwork, ImageEncoder, TextEncoder
from dmgan_train.models.inception import InceptionTrunk

_GENERATOR_NAMES = (
    (r"ca_net\.fc\.", "conditioning.linear."),
    (r"h_net1\.fc\.", "initial.project."),
    (r"h_net1\.upsample(\d)\.", lambda found: f"initial.upsample.{int(found[1]) - 1}."),
    (r"img_net1\.img\.", "initial.to_image."),
    (r"h_net([23])\.A\.", lambda found: f"refinements.{int(found[1]) - 2}.memory.word_gate."),
    (r"h_net([23])\.B\.", lambda found: f"refinements.{int(found[1]) - 2}.memory.image_gate."),
    (r"h_net([23])\.M_w\.", lambda found: f"refinements.{int(found[1]) - 2}.memory.word_memory."),
    (r"h_net([23])\.M_r\.", lambda found: f"refinements.{int(found[1]) - 2}.memory.image_memory."),
    (r"h_net([23])\.key\.", lambda found: f"refinements.{int(found[1]) - 2}.memory.key."),
    (r"h_net([23])\.value\.", lambda found: f"refinements.{int(found[1]) - 2}.memory.value."),
    (r"h_net([23])\.response_gate\.0\.", lambda found: f"refinements.{int(found[1]) - 2}.memory.response_gate."),
    (r"h_net([23])\.(residual|upsample)\.", lambda found: f"refinements.{int(found[1]) - 2}.{found[2]}."),
    (r"img_net([23])\.img\.", lambda found: f"refinements.{int(found[1]) - 2}.to_image."),
)
_IMAGE_ENCODER_NAMES = (
    (r"emb_features\.", "to_regions."),
    (r"emb_cnn_code\.", "to_global."),
    (r"(Conv2d|Mixed)_", lambda found: f"trunk.{found[0]}"),
)
_TEXT_ENCODER_NAMES = ((r"encoder\.", "embedding."), (r"rnn\.", "lstm."))


def load_official_generator(path: Path) -> GeneratorNetwork:
    """Reads a published generator: three stages; its widths are inferred from the shapes.

    Args:
        path: A `netG*.pth` file.

    Raises:
        CheckpointError: if a key is missing or unknown, a shape is off, or the file holds anything but tensors.
    """
    state = _rename(_read(path), _GENERATOR_NAMES, path)
    try:
        spec = _infer_spec(state)
    except KeyError as error:
        raise CheckpointError(f"{path}: lacks {error}; pass a generator published with DM-GAN (netG*.pth)") from error
    generator = GeneratorNetwork(spec)
    _fill(generator, state, path)
    return generator.eval()


def load_official_text_encoder(path: Path, spec: ModelSpec) -> TextEncoder:
    """Reads a published DAMSM text encoder.

    Args:
        path: A `text_encoder*.pth` file.
        spec: The generator's shape; its text features must be the encoder's.

    Raises:
        CheckpointError: as `load_official_generator`.
    """
    state = _rename(_read(path), _TEXT_ENCODER_NAMES, path)
    vocabulary = state.get("embedding.weight")
    if vocabulary is None:
        raise CheckpointError(f"{path}: lacks encoder.weight; pass a published text encoder (text_encoder*.pth)")
    encoder = TextEncoder(vocabulary.shape[0], spec)
    _fill(encoder, state, path)
    return encoder.eval()


def load_official_image_encoder(path: Path) -> ImageEncoder:
    """Reads a published DAMSM image encoder (Inception-v3).

    Args:
        path: An `image_encoder*.pth` file.

    Raises:
        CheckpointError: as `load_official_generator`.
    """
    state = _rename(_read(path), _IMAGE_ENCODER_NAMES, path)
    regions = state.get("to_regions.weight")
    if regions is None:
        raise CheckpointError(f"{path}: lacks emb_features.weight; pass a published image encoder (image_encoder*.pth)")
    encoder = ImageEncoder(InceptionTrunk(), 299, regions.shape[0], freeze_trunk=True)
    _fill(encoder, state, path)
    return encoder.eval()


def load_official_captions(path: Path) -> tuple[Tokenizer, tuple[str, ...]]:
    """Reads a published `captions.pickle`.

    Args:
        path: A list of training captions, test captions (each a list of word indices), index to word, and word to
            index.

    Returns:
        The words in the order of their indices, and the training captions.

    Raises:
        CheckpointError: if it holds anything else.
        DataError: if the pickle is damaged or names anything but plain data.
    """
    content = load_pickle(path)
    try:
        captions, words = content[0], content[2]  # type: ignore[index]
        tokenizer = Tokenizer([words[index] for index in range(len(words))])
        return tokenizer, tuple(" ".join(words[index] for index in caption) for caption in captions)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: is no published captions.pickle ({error})") from error


def _read(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path}: cannot be read as a state dict of tensors ({error})") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: holds something other than a state dict of tensors")
    return cast("dict[str, Tensor]", state)


def _rename(state: dict[str, Tensor], names: tuple[tuple[str, object], ...], path: Path) -> dict[str, Tensor]:
    renamed = {}
    for key, value in state.items():
        plain = key.removeprefix("module.")
        for pattern, name in names:
            new, count = re.subn("^" + pattern, name, plain)  # type: ignore[call-overload]
            if count:
                renamed[new] = value
                break
        else:
            raise CheckpointError(f"{path}: has the key {key!r}, which the published networks do not have")
    return renamed


def _infer_spec(state: dict[str, Tensor]) -> ModelSpec:
    """The widths that these tensors were made for; a KeyError names a tensor that is missing."""
    condition = state["conditioning.linear.weight"].shape[0] // 4
    blocks = {key.split(".")[3] for key in state if key.startswith("refinements.0.residual.")}
    return ModelSpec(
        stages=3,
        base_resolution=64,
        generator_channels=state["initial.to_image.0.weight"].shape[1],
        text_features=state["conditioning.linear.weight"].shape[1],
        noise_features=state["initial.project.0.weight"].shape[1] - condition,
        condition_features=condition,
        memory_features=state["refinements.0.memory.word_memory.0.weight"].shape[0],
        residual_blocks=len(blocks),
    )


def _fill(module: torch.nn.Module, state: dict[str, Tensor], path: Path) -> None:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: does not fit {type(module).__name__}: {error}") from error
