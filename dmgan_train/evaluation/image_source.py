"""Where the images that are measured or shown come from: a run's checkpoint, or a bundle through the runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from dmgan_runtime.errors import SettingsError
from dmgan_runtime.manifest import MANIFEST_NAME
from dmgan_runtime.noise import Condition
from dmgan_runtime.request import FloatArray, ImageRequest
from dmgan_runtime.results import Generation, StageOutput
from dmgan_train.checkpoint import fingerprint, load_model
from dmgan_train.data import SOURCES, Split, SplitName, detect_source, keep_known, load_split
from dmgan_train.data.pyramid import pyramid, to_levels
from dmgan_train.models import GeneratorOutput
from dmgan_train.run_folder import RunFolder
from dmgan_train.sampling import generate
from dmgan_train.settings import DataSettings


class ImageSource(Protocol):
    """A trained model that generates images from captions. One seed is one image, as in the runtime.

    Attributes:
        resolution: Side of the images of `generate` in pixels.
        max_words: How many words of a caption it reads.
        data: How the pictures and captions that it was trained on were read.
        steps: How many steps its generator was trained for; None if it does not say.
        truncation: What the noise is multiplied by.
        condition: Whether the condition is sampled or its mean.
        teachers: SHA-256 of the text encoder that taught it: `fingerprint`, or of its published file; empty if it does
            not say.
    """

    resolution: int
    max_words: int
    data: DataSettings
    steps: int | None
    truncation: float
    condition: Condition
    teachers: frozenset[str]

    def takes(self, caption: str) -> bool:
        """Whether it knows a word of a caption, and so can make an image of it."""

    def generate(self, captions: Sequence[str], seeds: Sequence[int]) -> Tensor:
        """The largest images, shrunk if a smaller resolution was asked for, [N, 3, R, R] uint8 on the CPU.

        Raises:
            CaptionError: if a caption has no known word.
        """

    def explain(self, captions: Sequence[str], seeds: Sequence[int]) -> list[Generation]:
        """The images of every stage, with attention and gates.

        Raises:
            CaptionError: if a caption has no known word.
        """

    def describe(self) -> dict[str, Any]:
        """What a protocol says of it: which weights, averaged or not, and where they ran."""


class RunSource:
    """The averaged generator of a run's newest checkpoint, or of a snapshot."""

    def __init__(
        self,
        run: RunFolder,
        device: torch.device,
        truncation: float = 1.0,
        step: int | None = None,
        condition: Condition | None = None,
        resolution: int | None = None,
    ) -> None:
        """Args:
        run: A run whose second phase has begun.
        device: Where to compute.
        truncation: Over 0 and at most 1; multiplies the noise.
        step: Of a snapshot; None takes the newest checkpoint.
        condition: Whether the condition is sampled or its mean; None is what the run's settings say.
        resolution: To shrink images to; None leaves them as they are.

        Raises:
            CheckpointError: if a checkpoint is missing or damaged, or there is no such snapshot.
            SettingsError: if images cannot be shrunk to the resolution.
        """
        settings = run.settings()
        self._run, self._device, self.truncation = run, device, truncation
        self.condition: Condition = condition or settings.model.condition
        self._text_encoder, self._generator, steps = load_model(run, step)
        published = run.adopted_files().get("text encoder") if run.adopted else None
        self.teachers = frozenset(filter(None, (fingerprint(self._text_encoder), published)))
        self._sha256 = fingerprint(self._generator)
        self._text_encoder.to(device)
        self._generator.to(device)
        self._tokenizer, self.max_words = run.vocabulary(), settings.data.serving_words
        self._ema = settings.gan.ema
        self.steps: int | None = steps
        self._largest = settings.model.resolutions[-1]
        self.resolution = choose_resolution(self._largest, resolution)
        self.data = settings.data

    def takes(self, caption: str) -> bool:
        return self._tokenizer.takes(caption)

    def generate(self, captions: Sequence[str], seeds: Sequence[int]) -> Tensor:
        return shrink(to_levels(self._generate(captions, seeds).images[-1]), self.resolution).cpu()

    def explain(self, captions: Sequence[str], seeds: Sequence[int]) -> list[Generation]:
        requests = [
            ImageRequest(caption, self._tokenizer.encode(caption, self.max_words), seed)
            for caption, seed in zip(captions, seeds, strict=True)
        ]
        outputs = _stage_outputs(self._generate(captions, seeds))
        return [Generation.of(request, outputs, row, attention=True) for row, request in enumerate(requests)]

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "run",
            "name": self._run.root.resolve().name,
            "gan_steps": self.steps,
            "weights": f"averaged over the steps (EMA {self._ema})" if self.steps else "as published",
            "generator_sha256": self._sha256,
            "largest_image": self._largest,
            "engine": f"torch {torch.__version__} on {self._device.type}",
            "trained_on": self._run.provenance().get("data", {}),
        }

    def _generate(self, captions: Sequence[str], seeds: Sequence[int]) -> GeneratorOutput:
        tokens = self._tokenizer.encode_batch(captions, self.max_words)
        return generate(self._generator, self._text_encoder, tokens, seeds, self.truncation, self.condition)


