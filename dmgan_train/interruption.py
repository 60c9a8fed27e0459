"""Ctrl-C and SIGTERM: a phase stops after its step and saves, and whatever else is going on stops at once."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch.distributed as dist

from dmgan_runtime.errors import StoppedError

_AGAIN_AFTER = 1.0  # seconds


class _StopAtOnce(KeyboardInterrupt):
    """Raised where a signal comes: no `except Exception` on the way takes it for trouble of its own."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def stops_at_once() -> Iterator[None]:
    """Ends the block at Ctrl-C and at SIGTERM.

    Raises:
        StoppedError: if one came.
    """

    def stop(number: int, _: FrameType | None) -> None:
        raise _StopAtOnce(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except _StopAtOnce as error:
        raise StoppedError(
            "stopped between steps, so nothing is lost; the same command goes on", error.number
        ) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Interruption:
    """Turns Ctrl-C and SIGTERM into a wish to stop after the step.

    The same wish may come several times: `timeout` sends its signal to a process and then to its group, a terminal to
    everything that it runs, and torchrun to its processes while others do so too. Only a person's second Ctrl-C, a
    second and more after the first, raises KeyboardInterrupt.

    Attributes:
        number: Of the first signal; None as long as none came.
    """

    number: int | None = None

    def __enter__(self) -> Interruption:
        self._old = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _: FrameType | None) -> None:
        if self.number is None:
            self.number, self._since = number, time.monotonic()
        elif (
            number == signal.SIGINT
            and time.monotonic() - self._since >= _AGAIN_AFTER
            and not dist.is_torchelastic_launched()
        ):
            raise KeyboardInterrupt
