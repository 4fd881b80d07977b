"""Outcomes that somebody may still ask for: kept for a time, and within a size."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterator
from typing import Any, NamedTuple

from zmqtasks.messages import SUCCEEDED, Task, Value

RESULT_BYTES = 300  # what an outcome takes beside its payload


class Result(NamedTuple):
    """How `count` tasks from `id` on ended; the payload of a succeeded `span` is the list of their values."""

    id: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody calls
    state: int
    attempt: int
    payload: Any
    span: bool
    until: float

    def known(self, id_: int) -> tuple[int, Any]:
        """The outcome of `id_` for a task that needs it."""
        if self.state != SUCCEEDED:
            return self.state, self.payload
        return SUCCEEDED, Value(self.payload, id_ - self.id if self.span else -1)

    @property
    def nbytes(self) -> int:
        """What it takes, about."""
        return RESULT_BYTES + (len(self.payload) if hasattr(self.payload, "__len__") else 0)


class Results:
    """Outcomes by id. What is over `bytes_max` pushes the oldest out; `ttl_s` seconds are as long as any is kept."""

    def __init__(self, bytes_max: int, ttl_s: float) -> None:
        self.nbytes = 0
        self._bytes_max = bytes_max
        self._ttl_s = ttl_s
        self._by_id: dict[int, Result] = {}  # the oldest first; of several tasks, by the first id
        self._spans: list[int] = []  # the first ids of those

    def __len__(self) -> int:
        return len(self._by_id)

    def put(self, task: Task, state: int, payload: Any, now: float) -> Result:
        """Keep an outcome; older ones may have to go."""
        result = Result(task.id, task.count, state, task.attempt, payload, task.span, now + self._ttl_s)
        self.drop(task.id)
        self._by_id[task.id] = result
        self.nbytes += result.nbytes
        if task.count > 1:
            insort(self._spans, task.id)
        while self.nbytes > self._bytes_max:
            self.drop(next(iter(self._by_id)))
        return result

    def at(self, id_: int) -> Result | None:
        """What was put under exactly this id."""
        return self._by_id.get(id_)

    def find(self, id_: int) -> Result | None:
        """The outcome of a task, which may be one of several that ended together; None if it is not kept."""
        result = self._by_id.get(id_)
        if result is None and self._spans:
            at = bisect_right(self._spans, id_) - 1
            span = self._by_id[self._spans[at]] if at >= 0 else None
            result = span if span is not None and id_ < span.id + span.count else None
        return result

    def drop(self, id_: int) -> None:
        """Nobody will ask for what was put under this id."""
        result = self._by_id.pop(id_, None)
        if result is None:
            return
        self.nbytes -= result.nbytes
        if result.count > 1:
            del self._spans[bisect_right(self._spans, id_) - 1]

    def expire(self, now: float) -> None:
        """What is too old goes."""
        while self._by_id:
            oldest = next(iter(self._by_id.values()))
            if oldest.until > now:
                return
            self.drop(oldest.id)

    def __iter__(self) -> Iterator[Result]:
        return iter(self._by_id.values())

    def next_deadline(self) -> float | None:
        """When `expire` is due, or None."""
        oldest = next(iter(self._by_id.values()), None)
        return None if oldest is None else oldest.until
