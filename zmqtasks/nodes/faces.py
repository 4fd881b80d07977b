"""Who waits for the outcomes of tasks that another process dispatches."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterator
from typing import Any

from zmqtasks.messages import Items, Report, Task


class Faces:
    """Tasks by id until they are settled. Spans come back in parts."""

    def __init__(self) -> None:
        self._singles: dict[int, Task] = {}
        # By first id: face, items, and the parts that are settled, as (id, items).
        self._spans: dict[int, tuple[Any, int, list[tuple[int, int]]]] = {}
        self._firsts: list[int] = []

    def __len__(self) -> int:
        return len(self._singles) + len(self._spans)

    def add(self, tasks: list[Task]) -> None:
        """These are handed on; of those without a face nobody hears."""
        for task in tasks:
            if task.face is None:
                continue
            if task.span:
                self._spans[task.id] = task.face, task.count, []
                insort(self._firsts, task.id)
            else:
                self._singles[task.id] = task

    def settle(self, id_: int, count: int, state: int, attempt: int, outcome: Any) -> bool:
        """An outcome; False if nobody waits for it: it has come before."""
        task = self._singles.pop(id_, None)
        if task is None:
            first = self._first(id_)
            if first is None:
                return False
            face, items, settled = self._spans[first]
            settled.append((id_, count))
            if sum([part for _, part in settled]) >= items:
                del self._spans[first]
                self._firsts.remove(first)
            task = Task(id_, 0, b"", count=count, span=True, face=face)
        task.attempt = attempt
        task.face.settle(task, state, outcome)
        return True

    def has(self, id_: int) -> bool:
        """Whether somebody waits for that task's outcome."""
        if id_ in self._singles:
            return True
        first = self._first(id_)
        return first is not None and not any(at <= id_ < at + count for at, count in self._spans[first][2])

    def ranges(self) -> list[tuple[int, int]]:
        """Ids that are waited for, as (first, how many); with others between them that are not."""
        singles = list(self._singles)
        found = [(min(singles), max(singles) - min(singles) + 1)] if singles else []
        return found + [(first, items) for first, (_, items, _) in list(self._spans.items())]

    def report(self, id_: int, report: Report | Items) -> None:
        """How far a task is."""
        task = self._singles.get(id_)
        if task is not None:
            task.face.report(id_, report)
        elif (first := self._first(id_)) is not None:
            self._spans[first][0].report(id_, report)

    def take_all(self) -> Iterator[Task]:
        """Whatever is left, to be settled by the caller."""
        singles, self._singles = self._singles, {}
        spans, self._spans, self._firsts = self._spans, {}, []
        yield from singles.values()
        for first, (face, items, settled) in spans.items():
            at = first
            for id_, count in [*sorted(settled), (first + items, 0)]:
                if id_ > at:
                    yield Task(at, 0, b"", count=id_ - at, span=True, face=face)
                at = id_ + count

    def _first(self, id_: int) -> int | None:
        at = bisect_right(self._firsts, id_) - 1
        if at < 0:
            return None
        first = self._firsts[at]
        return first if id_ < first + self._spans[first][1] else None
