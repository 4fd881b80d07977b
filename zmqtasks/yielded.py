"""The items of a generator task, as whoever has its future sees them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from zmqtasks import payload as payloads
from zmqtasks.messages import Items
from zmqtasks.streamed import is_streamed, items_of

if TYPE_CHECKING:
    from zmqtasks.future import Future


class Yielded:
    """What has come of one task before its outcome, by number, until somebody takes it."""

    def __init__(self) -> None:
        self._items: dict[int, bytes] = {}
        self._news = threading.Condition()

    def put(self, items: Items) -> None:
        """These have come; called by the host alone."""
        with self._news:
            self._items.update(enumerate(items.packed, items.first))
            self._news.notify_all()

    def end(self) -> None:
        """The outcome is there; called by the host alone."""
        with self._news:
            self._news.notify_all()

    def each(self, future: Future[Any]) -> Iterator[Any]:
        """The items in order: those that come, and when the task is over the rest of its outcome's."""
        cluster_id, at = future.host.cluster_id, 0
        while (packed := self._next(future, at)) is not None:
            yield payloads.load(packed, None, cluster_id)
            at += 1
        value = future.result()
        known = future.known()
        payload = known[1].payload if known is not None else b""
        items = items_of(payload) if is_streamed(payload) else None
        if items is None:
            kind = type(value).__name__
            raise TypeError(f"task {future.id} is no generator: its result() has its value, of type {kind}")
        for packed in items[at:]:
            yield payloads.load(packed, None, cluster_id)

    def _next(self, future: Future[Any], at: int) -> bytes | None:
        """Wait for item `at`; None if the task is over."""
        if (packed := self._items.pop(at, None)) is not None:
            return packed

        def park() -> bool:
            with self._news:
                return self._news.wait_for(lambda: at in self._items or future.done())

        future.host.wait(park, future.number)
        return self._items.pop(at, None)
