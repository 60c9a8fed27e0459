"""Work in threads: so many at once, so many that wait, and the rest is refused."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from dmgan_runtime.server.errors import ApiError, stopping
from dmgan_runtime.server.metrics import Metrics

_Item = TypeVar("_Item")
_LONGEST_RETRY = 60


class Workers:
    """The threads of one application, and their queue."""

    def __init__(self, concurrency: int, queue: int, metrics: Metrics) -> None:
        self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix="dmgan")
        self._concurrency = concurrency
        self._most = concurrency + queue
        self._metrics = metrics
        self._jobs = 0
        self._seconds = 1.0
        self.draining = False

    async def run(self, work: Callable[[threading.Event], Iterator[_Item]]) -> AsyncIterator[_Item]:
        """Runs an iterator in a thread, and hands out each item as soon as it is there.

        If the caller leaves, or is cancelled, the iterator is not asked for its next item.

        Args:
            work: Makes the iterator; called in the thread, with an event that is set when nobody wants more.

        Raises:
            ApiError: 503 while the server stops, 429 if the queue is full.
        """
        if self.draining:
            raise stopping()
        if self._jobs >= self._most:
            wait = min(_LONGEST_RETRY, math.ceil(self._jobs * self._seconds / self._concurrency))
            raise ApiError(
                429,
                f"{self._jobs} requests are being worked on or wait; ask again in {wait} s",
                code="queue_full",
                headers={"Retry-After": str(wait)},
            )
        job = _Job(asyncio.get_running_loop(), work)
        self._jobs += 1
        self._metrics.waiting.inc()
        future = self._threads.submit(self._work, job)
        future.add_done_callback(lambda done: job.call_in_loop(self._finished, done))
        async with aclosing(job.items()) as items:
            try:
                async for item in items:
                    yield item
            finally:
                job.stopped.set()
                future.cancel()

    async def drain(self, seconds: float) -> None:
        """Takes no more work, and waits for what is there, but not for ever."""
        self.draining = True
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._jobs:
                    await asyncio.sleep(0.01)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _work(self, job: _Job) -> None:
        self._metrics.waiting.dec()
        start = time.perf_counter()
        with self._metrics.running.track_inprogress():
            job.run()
        self._seconds += (time.perf_counter() - start - self._seconds) / 8

    def _finished(self, future: Future[None]) -> None:
        self._jobs -= 1
        if future.cancelled():
            self._metrics.waiting.dec()


class _Job:
    """One iterator on its way through a thread; what it hands out travels to the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, work: Callable[[threading.Event], Iterator[Any]]) -> None:
        self.stopped = threading.Event()
        self._loop = loop
        self._work = work
        self._items: asyncio.Queue[tuple[Any, BaseException | None]] = asyncio.Queue()

    def run(self) -> None:
        """In a thread."""
        end: BaseException = StopAsyncIteration()
        try:
            for item in self._work(self.stopped):
                self.call_in_loop(self._items.put_nowait, (item, None))
                if self.stopped.is_set():
                    break
        except BaseException as error:  # noqa: BLE001 - raised again in the event loop
            end = error
        self.call_in_loop(self._items.put_nowait, (None, end))

    async def items(self) -> AsyncGenerator[Any, None]:
        """In the event loop."""
        while True:
            item, end = await self._items.get()
            if isinstance(end, StopAsyncIteration):
                return
            if end is not None:
                raise end
            yield item

    def call_in_loop(self, function: Callable[..., object], *arguments: object) -> None:
        """From a thread. An event loop that has ended waits for nothing."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *arguments)
