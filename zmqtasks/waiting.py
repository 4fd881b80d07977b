"""Futures as they complete, for threads and for asyncio."""

from __future__ import annotations

import concurrent.futures
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Generic, TypeVar

from zmqtasks.future import Future

T = TypeVar("T")


class as_completed(Generic[T]):  # noqa: N801 - used as the function of that name in concurrent.futures is
    """The futures in the order of their completion: `for future in ...`, or `async for future in ...`.

    `TimeoutError` if they are not all done `timeout` seconds after the start of the loop.
    """

    def __init__(self, futures: Iterable[Future[T]], timeout: float | None = None) -> None:
        self._futures = list(futures)
        self._timeout = timeout

    def __iter__(self) -> Iterator[Future[T]]:
        return concurrent.futures.as_completed(self._futures, self._timeout)  # type: ignore[arg-type, return-value]  # it wants attributes where ours are properties

    async def __aiter__(self) -> AsyncIterator[Future[T]]:
        import asyncio

        loop = asyncio.get_running_loop()
        done: asyncio.Queue[Future[T]] = asyncio.Queue()
        for future in set(self._futures):
            future.add_done_callback(lambda future: loop.call_soon_threadsafe(done.put_nowait, future))
        async with asyncio.timeout(self._timeout):
            for _ in range(len(set(self._futures))):
                yield await done.get()
