"""Pictures kept in memory, already decoded and scaled: reading them again costs nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from dmgan_runtime.errors import DataError
from dmgan_train.data.transforms import Pixels
from dmgan_train.progress import Progress


class ImageCache:
    """The pixels of a split's pictures, or why one could not be read.

    A picture takes 3 bytes a pixel: 35 MB for 2,800 squares of 64 pixels, 2.5 GB for CUB at 304. All are in one tensor,
    which PyTorch shares with the processes that it is sent to, however they are started.
    """

    def __init__(self, load: Callable[[int], Pixels], count: int) -> None:
        """Args:
        load: Reads and scales a picture, given its place; a `DataError` is kept, and raised when that picture is
            asked for.
        count: How many there are.
        """
        buffer = bytearray()
        self._places: list[tuple[int, tuple[int, ...]] | str] = []
        with Progress(count, "reading pictures into memory", "picture") as bar:
            for index in range(count):
                try:
                    pixels = load(index)
                except DataError as error:
                    self._places.append(str(error))
                else:
                    self._places.append((len(buffer), pixels.shape))
                    buffer += pixels.tobytes()
                bar.update()
        self._pixels = torch.from_numpy(np.frombuffer(buffer, dtype=np.uint8))

    def pixels(self, index: int) -> Pixels:
        """A picture, scaled: [height, width, 3].

        Raises:
            DataError: if it could not be read.
        """
        place = self._places[index]
        if isinstance(place, str):
            raise DataError(place)
        start, shape = place
        return self._pixels.numpy()[start : start + int(np.prod(shape))].reshape(shape)
