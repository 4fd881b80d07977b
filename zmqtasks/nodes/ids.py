"""Ids of tasks: numbers that no other session of the same cluster makes."""

from __future__ import annotations

import itertools
import threading

_SESSION_BITS = 44  # from the top: the session, one bit for arrays, a counter
_ARRAY_BIT = 1 << (_SESSION_BITS - 1)


class Ids:
    """Ids of one session: consecutive ones for arrays."""

    def __init__(self, session: int) -> None:
        base = session << _SESSION_BITS
        self.next = itertools.count(base + 1).__next__
        self._array = base + _ARRAY_BIT
        self._lock = threading.Lock()

    def block(self, count: int) -> int:
        """The first of `count` consecutive ids."""
        with self._lock:
            first = self._array
            self._array += count
            return first
