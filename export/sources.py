"""Reads the model to export: from a run, or from the authors' published files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from dmgan_runtime.errors import CheckpointError
from dmgan_train.checkpoint import load_model
from dmgan_train.evaluation.metrics.protocol import read_evaluation
from dmgan_train.fit import KEPT_CAPTIONS
from dmgan_train.monitor import sample_name
from dmgan_train.official import load_official_captions, load_official_generator, load_official_text_encoder
from dmgan_train.published import digest
from dmgan_train.run_folder import RunFolder
from dmgan_train.settings import Settings
from export.bundle import Model


def read_model(run: RunFolder, name: str, license_: str, step: int | None = None) -> Model:
    """Reads the trained model of a run, with what was measured of it at that step.

    Args:
        run: A run whose second phase has begun.
        name: Names the bundle.
        license_: Of the weights.
        step: Of a snapshot; None takes the newest checkpoint.

    Raises:
        CheckpointError: if the run has no checkpoint of both phases, or no such snapshot.
    """
    settings = run.settings()
    text_encoder, generator, steps = load_model(run, step)
    samples = run.samples / sample_name(steps)
    return Model(
        name=name,
        license=license_,
        text_encoder=text_encoder,
        generator=generator,
        tokenizer=run.vocabulary(),
        max_words=settings.data.serving_words,
        provenance={
            **run.provenance(),
            "preset": settings.preset,
            "seed": settings.seed,
            "gan_steps": steps,
            "settings": _publishable(settings),
        },
        samples=samples if samples.exists() else None,
        metrics={
            path.stem: msgspec.to_builtins(read_evaluation(path))
            for path in sorted((run.root / "metrics").glob(f"step-{steps:07d}-*.json"))
        },
        captions=run.captions(),
    )


def _publishable(settings: Settings) -> dict[str, Any]:
    """The settings without folders of this machine: of weights from a file, the name."""
    damsm = msgspec.structs.replace(settings.damsm, trunk_weights=Path(settings.damsm.trunk_weights).name)
    return msgspec.to_builtins(msgspec.structs.replace(settings, damsm=damsm))


def read_official_model(
    generator: Path,
    text_encoder: Path,
    captions: Path,
    max_words: int,
    name: str,
    license_: str,
) -> Model:
    """Reads the authors' published model, which has three stages.

    Args:
        generator: `netG*.pth`.
        text_encoder: `text_encoder*.pth`.
        captions: `captions.pickle`, which holds the vocabulary.
        max_words: Words of a caption that the graphs take; the authors evaluate with 25 (CUB) and 20 (COCO).
        name: Names the bundle.
        license_: Of the weights.

    Raises:
        CheckpointError: if a file is not what it should be, or the three do not belong together.
    """
    network = load_official_generator(generator)
    encoder = load_official_text_encoder(text_encoder, network.spec)
    tokenizer, texts = load_official_captions(captions)
    if len(tokenizer) != encoder.embedding.num_embeddings:
        raise CheckpointError(
            f"{captions} has {len(tokenizer):,} words and {text_encoder} embeds {encoder.embedding.num_embeddings:,};"
            " take both from the same data set"
        )
    given = {"generator": generator, "text_encoder": text_encoder, "captions": captions}
    files = {key: {"file": path.name, "sha256": digest(path)} for key, path in given.items()}
    return Model(
        name=name,
        license=license_,
        text_encoder=encoder,
        generator=network,
        tokenizer=tokenizer,
        max_words=max_words,
        provenance={"weights": "published by the authors of DM-GAN", "files": files},
        captions=texts[:: max(1, len(texts) // KEPT_CAPTIONS)][:KEPT_CAPTIONS],
    )
