"""The authors' published weights, read strictly into our networks, and a run that begins with them.

The published files are plain state dicts: `netG*.pth` for the generator, `text_encoder*.pth` and `image_encoder*.pth`
for the encoders; `captions.pickle` holds the vocabulary. Every key must be known and every shape must fit; nothing is
unpickled but tensors, plain containers, strings and numbers.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import msgspec
import torch
from torch import Tensor

import dmgan_train
from dmgan_runtime.errors import CheckpointError, SettingsError, shortened
from dmgan_runtime.manifest import ModelSpec
from dmgan_runtime.tokenizer import Tokenizer
from dmgan_train.checkpoint import save_checkpoint
from dmgan_train.data.unpickle import load_pickle
from dmgan_train.models import GeneratorNetwork, ImageEncoder, TextEncoder
from dmgan_train.models.inception import InceptionTrunk
from dmgan_train.published import digest, find_file
from dmgan_train.run_folder import RunFolder, write_whole
from dmgan_train.settings import Settings

_RESOLUTION = 299
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
OFFICIAL_WORDS = 25
"""Words of a caption that the authors evaluate with on CUB; 20 on COCO."""
_TEXT_ENCODER_NAMES = ((r"encoder\.", "embedding."), (r"rnn\.", "lstm."))


def load_official_generator(path: Path) -> GeneratorNetwork:
    """Reads a published generator: three stages; its widths are inferred from the shapes.

    A known file says whether its authors sample the condition or take its mean; others sample it.

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
    except (IndexError, ValueError) as error:
        raise CheckpointError(f"{path}: its tensors have no widths that a generator can have ({error})") from error
    known = find_file(digest(path))
    generator = GeneratorNetwork(spec.__replace__(condition=known.condition) if known else spec)
    _fill(generator, state, path)
    return generator.eval()


def load_official_text_encoder(path: Path, spec: ModelSpec | None = None) -> TextEncoder:
    """Reads a published DAMSM text encoder.

    Args:
        path: A `text_encoder*.pth` file.
        spec: The generator's shape, if there is one; its text features must be the encoder's.

    Raises:
        CheckpointError: as `load_official_generator`.
    """
    state = _rename(_read(path), _TEXT_ENCODER_NAMES, path)
    vocabulary = state.get("embedding.weight")
    if vocabulary is None or not vocabulary.dim():
        raise CheckpointError(f"{path}: lacks encoder.weight; pass a published text encoder (text_encoder*.pth)")
    encoder = TextEncoder(vocabulary.shape[0], spec or _text_spec(state, path))
    _fill(encoder, state, path)
    return encoder.eval()


def _text_spec(state: dict[str, Tensor], path: Path) -> ModelSpec:
    try:
        embedding, half = state["embedding.weight"].shape[1], state["lstm.weight_hh_l0"].shape[1]
        return msgspec.convert({"embedding_features": embedding, "text_features": 2 * half}, ModelSpec)
    except (KeyError, IndexError, ValueError) as error:
        raise CheckpointError(f"{path}: is no published text encoder ({error})") from error


def load_official_image_encoder(path: Path) -> ImageEncoder:
    """Reads a published DAMSM image encoder (Inception-v3).

    Args:
        path: An `image_encoder*.pth` file.

    Raises:
        CheckpointError: as `load_official_generator`.
    """
    state = _rename(_read(path), _IMAGE_ENCODER_NAMES, path)
    regions = state.get("to_regions.weight")
    if regions is None or not regions.dim():
        raise CheckpointError(f"{path}: lacks emb_features.weight; pass a published image encoder (image_encoder*.pth)")
    encoder = ImageEncoder(InceptionTrunk(), _RESOLUTION, regions.shape[0], freeze_trunk=True)
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
        captions, _, indexed, *_ = msgspec.convert(content, list[Any])
        words = msgspec.convert(indexed, dict[int, str])
        if sum(len(sentence) for sentence in msgspec.convert(captions, list[Any])) > path.stat().st_size:
            raise ValueError("it repeats the same captions again and again")
        sentences = msgspec.convert(captions, list[list[int]])
        tokenizer = Tokenizer([words[index] for index in range(len(words))])
        return tokenizer, tuple(" ".join(words[index] for index in sentence) for sentence in sentences)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: is no published captions.pickle ({shortened(error)}); take the one that belongs to the encoders"
        ) from error


def load_official_encoders(
    text: Path, image: Path, captions: Path, spec: ModelSpec | None = None
) -> tuple[TextEncoder, ImageEncoder, Tokenizer]:
    """Reads both published encoders, with their vocabulary.

    Args:
        text: `text_encoder*.pth`.
        image: `image_encoder*.pth`.
        captions: `captions.pickle`.
        spec: As in `load_official_text_encoder`.

    Raises:
        CheckpointError: if a file is not what it should be, or they do not belong together.
    """
    tokenizer, _ = load_official_captions(captions)
    text_encoder = load_official_text_encoder(text, spec)
    image_encoder = load_official_image_encoder(image)
    if text_encoder.embedding.num_embeddings != len(tokenizer):
        raise CheckpointError(
            f"{captions} has {len(tokenizer):,} words and {text} embeds {text_encoder.embedding.num_embeddings:,};"
            " take both from the same data set"
        )
    features = 2 * text_encoder.lstm.hidden_size
    if image_encoder.to_global.out_features != features:
        raise CheckpointError(
            f"{image} has {image_encoder.to_global.out_features} features and {text} has {features}; take both from the"
            " same release"
        )
    return text_encoder, image_encoder, tokenizer


