"""A recursion on one slot of a node, whatever the delays: few of its tasks wait at a time.

A broker, a node and its children as the smallest of models. Links keep their order; how long a message is on its way,
and how long a child takes for anything, is chance. The order in which tasks begin is what is looked at here.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from itertools import count
from typing import Any

import pytest

from zmqtasks.core.dispatch import Dispatcher
from zmqtasks.core.effects import Send, Settle
from zmqtasks.core.node import ABOVE, Node
from zmqtasks.messages import Deep, Done, Joined, Recall, Resumed, Returned, Run, Submit, Task, Waiting

NODE = 1
PROGRAM = 0
FN = 7

World = tuple[float, float, float, float]
"""The longest a message between broker and node takes, one between node and child, a task's step, a child's start."""

WORLDS: dict[str, World] = {
    "quiet": (1e-4, 5e-5, 1e-4, 0.03),
    "a slow broker": (0.02, 5e-5, 1e-4, 0.03),
    "slow children": (1e-4, 0.02, 1e-4, 0.03),
    "slow tasks": (1e-4, 5e-5, 0.02, 0.03),
    "all of it": (0.02, 0.01, 0.01, 0.1),
}


class Time:
    """What happens next."""

    def __init__(self, rng: random.Random) -> None:
        self.now = 100.0
        self.rng = rng
        self._heap: list[tuple[float, int, Callable[..., None], Any]] = []
        self._order = count()
        self._last: dict[Any, float] = {}  # by link: when what was sent last arrives

    def after(self, longest_s: float, act: Callable[..., None], *args: Any, link: Any = None) -> None:
        """Do it some time within `longest_s`; on one link in the order of the calls."""
        at = self.now + longest_s * self.rng.random() ** 3
        if link is not None:
            at = self._last[link] = max(at, self._last.get(link, 0.0))
        heappush(self._heap, (at, next(self._order), act, args))

    def at(self, when: float, act: Callable[..., None]) -> None:
        """Do it then."""
        heappush(self._heap, (max(when, self.now), next(self._order), act, ()))

    def step(self) -> bool:
        """One thing happens; whether one did."""
        if not self._heap:
            return False
        self.now, _, act, args = heappop(self._heap)
        act(*args)
        return True


class Child:
    """Runs one task after the other; `body` of a task yields what it submits together, and waits for each in turn."""

    def __init__(self, tree: Tree, peer: int) -> None:
        self.tree = tree
        self.peer = peer
        self.hand: deque[Task] = deque()
        self.body: Any = None
        self.task: Task | None = None
        self.waits_for: list[int] = []
        self.waits = False
        self.known: set[int] = set()
        self.began = 0.0

    def say(self, message: Any) -> None:
        self.tree.time.after(self.tree.world[1], self.tree.hear_child, self, message, link=("up", self))

    def hear(self, message: Any) -> None:
        if type(message) is Run:
            for ordinal, task in enumerate(message.tasks, message.first):
                self.hand.append(Task(task.id, FN, task.payload, face=ordinal))
            self.begin()
        elif type(message) is Recall:
            self.give_back()
        elif type(message) is Deep:
            self.tree.refused += 1

    def give_back(self) -> None:
        self.say(Returned([(task.face, 0, 1) for task in self.hand]))
        self.hand.clear()

    def begin(self) -> None:
        if self.task is None and self.hand:
            self.task = self.hand.popleft()
            self.body = self.tree.program(len(self.task.payload))
            self.began = self.tree.time.now
            self.tree.time.after(self.tree.world[2], self.go_on)

    def go_on(self) -> None:
        assert self.task is not None
        if (calls := next(self.body, None)) is None:
            self.say(Done(self.task.face, [b""], pace=[(FN, 1, self.tree.time.now - self.began)]))
            self.task = None
            self.begin()
            return
        for call in calls:
            task = Task(next(self.tree.ids), FN, bytes(call))
            self.tree.asked[task.id] = self
            self.waits_for.append(task.id)
            self.say(Submit([task]))
        self.tree.time.after(self.tree.world[2], self.look)

    def look(self) -> None:
        """Wait for the first that is not there yet."""
        while self.waits_for and self.waits_for[0] in self.known:
            self.waits_for.pop(0)
        if not self.waits_for:
            self.go_on()
            return
        self.waits = True
        self.give_back()
        self.say(Waiting(self.waits_for[0]))

    def settled(self, id_: int) -> None:
        self.known.add(id_)
        if self.waits and self.waits_for[0] == id_:
            self.waits = False
            self.say(Resumed())
            self.tree.time.after(self.tree.world[2], self.look)


class Tree:
    """All of it; `program` makes the body of a task of its payload."""

    def __init__(self, seed: int, world: World, program: Callable[[Any], Iterable[list[Any]]]) -> None:
        self.program: Callable[[Any], Any] = lambda call: iter(program(call))
        self.world = world
        self.time = Time(random.Random(seed))
        self.broker = Dispatcher()
        self.node = Node(1)
        self.children: dict[int, Child] = {}
        self.ids = count(1)
        self.asked: dict[int, Child] = {}
        self.refused = self.waiting_max = self.done = 0
        self._starting = 0
        self.broker.receive(NODE, Joined(1, node=True), self.time.now)

    def run(self, calls: list[Any]) -> None:
        """These, from a program."""
        tasks = [Task(next(self.ids), FN, bytes(call)) for call in calls]
        self.broker.receive(PROGRAM, Submit(tasks), self.time.now)
        self.turn_broker()
        self.turn_node()
        while self.time.step():
            if self.done == len(tasks):
                return
        pytest.fail(f"{len(tasks) - self.done} are not done")

    def tell_broker(self, message: Any) -> None:
        self.time.after(self.world[0], self.hear_node, message, link="broker")

    def hear_node(self, message: Any) -> None:
        self.broker.receive(NODE, message, self.time.now)
        self.turn_broker()

    def hear_child(self, child: Child, message: Any) -> None:
        if type(message) is Submit:
            self.node.submitted(task.id for task in message.tasks)
            self.tell_broker(message)
        else:
            self.node.receive(child.peer, message, self.time.now)
            self.turn_node()

    def hear_broker(self, message: Any) -> None:
        if type(message) is Settle:
            for task in message.tasks:
                if (child := self.asked.pop(task.id, None)) is not None:
                    self.time.after(self.world[1], child.settled, task.id)
            self.node.settled(task.id for task in message.tasks)
        else:
            if type(message) is Run:  # a copy, as a wire makes one
                tasks = [Task(task.id, FN, task.payload) for task in message.tasks]
                message = Run(message.first, tasks)
            self.node.receive(ABOVE, message, self.time.now)
        self.turn_node()

    def turn_broker(self) -> None:
        for effect in self.broker.turn(self.time.now):
            if type(effect) is Settle:
                self.done += sum(1 for task in effect.tasks if task.id not in self.asked)
                self.time.after(self.world[0], self.hear_broker, effect, link="node")
            elif type(effect) is Send:
                self.time.after(self.world[0], self.hear_broker, effect.message, link="node")
        self.broker.check()
        if (due := self.broker.next_deadline()) is not None:
            self.time.at(due, self.turn_broker)

    def turn_node(self) -> None:
        for effect in self.node.turn(self.time.now):
            if type(effect) is Send and effect.peer == ABOVE:
                self.tell_broker(effect.message)
            elif type(effect) is Send:
                child = self.children[effect.peer]
                self.time.after(self.world[1], child.hear, effect.message, link=("down", child))
        self.node.check()
        waits = self.node.machine.waits.count
        self.waiting_max = max(self.waiting_max, waits)
        while self._starting + len(self.children) < 1 + waits:
            self._starting += 1
            self.time.after(self.world[3], self.join)
        if (due := self.node.next_deadline()) is not None:
            self.time.at(due, self.turn_node)

    def join(self) -> None:
        self._starting -= 1
        peer = len(self.children) + 1
        self.children[peer] = Child(self, peer)
        self.node.receive(peer, Joined(), self.time.now)
        self.turn_node()


def fib(n: int) -> Iterable[list[int]]:
    """Both at once."""
    return [[n - 1, n - 2]] if n > 1 else []


def fib_in_turn(n: int) -> Iterable[list[int]]:
    """One after the other."""
    return [[n - 1], [n - 2]] if n > 1 else []


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
@pytest.mark.parametrize(
    ("program", "calls"),
    [(fib, [10]), (fib_in_turn, [10]), (fib, [7] * 8), (fib_in_turn, [7] * 8)],
    ids=["at once", "in turn", "many at once", "many in turn"],
)
def test_few_wait_at_a_time(world: World, program: Callable[[Any], Any], calls: list[int]) -> None:
    tree = Tree(1, world, program)
    tree.run(calls)
    assert tree.refused == 0
    # What follows a task that has just gone on is older than what that will ask for next: a few such are begun.
    assert tree.waiting_max <= calls[0] * (1 if program is fib else 4)
