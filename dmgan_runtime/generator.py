"""The facade: open a bundle, and turn captions into pictures."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from dmgan_runtime.backends import open_backend
from dmgan_runtime.backends.base import Active, Backend
from dmgan_runtime.bundle import Bundle
from dmgan_runtime.errors import EngineError, SettingsError
from dmgan_runtime.images import to_pil
from dmgan_runtime.manifest import Manifest
from dmgan_runtime.noise import check_seed, check_truncation, draw_noise, fresh_seed
from dmgan_runtime.pipeline import Batch, Stage, check_batch, run_stages
from dmgan_runtime.results import FloatArray, Gates, Generation, Synthesis
from dmgan_runtime.tokenizer import Encoding, Tokenizer

Progress = Callable[[int, int], None]
"""Called with how many images are done and how many there will be."""


class _Order(NamedTuple):
    """One image to make."""

    caption: str
    encoding: Encoding
    seed: int


class Generator:
    """A DM-GAN that is ready to paint. One generator serves many threads.

        with Generator.open("birds.zip") as generator:
            for generation in generator.generate("a small red bird", seed=7, images_per_caption=4):
                generation.image.save(f"{generation.seed}.png")

    Attributes:
        manifest: What the bundle says of itself.
        active: The backend, device, precision and threads that were chosen, and why.
    """

    def __init__(self, manifest: Manifest, tokenizer: Tokenizer, backend: Backend) -> None:
        """Use `Generator.open`; this takes parts that have been loaded."""
        self.manifest = manifest
        self.active: Active = backend.active
        self._tokenizer = tokenizer
        self._backend: Backend | None = backend

    @classmethod
    def open(
        cls,
        bundle: str | os.PathLike[str],
        *,
        backend: str = "auto",
        device: str = "auto",
        precision: str = "auto",
        threads: int | None = None,
    ) -> Self:
        """Checks a bundle and loads its graphs.

        What was asked for and cannot be had is an error; `active` says what "auto" took, and why not the others.

        Args:
            bundle: A folder or .zip that `dmgan-export` wrote.
            backend: "auto" takes the best that can be had here; or "onnxruntime", "openvino", "tensorrt" or
                "tensorrt_rtx".
            device: "auto", "cpu", "cuda" (the first GPU) or "cuda:N".
            precision: "auto" is fp16 on a GPU if the bundle has it, and fp32 elsewhere; or "fp32", "fp16" (GPU),
                "int8" (CPU, TensorRT) or "bf16" (OpenVINO, on a CPU that has it).
            threads: CPU threads for one operator, from 1 to 1024; None takes every CPU that the process may use.

        Raises:
            BundleError: if the bundle is missing, damaged or unsafe.
            BackendError: if the backend, device or precision that was asked for cannot be had here.
            EngineError: if the engine cannot load a graph.
            SettingsError: if the number of threads is out of range.
        """
        with Bundle(bundle) as opened:
            tokenizer = opened.tokenizer()
            engine = open_backend(opened, backend=backend, device=device, precision=precision, threads=threads)
            return cls(opened.manifest, tokenizer, engine)

    @property
    def resolutions(self) -> tuple[int, ...]:
        """The sides of the three images in pixels, smallest first, for example (64, 128, 256)."""
        return self.manifest.model.resolutions

    def close(self) -> None:
        """Frees the engine. Closing twice is fine; any other call on a closed generator is an `EngineError`."""
        backend, self._backend = self._backend, None
        if backend is not None:
            backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def generate(
        self,
        captions: str | Iterable[str],
        *,
        seed: int | None = None,
        images_per_caption: int = 1,
        resolution: int | None = None,
        attention: bool = False,
        truncation: float = 1.0,
        batch_size: int = 4,
        progress: Progress | None = None,
    ) -> list[Generation]:
        """Paints captions.

        Image j of every caption has the seed `seed + j`, so a caption and a seed name one picture, whatever
        else is asked for beside it. (Only rounding may differ with the batch, the backend and its version, because
        engines cut the work in other ways: now and then a value of a pixel is one level of 255 apart.)

        Args:
            captions: One caption or any number.
            seed: From 0 to 2**64 - 1; None draws one at random, which each result names.
            images_per_caption: At least 1.
            resolution: Stop at this one of `resolutions`; None goes to the largest.
            attention: Also return the memory's attention and gates.
            truncation: Over 0 and at most 1: multiplies both noises. Less is nearer to the typical image of the
                caption, and less varied.
            batch_size: How many images are computed together. More takes more memory.
            progress: Called after each batch with the numbers of images done and to do.

        Returns:
            The images of the first caption by seed, then those of the second, and so on.

        Raises:
            CaptionError: if a caption has no known word. Nothing is computed then.
            SettingsError: if another argument is out of its range.
            EngineError: if the engine fails, or the generator is closed.
        """
        listed = [captions] if isinstance(captions, str) else list(captions)
        count = self._stage_count(resolution)
        _check_positive("images_per_caption", images_per_caption)
        _check_positive("batch_size", batch_size)
        first = fresh_seed() if seed is None else check_seed(seed)
        check_seed(first + images_per_caption - 1)
        check_truncation(truncation)
        orders = [
            _Order(caption, encoding, first + image)
            for caption, encoding in [(caption, self._encode(caption)) for caption in listed]
            for image in range(images_per_caption)
        ]
        generations: list[Generation] = []
        for start in range(0, len(orders), batch_size):
            part = orders[start : start + batch_size]
            stages = list(islice(self._run(part, truncation), count))
            generations += [_generation(order, stages, row, attention) for row, order in enumerate(part)]
            if progress is not None:
                progress(len(generations), len(orders))
        return generations

    def stream(
        self,
        caption: str,
        *,
        seed: int | None = None,
        resolution: int | None = None,
        attention: bool = False,
        truncation: float = 1.0,
    ) -> Iterator[Generation]:
        """Paints one caption and shows each stage as soon as it is there.

        A stage is computed when it is asked for: leave the loop, and the rest is never computed.

        Args:
            caption: As in `generate`, like the other arguments.
            seed: From 0 to 2**64 - 1, or None for a random one.
            resolution: The last stage to compute; None for the largest.
            attention: Also return the attention and gates of the stages so far.
            truncation: Over 0 and at most 1.

        Returns:
            An iterator over one `Generation` for each stage, smallest first. Its `image` is that stage's and its
            `stages` are those so far.

        Raises:
            CaptionError, SettingsError, EngineError: as `generate`, at the call; EngineError also while iterating.
        """
        count = self._stage_count(resolution)
        order = _Order(caption, self._encode(caption), fresh_seed() if seed is None else check_seed(seed))
        return _previews(order, islice(self._run([order], check_truncation(truncation)), count), attention)

    def synthesize(
        self,
        tokens: npt.NDArray[np.int64],
        lengths: npt.NDArray[np.int64],
        noise: FloatArray,
        condition_noise: FloatArray,
        *,
        resolution: int | None = None,
    ) -> Synthesis:
        """The numeric layer under `generate`, for those who own their tokens and noise. Runs as one batch.

        Args:
            tokens: [N, T] int64, from 0 to the vocabulary's size - 1; T is `manifest.tokenizer.max_words`.
            lengths: [N] int64, from 1 to T: how many of a row's tokens count.
            noise: [N, z] float32, z being `manifest.model.noise_features`.
            condition_noise: [N, c] float32, c being `manifest.model.condition_features`.
            resolution: Stop at this one of `resolutions`; None goes to the largest.

        Returns:
            Images in [-1, 1], attention and gates, as arrays by resolution.

        Raises:
            SettingsError: if a type, a shape or a value is not as above.
            EngineError: if the engine fails, or the generator is closed.
        """
        count = self._stage_count(resolution)
        batch = check_batch(
            Batch(tokens, lengths, noise, condition_noise),
            self.manifest.model,
            self.manifest.tokenizer.max_words,
            len(self._tokenizer),
        )
        stages = list(islice(self._stages(batch), count))
        return Synthesis(
            images={stage.resolution: stage.image for stage in stages},
            attention={s.resolution: s.attention for s in stages if s.attention is not None},
            writing_gates={s.resolution: s.writing_gate for s in stages if s.writing_gate is not None},
            response_gates={s.resolution: s.response_gate for s in stages if s.response_gate is not None},
        )

    def _engine(self) -> Backend:
        backend = self._backend
        if backend is None:
            raise EngineError("this generator is closed; open the bundle again with Generator.open")
        return backend

    def _stage_count(self, resolution: int | None) -> int:
        self._engine()
        if resolution is None:
            return len(self.resolutions)
        if resolution not in self.resolutions:
            choices = ", ".join(map(str, self.resolutions))
            raise SettingsError(f"resolution {resolution} is not one of this model's; pass one of {choices}")
        return self.resolutions.index(resolution) + 1

    def _encode(self, caption: str) -> Encoding:
        return self._tokenizer.encode(caption, self.manifest.tokenizer.max_words)

    def _run(self, orders: Sequence[_Order], truncation: float) -> Iterator[Stage]:
        model = self.manifest.model
        noise, condition_noise = draw_noise(
            (order.seed for order in orders), model.noise_features, model.condition_features, truncation
        )
        tokens = np.stack([order.encoding.tokens for order in orders])
        lengths = np.array([order.encoding.length for order in orders], dtype=np.int64)
        return self._stages(Batch(tokens, lengths, noise, condition_noise))

    def _stages(self, batch: Batch) -> Iterator[Stage]:
        return run_stages(self._engine, self.manifest.model, self.manifest.tokenizer.max_words, batch)


def _check_positive(name: str, value: int) -> None:
    if not isinstance(value, int) or value < 1:
        raise SettingsError(f"{name} is {value!r}; pass a whole number, at least 1")


def _previews(order: _Order, stages: Iterator[Stage], attention: bool) -> Iterator[Generation]:
    done: list[Stage] = []
    for stage in stages:
        done.append(stage)
        yield _generation(order, done, 0, attention)


def _generation(order: _Order, stages: Sequence[Stage], row: int, attention: bool) -> Generation:
    pictures = {stage.resolution: to_pil(stage.image[row]) for stage in stages}
    words = order.encoding.length
    maps: dict[int, FloatArray] = {}
    gates: dict[int, Gates] = {}
    for stage in stages:
        if attention and stage.attention is not None:
            # Copies, so that one kept image does not keep the arrays of its whole batch.
            maps[stage.resolution] = stage.attention[row, :words].copy()
            writing, response = stage.writing_gate, stage.response_gate
            gates[stage.resolution] = Gates(
                writing=None if writing is None else writing[row, :words].copy(),
                response=None if response is None else response[row, 0].copy(),
            )
    return Generation(
        caption=order.caption,
        seed=order.seed,
        image=pictures[stages[-1].resolution],
        stages=pictures,
        words=order.encoding.used,
        unknown_words=order.encoding.unknown,
        cut_words=order.encoding.cut,
        attention=maps if attention else None,
        gates=gates if attention else None,
    )
