"""A model of `nodes/child.py`: it runs its hand in order, one item at a time, and tells outcomes in batches.

Outcomes go on its data channel; on its control channel it answers a recall, submits, waits and resumes. Each channel
keeps its order, and neither waits for the other. In some worlds a recall overtakes a run that was sent before it: the
child was just reading. Outcomes and answers to a recall may come twice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zmqtasks.core.pace import STEAL_S
from zmqtasks.messages import (
    SUCCEEDED,
    Ask,
    Beat,
    Deep,
    Done,
    Lost,
    Part,
    Recall,
    Resumed,
    Returned,
    Run,
    Submit,
    Unwanted,
    Waiting,
)

from .links import Channel
from .points import CHILD, Stopped
from .worlds import Spec, Wrong

if TYPE_CHECKING:
    from .host import Host

FLUSH_S = 0.002  # how old an outcome becomes in a child before its service thread sends it
BEATS = 5  # how often a child says that it is there, within the time after which silence counts


@dataclass(slots=True)
class Entry:
    """A task in a child's hand: a copy, as a wire makes one."""

    ordinal: int
    id: int
    offset: int
    count: int
    span: bool
    inputs: tuple[Any, ...]
    spec: Spec


class Child:
    """A worker process: one thread that runs, one that serves."""

    def __init__(self, host: Host, peer: int) -> None:
        sim = host.sim
        self.host = host
        self.sim = sim
        self.peer = peer
        self.alive = True
        self.lost = False  # the dispatcher was told so
        self.excused = False  # that what it had started may start again
        self.stopped_until = 0.0
        world = sim.world
        self.data, self.control = Channel(sim, world.data_s), Channel(sim, world.control_s)
        self.words = self.data if world.words_are_data else self.control
        self.runs = Channel(sim, world.data_s if world.overtaking else world.control_s)
        self.orders = Channel(sim, world.control_s) if world.overtaking else self.runs
        self.estimates: dict[int, float] = {}  # by ordinal, when it was given
        self.recalls = 0  # that it has not answered yet
        self.vain_since: float | None = None  # a recall has brought nothing, and nothing has moved since
        self.ordinals = 0  # how many it was sent
        self.given: list[int] = []  # the first ids of all that was sent here
        self.hand: deque[Entry] = deque()
        self.current: Entry | None = None
        self.item = 0  # of the current entry
        self.claimed_item = 0  # of the last span
        self.starting = False
        self.waits_for: set[int] = set()
        self.waiting = False
        self.waits_on = -1  # the one that it waits for now, where it waits for one after the other
        self.through = -1  # the last that it has finished
        self.trouble = ""  # why the current task is to fail, where not by itself
        self.flakes = False  # the current run does
        self.by = -1  # what is to end in the place of the current task
        self.began = self.began_clock = 0.0  # the second in the dispatcher's time
        self.outbox: list[Done] = []
        self.started: set[int] = set()
        self.first: set[int] = (
            set()
        )  # what it was given when it had nothing else: for its node that has begun
        self.joined = self.said = sim.now  # when it came, and when something last came from it
        self.stood_still = -1.0  # until when it did last
        if world.silence_s is not None and not world.nodes:  # a node beats for its children
            self._beat(world.silence_s / BEATS)

    def _beat(self, every_s: float) -> None:
        """Its service thread, whatever the other one does."""
        sim = self.sim
        busy = any(child.alive and child.current is not None for child in self.host.children.values())
        if not self.alive or not (sim.truth.unsettled or sim.faulty or busy):  # the end of the world
            return
        sim.at(every_s, self._act, self._beat, every_s)
        self.say(self.control, Beat())

    # ---- the thread that runs

    def _later(self, delay: float, act: Callable[..., None], *args: Any) -> None:
        self.sim.at(delay, self._act, act, *args)

    def _act(self, act: Callable[..., None], *args: Any) -> None:
        if not self.alive:
            return
        if self.stopped_until > self.sim.now:
            self.sim.at_time(self.stopped_until, self._act, act, *args)
        else:
            with suppress(Stopped):
                act(*args)

    def on_run(self, entries: list[Entry]) -> None:
        """It has read a run."""
        self.hand.extend(entries)
        if self.waiting and self.sim.world.returns_when_waiting:
            self.on_recall()
        self._wake()

    def _wake(self) -> None:
        if self.current is None and not self.starting and self.hand:
            self.starting = True
            rng = self.sim.rng
            self._later(rng.choice((0.0, 0.0, 2e-5, 1e-4, 2e-3)) if self.sim.faulty else 1e-5, self._start)

    def _start(self) -> None:
        self.starting = False
        if self.hand:
            self.current, self.item = self.hand.popleft(), 0
            self._begin()
        else:
            self._flush()

    def _begin(self) -> None:
        entry = self.current
        assert entry is not None
        sim, item, spec = self.sim, entry.offset + self.item, entry.spec
        if (
            entry.span or spec.options.time_limit
        ):  # of other single tasks nothing is written beside the ordinal
            self.claimed_item = item
        sim.truth.started(self, entry, entry.id + self.item)
        self.began, self.trouble = sim.now, ""
        self.began_clock = sim.top.clock()
        seconds = sim.work.duration(spec.fn)
        seconds, self.flakes = sim.policies.begins(entry.id + self.item, item, spec, seconds)
        if item in spec.poison and sim.world.plague and spec.key % 2:
            self._later(seconds, sim.take_down, self.host)
        elif item in spec.poison:
            self._later(seconds, self.die, "poison")
        elif spec.subs:
            self._later(seconds / 2, self._submit, seconds / 2)
        elif spec.instead is not None:
            self._later(seconds / 2, self._stand_back, seconds / 2)
        else:
            self._later(seconds, self._finish)

    def _finish(self) -> None:
        entry, sim = self.current, self.sim
        assert entry is not None
        item, spec = entry.offset + self.item, entry.spec
        if item in spec.fails:
            self.trouble = "own"
        elif self.flakes:
            self.trouble = "flaky"
        sim.policies.ends(self, entry.id + self.item, spec)
        payloads = [sim.flows.opened(value.payload) for value in entry.inputs]
        inputs = [
            found if v.index < 0 else found[v.index] for v, found in zip(entry.inputs, payloads, strict=True)
        ]
        value = self.trouble or sim.work.mix(spec.key, item, inputs)
        self._tell(entry, item, value, bool(self.trouble), sim.now - self.began)
        self.through = entry.id + self.item
        self.item += 1
        if self.item < entry.count:
            self._begin()
            return
        self.current = None
        if self.hand and sim.rng.random() < 0.8:
            self._start()
        elif self.hand:
            self._wake()
        else:
            self._flush()

    def _tell(self, entry: Entry, item: int, value: Any, failed: bool, seconds: float) -> None:
        if not self.outbox:
            self._later(FLUSH_S, self._flush)
        done = self.outbox[-1] if self.outbox else None
        if entry.span:
            if done is None:
                self.outbox.append(done := Done(entry.ordinal, []))
            part = done.parts[-1] if done.parts else None
            if (
                part
                and not failed
                and not part.failed
                and (part.ordinal, part.offset + part.items) == (entry.ordinal, item)
            ):
                part.items += 1
                part.payload.append(value)
            else:
                done.parts.append(Part(entry.ordinal, item, 1, failed, value if failed else [value]))
        else:
            if done is None or done.first + len(done.payloads) != entry.ordinal:
                self.outbox.append(done := Done(entry.ordinal, []))
            if failed:
                done.failed.append(len(done.payloads))
            done.payloads.append(value)
        if self.by >= 0:
            done.asks.append(Ask(entry.ordinal, item if entry.span else -1, instead=self.by))
            self.by = -1
        elif failed and entry.spec.asks(value):
            done.asks.append(Ask(entry.ordinal, item if entry.span else -1, entry.spec.delay, "it failed"))
            if self.peer in self.host.dispatcher.peers:
                self.sim.policies.asked[entry.id + self.item] = entry.spec.delay
        done.pace.append((entry.spec.fn, 1, seconds))

    def _flush(self) -> None:
        outbox, self.outbox = self.outbox, []
        for done in outbox:
            self.say(self.data, done)

    def _stand_back(self, seconds: float) -> None:
        """Another is to end in its place; or it thinks better of it."""
        entry = self.current
        assert entry is not None
        by, submit = self.sim.flows.stand_in(entry.id + self.item, entry.spec.instead)
        self.say(self.data, submit)
        if self.sim.rng.random() >= self.sim.world.fickle:
            self.by, self.trouble = by, "instead"
        self._later(seconds, self._finish)

    # ---- waiting

    def _submit(self, seconds: float) -> None:
        sim, entry = self.sim, self.current
        assert entry is not None
        tasks = [sim.work.new_task(sub) for sub in entry.spec.subs]
        self.waits_for = {task.id for task in tasks}
        for task in tasks:
            sim.truth.listeners[task.id] = self
        self.say(self.words, Submit(tasks))
        self._later(seconds * sim.rng.choice((0.0, 0.5, 1.0)), self._wait, seconds)

    def _wait(self, seconds: float) -> None:
        if not self.waits_for:
            self._later(seconds, self._finish)
            return
        self._flush()
        if (rest := self._rest()) or self.sim.rng.random() < 0.5:
            self.say(self.words, Returned(rest))
        self.waits_on = min(self.waits_for) if self.sim.world.waits_in_turn else -1
        self.say(self.words, Waiting(self.waits_on))
        self.waiting = True

    def on_outcome(self, id_: int, state: int) -> None:
        """A task that it waits for, maybe, is settled."""
        if id_ in self.waits_for:
            self.waits_for.discard(id_)
            if state != SUCCEEDED:
                self.trouble = "sub"
            if self.waiting and not self.waits_for:
                self._resume()
            elif self.waiting and id_ == self.waits_on:  # on to the next
                self.waiting = False
                self.say(self.words, Resumed())
                self._wait(0.0)

    def on_deep(self) -> None:
        """It must not wait."""
        if self.waiting:
            self.trouble = "deep"
            self._resume()

    def _resume(self) -> None:
        self.waiting, self.waits_for = False, set()
        self.say(self.words, Resumed())
        self._later(self.sim.work.duration(self.current.spec.fn) / 2 if self.current else 0.0, self._finish)

    # ---- the thread that serves

    def _rest(self) -> list[tuple[int, int, int]]:
        rest, entry = [], self.current
        if entry is not None and (items := entry.count - self.item - 1) > 0:
            entry.count -= items
            rest.append((entry.ordinal, entry.offset + entry.count, items))
        rest += [(entry.ordinal, entry.offset, entry.count) for entry in self.hand]
        self.hand.clear()
        return rest

    def on_recall(self) -> None:
        """Everything that is finished, then what has not started."""
        self._flush()
        self.say(self.control, Returned(self._rest()))

    def on_unwanted(self) -> None:
        """Its task may look at this, and need not."""

    def hear(self, message: Any) -> None:
        """`message` is on its way to it."""
        if isinstance(message, Recall):
            self.recalls += 1
            surely = not (self.sim.world.twice or self.sim.world.subs or self.sim.world.jumps)
            vain = self.vain_since is not None and not self.sim.world.nodes  # from above it comes as it may
            if surely and (
                self.recalls > 1 or (vain and self.sim.now - (self.vain_since or 0.0) < STEAL_S / 2)
            ):
                raise Wrong(f"peer {self.peer} is recalled twice, or again in vain")
        if isinstance(message, Run):
            assert message.first == self.ordinals, "the ordinals have a gap"
            self.ordinals += len(message.tasks)
            self.given += [task.id for task in message.tasks]
            self.vain_since = None
            entries = [self.sim.work.entry(task) for task in message.tasks]
            if not (self.hand or self.current):
                self.first.add(entries[0].id)
            self.runs.send(self._act, self.on_run, entries)
        else:
            acts = {Recall: self.on_recall, Deep: self.on_deep, Unwanted: self.on_unwanted}
            self.orders.send(self._act, acts[type(message)])

    def say(self, channel: Channel, message: Any) -> None:
        """To the dispatcher; an outcome or an answer may come twice, and after the peer was lost."""
        sim = self.sim
        if type(message) is not Beat and sim.points.stops(CHILD) and not sim.would_blame(self):
            self.die("crash")
            raise Stopped
        delay = channel.send(self.host.receive, self.peer, message)
        if not (sim.world.twice and sim.faulty and type(message) in (Done, Returned)):
            return
        odds = sim.world.twice if type(message) is Done else 0.05
        if sim.rng.random() < odds:
            sim.at(delay + sim.rng.choice((0.0, 1e-4, 0.01)), self.host.receive, self.peer, message)

    def die(self, reason: str, *, lives_on: bool = False, blamed: bool = True) -> None:
        """It ends, or is only taken for ended; its host says what was running."""
        if self.lost:
            self.alive = False
            return
        sim, entry = self.sim, self.current
        self.lost = True
        sim.truth.losses += 1
        ordinal, item = -1, 0
        if entry is not None and not lives_on:  # else nobody knows what it ran
            ordinal, item = entry.ordinal, self.claimed_item
            sim.truth.deaths[entry.id + self.item] += blamed
        sim.truth.running -= {id_ for id_ in self.started if sim.truth.where.get(id_) is self}
        if lives_on:
            sim.at_time(max(sim.now + 0.05, self.stopped_until + 0.02), self._end)
        else:
            self.alive = False
        sim.note(
            f"  {self.name} {'is taken for lost' if lives_on else 'dies'} ({reason}) at {ordinal}, {item}"
        )
        sim.at(
            sim.rng.choice((0.0, 1e-4, 0.005)) if sim.faulty else 1e-4,
            self.host.lose,
            self,
            Lost(reason, ordinal, item),
        )

    def _end(self) -> None:
        self.alive = False

    def go_down(self, *, lives_on: bool) -> None:
        """With its node: nobody says what ran."""
        truth = self.sim.truth
        truth.losses += not self.lost
        self.lost = True
        self.alive = self.alive and lives_on
        truth.running -= {id_ for id_ in self.started if truth.where.get(id_) is self}

    @property
    def idle(self) -> bool:
        """Whether it has nothing to do."""
        return self.current is None and not self.starting and not self.hand and not self.outbox

    @property
    def next(self) -> set[int]:
        """What it may have started next, as its node sees it: be it on its way here, or on its way back."""
        return set(self.given) - self.started

    @property
    def name(self) -> str:
        """For the reader."""
        return f"child {self.host.name}{self.peer}"
