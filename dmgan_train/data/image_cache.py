"""Pictures kept in memory, already decoded and scaled: reading them again costs nothing."""

from __future__ import annotations

from collections.abc import Callable

from dmgan_runtime.errors import DataError
from dmgan_train.data.transforms import Pixels
from dmgan_train.logging import Progress


class ImageCache:
    """The pixels of a split's pictures, or why one could not be read.

    A picture takes 3 bytes a pixel: 35 MB for 2,800 squares of 64 pixels, 2.5 GB for CUB at 304.
    """

    def __init__(self, load: Callable[[int], Pixels], count: int) -> None:
        """Args:
        load: Reads and scales a picture, given its place; a `DataError` is kept, and raised when that picture is
            asked for.
        count: How many there are.
        """
        self._pixels: list[Pixels | str] = []
        with Progress(count, "reading pictures into memory", "picture") as bar:
            for index in range(count):
                try:
                    self._pixels.append(load(index))
                except DataError as error:
                    self._pixels.append(str(error))
                bar.update()

    def pixels(self, index: int) -> Pixels:
        """A picture, scaled: [height, width, 3].

        Raises:
            DataError: if it could not be read.
        """
        pixels = self._pixels[index]
        if isinstance(pixels, str):
            raise DataError(pixels)
        return pixels
