"""Sets of whole numbers, where neighbours are many: kept as ranges."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

Range = tuple[int, int]  # the numbers from the first up to the second, without it


class Ranges:
    """Disjoint ranges in order, with a gap after each."""

    __slots__ = ("_firsts", "_limits")

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        self._firsts: list[int] = []
        self._limits: list[int] = []
        for first, limit in ranges:
            self.add(first, limit)

    def __iter__(self) -> Iterator[Range]:
        return zip(self._firsts, self._limits, strict=True)

    def __bool__(self) -> bool:
        return bool(self._firsts)

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._firsts, number) - 1
        return at >= 0 and number < self._limits[at]

    @property
    def count(self) -> int:
        """How many numbers."""
        return sum(self._limits) - sum(self._firsts)

    def within(self, first: int, limit: int) -> list[Range]:
        """What of `first` to `limit` is in."""
        start, end = bisect_right(self._limits, first), bisect_left(self._firsts, limit)
        found = zip(self._firsts[start:end], self._limits[start:end], strict=True)
        return [(max(first, known), min(limit, known_limit)) for known, known_limit in found]

    def add(self, first: int, limit: int) -> list[Range]:
        """Put in `first` to `limit`; what of it was not in before."""
        start = bisect_left(self._limits, first)  # the ranges from here on that touch it are joined into one
        end = bisect_right(self._firsts, limit)
        new: list[Range] = []
        at = first
        for known, known_limit in zip(self._firsts[start:end], self._limits[start:end], strict=True):
            if at < known:
                new.append((at, known))
            at = max(at, known_limit)
        if at < limit:
            new.append((at, limit))
        if start < end:
            first, limit = min(first, self._firsts[start]), max(limit, self._limits[end - 1])
        self._firsts[start:end] = [first]
        self._limits[start:end] = [limit]
        return new

    def remove(self, first: int, limit: int) -> list[Range]:
        """Take out `first` to `limit`; what of it was in before."""
        start = bisect_right(self._limits, first)
        end = bisect_left(self._firsts, limit)
        if start >= end:
            return []
        removed = self.within(first, limit)
        known = list(zip(self._firsts[start:end], self._limits[start:end], strict=True))
        rest = []
        if known[0][0] < first:
            rest.append((known[0][0], first))
        if known[-1][1] > limit:
            rest.append((limit, known[-1][1]))
        self._firsts[start:end] = [first for first, _ in rest]
        self._limits[start:end] = [limit for _, limit in rest]
        return removed
