"""What all calls of a generator have in common: checked settings, orders, batches, stages."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np

from dmgan_runtime.errors import CaptionError, SettingsError
from dmgan_runtime.interpolation import blend_texts, slerp
from dmgan_runtime.lifetime import SharedEngine
from dmgan_runtime.manifest import Manifest
from dmgan_runtime.noise import check_seed, check_truncation, fresh_seed
from dmgan_runtime.orders import Order, in_batches, to_batch, to_generation
from dmgan_runtime.pipeline import Batch, Text, draw_stages, encode_text, run_stages
from dmgan_runtime.results import FloatArray, Generation, Stage
from dmgan_runtime.tokenizer import Encoding, Tokenizer

BATCH_SIZE = 4


class Settings(NamedTuple):
    """How images are to be painted; see `Painter.check`.

    Attributes:
        stages: How many stages to compute.
        seed: Of the first image of every caption.
        images_per_caption: With the seeds that follow.
        attention: Whether to return the memory's attention and gates.
        truncation: Over 0 and at most 1.
        batch_size: How many images are computed together.
    """

    stages: int
    seed: int
    images_per_caption: int
    attention: bool
    truncation: float
    batch_size: int


class Painter:
    """A manifest, its vocabulary and an engine, put to work. `Generator` documents what users see of it."""

    def __init__(self, manifest: Manifest, tokenizer: Tokenizer, engine: SharedEngine, max_batch: int | None) -> None:
        self._spec = manifest.model
        self._max_words = manifest.tokenizer.max_words
        self._tokenizer = tokenizer
        self._engine = engine
        self._max_batch = max_batch

    def check(
        self,
        resolution: int | None = None,
        seed: int | None = None,
        images_per_caption: int = 1,
        attention: bool = False,
        truncation: float = 1.0,
        batch_size: int = 1,
    ) -> Settings:
        """Checks what calls take, before anything is computed, and draws a seed if there is none.

        Raises:
            SettingsError: naming what is out of its range.
            EngineError: if the engine is closed.
        """
        self._engine.check_open()
        resolutions = self._spec.resolutions
        if resolution is not None and resolution not in resolutions:
            choices = ", ".join(map(str, resolutions))
            raise SettingsError(f"resolution {resolution!r} is not one of this model's; pass one of {choices}")
        images = check_at_least("images_per_caption", images_per_caption, 1)
        size = check_at_least("batch_size", batch_size, 1)
        first = fresh_seed() if seed is None else check_seed(seed)
        check_seed(first + images - 1)
        return Settings(
            stages=len(resolutions) if resolution is None else resolutions.index(resolution) + 1,
            seed=first,
            images_per_caption=images,
            attention=attention,
            truncation=check_truncation(truncation),
            batch_size=min(size, self._max_batch or size),
        )

    def encode(self, caption: str) -> Encoding:
        """See `Generator.encode`."""
        return self._tokenizer.encode(caption, self._max_words)

    def orders(self, captions: str | Iterable[str], how: Settings) -> Iterator[Order]:
        """Every image that is to be made, each when it is asked for.

        Raises:
            CaptionError: if these are no captions; while iterating, at a caption that cannot be read.
        """
        if isinstance(captions, bytes) or not isinstance(captions, Iterable):
            raise CaptionError(f"captions are one str or several, not {type(captions).__name__}; pass text")
        texts = [captions] if isinstance(captions, str) else captions
        return (
            Order(caption, encoding, how.seed + image)
            for caption in texts
            for encoding in (self.encode(caption),)
            for image in range(how.images_per_caption)
        )

    def paint(self, orders: Iterable[Order], how: Settings) -> Iterator[list[Generation]]:
        """Paints orders, a batch at a time."""
        for part in in_batches(orders, how.batch_size):
            stages = list(islice(self.stages(to_batch(part, self._spec, how.truncation)), how.stages))
            yield [to_generation(order, stages, row, how.attention) for row, order in enumerate(part)]

    def previews(self, order: Order, how: Settings) -> Iterator[Generation]:
        """Paints one order, a stage at a time."""
        done: list[Stage] = []
        for stage in islice(self.stages(to_batch([order], self._spec, how.truncation)), how.stages):
            done.append(stage)
            yield to_generation(order, done, 0, how.attention)

    def interpolate(self, start: Order, end: Order, steps: int, how: Settings) -> Iterator[FloatArray]:
        """Paints the way from one order to another: `steps` images [3, R, R] float32 in [-1, 1]."""
        ends = to_batch([start, end], self._spec, how.truncation)
        texts = [self._read(ends, row) for row in (0, 1)]
        positions = np.linspace(0, 1, steps).tolist()
        for first in range(0, steps, how.batch_size):
            part = positions[first : first + how.batch_size]
            noise, condition_noise = (slerp(rows[0], rows[1], part) for rows in ends[2:])
            text = blend_texts(texts[0], texts[1], part)
            stages = draw_stages(self._engine.lease, self._spec, self._max_words, text, noise, condition_noise)
            *_, stage = islice(stages, how.stages)
            yield from stage.image

    def warm_up(self, batch_size: int) -> None:
        """Paints padding, `batch_size` times at once."""
        how = self.check(batch_size=batch_size, seed=0)
        nothing = Encoding(np.zeros(self._max_words, dtype=np.int64), 1, (), (), ())
        list(self.paint([Order("", nothing, how.seed)] * how.batch_size, how))

    def synthesize(self, batch: Batch, how: Settings) -> list[Stage]:
        """The stages of a checked batch, cut to what the engine takes at once."""
        rows = len(batch.tokens)
        size = self._max_batch or rows
        cut = (Batch._make(array[first : first + size] for array in batch) for first in range(0, rows, size))
        parts = [list(islice(self.stages(part), how.stages)) for part in cut]
        return [_joined(stage) for stage in zip(*parts, strict=True)]

    def stages(self, batch: Batch) -> Iterator[Stage]:
        """The stages of a checked batch, each computed when it is asked for."""
        return run_stages(self._engine.lease, self._spec, self._max_words, batch)

    def _read(self, batch: Batch, row: int) -> Text:
        """The features of one row's caption, as arrays."""
        lengths = batch.lengths[row : row + 1]
        text = encode_text(self._engine.lease, batch.tokens[row : row + 1], lengths)
        with self._engine.lease() as engine:
            return Text(engine.to_host(text.word_features), engine.to_host(text.sentence_feature), lengths)


def _joined(parts: Sequence[Stage]) -> Stage:
    """One stage of a batch whose parts were computed one after the other."""
    resolution, *columns = zip(*parts, strict=True)
    return Stage._make([resolution[0], *(None if column[0] is None else np.concatenate(column) for column in columns)])


def check_at_least(name: str, value: int, least: int) -> int:
    """Returns an argument as a plain int.

    Raises:
        SettingsError: if it is no whole number, or less than `least`.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or number < least:
        raise SettingsError(f"{name} is {value!r}; pass a whole number, at least {least}")
    return number
