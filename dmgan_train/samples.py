"""Pictures of fixed captions, drawn again and again while the generator learns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dmgan_runtime.manifest import ModelSpec
from dmgan_runtime.noise import draw_noise
from dmgan_runtime.results import to_pil
from dmgan_runtime.tokenizer import Tokenizer, Tokens
from dmgan_runtime.viz.pictures import enlarge, grid, save
from dmgan_train.data import Split
from dmgan_train.loading import load_model
from dmgan_train.models import GeneratorNetwork, GeneratorOutput, TextEncoder
from dmgan_train.run import RunFolder

CAPTIONS = 8


def sample_name(step: int) -> str:
    """The file name of a step's sheet."""
    return f"step-{step:07d}.png"


class SampleSheet:
    """Draws the same captions with the same noise into `step-<steps>.png`: each row's stages, its caption below."""

    def __init__(self, folder: Path, splits: Sequence[Split], tokenizer: Tokenizer, max_words: int) -> None:
        """Args:
        folder: Where the pictures go.
        splits: Eight captions of each are used, evenly spread: of what is learned, and of what training never sees.
        tokenizer: With the run's vocabulary.
        max_words: Words of a caption that are read.
        """
        self.captions = [caption for split in splits for caption in _spread(split)]
        self._folder = folder
        self._tokens = tokenizer.encode_batch(self.captions, max_words)

    def draw(self, generator: GeneratorNetwork, text_encoder: TextEncoder, step: int) -> Image.Image:
        """Writes the sheet of a step and returns it. The generator is left in evaluation mode."""
        seeds = range(len(self.captions))
        output = generate(generator, text_encoder, self._tokens, seeds)
        sheet = stage_rows(output.images, self.captions, columns=2)
        save(sheet, self._folder / sample_name(step))
        return sheet


def _spread(split: Split) -> list[str]:
    chosen = np.linspace(0, len(split) - 1, min(CAPTIONS, len(split))).astype(int)
    return [split.examples[index].captions[0] for index in chosen]


def stage_rows(images: Sequence[Tensor], captions: Sequence[str], columns: int) -> Image.Image:
    """Every caption's stages side by side, enlarged to the last one's size, the caption below.

    Args:
        images: One [N, 3, R, R] in [-1, 1] a stage.
        captions: N.
        columns: Captions in a row.
    """
    side = images[-1].shape[-1]
    strips = []
    for row in range(len(captions)):
        stages = [enlarge(to_pil(stage[row].float().cpu().numpy()), side) for stage in images]
        strips.append(grid(stages, columns=len(stages)))
    return grid(strips, captions, columns)


@torch.inference_mode()
def generate(
    generator: GeneratorNetwork,
    text_encoder: TextEncoder,
    tokens: Tokens,
    seeds: Iterable[int],
    truncation: float = 1.0,
) -> GeneratorOutput:
    """Draws images with the noise that the runtime draws for these seeds.

    Args:
        generator: Left in evaluation mode.
        text_encoder: Left in evaluation mode.
        tokens: N captions.
        seeds: N seeds.
        truncation: Over 0 and at most 1; multiplies both noises.
    """
    generator.eval()
    text_encoder.eval()
    device = next(generator.parameters()).device
    spec: ModelSpec = generator.spec
    noise, condition_noise = draw_noise(seeds, spec.noise_features, spec.condition_features, truncation)
    indices, lengths = map(torch.from_numpy, tokens)
    text = text_encoder(indices.to(device), lengths)
    return generator(
        text.sentence,
        text.words,
        lengths.to(device),
        torch.from_numpy(noise).to(device),
        torch.from_numpy(condition_noise).to(device),
    )


def draw_captions(run: RunFolder, captions: Sequence[str], seed: int, output: Path, step: int | None = None) -> int:
    """Draws captions with a run's averaged generator and writes one picture, a row for each.

    Args:
        run: A run whose second phase has begun.
        captions: At least one.
        seed: The noise of every caption.
        output: Where to.
        step: Of a snapshot; None takes the newest checkpoint.

    Returns:
        The steps that the generator was trained for.

    Raises:
        CaptionError: if a caption has no known word.
        CheckpointError: if the run has no checkpoint yet, or no such snapshot.
    """
    text_encoder, generator, steps = load_model(run, step)
    tokenizer, max_words = run.vocabulary(), run.settings().data.serving_words
    tokens = tokenizer.encode_batch(captions, max_words)
    images = generate(generator, text_encoder, tokens, [seed] * len(captions)).images
    save(stage_rows(images, captions, columns=1), output)
    return steps
