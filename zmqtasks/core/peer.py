"""A worker as its dispatcher sees it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from zmqtasks.core.pace import GRACE_S, NETWORK_BYTES_S, WINDOW_S
from zmqtasks.messages import LEASED, Cancel, Task
from zmqtasks.weight import weight


def size(task: Task) -> int:
    """The bytes that a task brings to whoever is given it."""
    return len(task.payload) + sum([weight(value.payload) for value in task.inputs])


def is_within(task: Task, asked: Cancel) -> bool:
    """Whether a cancel of a range is about `task`."""
    return asked.id <= task.id and task.id + task.count <= asked.id + asked.count


class Peer:
    """One worker: its hand, its credit, and what is asked of it."""

    __slots__ = ("asked", "awaits", "barren", "begun", "bytes", "doomed", "due", "ending", "fresh", "hand", "hand_s",
                 "heard", "id", "is_node", "items", "lanes", "leaving", "next_ordinal", "overdue", "priority",
                 "questions", "running", "slots", "waiting", "waits_on", "window_s")  # fmt: skip

    def __init__(
        self, id_: int, slots: int, now: float, *, is_node: bool = False, lanes: frozenset[int] | None = None,
        window_s: float = WINDOW_S,
    ) -> None:  # fmt: skip
        self.id = id_
        self.heard = now  # when something last came from it
        self.slots = slots
        self.is_node = is_node
        self.lanes = lanes  # what it takes; None: everything
        self.window_s = window_s  # a slot's credit
        # By ordinal, in the order of running. A node runs the items of a span in any order: of one that has a hole, the
        # pieces before its last stand under (ordinal, the offset where they end).
        self.hand: dict[int | tuple[int, int], Task] = {}
        self.hand_s = 0.0  # the estimate of what is in hand
        self.items = 0  # tasks in hand, each item of a span counted
        self.bytes = 0  # payload bytes in hand, and those of inputs
        self.priority = 0  # the lowest in hand, as far as is known
        self.next_ordinal = 0
        self.fresh = (
            0  # what is in hand under a lower ordinal has started: it was asked for, and has not come back
        )
        self.due: float | None = None  # when the hand is overdue
        self.overdue = False  # it is: no more for it until it makes progress
        self.asked = False  # a recall is on its way
        self.barren = False  # the last recall brought nothing, and nothing has moved since: another is vain
        self.waiting = False  # its task waits for others: it takes nothing, and occupies no slot
        self.awaits = False  # it runs many tasks at a time, of functions that await, and takes no others
        self.waits_on = -1  # the one task that it waits for
        self.leaving = False  # it takes nothing any more
        self.ending = -1  # the id of the task it is being killed for
        self.doomed = (-1, 0)  # what it is being ended for if it still runs that: ordinal, item
        self.running: list[tuple[int, int]] = []  # what a node has begun: ordinal, offset
        self.begun: dict[tuple[int, int], float] = {}  # since when a node says that it runs what
        self.questions: list[Cancel] = []  # cancels that wait for what it returns

    def open(self) -> bool:
        """Whether it may be given anything."""
        late = self.overdue and self.items >= self.slots  # of a node, other slots may be free
        busy = late or self.waiting or self.asked
        return not (busy or self.ending >= 0 or self.doomed[0] >= 0 or self.leaving)

    def accepts(self, lane: int) -> bool:
        """Whether it takes what is in `lane`."""
        return self.lanes is None or lane in self.lanes

    def find(self, ordinal: int, offset: int) -> Task | None:
        """The task in hand that has item `offset` of what was given as `ordinal`."""
        task = self.hand.get(ordinal)
        if task is not None and task.offset <= offset < task.offset + task.count:
            return task
        for key, piece in self.hand.items():
            if type(key) is tuple and key[0] == ordinal and piece.offset <= offset < key[1]:
                return piece
        return None

    def key_of(self, task: Task) -> int | tuple[int, int]:
        """Under which `task`, of this hand, stands."""
        if self.hand.get(task.ordinal) is task:
            return task.ordinal
        return task.ordinal, task.offset + task.count

    def keep(self, front: Task, rest: Task) -> None:
        """`front`, cut off `rest`, which is in hand, stays in hand too."""
        front.peer, front.ordinal = self.id, rest.ordinal
        self.hand[front.ordinal, front.offset + front.count] = front
        self.bytes += size(front)

    def counted_s(self, cost_s: float) -> float:
        """What a task of that cost counts in `hand_s`: on many slots a long one must not take the others' credit."""
        return cost_s if self.slots == 1 else min(cost_s, self.window_s)

    def holds_below(self, priority: int) -> bool:
        """Whether something that has not started is of a lower priority."""
        if self.priority >= priority:
            return False
        rest = islice(self.hand.values(), self.slots, None)
        return any(task.options.priority < priority and task.ordinal >= self.fresh for task in rest)

    def holds_for(self, others: list[Peer]) -> bool:
        """Whether something that has not started is for one of `others`."""
        rest = islice(self.hand.values(), self.slots, None)
        lanes = {task.lane for task in rest if task.ordinal >= self.fresh}
        return any(other.accepts(lane) for lane in lanes for other in others)

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
            nbytes += len(task.payload) if not task.inputs else size(task)
        self.next_ordinal = ordinal
        self.items += items
        self.bytes += nbytes
        self.hand_s += self.counted_s(cost_s) * items
        self.barren = False

    def drop(self, task: Task, items: int, cost_s: float) -> None:
        """`items` of `task` are no longer to be done: all of them take it out of the hand."""
        if items == task.count:
            key = self.key_of(task)
            front = self.hand.get((task.ordinal, task.offset)) if key == task.ordinal else None
            if front is not None:  # now the last of its span, in the same place
                del self.hand[task.ordinal, task.offset]
                self.hand[key] = front
            else:
                del self.hand[key]
            self.bytes -= size(task)
            task.peer = task.ordinal = -1
        self.items -= items
        self.hand_s = max(0.0, self.hand_s - cost_s) if self.hand else 0.0

    def drop_singles(self, tasks: list[Task], cost_s: Callable[[int], float | None]) -> None:
        """Single tasks that were taken out of the hand."""
        nbytes, seconds, fn, cost = 0, 0.0, -1, 0.0
        for task in tasks:
            task.peer = task.ordinal = -1
            nbytes += len(task.payload) if not task.inputs else size(task)
            if task.fn != fn:
                fn, cost = task.fn, cost_s(task.fn) or 0.0
            seconds += cost
        self.items -= len(tasks)
        self.bytes -= nbytes
        self.hand_s = max(0.0, self.hand_s - seconds) if self.hand else 0.0

    def watch(self, now: float) -> None:
        """Set when its hand is overdue: only where something in it has not started and could run elsewhere."""
        on_the_way_s = self.bytes / NETWORK_BYTES_S if self.is_node else 0.0
        late_s = 2 * self.hand_s + GRACE_S + on_the_way_s
        self.due = now + late_s if self.items > self.slots else None

    def forget_ranges(self) -> None:
        """A node is not to be asked any more about ranges of which it has nothing in hand."""
        hand = self.hand.values()
        self.questions = [
            asked
            for asked in self.questions
            if asked.count == 1 or any(is_within(task, asked) for task in hand)
        ]

    def check(self) -> None:
        """Assert what must hold of its hand."""
        tasks = self.hand.values()
        assert self.items == sum(task.count for task in tasks), f"peer {self.id}: items"
        assert self.bytes == sum(map(size, tasks)), f"peer {self.id}: bytes"
        for key, task in self.hand.items():
            assert (task.state, task.peer) == (LEASED, self.id), f"peer {self.id}: hand"
            assert self.key_of(task) == key, f"peer {self.id}: task {task.id} stands under {key}"
