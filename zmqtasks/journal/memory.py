"""A journal in memory: what the simulator looks into, and the contract for those on disk.

It costs a quarter of a microsecond a task: ids of single tasks are a set, which takes and gives them by the thousand,
and of a span only the ranges stand here that are not settled.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Sequence

from zmqtasks.core.effects import ACCEPTED, DELIVERED, SETTLED, Record
from zmqtasks.messages import Task


class MemoryJournal:
    """What was accepted and is not settled, and nothing else."""

    name = "memory"

    def __init__(self) -> None:
        self._singles: set[int] = set()
        self._firsts: list[int] = []  # of ranges of ids, in order
        self._ends: dict[int, int] = {}  # of each, by its first: the first id after it
        self._deliveries: dict[int, int] = {}  # where there were any

    def record(self, records: Sequence[Record]) -> None:
        """Remember `records`; `ValueError` where one accepts a task for the second time."""
        for kind, tasks, _, _ in records:
            if kind == DELIVERED:
                self._deliveries.update((task.id, task.deliveries) for task in tasks)
                continue
            ids = [task.id for task in tasks if not task.span]
            spans = [task for task in tasks if task.span] if len(ids) < len(tasks) else []
            if kind == ACCEPTED:
                if not self._singles.isdisjoint(ids) or any(map(self._overlaps, spans)):
                    raise ValueError(f"some of {[task.id for task in tasks]} are accepted twice")
                self._singles.update(ids)
                for span in spans:
                    self._put(span.id, span.id + span.count)
            elif kind == SETTLED:  # of one that was refused, and never accepted, nothing is here
                self._singles.difference_update(ids)
                for span in spans:
                    self._cut(span)
                if self._deliveries:
                    self._forget_deliveries(tasks)

    def commit(self) -> None:
        """It is as safe as it will be."""

    def unsettled(self) -> dict[int, int]:
        """Deliveries by id of what is accepted and not settled."""
        ids = [*self._singles]
        for first in self._firsts:
            ids += range(first, self._ends[first])
        return {id_: self._deliveries.get(id_, 0) for id_ in ids}

    def __len__(self) -> int:
        """How much it holds: single tasks, ranges, and counts."""
        return len(self._singles) + len(self._firsts) + len(self._deliveries)

    def __contains__(self, id_: int) -> bool:
        return id_ in self._singles or self._range_of(id_) is not None

    def _range_of(self, id_: int) -> int | None:
        """The first id of the range that holds `id_`."""
        at = bisect_right(self._firsts, id_) - 1
        return self._firsts[at] if at >= 0 and id_ < self._ends[self._firsts[at]] else None

    def _overlaps(self, span: Task) -> bool:
        at = bisect_right(self._firsts, span.id + span.count - 1) - 1
        return at >= 0 and self._ends[self._firsts[at]] > span.id

    def _put(self, first: int, end: int) -> None:
        if first < end:
            insort(self._firsts, first)
            self._ends[first] = end

    def _cut(self, span: Task) -> None:
        """What is settled together was accepted together."""
        if (first := self._range_of(span.id)) is not None:
            end = self._ends.pop(first)
            del self._firsts[bisect_right(self._firsts, first) - 1]
            self._put(first, span.id)
            self._put(span.id + span.count, end)

    def _forget_deliveries(self, tasks: list[Task]) -> None:
        for task in tasks:
            if task.count == 1:
                self._deliveries.pop(task.id, None)
            else:
                for id_ in self._deliveries.keys() & range(task.id, task.id + task.count):
                    del self._deliveries[id_]
