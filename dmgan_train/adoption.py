"""The authors' published weights as the beginning of a run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import msgspec

import dmgan_train
from dmgan_runtime.errors import CheckpointError, SettingsError
from dmgan_train.checkpoint import save_checkpoint
from dmgan_train.official import (
    load_official_captions,
    load_official_generator,
    load_official_image_encoder,
    load_official_text_encoder,
)
from dmgan_train.run import RunFolder, write_whole
from dmgan_train.settings import Settings


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
    if run.settings_file.exists():
        raise SettingsError(f"{run.root}: is a run already; choose another --run")
    if settings.damsm.trunk != "inception_v3":
        raise SettingsError("the published image encoder is an Inception-v3; add --set damsm.trunk=inception_v3")
    tokenizer, _ = load_official_captions(files.captions)
    generator = None if files.generator is None else load_official_generator(files.generator)
    if generator is not None:
        _check_shape(settings, generator.spec.__replace__(embedding_features=settings.model.embedding_features))
    text_encoder = load_official_text_encoder(files.text_encoder, settings.model)
    image_encoder = load_official_image_encoder(files.image_encoder)
    if text_encoder.embedding.num_embeddings != len(tokenizer):
        raise CheckpointError(
            f"{files.captions} has {len(tokenizer):,} words and {files.text_encoder} embeds"
            f" {text_encoder.embedding.num_embeddings:,}; take both from the same data set"
        )
    if image_encoder.to_global.out_features != settings.model.text_features:
        raise CheckpointError(
            f"{files.image_encoder} has {image_encoder.to_global.out_features} features and {files.text_encoder} has"
            f" {settings.model.text_features}; take both from the same release"
        )
    encoders = {"text_encoder": text_encoder.state_dict(), "image_encoder": image_encoder.state_dict()}
    save_checkpoint(run.checkpoint("damsm"), {"phase": "damsm", "step": 0, "finished": True, **encoders})
    if generator is not None:
        save_checkpoint(run.initial_generator, {"phase": "gan", "generator": generator.state_dict()})
    names = {key: value.name for key, value in vars(files).items() if value is not None}
    provenance = {"dmgan": dmgan_train.__version__, "adopted": names}
    write_whole(run.provenance_file, json.dumps(provenance, indent=2).encode())
    write_whole(run.vocabulary_file, tokenizer.to_json())
    write_whole(run.settings_file, settings.to_yaml().encode())  # last: with it, the folder is a run


def _check_shape(settings: Settings, published: msgspec.Struct) -> None:
    ours, theirs = msgspec.to_builtins(settings.model), msgspec.to_builtins(published)
    different = [f"--set model.{name}={theirs[name]}" for name in ours if ours[name] != theirs[name]]
    if different:
        raise SettingsError(f"the published generator has another shape than the settings; add {' '.join(different)}")
