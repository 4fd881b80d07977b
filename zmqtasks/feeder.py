"""From an iterable to batches: read in one thread, so that an input that blocks holds up nothing but itself."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from time import monotonic
from typing import Any

AHEAD_MAX = 16_384  # items that are read and not fed
AHEAD_BATCHES = 8  # of the size that is fed now: what is large or long is read when it is needed
CHUNK_MAX = 1024  # items that are read at a stretch, as long as that is fast
SLOW_S = 0.005  # a stretch that takes longer: one by one from now on
PEEK_S = (0.01, 0.5)  # how soon, and how seldom, it is looked what a stretch that has stalled has brought
_END = object()


class Feeder:
    """Two threads: one iterates `items`, the other takes what is there in batches of the size that `room` names.

    `feed` is called with each batch; it may fail, as `items` may: then `error` has it. At the end `done` is called.
    `room` blocks; 0 ends it all. At most `ahead_max` items are read that are not fed.
    """

    def __init__(
        self,
        items: Iterator[Any],
        room: Callable[[], int],
        feed: Callable[[list[Any]], None],
        done: Callable[[], None],
        ahead_max: int,
    ) -> None:
        self.error: BaseException | None = None
        self._items = items
        self._room, self._feed, self._done = room, feed, done
        self._read: deque[Any] = deque()
        self._state = threading.Condition()
        self._ended = self._stopped = False  # nothing more comes; nothing more is wanted
        self._stretch = self._ahead = 1
        self._ahead_max = max(1, min(ahead_max, AHEAD_MAX))
        threading.Thread(target=self._run_reader, name="zmqtasks-reader", daemon=True).start()
        self._feeding = threading.Thread(target=self._run_feeder, name="zmqtasks-feeder", daemon=True)
        self._feeding.start()

    def stop(self) -> None:
        """Read nothing more, and feed nothing more when this returns. An input that blocks is left alone."""
        self._stop()
        if threading.current_thread() is not self._feeding:  # garbage is collected in any thread
            self._feeding.join()

    def _stop(self) -> None:
        with self._state:
            self._stopped = True
            self._state.notify_all()

    # ---- the reader ----------------------------------------------------------------------------------------------

    def _run_reader(self) -> None:
        try:
            while not self._stopped and self._read_some(self._items):
                with self._state:
                    self._state.notify_all()
                    self._state.wait_for(lambda: self._stopped or len(self._read) < self._ahead)
        except BaseException as error:  # noqa: BLE001 - the user's iterable: whoever iterates the run hears of it
            self.error = error
        with self._state:
            self._ended = True
            self._state.notify_all()

    def _read_some(self, items: Iterator[Any]) -> bool:
        """Read a stretch; the items are there for the other thread one by one. Whether that was not the end."""
        started = monotonic()
        self._read.extend(islice(items, max(0, min(self._stretch, self._ahead - len(self._read)) - 1)))
        if (item := next(items, _END)) is _END:
            return False
        self._read.append(item)
        self._stretch = min(2 * self._stretch, CHUNK_MAX) if monotonic() - started < SLOW_S else 1
        return True

    # ---- the feeder ----------------------------------------------------------------------------------------------

    def _run_feeder(self) -> None:
        try:
            while room := self._room():
                self._ahead = min(AHEAD_BATCHES * room, self._ahead_max)
                if not (batch := self._take(room)):
                    break
                self._feed(batch)
        except BaseException as error:  # noqa: BLE001 - what cannot be pickled: whoever iterates the run hears of it
            self.error = self.error or error
        self._stop()
        self._done()

    def _take(self, count: int) -> list[Any]:
        """Up to `count` items, as soon as there is one; none at the end."""
        soon, seldom = PEEK_S
        with self._state:
            while not self._read and not self._ended and not self._stopped:
                self._state.wait(soon if self._stretch > 1 else None)
                soon = min(2 * soon, seldom)
            if self._stopped:
                return []
            read = self._read
            batch = [read.popleft() for _ in range(min(count, len(read)))]
            self._state.notify_all()
            return batch
