"""Which images a metric asks for: captions and seeds that follow from the data and one seed alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from typing import NamedTuple, TypeVar

import numpy as np
from torch import Tensor

from dmgan_runtime.tokenizer import Tokenizer
from dmgan_train import distributed
from dmgan_train.data import BrokenFiles, CaptionedImages, Split, collate
from dmgan_train.evaluation.image_source import ImageSource
from dmgan_train.progress import Progress

Look = TypeVar("Look")


class Order(NamedTuple):
    """One image to generate.

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
        seed: Draws order and captions; image k is generated with the seed `seed + k`.
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


def generated(
    source: ImageSource, orders: Sequence[Order], batch_size: int, description: str, look: Callable[[Tensor], Look]
) -> Iterator[tuple[list[Order], Look]]:
    """Generates images batch by batch, looks at them, [n, 3, R, R] uint8 each, and yields what was seen of each.

    Of several processes each generates and looks at batches in its turn, and all are told what was seen of all.

    Args:
        source: Generates.
        orders: What.
        batch_size: Images at once.
        description: What a progress bar says.
        look: What the metrics need of a batch; tensors on the CPU.
    """
    batches = [list(orders[start : start + batch_size]) for start in range(0, len(orders), batch_size)]

    def work(batch: list[Order]) -> Look:
        return look(source.generate([order.caption for order in batch], [order.seed for order in batch]))

    with Progress(len(orders), description, "image", quiet=not distributed.is_main()) as bar:
        for batch, seen in zip(batches, distributed.in_turns(batches, work), strict=True):
            bar.update(len(batch))
            yield batch, seen


def photographed(
    split: Split, source: ImageSource, batch_size: int, description: str, look: Callable[[Tensor], Look]
) -> Iterator[tuple[list[int], Look]]:
    """Looks at the real pictures of a split as the model's training saw them, cut from the middle, as `generated` does.

    Yields the indices of the examples with what was seen; broken ones are logged and left out.

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
    batches = [range(start, min(start + batch_size, len(split))) for start in range(0, len(split), batch_size)]

    def work(indices: range) -> tuple[list[str], list[int], Look | None]:
        items = [reader[0, index] for index in indices]
        reasons = [reason for item in items for reason in item.broken]
        kept = [(index, item) for index, item in zip(indices, items, strict=True) if item.position == index]
        seen = look(collate([item for _, item in kept]).images) if kept else None
        return reasons, [index for index, _ in kept], seen

    with Progress(len(split), description, "image", quiet=not distributed.is_main()) as bar:
        for indices, (reasons, kept, seen) in zip(batches, distributed.in_turns(batches, work), strict=True):
            broken.add(reasons)
            if seen is not None:
                yield kept, seen
            bar.update(len(indices))
