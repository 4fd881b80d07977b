"""Ids of tasks: numbers of 64 bits that no other session of the same cluster makes."""

from __future__ import annotations

import itertools
import threading

from zmqtasks.members import Gone

_COUNTER_BITS = 36  # from the top: 28 bits of session, one bit for arrays, a counter
_ARRAY_BIT = 1 << (_COUNTER_BITS - 1)
SESSION_MAX = (1 << 28) - 1


def session_of(id_: int) -> int:
    """Whose task it is."""
    return id_ >> _COUNTER_BITS


def ids_of(session: int, sessions: int = 1) -> Gone:
    """So many sessions from there on have ended: no ids of theirs come any more."""
    return Gone(session << _COUNTER_BITS, sessions << _COUNTER_BITS)


class Ids:
    """Ids of one session: consecutive ones for arrays."""

    def __init__(self, session: int) -> None:
        base = session << _COUNTER_BITS
        self.next = itertools.count(base + 1).__next__
        self._array = base + _ARRAY_BIT
        self._lock = threading.Lock()

    def block(self, count: int) -> int:
        """The first of `count` consecutive ids."""
        with self._lock:
            first = self._array
            self._array += count
            return first
