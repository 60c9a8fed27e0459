"""Which images a metric asks for: captions and seeds that follow from the data and one seed alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import NamedTuple

import numpy as np
from torch import Tensor

from dmgan_runtime.tokenizer import Tokenizer
from dmgan_train.data import BrokenFiles, CaptionedImages, Split, collate
from dmgan_train.evaluation.image_source import ImageSource
from dmgan_train.progress import Progress


class Order(NamedTuple):
    """One image to paint.

    Attributes:
        caption: What.
        seed: Draws its noise.
        example: Index in the split of the example that the caption belongs to.
        class_id: That example's class.
    """

    caption: str
    seed: int
    example: int
    class_id: int


def random_orders(split: Split, count: int, seed: int) -> list[Order]:
    """As the published code samples: pass after pass over the split, each example with one of its captions.

    Args:
        split: Whose captions.
        count: How many images.
        seed: Draws order and captions; image k is painted with the seed `seed + k`.
    """

    def one_pass(number: int) -> Iterator[tuple[int, str]]:
        rng = np.random.default_rng([seed, number])
        for index in rng.permutation(len(split)):
            captions = split.examples[index].captions
            yield int(index), captions[rng.integers(len(captions))]

    passes = chain.from_iterable(one_pass(number) for number in range(-(-count // len(split))))
    return [
        Order(caption, seed + k, index, split.examples[index].class_id)
        for k, (index, caption) in enumerate(islice(passes, count))
    ]


def every_caption(split: Split, limit: int, seed: int) -> list[Order]:
    """Every caption of a split once, or, if there are more than the limit, so many evenly spread."""
    captions = [(index, caption) for index, example in enumerate(split.examples) for caption in example.captions]
    chosen = np.linspace(0, len(captions) - 1, min(limit, len(captions))).astype(int)
    return [
        Order(captions[position][1], seed + k, captions[position][0], split.examples[captions[position][0]].class_id)
        for k, position in enumerate(chosen)
    ]


def painted(
    source: ImageSource, orders: Sequence[Order], batch_size: int, description: str
) -> Iterator[tuple[list[Order], Tensor]]:
    """Paints orders batch by batch, with a progress bar: [n, 3, R, R] uint8 each."""
    with Progress(len(orders), description, "image") as bar:
        for start in range(0, len(orders), batch_size):
            part = list(orders[start : start + batch_size])
            yield part, source.paint([order.caption for order in part], [order.seed for order in part])
            bar.update(len(part))


def photographed(
    split: Split, source: ImageSource, batch_size: int, description: str
) -> Iterator[tuple[list[int], Tensor]]:
    """The real pictures of a split as the model's training saw them, cut from the middle: [n, 3, R, R] uint8.

    Yields the indices of the examples with their pictures; broken ones are logged and left out.

    Raises:
        DataError: if too many pictures are broken.
    """
    reader = CaptionedImages(
        split,
        Tokenizer.from_captions(split.captions()),
        resolution=source.resolution,
        max_words=1,
        augment=source.data.augment,
        evaluation=True,
    )
    broken = BrokenFiles(split, source.data.broken_limit)
    with Progress(len(split), description, "image") as bar:
        for start in range(0, len(split), batch_size):
            indices = range(start, min(start + batch_size, len(split)))
            items = [reader[0, index] for index in indices]
            broken.add(reason for item in items for reason in item.broken)
            kept = [(index, item) for index, item in zip(indices, items, strict=True) if item.position == index]
            if kept:
                yield [index for index, _ in kept], collate([item for _, item in kept]).images
            bar.update(len(items))