def choose_kind(asked: str | None, root: Path, source: ImageSource) -> str:
    """How a data set is read to measure a model.

    Args:
        asked: One of `dmgan_train.data.SOURCES`; None tells it from the layout.
        root: The data set's folder.
        source: The model.

    Raises:
        DataError: if nothing is there that can be read.
        SettingsError: if the layout is not how the model's own data were read, so that either may be meant.
    """
    if asked:
        return asked
    found, trained = detect_source(root), source.describe()["trained_on"].get("source")
    if trained in SOURCES and SOURCES[trained].load is not SOURCES[found].load:
        raise SettingsError(
            f"{root}: looks like {found}, and the model's own data were read as {trained}; pass --source with the one"
            " that is meant"
        )
    return found


def read_split(source: ImageSource, kind: str, root: Path, name: SplitName) -> Split:
    """A split as the model's training read it, without the captions of which the model knows no word.

    Args:
        source: The model.
        kind: One of `dmgan_train.data.SOURCES`.
        root: The data set's folder.
        name: Which split.

    Raises:
        DataError: if it cannot be read, or the model knows a word of none of its captions.
    """
    split = load_split(kind, root, name, source.data.captions_per_image, source.data.held_out)
    return keep_known(split, source.takes, "the model")


def choose_resolution(largest: int, asked: int | None) -> int:
    """The side of the images that are measured.

    Args:
        largest: Of the model's images, in pixels.
        asked: To shrink them to; None is the largest.

    Raises:
        SettingsError: if halving the largest does not come to it.
    """
    sides = [largest >> halvings for halvings in range(largest.bit_length() - 1) if largest % (1 << halvings) == 0]
    if asked is not None and asked not in sides:
        raise SettingsError(f"--resolution {asked}: the model's images can be shrunk to {', '.join(map(str, sides))}")
    return asked or largest


def shrink(images: Tensor, resolution: int) -> Tensor:
    """Images [N, 3, R, R] uint8, scaled down to a resolution as real pictures are."""
    side = images.shape[-1]
    if side == resolution:
        return images
    unmirrored = torch.zeros(len(images), dtype=torch.bool, device=images.device)
    return to_levels(pyramid(images, unmirrored, (resolution,))[0])


def is_bundle(path: Path) -> bool:
    """Whether a path looks like a bundle and not like a run."""
    return path.is_file() or (path / MANIFEST_NAME).is_file()


def _stage_outputs(output: GeneratorOutput) -> list[StageOutput]:
    """The outputs of every stage as the runtime has them."""
    images = [_to_array(image) for image in output.images]
    stages = [StageOutput(images[0].shape[-1], images[0])]
    for image, memory in zip(images[1:], output.memories, strict=True):
        gates = (memory.writing_gate, memory.response_gate)
        arrays = (None if gate is None else _to_array(gate) for gate in gates)
        stages.append(StageOutput(image.shape[-1], image, _to_array(memory.attention), *arrays))
    return stages


def _to_array(tensor: Tensor) -> FloatArray:
    return tensor.float().cpu().numpy()
