"""What users hold: an open model that makes images of captions."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from dmgan_runtime.backends.base import Active, Backend
from dmgan_runtime.backends.choice import QUALITY, Quality, open_backend
from dmgan_runtime.bundle import Bundle, find_bundle
from dmgan_runtime.engine_handle import EngineHandle, reopen
from dmgan_runtime.errors import CaptionError, EngineError, SettingsError
from dmgan_runtime.interpolation import blend_texts, slerp
from dmgan_runtime.manifest import Manifest
from dmgan_runtime.noise import Condition, check_seed, fresh_seed
from dmgan_runtime.request import (
    Batch,
    FloatArray,
    GenerationOptions,
    ImageRequest,
    check_at_least,
    check_batch,
    check_options,
    in_batches,
    to_batch,
)
from dmgan_runtime.results import Generation, StageOutput, Synthesis, to_pil
from dmgan_runtime.tokenizer import Encoding, Tokenizer, Tokens

BATCH_SIZE = 4

ProgressCallback = Callable[[int, int], None]
"""Called with how many images are done and how many there will be."""


class Generator:
    """A DM-GAN that is ready to make images; `open` makes one.

    One generator serves many threads. A forked process opens the bundle again when it first uses the generator, and
    so does a process to which it was pickled: the bundle must still be where it was. OpenVINO reads it again when
    stages are first asked for one by one; `warm_up(stream=True)` has it do so.

        with Generator.open("birds.zip") as generator:
            for generation in generator.generate("a small red bird", seed=7, images_per_caption=4):
                generation.image.save(f"{generation.seed}.png")

    Attributes:
        manifest: What the bundle says of itself.
        tokenizer: The words that the model knows.
        active: The backend, device, precision and threads that were chosen, and why; as text, a short line for logs.
    """

    manifest: Manifest
    tokenizer: Tokenizer
    active: Active
    _path: Path
    _asked: Mapping[str, Any]
    _engine: EngineHandle

    def __init__(self, *_: object, **__: object) -> None:
        raise SettingsError("a generator is opened, not constructed: use Generator.open(bundle)")

    @classmethod
    def _of(
        cls, manifest: Manifest, tokenizer: Tokenizer, backend: Backend, path: Path, asked: Mapping[str, Any]
    ) -> Self:
        """A generator of parts that have been loaded, and of what opens them again in another process."""
        self = cls.__new__(cls)
        self.manifest = manifest
        self.tokenizer = tokenizer
        self.active = backend.active
        self._path = path
        self._asked = asked
        # Nothing that the handle keeps refers to this object, so that one that is dropped unclosed is freed at once.
        self._engine = EngineHandle(backend, partial(reopen, path, asked, manifest, backend.active))
        return self

    @classmethod
    def open(
        cls,
        bundle: str | os.PathLike[str] | None = None,
        *,
        backend: str = "auto",
        device: str = "auto",
        precision: str = "auto",
        quality: Quality = QUALITY,
        threads: int | None = None,
        engine_options: Mapping[str, Any] | None = None,
    ) -> Self:
        """Checks a bundle and loads its graphs.

        What was asked for and cannot be had is an error; `active` says what "auto" took and why, and
        `active.considered` why not the others.

        Args:
            bundle: A folder or .zip that `dmgan-export` wrote, or the name of a model that comes with dmgan; None is
                `emoji-256`.
            backend: "auto" takes the best that can be had here; or "onnxruntime", "openvino", "mnn", "tensorrt"
                or "tensorrt_rtx".
            device: "auto", "cpu", "cuda" (the first GPU) or "cuda:N".
            precision: "auto" takes the fastest that keeps `quality`; or "fp32", "fp16" (GPU), "int8" (CPU, TensorRT) or
                "bf16" (OpenVINO, on a CPU that has it).
            quality: How near to fp32 the images must be where precision is "auto": the least PSNR in dB that the export
                measured (`manifest.image_psnr_db`), or "exact", which is fp32. At 40 dB nobody sees a difference.
            threads: CPU threads for one operator, from 1 to 1024; None takes every CPU that the process may use.
            engine_options: The named engine's own options on the named device, passed on unchecked: session
                configuration entries (onnxruntime on a CPU), options of its CUDA provider (on a GPU), properties
                (openvino). The other engines take none.

        Raises:
            BundleError: if the bundle is missing, damaged or unsafe.
            BackendError: if the backend, device or precision that was asked for cannot be had here.
            EngineError: if the engine cannot load a graph.
            SettingsError: if the number of threads is out of range, or the engine's options are no options.
        """
        path = find_bundle(bundle)
        asked: dict[str, Any] = {
            "backend": backend,
            "device": device,
            "precision": precision,
            "quality": quality,
            "threads": threads,
            "engine_options": dict(engine_options) if isinstance(engine_options, Mapping) else engine_options,
        }
        with Bundle(path) as opened:
            tokenizer = opened.tokenizer()
            return cls._of(opened.manifest, tokenizer, open_backend(opened, **asked), path, asked)

    @property
    def resolutions(self) -> tuple[int, ...]:
        """The sides of the stages' images in pixels, smallest first, for example (64, 128, 256)."""
        return self.manifest.model.resolutions

    def generate(
        self,
        captions: str | Iterable[str],
        *,
        seed: int | None = None,
        images_per_caption: int = 1,
        resolution: int | None = None,
        attention: bool = False,
        truncation: float = 1.0,
        condition: Condition | None = None,
        batch_size: int = BATCH_SIZE,
        progress: ProgressCallback | None = None,
    ) -> list[Generation]:
        """Makes images of captions.

        Image j of every caption has the seed `seed + j`, so a caption and a seed name one picture, whatever
        else is asked for beside it: to the last bit in batches of one size on one engine and machine (in bf16 nearly:
        docs/engines.md). Elsewhere engines cut the work in other ways and round differently, and now and then a value
        of a pixel is one level of 255 apart.

        Args:
            captions: One caption or any number.
            seed: From 0 to 2**64 - 1; None draws one at random, which each result names.
            images_per_caption: At least 1.
            resolution: Stop at this one of `resolutions`; None goes to the largest.
            attention: Also return the memory's attention and gates.
            truncation: Over 0 and at most 1: multiplies both noises. Less is nearer to the typical image of the
                caption, and less varied.
            condition: What is generated from: "sampled" from the condition's distribution (conditioning augmentation),
                or its "mean", with which images of one caption vary less. None is what the bundle says.
            batch_size: How many images are computed together; cut to what the engine takes (`active.max_batch`). More
                takes more memory.
            progress: Called after each batch with the numbers of images done and to do; if it raises, no more follow.

        Returns:
            The images of the first caption by seed, then those of the second, and so on.

        Raises:
            CaptionError: if a caption has no known word. Nothing is computed then.
            SettingsError: if another argument is out of its range.
            EngineError: if the engine fails, or the generator is closed.
        """
        _check_progress(progress)
        options = self._options(
            seed=seed,
            resolution=resolution,
            attention=attention,
            truncation=truncation,
            condition=condition,
            images_per_caption=images_per_caption,
            batch_size=batch_size,
        )
        requests = list(self._requests(captions, options))
        generations: list[Generation] = []
        for part in self._generate(requests, options):
            generations += part
            if progress is not None:
                progress(len(generations), len(requests))
        return generations

    def generate_iter(
        self,
        captions: str | Iterable[str],
        *,
        seed: int | None = None,
        images_per_caption: int = 1,
        resolution: int | None = None,
        attention: bool = False,
        truncation: float = 1.0,
        condition: Condition | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> Iterator[Generation]:
        """Makes images as `generate` does, with its options, but reads captions and hands out images as it goes.

        Memory holds one batch, whatever the number of captions: they may come from a file of millions, or never end.
        The next batch is read and computed when the last image of the one before has been taken. One thread at a time
        may ask for it.

        Returns:
            An iterator over the images, in the order of `generate`.

        Raises:
            SettingsError, EngineError: as `generate`, at the call; EngineError also while iterating.
            CaptionError: at the call, if these are no captions; for a caption that cannot be read while iterating, once
                the images before it have been taken. To leave such captions out, ask `encode` first.
        """
        options = self._options(
            seed=seed,
            resolution=resolution,
            attention=attention,
            truncation=truncation,
            condition=condition,
            images_per_caption=images_per_caption,
            batch_size=batch_size,
        )
        # No itertools.chain: it crashes if two threads share it.
        return (each for part in self._generate(self._requests(captions, options), options) for each in part)

    def stream(
        self,
        caption: str,
        *,
        seed: int | None = None,
        resolution: int | None = None,
        attention: bool = False,
        truncation: float = 1.0,
        condition: Condition | None = None,
    ) -> Iterator[Generation]:
        """Makes one image with the options of `generate`, and hands out each stage as soon as it is there.

        A stage is computed when it is asked for: leave the loop, and the rest is never computed.

        Returns:
            An iterator over one `Generation` for each stage, smallest first. Its `image` is that stage's, and its
            `stages`, attention and gates are those so far.

        Raises:
            CaptionError, SettingsError, EngineError: as `generate`, at the call; EngineError also while iterating.
        """
        options = self._options(
            seed=seed, resolution=resolution, attention=attention, truncation=truncation, condition=condition
        )
        (request,) = self._requests([caption], options)
        return (generation for (generation,) in self._stream([request], options))

    def stream_batch(
        self,
        captions: Iterable[str],
        *,
        seeds: Iterable[int | None],
        resolution: int | None = None,
        attention: bool = False,
        truncation: float = 1.0,
        condition: Condition | None = None,
    ) -> Iterator[list[Generation]]:
        """Makes an image of each caption, all as one batch and each with its own seed, and hands out the stages.

        A server computes the images of several users together so, which pays on a GPU.

        Args:
            captions: N captions, from 1 to what the engine takes at once (`active.max_batch`).
            seeds: N seeds; None draws one at random.
            resolution: As in `generate`, like the arguments after it.
            attention: Also return the memory's attention and gates.
            truncation: Over 0 and at most 1.
            condition: "sampled", "mean" or None.

        Returns:
            An iterator over the N images of each stage, smallest first, which are as those of `stream`.

        Raises:
            CaptionError, SettingsError, EngineError: as `generate`, at the call; EngineError also while iterating.
        """
        options = self._options(resolution=resolution, attention=attention, truncation=truncation, condition=condition)
        if not isinstance(seeds, Iterable):
            raise SettingsError(f"seeds is {seeds!r}; pass one for each caption, in a list")
        texts, numbers = list(_texts(captions)), [fresh_seed() if seed is None else check_seed(seed) for seed in seeds]
        most = self.active.max_batch or len(texts)
        if not texts or len(texts) > most or len(texts) != len(numbers):
            limit = f", and at most {most}" if self.active.max_batch else ""
            raise SettingsError(
                f"{len(texts)} captions and {len(numbers)} seeds; pass one seed for each caption, at least one{limit}"
            )
        images = zip(texts, numbers, strict=True)
        return self._stream([ImageRequest(caption, self.encode(caption), seed) for caption, seed in images], options)

    def interpolate(
        self,
        captions: str | tuple[str, str],
        *,
        seeds: int | tuple[int, int] | None = None,
        steps: int = 8,
        resolution: int | None = None,
        truncation: float = 1.0,
        condition: Condition | None = None,
        batch_size: int = BATCH_SIZE,
        progress: ProgressCallback | None = None,
    ) -> list[Image.Image]:
        """Makes the images between two: from caption to caption, from seed to seed, or both at once.

        Noise moves along a great circle (`interpolation.slerp`); captions in the text encoder's features, word by
        aligned word (`interpolation.blend_texts`).

        Args:
            captions: One, or the first and the last.
            seeds: One, or the first and the last; None draws one at random.
            steps: How many pictures, both ends included; at least 2.
            resolution: As in `generate`, like the arguments after it.
            truncation: Over 0 and at most 1.
            condition: "sampled", "mean" or None.
            batch_size: How many images are computed together.
            progress: Called after each batch with the numbers of images done and to do; if it raises, no more follow.

        Returns:
            `steps` pictures; the first and the last are those that `generate` makes.

        Raises:
            CaptionError, SettingsError, EngineError: as `generate`.
        """
        if not isinstance(captions, str) and not _is_pair(captions):
            raise CaptionError(f"captions are {captions!r}; pass one caption, or the first and the last: (a, b)")
        if isinstance(seeds, tuple | list) and not _is_pair(seeds):
            raise SettingsError(f"seeds are {seeds!r}; pass one seed, or the first and the last: (a, b)")
        _check_progress(progress)
        first, last = (captions, captions) if isinstance(captions, str) else captions
        seed, end_seed = seeds if isinstance(seeds, tuple | list) else (seeds, seeds)
        steps = check_at_least("steps", steps, 2)
        options = self._options(
            seed=seed, resolution=resolution, truncation=truncation, condition=condition, batch_size=batch_size
        )
        start = ImageRequest(first, self.encode(first), options.seed)
        end = ImageRequest(last, self.encode(last), options.seed if end_seed is None else check_seed(end_seed))
        pictures: list[Image.Image] = []
        for images in self._interpolate(start, end, steps, options):
            pictures += map(to_pil, images)
            if progress is not None:
                progress(len(pictures), steps)
        return pictures

    def synthesize(
        self,
        tokens: npt.NDArray[np.int64],
        lengths: npt.NDArray[np.int64],
        noise: FloatArray,
        condition_noise: FloatArray,
        *,
        resolution: int | None = None,
        attention: bool = False,
    ) -> Synthesis:
        """The numeric layer under `generate`, for those who own their tokens and noise.

        Runs as one batch, or as few as the engine takes.

        Args:
            tokens: [N, W] int64, from 0 to the vocabulary's size - 1; W is at most `manifest.tokenizer.max_words`.
            lengths: [N] int64, from 1 to W: how many of a row's tokens count.
            noise: [N, z] float32, z being `manifest.model.noise_features`.
            condition_noise: [N, c] float32, c being `manifest.model.condition_features`.
            resolution: Stop at this one of `resolutions`; None goes to the largest.
            attention: Also return the memory's attention and gates.

        Returns:
            Images in [-1, 1], and attention and gates if they were asked for, as arrays by resolution.

        Raises:
            SettingsError: if a type, a shape or a value is not as above.
            EngineError: if the engine fails, or the generator is closed.
        """
        options = self._options(resolution=resolution, attention=attention)
        model, max_words = self.manifest.model, self.manifest.tokenizer.max_words
        batch = check_batch(tokens, lengths, noise, condition_noise, model, max_words, len(self.tokenizer))
        size = self.active.max_batch or batch.size
        parts = (batch.rows(first, size) for first in range(0, batch.size, size))
        return Synthesis.of([self._run(part, options) for part in parts])

    def encode(self, caption: str) -> Encoding:
        """What the model reads of a caption: its tokens, and the words unknown and cut.

        `tokenizer.encode_batch` makes the arrays that `synthesize` takes.

        Raises:
            CaptionError: if the caption is no text, longer than 10,000 characters, or has no known word.
        """
        return self.tokenizer.encode(caption, self.manifest.tokenizer.max_words)

    def warm_up(self, batch_sizes: Iterable[int] = (1, BATCH_SIZE), *, stream: bool = False) -> None:
        """Makes images of each batch size, so that the first user does not wait for what engines do once.

        Args:
            batch_sizes: Those that will be asked for.
            stream: Makes them a stage at a time, as `stream` does: OpenVINO compiles each by itself for that.

        Raises:
            SettingsError: if one is no whole number, or less than 1.
            EngineError: if the engine fails, or the generator is closed.
        """
        if not isinstance(batch_sizes, Iterable):
            raise SettingsError(f"batch_sizes is {batch_sizes!r}; pass one or more in a list, such as [{BATCH_SIZE}]")
        padding = Encoding(np.zeros(self.manifest.tokenizer.max_words, dtype=np.int64), 1, (), (), ())
        for batch_size in batch_sizes:
            options = self._options(seed=0, batch_size=batch_size)
            # Engines on a GPU record a CUDA graph in the second run.
            runs = 1 if self.active.device == "cpu" else 2
            for _ in range(runs):
                requests = [ImageRequest("", padding, options.seed)] * options.batch_size
                list(self._stream(requests, options) if stream else self._generate(requests, options))

    def close(self) -> None:
        """Frees the engine once the batches that run in other threads are done; closing twice is fine.

        A call that comes later, or has batches left to do, ends with an `EngineError`.
        """
        self._engine.close()

    def __repr__(self) -> str:
        sides = ", ".join(map(str, self.resolutions))
        state = ", closed" if self._engine.closed else ""
        return f"<{type(self).__name__} {self.manifest.name!r} of {sides} pixels on {self.active}{state}>"

    def __reduce__(self) -> tuple[Callable[[], Generator], tuple[()]]:
        """Pickled, it is its bundle's path and what was asked of `open`; unpickled, it is opened again."""
        self._engine.check_open()
        return partial(type(self).open, self._path, **self._asked), ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _options(self, **options: Any) -> GenerationOptions:
        """Checks what calls take, before anything is computed."""
        self._engine.check_open()
        return check_options(self.manifest.model, self.active.max_batch, **options)

    def _requests(self, captions: str | Iterable[str], options: GenerationOptions) -> Iterator[ImageRequest]:
        """Every image that is to be made, each when it is asked for."""
        return (
            ImageRequest(caption, encoding, options.seed + image)
            for caption in _texts(captions)
            for encoding in (self.encode(caption),)
            for image in range(options.images_per_caption)
        )

    def _generate(self, requests: Iterable[ImageRequest], options: GenerationOptions) -> Iterator[list[Generation]]:
        """Makes the images of requests, a batch at a time."""
        for part in in_batches(requests, options.batch_size):
            batch = to_batch(part, self.manifest.model, options)
            with self._engine.use() as backend:
                outputs = list(backend.generate(batch, options.stages, options.wanted, at_once=True))
            self._check_finite(outputs)
            yield [
                Generation.of(request, outputs, row, attention=options.attention) for row, request in enumerate(part)
            ]

    def _stream(self, requests: Sequence[ImageRequest], options: GenerationOptions) -> Iterator[list[Generation]]:
        batch = to_batch(requests, self.manifest.model, options)
        begun_in, stages = os.getpid(), None
        outputs: list[StageOutput] = []
        while len(outputs) < options.stages:
            if os.getpid() != begun_in:
                raise EngineError("this stream was begun before the process was forked; begin another one here")
            # Lent for one stage at a time, so that the generator can be closed while nobody asks for the next.
            with self._engine.use() as backend:
                stages = stages or backend.generate(batch, options.stages, options.wanted)
                outputs.append(next(stages))
            self._check_finite(outputs[-1:])
            yield [
                Generation.of(request, outputs, row, attention=options.attention)
                for row, request in enumerate(requests)
            ]

    def _interpolate(
        self, start: ImageRequest, end: ImageRequest, steps: int, options: GenerationOptions
    ) -> Iterator[FloatArray]:
        """`steps` images in batches of [N, 3, R, R] float32 in [-1, 1]."""
        ends = to_batch([start, end], self.manifest.model, options)
        with self._engine.use() as backend:
            first_text, last_text = (backend.encode(Tokens.of([request.encoding])) for request in (start, end))
        positions = np.linspace(0, 1, steps).tolist()
        for first in range(0, steps, options.batch_size):
            part = positions[first : first + options.batch_size]
            noise, condition_noise = (slerp(rows[0], rows[1], part) for rows in (ends.noise, ends.condition_noise))
            batch = Batch(blend_texts(first_text, last_text, part), noise, condition_noise)
            yield self._run(batch, options)[-1].image

    def _run(self, batch: Batch, options: GenerationOptions) -> list[StageOutput]:
        with self._engine.use() as backend:
            outputs = list(backend.generate(batch, options.stages, options.wanted, at_once=True))
        self._check_finite(outputs)
        return outputs

    def _check_finite(self, outputs: Iterable[StageOutput]) -> None:
        for output in outputs:
            if not np.isfinite(output.image).all():
                raise EngineError(
                    f"{self.active.backend} returned an image of {output.resolution} pixels with values that are no"
                    " numbers; try another precision or backend"
                )


def _check_progress(progress: ProgressCallback | None) -> None:
    if progress is not None and not callable(progress):
        raise SettingsError(f"progress is {progress!r}; pass a function of the images done and to do")


def _texts(captions: str | Iterable[str]) -> Iterable[str]:
    if isinstance(captions, bytes) or not isinstance(captions, Iterable):
        raise CaptionError(f"captions are one str or several, not {type(captions).__name__}; pass text")
    return [captions] if isinstance(captions, str) else captions


def _is_pair(value: object) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2
