"""A worker of the pipeline with the real `Node` in it, and its children modelled."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from zmqtasks.core.effects import Send
from zmqtasks.core.node import ABOVE, Node
from zmqtasks.messages import (
    Ask,
    Done,
    Ends,
    Joined,
    Leaving,
    Lost,
    Part,
    Recall,
    Returned,
    Run,
    Running,
    Task,
)

from .pipe_worker import FN, Entry, Worker
from .worlds import Wrong

if TYPE_CHECKING:
    from .pipeline import PipeSim

LINK_S = 1e-4  # between a node and its children
STUBBORN = 0.1  # how often an item holds the interpreter: its child answers nothing until it is done


class Child:
    """Runs its hand in order, and tells each outcome at once."""

    def __init__(self, worker: NodeWorker, peer: int) -> None:
        self.worker = worker
        self.peer = peer
        self.alive = True
        self.hand: deque[Entry] = deque()
        self.current: Entry | None = None
        self.stubborn = False
        self._recalled = False

    def hear(self, message: Any) -> None:
        """The node says `message`; what it has of a task is a copy."""
        if isinstance(message, Run):
            entries = []
            for task in message.tasks:
                assert task.course is not None
                base, _ = task.payload
                entries.append(
                    Entry(
                        task.ordinal,
                        base,
                        task.offset,
                        task.offset + task.count,
                        task.deliveries,
                        task.course.retries,
                    )
                )
            self._later(LINK_S, self._run, entries)
        else:
            assert isinstance(message, Recall)
            self._later(LINK_S, self._recall)

    def _later(self, delay: float, act: Any, *args: Any) -> None:
        self.worker.sim.at(delay, self.worker.act, self._act, act, *args)

    def _act(self, act: Any, *args: Any) -> None:
        if self.alive:
            act(*args)

    def _say(self, message: Any) -> None:
        self.worker.sim.at(LINK_S, self.worker.act, self.worker.receive, self.peer, message)

    def _run(self, entries: list[Entry]) -> None:
        self.hand.extend(entries)
        if self.current is None:
            self._start()

    def _start(self) -> None:
        if not self.hand:
            return
        sim = self.worker.sim
        self.current = entry = self.hand[0]
        number = entry.base + entry.first
        self.worker.running[number] = entry
        sim.truth.started(self.worker, number, entry)
        seconds = sim.truth.seconds(number)
        self.stubborn = sim.rng.random() < STUBBORN
        self._later(seconds, self._end, number, seconds)

    def _end(self, number: int, seconds: float) -> None:
        entry = self.current
        assert entry is not None
        del self.worker.running[number]
        item, self.current = entry.first, None
        what, payload = self.worker.sim.truth.ended(self.worker, number)
        if what == "dies":
            self.alive = False
            self._say(Lost(payload, entry.ordinal, item))
            return
        done = Done(entry.ordinal, [], pace=[(FN, 1, seconds)])
        done.parts.append(
            Part(entry.ordinal, item, 1, what != "works", payload if what != "works" else [payload])
        )
        if what == "asks":
            done.asks.append(Ask(entry.ordinal, item, text=payload))
        self._say(done)
        entry.first += 1
        if entry.first == entry.limit:
            self.hand.popleft()
        if self._recalled:
            self._recall()
        self._start()

    def _recall(self) -> None:
        self._recalled = self.stubborn and self.current is not None
        if self._recalled:
            return
        rest = []
        for entry in self.hand:
            first = entry.first + (entry is self.current)
            if first < entry.limit:
                rest.append((entry.ordinal, first, entry.limit - first))
        self.hand.clear()
        if (entry := self.current) is not None:
            entry.limit = entry.first + 1
            self.hand.append(entry)
        self._say(Returned(rest))


class NodeWorker(Worker):
    """What `Worker` models by itself is done here by a `Node` and its children."""

    def __init__(self, sim: PipeSim, peer: int, slots: int) -> None:
        self.node = Node(slots)
        self.children: dict[int, Child] = {}
        self._alarm = -1
        super().__init__(sim, peer, slots)
        for _ in range(slots):
            self._join()

    def _join(self) -> None:
        peer = len(self.children) + 1
        self.children[peer] = Child(self, peer)
        self.receive(peer, Joined(1))

    def receive(self, peer: int, message: Any) -> None:
        """A child, or the ventilator, says something."""
        self.node.receive(peer, message, self.sim.now)
        if isinstance(message, Lost):
            self.sim.at(self.sim.world.mends_s, self.act, self._join)
        self._turn()

    def _turn(self) -> None:
        now = self.sim.now
        for effect in self.node.turn(now):
            assert isinstance(effect, Send)
            if effect.peer == ABOVE:
                self._up(effect.message)
            elif self.children[effect.peer].alive:
                self.children[effect.peer].hear(effect.message)
        self.node.check()
        if self._alarm >= 0:
            self.sim.time.drop(self._alarm)
        self._alarm = -1
        if (deadline := self.node.next_deadline()) is not None:
            if deadline <= now:
                raise Wrong("the next deadline is past: the node would spin")
            self._alarm = self.sim.at(deadline - now, self._wake_up)
        self._read()
        if self.leaving and self.node.idle:
            self._go()

    def _wake_up(self) -> None:
        self._alarm = -1
        self.act(self._turn)

    def _up(self, message: Any) -> None:
        if isinstance(message, Running):  # the loss of a pipeline's worker is blamed on nobody
            return
        if isinstance(message, Done):
            assert not message.payloads
            for _, items, seconds in message.pace:
                self.pace[0] += items
                self.pace[1] += seconds
            asked = {(ask.ordinal, ask.item) for ask in message.asks}
            back = [part for part in message.parts if (part.ordinal, part.offset) in asked]
            if back:
                self.say(Done(message.first, [], parts=back, asks=message.asks, died=message.died))
            self.outbox += [part for part in message.parts if (part.ordinal, part.offset) not in asked]
            if self.outbox:
                self.sim.at(self.sim.world.flush_s * self.sim.rng.random(), self.act, self._flush)
            return
        assert isinstance(message, (Ends, Returned)), message
        if isinstance(message, Returned):
            self.vain_since = None  # a second answer may follow the first
        self.say(message)

    # ---- what is otherwise here

    @property
    def waiting(self) -> int:
        """How many items have not started."""
        return int(self.node.machine.ledger.pending) - len(self.running)

    def unstarted(self) -> Iterator[int]:
        """By number; without what cannot be had: who holds the interpreter gives nothing back."""
        kept = {
            entry.base + item
            for child in self.children.values()
            for entry in (child.hand if child.stubborn else ())
            for item in range(entry.first, entry.limit)
        }
        for task in self.node.machine.ledger.tasks.values():
            base, _ = task.payload
            for item in range(task.count):
                if (number := base + task.offset + item) not in self.running and number not in kept:
                    yield number

    def _take(self, run: Run) -> None:
        (task,) = run.tasks
        self.sim.truth.look_at_task(run.first, task)
        copy = Task(
            id=task.id, fn=task.fn, payload=task.payload, options=task.options, count=task.count, offset=task.offset,
            span=task.span, attempt=task.attempt - 1, deliveries=task.deliveries, course=task.course,
        )  # fmt: skip
        self.node.receive(ABOVE, Run(run.first, [copy]), self.sim.now)

    def _start(self) -> None:
        self._turn()

    def _give_back(self) -> None:
        if self.leaving:
            self.node.leave(self.sim.now)
            self._turn()
        else:
            self.receive(ABOVE, Recall())

    def _leave(self) -> None:
        if self.leaving or self.lost:
            return
        self.sim.note(f"  worker {self.peer} leaves")
        self.leaving = True
        self.sim.ventilator.disconnect(self)
        self.pipe.reset()
        self.say(Leaving())
        self._give_back()
