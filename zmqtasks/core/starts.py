"""By when tasks must have started: what has not is not run any more.

Times are kept by id, not by task, so that what is settled long before its time holds no memory, and so that the parts
of a span need no word of their own: each stands under its first id.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from math import inf

from zmqtasks.messages import Task

_STALE_MAX = 64  # entries of settled tasks that are not worth a sweep


def latest_start(task: Task) -> float | None:
    """When it must have started: the first attempt by `expires`, a retry by its rule's deadline; None for no such time.

    An attempt that a worker was lost under has started.
    """
    course, options = task.course, task.options
    if course is None:
        return None
    if course.retries:
        after = options.retry.deadline if options.retry is not None else None
    else:
        after = None if task.deliveries else options.expires
    return None if after is None or course.since == inf else course.since + after


class Starts:
    """The times by which those in `tasks`, unsettled and by id, must have started; the earliest first."""

    def __init__(self, tasks: dict[int, Task]) -> None:
        self._tasks = tasks
        self.heap: list[
            tuple[float, int, int]
        ] = []  # time, first id, how many ids; empty where nothing is watched
        self._sweep_at = _STALE_MAX

    def watch(self, task: Task) -> None:
        """From now on, and again when it comes back from a hand: its time may be over."""
        if (when := latest_start(task)) is None:
            return
        heappush(self.heap, (when, task.id, task.count))
        if len(self.heap) > self._sweep_at:
            self.heap = [entry for entry in set(self.heap) if self._parts(entry)]
            heapify(self.heap)
            self._sweep_at = 2 * len(self.heap) + _STALE_MAX

    def next_deadline(self) -> float | None:
        """The earliest time, or None."""
        heap = self.heap
        while heap and not self._parts(heap[0]):
            heappop(heap)
        return heap[0][0] if heap else None

    def due(self, now: float) -> list[Task]:
        """Those whose time is over, whatever their state; each leaves."""
        heap, late = self.heap, dict[int, Task]()
        while heap and heap[0][0] <= now:
            for task in self._parts(heappop(heap)):
                if (when := latest_start(task)) is not None and when <= now:
                    late[task.id] = task
        return list(late.values())

    def _parts(self, entry: tuple[float, int, int]) -> list[Task]:
        _, first, count = entry
        tasks = self._tasks
        return [tasks[id_] for id_ in range(first, first + count) if id_ in tasks]
