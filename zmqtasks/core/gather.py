"""What a sink has: the first outcome of each number counts, and is given out once, in order if that is asked for."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Any, NamedTuple

from zmqtasks.core.ranges import Ranges


class Piece(NamedTuple):
    """Outcomes of `items` numbers from `first` on: entries of `payload` from `skip` on, or one failure."""

    first: int
    items: int
    failed: bool
    payload: Any
    skip: int


class Gather:
    """The machine. It needs no clock: `take` decides at once. `ordered`: pieces wait until it is their turn.

    `known`: numbers that need no outcome any more; in order they can only be those before all others.
    """

    def __init__(self, first: int = 0, *, ordered: bool = False, known: Ranges | None = None) -> None:
        self.waiting = 0  # items that have an outcome, and wait for their turn
        self._first = first
        self.have = known if known is not None else Ranges()  # numbers
        self._ordered = ordered
        self._next = next((limit for start, limit in self.have if start <= first < limit), first)
        self._later: list[Piece] = []  # a heap

    def take(self, first: int, items: int, payload: Any, *, failed: bool) -> tuple[list[Piece], list[Piece]]:
        """Outcomes have come: what of it counts, and what is to be given out now."""
        if first < self._first:
            return [], []  # of an earlier run
        new = [
            Piece(start, limit - start, failed, payload, start - first)
            for start, limit in self.have.add(first, first + items)
        ]
        if not self._ordered:
            return new, new
        for piece in new:
            heappush(self._later, piece)
            self.waiting += piece.items
        out: list[Piece] = []
        while self._later and self._later[0].first == self._next:
            piece = heappop(self._later)
            self._next += piece.items
            self.waiting -= piece.items
            out.append(piece)
        return new, out
