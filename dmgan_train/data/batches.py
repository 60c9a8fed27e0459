"""From a split to batches: every item follows from the seed, the epoch and its index alone."""

from __future__ import annotations

import atexit
import itertools
import signal
import weakref
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from dmgan_runtime.errors import DataError
from dmgan_runtime.tokenizer import Tokenizer
from dmgan_train.data.broken import BrokenFiles
from dmgan_train.data.epochs import EpochSampler, ItemKey
from dmgan_train.data.examples import Example, Split
from dmgan_train.data.image_cache import ImageCache
from dmgan_train.data.intervals import WHOLE, CaptionIntervals, Interval
from dmgan_train.data.transforms import (
    Augment,
    Pixels,
    cub_crop,
    cut_square,
    load_image,
    resize_short_side,
    scaled_side,
)

_REPLACEMENTS = 100


class Captions(NamedTuple):
    """One caption of each of N examples.

    Attributes:
        tokens: [N, T] int64, padded with 0.
        lengths: [N] int64, from 1 to T.
    """

    tokens: Tensor
    lengths: Tensor


class Item(NamedTuple):
    """One example as the networks take it.

    Attributes:
        image: [R, R, 3] uint8; of no pixels where no picture was asked for.
        mirrored: Whether it shall be turned left to right.
        tokens: [max_words] int64, padded with 0.
        length: How many of the tokens are words, at least 1.
        example: The example that was used.
        position: Its index in the split; another than was asked for, if that one was broken.
        interval: The part of (0, 1) that is the picture's among all that its caption fits; see `CaptionIntervals`.
        broken: `<file>: <reason>` of each example that could not be used.
        second: Tokens and length of another caption, where pairs are asked for.
    """

    image: Pixels
    mirrored: bool
    tokens: npt.NDArray[np.int64]
    length: int
    example: Example
    position: int
    interval: Interval
    broken: tuple[str, ...]
    second: tuple[npt.NDArray[np.int64], int] | None = None


class TrainingBatch(NamedTuple):
    """N examples as the networks take them.

    Attributes:
        images: [N, 3, R, R] uint8, of which `pyramid` makes what the networks take.
        mirrored: [N] bool, which of them shall be turned left to right.
        tokens: [N, T] int64, padded with 0.
        lengths: [N] int64, from 1 to T.
        class_ids: [N] int64.
        indices: [N] int64, their indices in the split.
        intervals: [N, 2] float64, the parts of (0, 1) that are theirs among all that their captions fit.
        broken: `<file>: <reason>` of each example that could not be used and was replaced.
        second: Another caption of each example, where pairs are asked for.
    """

    images: Tensor
    mirrored: Tensor
    tokens: Tensor
    lengths: Tensor
    class_ids: Tensor
    indices: Tensor
    intervals: Tensor
    broken: tuple[str, ...]
    second: Captions | None = None


