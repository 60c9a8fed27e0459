"""The facade: captions to pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain

import numpy as np
import numpy.typing as npt
from PIL import Image

from dmgan_runtime.backends.base import Backend
from dmgan_runtime.errors import CaptionError, SettingsError
from dmgan_runtime.images import to_pil
from dmgan_runtime.manifest import Manifest
from dmgan_runtime.noise import check_seed
from dmgan_runtime.orders import Order
from dmgan_runtime.painter import BATCH_SIZE, Painter, check_at_least
from dmgan_runtime.pipeline import Batch, check_batch
from dmgan_runtime.results import FloatArray, Generation, Synthesis
from dmgan_runtime.session import Session
from dmgan_runtime.tokenizer import Encoding, Tokenizer

Progress = Callable[[int, int], None]
"""Called with how many images are done and how many there will be."""


class Generator(Session):
    """A DM-GAN that is ready to paint; `open` makes one, and `Session` says how it lives.

    One generator serves many threads. A forked process opens the bundle again when it first uses the generator, and
    so does a process to which it was pickled: the bundle must still be where it was.

        with Generator.open("birds.zip") as generator:
            for generation in generator.generate("a small red bird", seed=7, images_per_caption=4):
                generation.image.save(f"{generation.seed}.png")
    """

    def __init__(
        self, manifest: Manifest, tokenizer: Tokenizer, backend: Backend, open_again: Callable[[], Session]
    ) -> None:
        """Use `Generator.open`; see `Session`."""
        super().__init__(manifest, tokenizer, backend, open_again)
        self._painter = Painter(manifest, tokenizer, self._engine, self.active.max_batch)

    def generate(
        self,
        captions: str | Iterable[str],
        *,
        seed: int | None = None,
        images_per_caption: int = 1,
        resolution: int | None = None,
        attention: bool = False,
        truncation: float = 1.0,
        batch_size: int = BATCH_SIZE,
        progress: Progress | None = None,
    ) -> list[Generation]:
        """Paints captions.

        Image j of every caption has the seed `seed + j`, so a caption and a seed name one picture, whatever
        else is asked for beside it: to the last bit in batches of one size on one engine and machine. Elsewhere engines
        cut the work in other ways and round differently, and now and then a value of a pixel is one level of 255 apart.

        Args:
            captions: One caption or any number.
            seed: From 0 to 2**64 - 1; None draws one at random, which each result names.
            images_per_caption: At least 1.
            resolution: Stop at this one of `resolutions`; None goes to the largest.
            attention: Also return the memory's attention and gates.
            truncation: Over 0 and at most 1: multiplies both noises. Less is nearer to the typical image of the
                caption, and less varied.
            batch_size: How many images are computed together; cut to what the engine takes (`active.max_batch`). More
                takes more memory.
            progress: Called after each batch with the numbers of images done and to do.

        Returns:
            The images of the first caption by seed, then those of the second, and so on.

        Raises:
            CaptionError: if a caption has no known word. Nothing is computed then.
            SettingsError: if another argument is out of its range.
            EngineError: if the engine fails, or the generator is closed.
        """
        how = self._painter.check(resolution, seed, images_per_caption, attention, truncation, batch_size)
        orders = list(self._painter.orders(captions, how))
        generations: list[Generation] = []
        for part in self._painter.paint(orders, how):
            generations += part
            if progress is not None:
                progress(len(generations), len(orders))
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
        batch_size: int = BATCH_SIZE,
    ) -> Iterator[Generation]:
        """Paints captions as `generate` does, but reads them and hands out images as it goes.

        Memory holds one batch, whatever the number of captions: they may come from a file of millions, or never end.
        The next batch is read and computed when the last image of the one before has been taken.

        Args:
            captions: One caption, or any iterable of them.
            seed: As in `generate`, like all that follow.
            images_per_caption: See there.
            resolution: See there.
            attention: See there.
            truncation: See there.
            batch_size: See there.

        Returns:
            An iterator over the images, in the order of `generate`.

        Raises:
            SettingsError, EngineError: as `generate`, at the call; EngineError also while iterating.
            CaptionError: at the call, if these are no captions; for a caption that cannot be read while iterating, once
                the images before it have been taken. To leave such captions out, ask `encode` first.
        """
        how = self._painter.check(resolution, seed, images_per_caption, attention, truncation, batch_size)
        return chain.from_iterable(self._painter.paint(self._painter.orders(captions, how), how))

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
        how = self._painter.check(resolution=resolution, seed=seed, attention=attention, truncation=truncation)
        (order,) = self._painter.orders([caption], how)
        return self._painter.previews(order, how)

    def interpolate(
        self,
        captions: str | tuple[str, str],
        *,
        seeds: int | tuple[int, int] | None = None,
        steps: int = 8,
        resolution: int | None = None,
        truncation: float = 1.0,
        batch_size: int = BATCH_SIZE,
    ) -> list[Image.Image]:
        """Paints the way from one picture to another: from caption to caption, from seed to seed, or both at once.

        Noise moves along a great circle (`interpolation.slerp`); captions in the text encoder's features, word by
        aligned word (`interpolation.blend_texts`).

        Args:
            captions: One, or the first and the last.
            seeds: One, or the first and the last; None draws one at random.
            steps: How many pictures, both ends included; at least 2.
            resolution: As in `generate`, like the arguments after it.
            truncation: Over 0 and at most 1.
            batch_size: How many images are computed together.

        Returns:
            `steps` pictures; the first and the last are those that `generate` paints.

        Raises:
            CaptionError, SettingsError, EngineError: as `generate`.
        """
        if not isinstance(captions, str) and not _is_pair(captions):
            raise CaptionError(f"captions are {captions!r}; pass one caption, or the first and the last: (a, b)")
        if isinstance(seeds, tuple) and not _is_pair(seeds):
            raise SettingsError(f"seeds are {seeds!r}; pass one seed, or the first and the last: (a, b)")
        first, last = (captions, captions) if isinstance(captions, str) else captions
        seed, end_seed = seeds if isinstance(seeds, tuple) else (seeds, seeds)
        steps = check_at_least("steps", steps, 2)
        how = self._painter.check(resolution=resolution, seed=seed, truncation=truncation, batch_size=batch_size)
        start = Order(first, self.encode(first), how.seed)
        end = Order(last, self.encode(last), how.seed if end_seed is None else check_seed(end_seed))
        return [to_pil(image) for image in self._painter.interpolate(start, end, steps, how)]

    def warm_up(self, batch_sizes: Iterable[int] = (1, BATCH_SIZE)) -> None:
        """Runs every graph once for each batch size, so that the first user does not wait for what engines do once.

        Args:
            batch_sizes: Those that will be asked for.

        Raises:
            SettingsError: if one is no whole number, or less than 1.
            EngineError: if the engine fails, or the generator is closed.
        """
        if not isinstance(batch_sizes, Iterable):
            raise SettingsError(f"batch_sizes is {batch_sizes!r}; pass one or more in a list, such as [{BATCH_SIZE}]")
        for batch_size in batch_sizes:
            self._painter.warm_up(batch_size)

    def encode(self, caption: str) -> Encoding:
        """What the model reads of a caption: its tokens for `synthesize`, and the words unknown and cut.

        Raises:
            CaptionError: if the caption is no text, longer than 10,000 characters, or has no known word.
        """
        return self._painter.encode(caption)

    def synthesize(
        self,
        tokens: npt.NDArray[np.int64],
        lengths: npt.NDArray[np.int64],
        noise: FloatArray,
        condition_noise: FloatArray,
        *,
        resolution: int | None = None,
    ) -> Synthesis:
        """The numeric layer under `generate`, for those who own their tokens and noise.

        Runs as one batch, or as few as the engine takes.

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
        how = self._painter.check(resolution=resolution)
        batch = check_batch(
            Batch(tokens, lengths, noise, condition_noise),
            self.manifest.model,
            self.manifest.tokenizer.max_words,
            len(self.tokenizer),
        )
        return Synthesis.of(self._painter.synthesize(batch, how))


def _is_pair(value: object) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2
