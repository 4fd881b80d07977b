"""Headers that an iterator gives: read as they can be run, in the thread that runs the workflow.

A join without a count is open. Its members are submitted in batches, and no more than a window of them are unsettled at
a time; that is what makes the caller wait. When the iterator is at its end the join is told how many members it has.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any, overload

from zmqtasks.array import Array
from zmqtasks.flow import workflows
from zmqtasks.messages import JOIN, Items, Report, Task
from zmqtasks.plan import Open, Plan, Step

if TYPE_CHECKING:
    from zmqtasks.future import Future

WINDOW = 10_000  # members unsettled at a time
_BATCH_MAX = 1000
_BATCH_S = 0.005  # how long the first of a batch waits for others, about


class Feed:
    """Feeds one open join."""

    def __init__(self, host: Any, opened: Open) -> None:
        step = opened.step
        self.window = Window(host)
        self._host = host
        self._given = opened.given
        self._members = opened.members
        self._step = step
        self._count = 0
        self._children = None if step.face is None else Segments()
        if self._children is not None:
            step.face.adopt(step.id, self._children)

    def batch(self, plan: Plan) -> bool:
        """Make the tasks of the next members, after a wait for room; False if there are no more."""
        if not self.window.wait_for_room():
            return False
        node = self._step.node
        of_map = node.kind == "map"
        members = self._take(node.size if of_map and node.size else 1)
        if not members:
            self._host.close_join(self._step.id, self._count)
            return False
        if not of_map:
            members = list(workflows(members, "members"))
        count = -(-len(members) // (node.size or 1)) if of_map else len(members)
        base = self._host.ids.block(count)
        array: Array[Any] | None = None
        if self._children is not None:
            array = Array(self._host, base, count)
            self._children.extend(array)
        face = Ear(self.window, array)
        self.window.put(count)
        first = Step(
            node, base, self._step.root, self._step.up, self._given, (self._step.id, self._count), face
        )
        self._count += count
        if of_map:
            plan.items(first, members)
        else:
            plan.members(first._replace(node=None), members)
        plan.make([])
        return True

    def _take(self, size: int) -> list[Any]:
        """The next members: as many as come at once, and whole chunks of `size`."""
        taken: list[Any] = []
        begun = monotonic()
        for member in self._members:
            taken.append(member)
            if len(taken) % size == 0 and (len(taken) >= _BATCH_MAX or monotonic() - begun > _BATCH_S):
                break
        return taken


class Window:
    """How many members are on their way, and whether their join still takes them."""

    def __init__(self, host: Any) -> None:
        self._host = host
        self._moved = threading.Condition()
        self._out = 0
        self.ended = False

    def put(self, count: int) -> None:
        """So many more are on their way."""
        with self._moved:
            self._out += count

    def settled(self, count: int) -> None:
        """So many are settled."""
        with self._moved:
            self._out -= count
            self._moved.notify_all()

    def end(self) -> None:
        """The join has ended."""
        with self._moved:
            self.ended = True
            self._moved.notify_all()

    def wait_for_room(self) -> bool:
        """Wait until there is room; False if the join has ended."""
        if not self.ended and self._out >= WINDOW:
            self._host.wait(self._park, -1)
        return not self.ended

    def _park(self) -> bool:
        with self._moved:
            return self._moved.wait_for(lambda: self.ended or self._out < WINDOW)


class Ear:
    """What hears of members: it counts them."""

    def __init__(self, window: Window, array: Any) -> None:
        self._window = window
        self._array = array
        self.keeps = array is not None

    def settle(self, task: Task, state: int, outcome: Any) -> None:
        """A member is settled; called by the host alone."""
        if self._array is not None:
            self._array.settle(task, state, outcome)
        self._window.settled(task.count)

    def report(self, id_: int, report: Report | Items) -> None:
        """A member says how far it is."""
        if self._array is not None:
            self._array.report(id_, report)

    def adopt(self, id_: int, children: Any) -> None:
        """A member has members of its own."""
        if self._array is not None:
            self._array.adopt(id_, children)


class Gate:
    """What hears of an open join: nothing more is read for it once it has ended."""

    def __init__(self, window: Window, face: Any) -> None:
        self._window = window
        self._face = face

    def settle(self, task: Task, state: int, outcome: Any) -> None:
        """It has ended; called by the host alone."""
        if self._face is not None:
            self._face.settle(task, state, outcome)
        self._window.end()

    def report(self, _id: int, _report: Report | Items) -> None:
        """A join says nothing."""


class Segments(Sequence[Any]):
    """The futures of members that came in batches: of as many as have come."""

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._arrays: list[Sequence[Any]] = []
        self._count = 0

    def extend(self, array: Sequence[Any]) -> None:
        """Some more."""
        self._firsts.append(self._count)
        self._arrays.append(array)
        self._count += len(array)

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(self._count))]
        if index < 0:
            index += self._count
        if not 0 <= index < self._count:
            raise IndexError(f"item {index} of {self._count}")
        at = bisect_right(self._firsts, index) - 1
        return self._arrays[at][index - self._firsts[at]]


def feed(host: Any, plan: Plan, future: Future[Any], instead: dict[int, int] | None = None) -> None:
    """Submit what is planned, and then the members of open joins as they come; `future` is the workflow's.

    `instead`: by its id, that of the running task whose place it takes.
    """
    feeds = _feeds(host, plan)
    if instead is None:
        host.submit_all(plan.take())
    else:
        host.submit_all(plan.take(), instead)
    try:
        while feeds:
            more = feeds[-1].batch(plan)
            inner = _feeds(host, plan)
            if tasks := plan.take():
                host.submit_all(tasks)
            if not more:
                feeds.pop()
            feeds += inner
    except BaseException:
        host.cancel(future.number, terminate=False)
        raise


def _feeds(host: Any, plan: Plan) -> list[Feed]:
    """What feeds the joins that are open in `plan`, the first one last."""
    opened, plan.opened = plan.opened, []
    feeds = []
    for each in opened:
        made = Feed(host, each)
        for task in plan.tasks:
            if task.id == each.step.id and task.fn == JOIN:
                task.face = Gate(made.window, task.face)
        feeds.append(made)
    return feeds[::-1]