class CaptionedImages(Dataset[Item]):
    """A split whose items are asked for by (epoch, index).

    An item's caption, words, crop and mirroring are drawn from (seed, epoch, index): neither the order of the
    items nor the number of workers changes it.
    """

    def __init__(
        self,
        split: Split,
        tokenizer: Tokenizer,
        *,
        resolution: int | None,
        max_words: int,
        seed: int = 0,
        augment: Augment = "crop_flip",
        evaluation: bool = False,
        cache: bool = False,
        intervals: bool = False,
        pairs: bool = False,
    ) -> None:
        """Args:
        split: The examples.
        tokenizer: Turns captions into tokens; words that it does not know are dropped.
        resolution: Side of the pictures in pixels; with None, no picture is opened.
        max_words: Tokens of a caption. Of a longer one a random subset is taken, in order.
        seed: At least 0.
        augment: How pictures are varied, see `cut_square`.
        evaluation: Takes pictures from the middle, not mirrored, and a long caption's first words. Which of an
            image's captions is used still follows from the seed and the epoch.
        cache: Reads every picture now, scaled down, and keeps its pixels in memory; the loader's workers share them.
        intervals: Tells the pictures of a caption apart by `Item.interval`; otherwise it is (0, 1).
        pairs: Gives every item a second caption, the same again where its example has no other; all else of the
            item stays as it is without.
        """
        self.split = split
        self.tokenizer = tokenizer
        self.resolution = resolution
        self.max_words = max_words
        self.seed = seed
        self.augment: Augment = augment
        self.evaluation = evaluation
        self.pairs = pairs
        self._intervals = CaptionIntervals(split, tokenizer) if intervals else None
        self._cache = ImageCache(self._load, len(split)) if cache and resolution else None

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, key: ItemKey) -> Item:
        """The item of an epoch; another in its place if its picture or its captions cannot be used.

        Raises:
            DataError: if so many replacements are broken too that the whole data set must be.
        """
        epoch, index = key
        rng = np.random.default_rng([self.seed, epoch, index])
        broken: list[str] = []
        for _ in range(_REPLACEMENTS):
            example = self.split.examples[index]
            try:
                words, *others = self._draw_captions(example, rng)
                tokens, length = self._fit(words, rng)
                image, mirrored = self._draw_image(index, rng)
            except DataError as error:
                broken.append(str(error))
                index = int(rng.integers(len(self)))
            else:
                interval = self._intervals.of(words, index) if self._intervals else WHOLE
                reasons = tuple(dict.fromkeys(broken))
                second = self._fit(others[0] if others else words, rng) if self.pairs else None
                return Item(image, mirrored, tokens, length, example, index, interval, reasons, second)
        raise DataError(
            f"{self.split.root}: none of {_REPLACEMENTS} examples of the split {self.split.name!r} can be used;"
            f" the last error is: {broken[-1]}"
        )

    def _draw_captions(self, example: Example, rng: np.random.Generator) -> list[list[int]]:
        """The words of a caption of an example, or of two where pairs are asked for and it has two."""
        captions = (example.captions[choice] for choice in rng.permutation(len(example.captions)))
        readable = (words for caption in captions if (words := self.tokenizer.indices(caption)))
        drawn = list(itertools.islice(readable, 2 if self.pairs else 1))
        if not drawn:
            raise DataError(f"{example.image}: no caption of it has a word of the vocabulary")
        return drawn

    def _fit(self, words: list[int], rng: np.random.Generator) -> tuple[npt.NDArray[np.int64], int]:
        if len(words) > self.max_words and not self.evaluation:
            kept = np.sort(rng.choice(len(words), self.max_words, replace=False))
            words = [words[position] for position in kept]
        words = words[: self.max_words]
        tokens = np.zeros(self.max_words, dtype=np.int64)
        tokens[: len(words)] = words
        return tokens, len(words)

    def _draw_image(self, index: int, rng: np.random.Generator) -> tuple[Pixels, bool]:
        if not self.resolution:
            return np.empty((0, 0, 3), dtype=np.uint8), False
        pixels = self._load(index) if self._cache is None else self._cache.pixels(index)
        return cut_square(pixels, self.resolution, self.augment, None if self.evaluation else rng)

    def _load(self, index: int) -> Pixels:
        """A picture's pixels, scaled for cutting."""
        assert self.resolution
        example = self.split.examples[index]
        image = load_image(example.image)
        if example.box is not None:
            try:
                image = cub_crop(image, example.box)
            except DataError as error:
                raise DataError(f"{example.image}: {error}") from error
        return np.asarray(resize_short_side(image, scaled_side(self.resolution, self.augment)))


