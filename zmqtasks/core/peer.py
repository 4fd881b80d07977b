"""A worker as its dispatcher sees it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from zmqtasks.core.pace import GRACE_S
from zmqtasks.messages import LEASED, Cancel, Task


class Peer:
    """One worker: its hand, its credit, and what is asked of it."""

    __slots__ = ("asked", "barren", "bytes", "doomed", "due", "ending", "hand", "hand_s", "heard", "id", "items",
                 "next_ordinal", "overdue", "priority", "questions", "slots", "waiting", "waits_on")  # fmt: skip

    def __init__(self, id_: int, slots: int, now: float) -> None:
        self.id = id_
        self.heard = now  # when something last came from it
        self.slots = slots
        self.hand: dict[int, Task] = {}  # by ordinal, in the order of running
        self.hand_s = 0.0  # the estimate of what is in hand
        self.items = 0  # tasks in hand, each item of a span counted
        self.bytes = 0  # payload bytes in hand
        self.priority = 0  # the lowest in hand, as far as is known
        self.next_ordinal = 0
        self.due: float | None = None  # when the hand is overdue
        self.overdue = False  # it is: no more for it until it makes progress
        self.asked = False  # a recall is on its way
        self.barren = False  # the last recall brought nothing, and nothing has moved since: another is vain
        self.waiting = False  # its task waits for others: it takes nothing, and occupies no slot
        self.waits_on = -1  # the one task that it waits for
        self.ending = -1  # the id of the task it is being killed for
        self.doomed = (-1, 0)  # what it is being ended for if it still runs that: ordinal, item
        self.questions: list[Cancel] = []  # cancels that wait for what it returns

    def open(self) -> bool:
        """Whether it may be given anything."""
        return not (self.overdue or self.waiting or self.asked or self.ending >= 0 or self.doomed[0] >= 0)

    def holds_below(self, priority: int) -> bool:
        """Whether something that has not started is of a lower priority."""
        if self.priority >= priority:
            return False
        return any(task.options.priority < priority for task in islice(self.hand.values(), self.slots, None))

    def give(self, tasks: list[Task], cost_s: float) -> None:
        """Lease `tasks`, one function's, last in hand under the next ordinals; `cost_s` is the estimate for an item."""
        hand, ordinal, id_ = self.hand, self.next_ordinal, self.id
        priority = tasks[0].options.priority
        if not hand or priority < self.priority:
            self.priority = priority
        items = nbytes = 0
        for task in tasks:
            task.state = LEASED  # from QUEUED, where the dealer found it; it counts them
            task.attempt += 1
            task.peer = id_
            task.ordinal = ordinal
            hand[ordinal] = task
            ordinal += 1
            items += task.count
            nbytes += len(task.payload)
        self.next_ordinal = ordinal
        self.items += items
        self.bytes += nbytes
        self.hand_s += cost_s * items
        self.barren = False

    def drop(self, task: Task, items: int, cost_s: float) -> None:
        """`items` of `task` are no longer to be done: all of them take it out of the hand."""
        if items == task.count:
            del self.hand[task.ordinal]
            self.bytes -= len(task.payload)
            task.peer = task.ordinal = -1
        self.items -= items
        self.hand_s = max(0.0, self.hand_s - cost_s) if self.hand else 0.0

    def drop_singles(self, tasks: list[Task], cost_s: Callable[[int], float | None]) -> None:
        """Single tasks that were taken out of the hand."""
        nbytes, seconds, fn, cost = 0, 0.0, -1, 0.0
        for task in tasks:
            task.peer = task.ordinal = -1
            nbytes += len(task.payload)
            if task.fn != fn:
                fn, cost = task.fn, cost_s(task.fn) or 0.0
            seconds += cost
        self.items -= len(tasks)
        self.bytes -= nbytes
        self.hand_s = max(0.0, self.hand_s - seconds) if self.hand else 0.0

    def watch(self, now: float) -> None:
        """Set when its hand is overdue: only where something in it has not started and could run elsewhere."""
        self.due = now + 2 * self.hand_s + GRACE_S if self.items > self.slots else None
