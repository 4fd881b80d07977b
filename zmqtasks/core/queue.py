"""What is ready to run, and what is not yet due."""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush

from zmqtasks.messages import QUEUED, RETRYING, SCHEDULED, Task
from zmqtasks.options import PRIORITY_MAX

Levels = tuple[deque[Task], ...]  # by priority


class Ready:
    """Tasks by lane and priority, the highest first and the oldest first within; `size` counts items, a span's each.

    A task that was cancelled stays in its place and is passed over: removal from the middle would cost the length.
    """

    def __init__(self) -> None:
        self._lanes: dict[int, Levels] = {0: _levels()}
        self.size = 0

    def push(self, task: Task) -> None:
        """Last of its priority."""
        self.level_of(task).append(task)
        self.size += task.count

    def push_front(self, task: Task) -> None:
        """First of its priority: it has been out already."""
        self.level_of(task).appendleft(task)
        self.size += task.count

    def level_of(self, task: Task) -> deque[Task]:
        """Where `task` belongs; whoever puts it there counts it in `size`."""
        levels = self._lanes.get(task.lane)
        if levels is None:
            levels = self._lanes[task.lane] = _levels()
        return levels[task.options.priority]

    def insert(self, before: Task, tasks: list[Task]) -> None:
        """`tasks`, cut off the front of `before`, take their place; the size stays."""
        level = self.level_of(before)
        at = level.index(before)
        for task in reversed(tasks):
            level.insert(at, task)

    def forget(self, task: Task) -> None:
        """`task` was moved to another state and no longer counts."""
        self.size -= task.count

    def lanes(self) -> list[int]:
        """The lanes that have something, the one with the highest priority first."""
        if len(self._lanes) == 1:
            return list(self._lanes) if self.size else []
        tops = [
            (level[0].options.priority, -lane)
            for lane in self._lanes
            if (level := self.level(lane)) is not None
        ]
        return [-lane for _, lane in sorted(tops, reverse=True)]

    def order(self) -> list[tuple[int, int]]:
        """What to deal in turn: (lane, priority down to which). A single lane is dealt in one go."""
        if len(self._lanes) == 1:
            return [(lane, 0) for lane in self._lanes] if self.size else []
        there = [
            (-priority, lane)
            for lane, levels in self._lanes.items()
            for priority, level in enumerate(levels)
            if level and _cleaned(level)
        ]
        return [(lane, -priority) for priority, lane in sorted(there)]

    def level(self, lane: int) -> deque[Task] | None:
        """The tasks of the highest priority in `lane` that has any, its first one ready; None if nothing is.

        Whoever takes from it calls `forget` for what it takes.
        """
        if self.size:
            for level in reversed(self._lanes[lane]):
                if level and _cleaned(level):
                    return level
        return None

    def ahead(self, task: Task, most: int) -> int:
        """How many items are before `task`, which is queued; it is counted up to about `most`."""
        items = 0
        for level in reversed(self._lanes[task.lane][task.options.priority :]):
            for other in level:
                if other is task or items > most:
                    return items
                items += other.count * (other.state == QUEUED)
        return items

    def tasks(self) -> list[Task]:
        """All of them."""
        return [
            task
            for levels in self._lanes.values()
            for level in levels
            for task in level
            if task.state == QUEUED
        ]


def _cleaned(level: deque[Task]) -> deque[Task]:
    """`level`, its first one ready."""
    while level and level[0].state != QUEUED:
        level.popleft()
    return level


def _levels() -> Levels:
    return tuple(deque() for _ in range(PRIORITY_MAX + 1))


class Later:
    """Tasks that wait for their time, the earliest first."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Task]] = []
        self._order = 0

    def push(self, eta: float, task: Task) -> None:
        """Until `eta`, in the host's seconds."""
        self._order += 1
        heappush(self._heap, (eta, self._order, task))

    def insert(self, before: Task, tasks: list[Task]) -> None:
        """`tasks`, cut off the front of `before`, wait for the same time."""
        eta = next(eta for eta, _, task in self._heap if task is before)
        for task in tasks:
            self.push(eta, task)

    def next_deadline(self) -> float | None:
        """The earliest time, or None."""
        heap = self._heap
        while heap and heap[0][2].state not in (SCHEDULED, RETRYING):  # settled meanwhile
            heappop(heap)
        return heap[0][0] if heap else None

    def due(self, now: float) -> list[Task]:
        """What is due, in the order of its time; each leaves."""
        tasks: list[Task] = []
        while self._heap and (eta := self.next_deadline()) is not None and eta <= now:
            tasks.append(heappop(self._heap)[2])
        return tasks


def split(task: Task, items: int) -> Task:
    """Cut `items` off the front of a span: they become a task of their own, `task` keeps the rest."""
    front = Task(
        id=task.id,
        fn=task.fn,
        payload=task.payload,
        options=task.options,
        count=items,
        offset=task.offset,
        span=True,
        face=task.face,
        state=task.state,
        lane=task.lane,
        attempt=task.attempt,
        deliveries=task.deliveries,
        inputs=task.inputs,
        course=task.course,
        needs=task.needs,
        parent=task.parent,
        root=task.root,
    )
    if task.parent is not None:
        task.parent = task.parent[0], task.parent[1] + items
    task.id += items
    task.offset += items
    task.count -= items
    return front
