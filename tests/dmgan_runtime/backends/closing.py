"""What closing means to those who use a generator at that moment."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from dmgan_runtime import EngineError, Generator


def close_under_users(generator: Generator, images: Callable[[Generator], np.ndarray]) -> None:
    """Closes it while three threads generate: what they have is right to the end, and what they ask later is refused.

    Args:
        generator: Open; it is closed here.
        images: What each thread generates, again and again.
    """
    expected = images(generator)
    served = threading.Semaphore(0)

    def serve() -> None:
        while True:
            np.testing.assert_array_equal(images(generator), expected)
            served.release()

    with ThreadPoolExecutor(3) as pool:
        users = [pool.submit(serve) for _ in range(3)]
        for _ in users:  # so some are amid a batch
            assert served.acquire(timeout=60)
        generator.close()
        for user in users:
            with pytest.raises(EngineError, match="closed"):
                user.result()
