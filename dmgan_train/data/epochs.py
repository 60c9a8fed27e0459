"""The order in which batches take the examples: endless, and from any step on the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler

from dmgan_runtime.errors import DataError

ItemKey = tuple[int, int]
"""Epoch and index of an example."""


def steps_per_epoch(length: int, batch_size: int, setting: str = "batch_size") -> int:
    """Whole batches in a data set.

    Args:
        length: Examples in the data set.
        batch_size: Examples in a batch.
        setting: What the batch size is called, for the message.

    Raises:
        DataError: if the data set cannot fill one.
    """
    if length < batch_size:
        smaller = f"use --set {setting}={length} or less, or " if length > 1 else "use "
        raise DataError(
            f"the data set has {length} examples, too few for one batch of {batch_size} ({setting}); {smaller}more data"
        )
    return length // batch_size


class EpochSampler(Sampler[list[ItemKey]]):
    """Endless batches of item keys, from any step on exactly as an uninterrupted run would have them.

    Each epoch is a new order of all examples; those left over at its end do not make a batch.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int = 0,
        start_step: int = 0,
        share: range | None = None,
        class_ids: Sequence[int] | None = None,
    ) -> None:
        """Args:
        length: Examples in the data set.
        batch_size: Examples in a batch.
        seed: Draws the orders.
        start_step: Batches that were already used, over all epochs.
        share: The rows of each batch that are wanted, where several processes share it; None is all.
        class_ids: Of each example, to draw the examples class by class; None draws them one by one.

        Raises:
            DataError: if the data set cannot fill one batch.
        """
        self.steps_per_epoch = steps_per_epoch(length, batch_size)
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.start_step = start_step
        self.share = share or range(batch_size)
        self._classes = None if class_ids is None else np.unique(class_ids, return_inverse=True)[1]

    def __iter__(self) -> Iterator[list[ItemKey]]:
        epoch, step = divmod(self.start_step, self.steps_per_epoch)
        while True:
            order = self._order(epoch)
            for first in range(step * self.batch_size, self.steps_per_epoch * self.batch_size, self.batch_size):
                yield [(epoch, int(order[first + row])) for row in self.share]
            epoch, step = epoch + 1, 0

    def _order(self, epoch: int) -> npt.NDArray[np.int64]:
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(self.length)
        if self._classes is None:
            return order
        places = rng.permutation(self._classes.max() + 1)
        return order[np.argsort(places[self._classes[order]], kind="stable")]
