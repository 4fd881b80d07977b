"""A stream's batches, the parcels that they are handed out in, and the hands that hold those."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush
from itertools import pairwise
from math import inf
from typing import Any

from zmqtasks.core.ranges import Ranges

BASE_BITS = 40  # an ordinal is a batch's first number, and above it how often parcels of the batch were sent
BASE_MASK = (1 << BASE_BITS) - 1

PIPE_S = 0.25  # longer than that a parcel is in the pipe only if nobody reads it
OVERDUE_S = 1.0  # after that all have to look for it, though nobody seems to idle
OVERDUE_S_MAX = 60.0  # the same after many a time when nothing was lost
ASK_S = 0.02  # between two recalls that were in vain


class Batch:
    """Inputs `base`, `base` + 1, ... as one payload."""

    __slots__ = ("base", "count", "left", "parcels", "payload", "sends", "since")

    def __init__(self, base: int, count: int, payload: Any, since: float) -> None:
        self.base = base
        self.count = count
        self.payload = payload
        self.since = since
        self.left = count  # items without an outcome
        self.sends = 0
        self.parcels: list[Parcel] = []  # they have all of those items, each once

    def check(self) -> None:
        """Assert that they have."""
        ranges = [piece for parcel in self.parcels for piece in parcel.rest]
        if len(ranges) > 1:
            ranges.sort()
            for (_, limit), (first, _) in pairwise(ranges):
                assert limit <= first, f"item {self.base + first} is in two parcels"
        total = 0
        for first, limit in ranges:
            total += limit - first
        assert total == self.left > 0, f"batch {self.base}: {self.left} left, {total} somewhere"


class Parcel:
    """Items `first` to `limit` of a batch, counted from its first, as far as they have no outcome."""

    __slots__ = ("batch", "deliveries", "log", "ordinal", "peer", "rest", "retries", "sent_at")

    def __init__(self, batch: Batch, first: int, limit: int) -> None:
        self.batch = batch
        self.rest = Ranges([(first, limit)])
        self.ordinal = -1  # where it was sent
        self.peer = -1  # who has claimed it
        self.sent_at = -inf
        self.deliveries = 0  # how often it was running when its worker died
        self.retries = 0
        self.log: tuple[str, ...] = ()  # of each failed attempt, a line

    @property
    def count(self) -> int:
        """How many items."""
        return self.rest.count

    @property
    def attempt(self) -> int:
        """How often it has begun, or may have, the time that comes too."""
        return 1 + self.retries + self.deliveries

    def cut(self, first: int, limit: int) -> Parcel:
        """A parcel of the same history with items that were taken out of this one."""
        part = Parcel(self.batch, first, limit)
        part.deliveries, part.retries, part.log = self.deliveries, self.retries, self.log
        self.batch.parcels.append(part)
        return part


class Queue:
    """Parcels by a number or a time, the lowest first. Those that were accepted meanwhile are passed over."""

    __slots__ = ("_entries", "_serial")

    def __init__(self) -> None:
        self._entries: list[tuple[float, int, Parcel]] = []  # a heap
        self._serial = 0  # breaks ties

    def __len__(self) -> int:
        """How many, those among them that are passed over when it is their turn."""
        return len(self._entries)

    def __iter__(self) -> Iterator[Parcel]:
        """All, in any order."""
        return (parcel for _, _, parcel in self._entries)

    def push(self, key: float, parcel: Parcel) -> None:
        """In."""
        self._serial += 1
        heappush(self._entries, (key, self._serial, parcel))

    @property
    def first(self) -> float | None:
        """The lowest number or time; None if nothing is here."""
        entries = self._entries
        while entries and not entries[0][2].rest:
            heappop(entries)
        return entries[0][0] if entries else None

    def pop(self) -> Parcel:
        """Out: that one."""
        return heappop(self._entries)[2]


class Hand:
    """A worker: what it has claimed, and what it was asked."""

    __slots__ = ("asked", "asked_at", "barren", "drained_at", "heard", "id", "leaving", "parcels", "slots")

    def __init__(self, id_: int, slots: int, now: float) -> None:
        self.id = id_
        self.slots = slots
        self.heard = now
        self.parcels: dict[int, Parcel] = {}  # by ordinal
        self.asked = False  # a recall is on its way
        self.asked_at = -inf
        # When the last recall that it answered was sent. At first it has answered none: its end of the pipe may have
        # been there before its first word was.
        self.drained_at = -inf
        self.barren = False  # it had nothing to give back
        self.leaving = False

    @property
    def count(self) -> int:
        """How many items it holds."""
        return sum([parcel.count for parcel in self.parcels.values()])

    def ask_at(self, sent_at: float, pause_s: float, *, busy: bool) -> float:
        """When to ask for what it has not started; infinity for never. `busy`: nobody seems to idle.

        `sent_at`: since when the oldest parcel that nobody has claimed is in the pipe; after `pause_s` it is looked
        for. Whoever holds no more than it can run at a time is asked too, a little later: it may be at work on what
        has been forgotten here.
        """
        if self.asked:
            return inf
        due = max(self.asked_at, sent_at) + pause_s
        if busy or self.barren or not self.parcels:
            return due
        wait_until = -inf if self.count > self.slots else next(iter(self.parcels.values())).sent_at + PIPE_S
        return min(due, max(self.asked_at + ASK_S, wait_until))