def _read(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path}: cannot be read as a state dict of tensors ({shortened(error)})") from error
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise CheckpointError(f"{path}: holds something other than a state dict of named tensors")
    tensors = cast("dict[str, Tensor]", state)
    # A tensor may repeat one number without end (`expand`); a network of its shape would fill the memory.
    if sum(value.numel() * value.element_size() for value in tensors.values()) > path.stat().st_size:
        raise CheckpointError(f"{path}: its tensors are larger than the file; pass the file as it was published")
    return tensors


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
            raise CheckpointError(
                f"{path}: has the key {shortened(key)!r}, which this published network does not have; pass netG*.pth as"
                " the generator, text_encoder*.pth and image_encoder*.pth as the encoders"
            )
    return renamed


def _infer_spec(state: dict[str, Tensor]) -> ModelSpec:
    """The widths that these tensors were made for.

    Raises:
        KeyError: naming a tensor that is missing.
        IndexError, ValueError: if a tensor has no such axis, or a width is none.
    """
    condition = state["conditioning.linear.weight"].shape[0] // 4
    blocks = {key.split(".")[3] for key in state if key.startswith("refinements.0.residual.")}
    widths = {
        "generator_channels": state["initial.to_image.0.weight"].shape[1],
        "text_features": state["conditioning.linear.weight"].shape[1],
        "noise_features": state["initial.project.0.weight"].shape[1] - condition,
        "condition_features": condition,
        "memory_features": state["refinements.0.memory.word_memory.0.weight"].shape[0],
        "residual_blocks": len(blocks),
    }
    return msgspec.convert({"stages": 3, "base_resolution": 64, **widths}, ModelSpec)


def _fill(module: torch.nn.Module, state: dict[str, Tensor], path: Path) -> None:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: does not fit {type(module).__name__}: {shortened(error, 1000)}") from error


@dataclass(frozen=True)
class OfficialFiles:
    """The authors' files.

    Attributes:
        text_encoder: `text_encoder*.pth`.
        image_encoder: `image_encoder*.pth`.
        captions: `captions.pickle`, which holds the vocabulary.
        generator: `netG*.pth`, or None to train a new generator against these encoders.
    """

    text_encoder: Path
    image_encoder: Path
    captions: Path
    generator: Path | None = None


def adopt(files: OfficialFiles, settings: Settings, run: RunFolder) -> None:
    """Makes a run whose first phase is done, by the authors, and whose second begins with their generator.

    Their discriminators were not published, so these begin anew.

    Args:
        files: The authors'.
        settings: The run's; its model must be of the published generator's shape, if there is one: three stages,
            and its widths.
        run: A new folder.

    Raises:
        SettingsError: if the run exists, or its model is of another shape than the published generator.
        CheckpointError: if a file is not what it should be, or they do not belong together.
    """
    _expect_new(run)
    if settings.damsm.trunk != "inception_v3":
        raise SettingsError("the published image encoder is an Inception-v3; add --set damsm.trunk=inception_v3")
    if settings.damsm.trunk_resolution != _RESOLUTION:
        raise SettingsError(
            f"the published image encoder sees {_RESOLUTION} pixels; add --set damsm.trunk_resolution={_RESOLUTION}"
        )
    generator = None if files.generator is None else load_official_generator(files.generator)
    if generator is not None:
        _check_shape(settings, generator.spec.__replace__(embedding_features=settings.model.embedding_features))
    text_encoder, image_encoder, tokenizer = load_official_encoders(
        files.text_encoder, files.image_encoder, files.captions, settings.model
    )
    encoders = {"text_encoder": text_encoder.state_dict(), "image_encoder": image_encoder.state_dict()}
    given = {key: value for key, value in vars(files).items() if value is not None}
    adopted = {key: {"file": value.name, "sha256": digest(value)} for key, value in given.items()}
    provenance = {"dmgan": dmgan_train.__version__, "adopted": adopted}
    with run.locked():
        _expect_new(run)  # another process may have made it meanwhile
        save_checkpoint(run.checkpoint("damsm"), {"phase": "damsm", "step": 0, "finished": True, **encoders})
        if generator is not None:
            save_checkpoint(run.initial_generator, {"phase": "gan", "generator": generator.state_dict()})
        write_whole(run.provenance_file, json.dumps(provenance, indent=2).encode())
        write_whole(run.vocabulary_file, tokenizer.to_json())
        write_whole(run.settings_file, settings.to_yaml().encode())  # last: with it, the folder is a run


def _expect_new(run: RunFolder) -> None:
    if run.settings_file.exists():
        raise SettingsError(f"{run.root}: is a run already; choose another --run")


def _check_shape(settings: Settings, published: msgspec.Struct) -> None:
    ours, theirs = msgspec.to_builtins(settings.model), msgspec.to_builtins(published)
    different = [f"--set model.{name}={theirs[name]}" for name in ours if ours[name] != theirs[name]]
    if different:
        raise SettingsError(f"the published generator has another shape than the settings; add {' '.join(different)}")