def collate(items: Sequence[Item]) -> TrainingBatch:
    """Stacks items into a batch; in a process that reads ahead, in memory that is shared with the one that trains."""
    batch = TrainingBatch(
        images=torch.from_numpy(np.stack([item.image for item in items])).permute(0, 3, 1, 2),
        mirrored=torch.tensor([item.mirrored for item in items]),
        tokens=torch.from_numpy(np.stack([item.tokens for item in items])),
        lengths=torch.tensor([item.length for item in items]),
        class_ids=torch.tensor([item.example.class_id for item in items]),
        indices=torch.tensor([item.position for item in items]),
        intervals=torch.tensor([item.interval for item in items], dtype=torch.float64),
        broken=tuple(reason for item in items for reason in item.broken),
        second=_collate_second([item.second for item in items if item.second]),
    )
    if get_worker_info():
        # Else a thread would move them there, and where there is no room its error would be lost and the batch awaited
        # for ever.
        for part in (*batch, *(batch.second or ())):
            if isinstance(part, Tensor):
                part.share_memory_()
    return batch


def _collate_second(captions: Sequence[tuple[npt.NDArray[np.int64], int]]) -> Captions | None:
    if not captions:
        return None
    tokens, lengths = zip(*captions, strict=True)
    return Captions(torch.from_numpy(np.stack(tokens)), torch.tensor(lengths))


def make_loader(
    dataset: CaptionedImages,
    batch_size: int,
    seed: int = 0,
    start_step: int = 0,
    workers: int = 0,
    broken: BrokenFiles | None = None,
    share: range | None = None,
    by_class: bool = False,
    pin: bool = False,
) -> Generator[TrainingBatch]:
    """Endless batches, from any step on exactly as an uninterrupted run would have them.

    Args:
        dataset: The examples.
        batch_size: Examples in a batch.
        seed: Draws the order of each epoch.
        start_step: Batches that were already used, over all epochs.
        workers: Processes that read ahead; with 0 pictures are read in this one.
        broken: Counts the files that cannot be used; by default it stops at 1% of the split, at least 10.
        share: The rows of each batch that are wanted, where several processes share it; None is all.
        by_class: Draw each epoch class by class, so that the examples of a class share a batch.
        pin: Keep batches in memory that a GPU can copy from while it works.

    Returns:
        An iterator that never ends. Close it to stop its workers.

    Raises:
        DataError: if the data set cannot fill one batch; later, by the iterator, once too many files are broken, or
            if the machine has too little shared memory for the workers.
    """
    class_ids = [example.class_id for example in dataset.split.examples] if by_class else None
    sampler = EpochSampler(len(dataset), batch_size, seed, start_step, share, class_ids)
    loader = DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=workers,
        pin_memory=pin,
        worker_init_fn=_outlive_signals,
        # Without a generator of its own a loader draws from the global one, and so changes what comes after.
        generator=torch.Generator(),
    )
    batches = _watched(loader, broken or BrokenFiles(dataset.split))
    if workers:
        atexit.register(_close, weakref.ref(batches))
    return batches


def _outlive_signals(_: int) -> None:
    """What stops a whole group of processes (Ctrl-C, `timeout`, a scheduler) is for the one that trains to answer."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def _signals_wait() -> Iterator[None]:
    """Holds signals back, also from processes that are started meanwhile, until they know what to do with them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _close(batches: weakref.ref[Generator[TrainingBatch]]) -> None:
    """Ends a loader that is still open when Python ends: its processes do not hear Python's own request."""
    if (loader := batches()) is not None:
        loader.close()


def _watched(loader: DataLoader[Item], broken: BrokenFiles) -> Generator[TrainingBatch]:
    batch: TrainingBatch
    try:
        with _signals_wait():
            batches = iter(loader)  # starts the workers
        for batch in batches:
            broken.add(batch.broken)
            yield batch
    except DataError as error:
        # From a worker an error comes with the worker's traceback before its message, and in a reference cycle that
        # would keep the workers alive; without its own traceback the cycle is cut and they end now.
        error.__traceback__ = None
        raise DataError(str(error).rpartition("DataError: ")[2].strip()) from None
    except RuntimeError as error:
        if "shared memory" not in str(error):
            raise
        error.__traceback__ = None
        raise DataError(
            "there is too little shared memory (/dev/shm) for the processes that read pictures; give the container"
            " more (docker run --shm-size 1g), or read in this process: --workers 0"
        ) from None
