"""A bundle as a source of images: the one module that opens what serves, in order to measure it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Self

import msgspec
import torch
from torch import Tensor

from dmgan_runtime.bundle import Bundle
from dmgan_runtime.errors import BundleError, SettingsError
from dmgan_runtime.generator import Generator
from dmgan_runtime.noise import Condition, draw_noise
from dmgan_runtime.results import Generation
from dmgan_train.data.pyramid import to_levels
from dmgan_train.evaluation.image_source import ImageSource, RunSource, choose_resolution, is_bundle, shrink
from dmgan_train.run_folder import RunFolder
from dmgan_train.settings import DataSettings

_DATA_SETTINGS = frozenset(DataSettings.__struct_fields__)


class _RunSettings(msgspec.Struct, frozen=True):
    data: dict[str, Any] = {}


class _PublishedFile(msgspec.Struct, frozen=True):
    sha256: str


class _Provenance(msgspec.Struct, frozen=True):
    """What is read of a bundle's provenance. The authors' weights have none: they were trained as the paper says."""

    gan_steps: int | None = None
    settings: _RunSettings = _RunSettings()
    data: dict[str, Any] = {}
    files: dict[str, _PublishedFile] = {}


class BundleSource:
    """A bundle, whose images the runtime generates as it does for a user."""

    def __init__(
        self,
        path: Path,
        truncation: float = 1.0,
        condition: Condition | None = None,
        resolution: int | None = None,
    ) -> None:
        """Args:
        path: A folder or .zip that `dmgan-export` wrote.
        truncation: Over 0 and at most 1; multiplies the noise.
        condition: Whether the condition is sampled or its mean; None is what the bundle says.
        resolution: To shrink images to; None leaves them as they are.

        Raises:
            BundleError: if the bundle is missing, damaged or unsafe.
            BackendError: if no engine can be had.
            SettingsError: if images cannot be shrunk to the resolution.
        """
        with Bundle(path) as bundle:
            self._manifest, self._tokenizer = bundle.manifest, bundle.tokenizer()
        try:
            provenance = msgspec.convert(self._manifest.provenance, _Provenance)
            settings = {name: value for name, value in provenance.settings.data.items() if name in _DATA_SETTINGS}
            self.data = msgspec.convert(settings, DataSettings)
        except msgspec.ValidationError as error:
            raise BundleError(
                f"{path}: its provenance is not what an export writes ({error}); export it again"
            ) from error
        self.resolution = choose_resolution(self._manifest.model.resolutions[-1], resolution)
        self.max_words = self._manifest.tokenizer.max_words
        self._generator = Generator.open(path, quality="exact")  # figures are not to depend on the processor
        self._name, self.truncation = path.resolve().name.removesuffix(".zip"), truncation
        self.condition: Condition = condition or self._manifest.model.condition
        self.steps, self._trained_on = provenance.gan_steps, provenance.data
        self._files = {name: file.sha256 for name, file in provenance.files.items()}
        self.teachers = frozenset({self._files["text_encoder"]} if "text_encoder" in self._files else ())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._generator.close()

    def takes(self, caption: str) -> bool:
        return self._tokenizer.takes(caption)

    def generate(self, captions: Sequence[str], seeds: Sequence[int]) -> Tensor:
        model = self._manifest.model
        tokens = self._tokenizer.encode_batch(captions, self.max_words)
        noise, condition_noise = draw_noise(
            seeds, model.noise_features, model.condition_features, self.truncation, self.condition
        )
        synthesis = self._generator.synthesize(*tokens, noise, condition_noise)
        largest = synthesis.images[model.resolutions[-1]]
        return shrink(to_levels(torch.from_numpy(largest)), self.resolution)

    def explain(self, captions: Sequence[str], seeds: Sequence[int]) -> list[Generation]:
        return [
            self._generator.generate(
                caption, seed=seed, attention=True, truncation=self.truncation, condition=self.condition
            )[0]
            for caption, seed in zip(captions, seeds, strict=True)
        ]

    def describe(self) -> dict[str, Any]:
        active = self._generator.active
        return {
            "kind": "bundle",
            "name": self._name,
            "gan_steps": self.steps,
            "weights": "as exported (a run's are averaged over its steps)",
            "largest_image": self._manifest.model.resolutions[-1],
            "manifest_sha256": hashlib.sha256(self._manifest.to_json()).hexdigest(),
            "engine": f"{active.backend} {active.version} on {active.device}, {active.precision}",
            "trained_on": self._trained_on,
            "published_files": self._files,
        }


def open_source(
    path: Path,
    device: torch.device,
    truncation: float = 1.0,
    step: int | None = None,
    condition: Condition | None = None,
    resolution: int | None = None,
) -> AbstractContextManager[ImageSource]:
    """Opens a run or a bundle, whichever the path is.

    Args:
        path: A run's folder, or a bundle's folder or .zip.
        device: Where a run computes; a bundle's engine chooses its own.
        truncation: Over 0 and at most 1; multiplies the noise.
        step: Of a run's snapshot; None takes the newest checkpoint.
        condition: Whether the condition is sampled or its mean; None is the model's own.
        resolution: To shrink images to; None leaves them as they are.

    Raises:
        BundleError, BackendError: as `BundleSource`.
        CheckpointError: as `RunSource`.
        SettingsError: if there is nothing at the path, a step is asked of a bundle, or images cannot be shrunk to the
            resolution.
    """
    if not path.exists():
        raise SettingsError(f"{path}: there is no such file or folder; pass a run that `fit` wrote, or a bundle")
    if is_bundle(path):
        if step is not None:
            raise SettingsError(f"{path}: a bundle holds one generator; leave --step out, or pass a run")
        return BundleSource(path, truncation, condition, resolution)
    return nullcontext(RunSource(RunFolder(path), device, truncation, step, condition, resolution))
