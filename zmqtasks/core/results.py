"""Outcomes that somebody may still ask for: kept for a time, and within a size.

Those that have arrived where they were asked for are kept too, as long as there is room: tasks may take them as
arguments, and then their values need not come up again. Small values go along with what needs them, and are not kept.

A settled task's record is its own result: its arguments are of no use any more, and its outcome stands in their place.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import deque
from collections.abc import Iterable, Iterator
from copy import copy
from typing import Any

from zmqtasks.loans import LIGHT_BYTES_MAX
from zmqtasks.messages import CANCELLED, LATE, SUCCEEDED, Task, Value

BATCHED_MIN = 1000  # dropped outcomes that may be kept along with others
RESULT_BYTES = 300  # what an outcome takes beside its payload


def nbytes(task: Task) -> int:
    """What an outcome takes, about."""
    payload = task.payload
    return RESULT_BYTES + (len(payload) if type(payload) is bytes or hasattr(payload, "__len__") else 0)


def end(task: Task, payload: Any) -> None:
    """`task` has its final state: `payload` is its outcome, and nothing else of it is kept."""
    task.payload = payload
    task.face = None
    task.inputs = ()


def known(task: Task, id_: int) -> tuple[int, Any]:
    """The outcome of `id_`, which is `task` or one of it, for a task that needs it."""
    if task.state != SUCCEEDED:
        return task.state, task.payload
    return SUCCEEDED, Value(task.payload, id_ - task.id if task.span else -1)


class Results:
    """Outcomes by id. What is over `bytes_max` pushes the oldest out; `ttl_s` seconds are as long as any is kept."""

    def __init__(self, bytes_max: int, ttl_s: float) -> None:
        self.nbytes = 0
        self._bytes_max = bytes_max
        self._ttl_s = ttl_s
        self._by_id: dict[int, Task] = {}  # of several tasks that ended together, by the first id
        self._spans: list[int] = []  # the first ids of those
        self._batches: deque[tuple[float, list[Task]]] = deque()  # until when each is kept
        self._batched = 0  # tasks in them, those that were dropped since too
        self._spare: dict[int, Task] = {}  # what has arrived, the last that was used at the end

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Task]:
        return iter(self._by_id.values())

    def put(self, tasks: list[Task], now: float) -> int:
        """Keep these, which have ended; older ones may have to go. Their bytes."""
        size = 0
        by_id = self._by_id
        for task in tasks:
            by_id[task.id] = task
            size += nbytes(task)
            if task.count > 1:
                insort(self._spans, task.id)
        self.nbytes += size
        self._batches.append((now + self._ttl_s, tasks))
        self._batched += len(tasks)
        if self._batched > 2 * len(by_id) + BATCHED_MIN:
            self._compact()
        self._trim()
        while self.nbytes > self._bytes_max and len(self._batches) > 1:  # what is new is sent once at least
            self._push_out(self._batches.popleft()[1])
        return size

    def find(self, id_: int) -> Task | None:
        """The outcome of a task, which may be one of several that ended together; None if it is not kept."""
        task = self._by_id.get(id_)
        if task is None and self._spans:
            at = bisect_right(self._spans, id_) - 1
            span = self._by_id[self._spans[at]] if at >= 0 else None
            task = span if span is not None and id_ < span.id + span.count else None
        return task

    def lend(self, id_: int) -> Task | None:
        """The same, for a task that takes it as an argument: others may, and it is the last to go."""
        task = self.find(id_)
        if task is not None and (spare := self._spare.pop(task.id, None)) is not None:
            self._spare[task.id] = spare
        return task

    def release(self, tasks: Iterable[Task]) -> None:
        """These have arrived: nobody will ask for them but as arguments."""
        light: list[Task] = []
        for task in tasks:
            if task.state != SUCCEEDED or nbytes(task) <= RESULT_BYTES + LIGHT_BYTES_MAX:
                light.append(task)
            elif self._by_id.get(task.id) is task:
                self._spare[task.id] = task
        self.drop(light)
        self._trim()

    def spare(self, tasks: list[Task], now: float) -> None:
        """These go where they were asked for, and are kept here as arguments alone."""
        light = RESULT_BYTES + LIGHT_BYTES_MAX
        large = [copy(task) for task in tasks if nbytes(task) > light and task.id not in self._by_id]
        if large:
            self.put(large, now)
            self.release(large)

    def forget(self, first: int, count: int) -> None:
        """Nobody submits any more who could name these as arguments."""
        self.drop([task for task in self._spare.values() if first <= task.id < first + count])

    def _trim(self) -> None:
        while self.nbytes > self._bytes_max and self._spare:
            self.drop([next(iter(self._spare.values()))])

    def drop(self, tasks: Iterable[Task]) -> None:
        """Nobody will ask for these."""
        by_id = self._by_id
        for task in tasks:
            if by_id.get(task.id) is task:
                del by_id[task.id]
                self._spare.pop(task.id, None)
                self.nbytes -= nbytes(task)
                task.payload = b""  # the batch that it came in may be kept for another
                if task.count > 1:
                    del self._spans[bisect_right(self._spans, task.id) - 1]

    def expire(self, now: float) -> None:
        """What is too old goes, and what is empty."""
        batches = self._batches
        while batches and (
            batches[0][0] <= now or not any(self._by_id.get(t.id) is t for t in batches[0][1])
        ):
            self._push_out(batches.popleft()[1])

    def _compact(self) -> None:
        """What was dropped must not be kept by those that came with it."""
        by_id = self._by_id
        batches = [(until, [t for t in tasks if by_id.get(t.id) is t]) for until, tasks in self._batches]
        self._batches = deque(batch for batch in batches if batch[1])
        self._batched = sum(len(tasks) for _, tasks in self._batches)

    def _push_out(self, tasks: list[Task]) -> None:
        self._batched -= len(tasks)
        kept = [task for task in tasks if self._by_id.get(task.id) is task]
        self.drop(kept)
        for task in kept:  # whoever is still to be told hears of it
            task.state, task.payload = CANCELLED, LATE
