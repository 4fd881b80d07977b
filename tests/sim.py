"""The whole system in one thread, with a virtual clock and one seed: a dispatcher, its children, links, and faults.

    python -m tests.sim SEED            one seed, with every message
    python -m tests.sim --seeds 2000    many; the first that fails is named

A seed draws a world (how many children, which faults, which features) and a workload, a random graph of tasks. Phase
one, safety: children crash, stop, are given up for lost while they live on, messages come late and twice, the clock
jumps. Phase two, liveness: no more faults, and everything has to settle. The oracle is the same graph evaluated here,
beside what must hold after every turn (`Sim.turn`) and at every start of a task (`Sim.started`).

The simulated child is a model of `nodes/child.py`: it runs its hand in order, one item at a time, tells outcomes in
batches on its data channel, and on its control channel answers a recall, submits, waits and resumes. Each channel keeps
its order, and neither waits for the other. In some worlds a recall overtakes a run that was sent before it: the child
was just reading.

What comes twice: outcomes, answers to a recall, submits.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from heapq import heappop, heappush
from random import Random
from typing import TYPE_CHECKING, Any

from zmqtasks.core.dispatch import Dispatcher
from zmqtasks.core.effects import (
    ACCEPTED,
    DELIVERED,
    RETRIED,
    SETTLED,
    Answer,
    End,
    Look,
    Record,
    Send,
    Settle,
)
from zmqtasks.core.pace import HAND_BYTES_MAX, HAND_MAX, STEAL_S, WINDOW_S
from zmqtasks.journal.memory import MemoryJournal
from zmqtasks.messages import (
    CANCELLED,
    DEAD,
    EXPIRED,
    FAILED,
    LEASED,
    NEW,
    QUEUED,
    RETRYING,
    SCHEDULED,
    SUCCEEDED,
    UPSTREAM_FAILED,
    WAITING,
    Ask,
    Beat,
    Cancel,
    Claimed,
    Deep,
    Done,
    Joined,
    Lost,
    Part,
    Recall,
    Resumed,
    Returned,
    Run,
    Submit,
    Task,
    Unwanted,
    Value,
    Waiting,
)
from zmqtasks.options import DEFAULT_RETRY, Options, RetryRule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

FLUSH_S = 0.002  # how old an outcome becomes in a child before its service thread sends it
SAFETY_S = 0.4  # how long faults go on
LIVENESS_S = 1000.0  # within which everything settles after that
BEATS = 5  # how often a child says that it is there, within the time after which silence counts
IDLE_S = 0.1  # how long a peer may idle beside work that another could give back
LATE_S = 0.05  # how long after its time an order of the dispatcher may have its effect
HANG_S = 50.0  # how long a task runs that overruns its limit, if nobody ends it
EVENTS_MAX = 50_000
CLIENT = 0  # the peer id of the program that submits
RANK = {Record: 0, Settle: 1, Send: 2, Answer: 2, Look: 2, End: 2}  # the order of effects


class Wrong(AssertionError):
    """What the simulator found."""


class Blob:
    """A payload of `size` bytes that takes none."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size


@dataclass(slots=True)
class Spec:
    """What a task does, whatever its id: each item its value, or a failure, or the end of its child."""

    key: int
    fn: int
    options: Options
    size: int = 0
    count: int = 1
    span: bool = False
    needs: tuple[int, ...] = ()
    fails: frozenset[int] = frozenset()
    poison: frozenset[int] = frozenset()
    subs: tuple[Spec, ...] = ()
    flaky: dict[int, int] = field(default_factory=dict)  # by item: how many runs fail before one succeeds
    hangs: dict[int, int] = field(default_factory=dict)  # by item: how many runs overrun the limit
    near: bool = False  # they run about as long as their limit
    picky: bool = False  # what always fails is not to be retried
    delay: float | None = None  # its failures ask for this, whatever the rule

    def asks(self, trouble: str) -> bool:
        """Whether that failure asks for another attempt."""
        ruled = self.options.retry is not None or self.delay is not None
        return ruled and not (self.picky and trouble == "own")


@dataclass(slots=True)
class World:
    """What a seed has: every feature is in some worlds and not in others, for what is always there hides the rest."""

    children: int
    slots: int | None
    queue_max: int | None
    waiting_max: int
    data_s: float
    control_s: float
    overtaking: bool  # a recall comes before a run that was sent earlier: the child was just reading
    words_are_data: bool  # submits, waits, resumes go where outcomes go
    loop_s: float
    crashes: int
    stops: int
    jumps: int
    cancels: int
    late: float
    twice: float
    zombies: bool
    spans: bool
    needs: bool
    subs: bool
    priorities: bool
    countdowns: bool
    fails: bool
    poison: bool
    blobs: bool
    returns_when_waiting: bool
    silence_s: float | None  # the dispatcher gives up who says nothing for so long
    waits_in_turn: bool  # for one task after the other, and says for which
    retries: bool
    limits: bool
    expires: bool

    @classmethod
    def draw(cls, rng: Random, more: Random) -> World:
        """A world by chance; the policies by `more`: the rest of a seed's world is what it was without them."""

        def some(odds: float = 0.4) -> bool:
            return rng.random() < odds

        children, subs = rng.choice((1, 1, 2, 2, 3, 4)), some(0.4)
        return cls(
            children=children,
            slots=children if subs or some(0.3) else None,
            queue_max=rng.randint(3, 30) if some(0.15) else None,
            waiting_max=rng.choice((1, 2, 64)),
            data_s=rng.choice((1e-5, 1e-4, 2e-3, 5e-3, 0.015)),
            control_s=rng.choice((1e-5, 1e-4, 2e-3)),
            overtaking=some(0.3),
            words_are_data=some(0.5),
            loop_s=rng.choice((0.0, 2e-5, 1e-3)),
            crashes=rng.randint(1, 4) if some() else 0,
            stops=rng.randint(1, 3) if some(0.25) else 0,
            jumps=rng.randint(1, 3) if some(0.2) else 0,
            cancels=rng.randint(1, 15) if some(0.5) else 0,
            late=rng.choice((0.02, 0.2)) if some(0.3) else 0.0,
            twice=rng.choice((0.05, 0.5)) if some(0.3) else 0.0,
            zombies=some(0.3),
            spans=some(0.5),
            needs=some(0.5),
            subs=subs,
            priorities=some(),
            countdowns=some(0.3),
            fails=some(0.3),
            poison=some(0.2),
            blobs=some(0.1),
            returns_when_waiting=some(),
            silence_s=rng.choice((0.1, 0.3)) if some(0.25) else None,
            waits_in_turn=some(0.5),
            retries=more.random() < 0.3,
            limits=more.random() < 0.3,
            expires=more.random() < 0.3,
        )


class Channel:
    """Delivers in order, each message some time after it was sent."""

    def __init__(self, sim: Sim, usual_s: float) -> None:
        self.sim = sim
        self.usual_s = usual_s
        self.last = 0.0

    def send(self, act: Callable[..., None], *args: Any) -> float:
        """`act` is called when it has arrived: seconds from now."""
        sim, world, rng = self.sim, self.sim.world, self.sim.rng
        delay = self.usual_s * (0.5 + rng.random())
        if world.late and sim.faulty and rng.random() < world.late:
            delay += rng.random() * 0.03
        self.last = max(self.last, sim.now + delay)
        sim.at_time(self.last, act, *args)
        return self.last - sim.now


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

    def __init__(self, sim: Sim, peer: int) -> None:
        self.sim = sim
        self.peer = peer
        self.alive = True
        self.lost = False  # the dispatcher was told so
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
        self.hand: deque[Entry] = deque()
        self.current: Entry | None = None
        self.item = 0  # of the current entry
        self.starting = False
        self.waits_for: set[int] = set()
        self.waiting = False
        self.waits_on = -1  # the one that it waits for now, where it waits for one after the other
        self.through = -1  # the last that it has finished
        self.trouble = ""  # why the current task is to fail, where not by itself
        self.flakes = False  # the current run does
        self.began = self.began_clock = 0.0  # the second in the dispatcher's time
        self.outbox: list[Done] = []
        self.started: set[int] = set()
        self.joined = self.said = sim.now  # when it came, and when something last came from it
        self.stood_still = -1.0  # until when it did last
        if world.silence_s is not None:
            self._beat(world.silence_s / BEATS)

    def _beat(self, every_s: float) -> None:
        """Its service thread, whatever the other one does."""
        sim = self.sim
        busy = any(child.alive and child.current is not None for child in sim.children.values())
        if not self.alive or not (sim.unsettled or sim.faulty or busy):  # the end of the world
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
        sim.started(self, entry, entry.id + self.item)
        self.began, self.trouble = sim.now, ""
        self.began_clock = sim.clock()
        sim.runs[entry.id + self.item] += 1
        run = sim.runs[entry.id + self.item]
        self.flakes = run <= spec.flaky.get(item, 0)
        seconds = sim.duration(spec.fn)
        if run <= spec.hangs.get(item, 0):
            seconds = HANG_S
        elif spec.near:
            seconds = (spec.options.time_limit or 0.0) + (sim.more.random() - 0.4) * 0.004
        if item in spec.poison:
            self._later(seconds, self.die, "poison")
        elif spec.subs:
            self._later(seconds / 2, self._submit, seconds / 2)
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
        limit, ran = spec.options.time_limit, sim.clock() - self.began_clock
        if limit is not None and ran > limit + LATE_S and not self.lost and not sim.world.jumps:
            raise Wrong(f"task {entry.id + self.item} has run for {ran:.3f} s, its limit is {limit} s")
        value = self.trouble or sim.mix(
            spec.key, item, [v.payload if v.index < 0 else v.payload[v.index] for v in entry.inputs]
        )
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
        if failed and entry.spec.asks(value):
            done.asks.append(Ask(entry.ordinal, item if entry.span else -1, entry.spec.delay, "it failed"))
            if self.peer in self.sim.machine.peers:
                self.sim.asked[entry.id + self.item] = entry.spec.delay
        done.pace.append((entry.spec.fn, 1, seconds))

    def _flush(self) -> None:
        outbox, self.outbox = self.outbox, []
        for done in outbox:
            self.say(self.data, done)

    # ---- waiting

    def _submit(self, seconds: float) -> None:
        sim, entry = self.sim, self.current
        assert entry is not None
        tasks = [sim.new_task(sub) for sub in entry.spec.subs]
        self.waits_for = {task.id for task in tasks}
        for task in tasks:
            sim.listeners[task.id] = self
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
        self._later(self.sim.duration(self.current.spec.fn) / 2 if self.current else 0.0, self._finish)

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
            if surely and (
                self.recalls > 1
                or (self.vain_since is not None and self.sim.now - self.vain_since < STEAL_S / 2)
            ):
                raise Wrong(f"peer {self.peer} is recalled twice, or again in vain")
        if isinstance(message, Run):
            assert message.first == self.ordinals, "the ordinals have a gap"
            self.ordinals += len(message.tasks)
            self.vain_since = None
            entries = [self.sim.entry(task) for task in message.tasks]
            self.runs.send(self._act, self.on_run, entries)
        else:
            acts = {Recall: self.on_recall, Deep: self.on_deep, Unwanted: self.on_unwanted}
            self.orders.send(self._act, acts[type(message)])

    def say(self, channel: Channel, message: Any) -> None:
        """To the dispatcher; an outcome or an answer may come twice, and after the peer was lost."""
        sim = self.sim
        delay = channel.send(sim.receive, self.peer, message)
        if not (sim.world.twice and sim.faulty and type(message) in (Done, Returned)):
            return
        odds = sim.world.twice if type(message) is Done else 0.05
        if sim.rng.random() < odds:
            sim.at(delay + sim.rng.choice((0.0, 1e-4, 0.01)), sim.receive, self.peer, message)

    def die(self, reason: str, *, lives_on: bool = False, blamed: bool = True) -> None:
        """It ends, or is only taken for ended; its host says what was running."""
        if self.lost:
            self.alive = False
            return
        sim, entry = self.sim, self.current
        self.lost = True
        ordinal, item = -1, 0
        if entry is not None and not lives_on:  # else nobody knows what it ran
            ordinal, item = entry.ordinal, entry.offset + self.item
            sim.deaths[entry.id + self.item] += blamed
        sim.running -= {id_ for id_ in self.started if sim.where.get(id_) is self}
        if lives_on:
            sim.at_time(max(sim.now + 0.05, self.stopped_until + 0.02), self._end)
        else:
            self.alive = False
        sim.note(
            f"  child {self.peer} {'is taken for lost' if lives_on else 'dies'} ({reason}) at {ordinal}, {item}"
        )
        sim.at(
            sim.rng.choice((0.0, 1e-4, 0.005)) if sim.faulty else 1e-4,
            sim.lose,
            self,
            Lost(reason, ordinal, item),
        )

    def _end(self) -> None:
        self.alive = False


@dataclass(slots=True)
class Final:
    """How a task ended."""

    state: int
    payload: Any
    index: int  # of the item in the payload, where it is a list of values; else -1
    deaths: int

    @property
    def value(self) -> Any:
        """What it is worth."""
        return self.payload[self.index] if self.index >= 0 else self.payload

    def known(self) -> tuple[int, Any]:
        """As a submit tells it."""
        return self.state, Value(self.payload, self.index) if self.state == SUCCEEDED else self.payload


@dataclass(slots=True)
class Question:
    """A cancel and what became of it."""

    id: int
    terminate: bool
    answers: list[bool] = field(default_factory=list)


class Sim:
    """One seed."""

    def __init__(self, seed: int, machine: type[Any] = Dispatcher, *, trace: bool = False) -> None:
        self.seed = seed
        self.rng = Random(seed)
        self.more = Random(~seed)  # for what concerns policies
        self.trace = trace
        self.world = World.draw(self.rng, self.more)
        self.now = 0.0
        self.jumped = 0.0
        self.faulty = True
        self.events = 0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = 0
        self._globals = machine._waiting.__globals__["Waits"].begin.__globals__
        self.machine = machine(
            slots=self.world.slots, queue_max=self.world.queue_max, silence_s=self.world.silence_s
        )
        self.children: dict[int, Child] = {}
        self.peers = 0
        self.turn_is_due = False
        self.alarm = -1  # the event of the next deadline
        # the workload
        self.ids = 1000
        self.keys = 0
        self.spec_of: dict[int, tuple[Spec, int]] = {}  # by id: what it does, and which item of it
        self.needs_of: dict[int, tuple[int, ...]] = {}
        self.costs: list[float] = []
        self.listeners: dict[int, Child] = {}
        # the truth
        self.submitted: set[int] = set()
        self.unsettled: set[int] = set()
        self.journal = MemoryJournal()
        self.final: dict[int, Final] = {}
        self.refused: set[int] = set()
        self.questions: list[Question] = []
        self.dropped: set[int] = set()  # ids of the cancels that are no questions
        self.eta: dict[int, float] = {}
        self.born: dict[int, float] = {}  # when it was accepted
        self.runs: Counter[int] = Counter()  # that began anywhere
        self.retried: Counter[int] = Counter()
        self.asked: dict[int, float | None] = {}  # the delay that its last failure asked for
        self.retry_at: dict[int, tuple[float, float]] = {}  # from when to when the backoff ends
        self.limited: Counter[int] = Counter()  # how often it was ended for its limit
        self.over: set[int] = (
            set()
        )  # it was ordered to be: where its child crashes meanwhile, that is no delivery
        self.deaths: Counter[int] = Counter()
        self.begun: set[int] = set()  # started anywhere, be it where nobody listens any more
        self.starts: Counter[int] = Counter()  # where somebody does
        self.excuses: Counter[int] = Counter()
        self.running: set[int] = set()
        self.where: dict[int, Child] = {}
        self.paced: set[int] = set()
        self.values: dict[tuple[int, int], Any] = {}
        self.idle_since: float | None = None
        self.given_up = 0
        self.in_turn: list[tuple[int, Any]] = []

    # ---- time

    def at(self, delay: float, act: Callable[..., None], *args: Any) -> int:
        """`act(*args)` in `delay` seconds."""
        return self.at_time(self.now + delay, act, *args)

    def at_time(self, when: float, act: Callable[..., None], *args: Any) -> int:
        """`act(*args)` at `when`; of two at one time, the one that was said first."""
        self._order += 1
        heappush(self._heap, (when, self._order, act, args))
        return self._order

    def clock(self) -> float:
        """What the dispatcher is told: it may jump ahead."""
        return self.now + self.jumped

    def note(self, text: str) -> None:
        """For the reader of a seed."""
        if self.trace:
            print(f"{self.now * 1e3:10.3f} ms {text}")  # noqa: T201 - a program too

    def run(self) -> None:
        """Both phases; `Wrong` if anything is."""
        kept = self._globals["WAITING_MAX"]
        self._globals["WAITING_MAX"] = self.world.waiting_max
        try:
            self.note(str(self.world))
            self._plan()
            self._go(SAFETY_S)
            self.faulty = False
            self.note("no more faults")
            self._go(SAFETY_S + LIVENESS_S)
            self._verify()
        except Wrong:
            raise
        except AssertionError as error:
            raise Wrong(f"invariant: {error}") from error
        except Exception as error:
            raise Wrong(f"{type(error).__name__}: {error}") from error
        finally:
            self._globals["WAITING_MAX"] = kept

    def _go(self, until: float) -> None:
        heap = self._heap
        while heap and heap[0][0] <= until:
            self.now, order, act, args = heappop(heap)
            if act == self._wake_up and order != self.alarm:
                continue
            self.events += 1
            if self.events > EVENTS_MAX:
                raise Wrong("it goes round in circles")
            act(*args)
        self.now = until if heap else self.now

    # ---- the workload

    def _plan(self) -> None:
        rng, world = self.rng, self.world
        self.costs = [rng.choice((2e-5, 2e-4, 2e-3, 0.02, 0.12)) for _ in range(rng.randint(1, 4))]
        for _ in range(world.children):
            self.at(rng.random() * 0.005, self.join)
        ids: list[int] = []
        for _ in range(rng.randint(1, 6)):
            batch = []
            for _ in range(rng.choice((1, 2, 4, 8))):
                task = self.new_task(self._spec(ids))
                ids += range(task.id, task.id + task.count)
                batch.append(task)
            when = rng.random() * 0.2
            self.at(max(when, self.now), self.submit, batch)
            self.now = max(when, self.now)  # a need is submitted before the one that needs it
        self.now = 0.0
        for _ in range(world.cancels):
            id_ = rng.choice((None, None, None, rng.choice(ids), rng.choice(ids), -5))
            self.at(rng.random() * 0.25, self.cancel, id_, rng.random() < 0.6)
            if rng.random() < 0.1:
                start = rng.choice(ids)
                self.at(
                    rng.random() * 0.25, self.cancel_range, range(start, start + rng.choice((2, 10, 100)))
                )
        for _ in range(world.crashes):
            self.at(rng.random() * SAFETY_S / 2, self.crash)
        for _ in range(world.stops):
            self.at(rng.random() * SAFETY_S / 2, self.stop)
        for _ in range(world.jumps):
            self.at(rng.random() * SAFETY_S / 2, self.jump)

    def _spec(self, ids: list[int], depth: int = 0) -> Spec:
        rng, world = self.rng, self.world
        self.keys += 1
        spec = Spec(self.keys, rng.randrange(len(self.costs)), Options())
        if world.priorities and rng.random() < 0.5:
            spec.options = spec.options.replace(priority=rng.choice((1, 5, 9)))
        if world.countdowns and rng.random() < 0.3:
            spec.options = spec.options.replace(countdown=rng.random() * 0.3)
        if rng.random() < 0.2:
            spec.options = spec.options.replace(max_deliveries=rng.randint(1, 4))
        if world.spans and rng.random() < 0.4:
            spec.span, spec.count = True, rng.choice((1, 2, 3, 4, 10, 30))
        if world.needs and ids and rng.random() < 0.5:
            spec.needs = tuple(rng.choice(ids[-rng.choice((1, 5, 50)) :]) for _ in range(rng.randint(1, 3)))
        if world.fails and rng.random() < 0.2:
            spec.fails = frozenset(rng.choices(range(spec.count), k=rng.randint(1, 3)))
        if world.poison and rng.random() < 0.1 and not depth:
            spec.poison = frozenset({rng.randrange(spec.count)})
        if world.blobs and rng.random() < 0.5:
            spec.size = rng.choice((1 << 20, 5 << 20, 9 << 20))
        if world.subs and not spec.span and not spec.poison and depth < 2 and rng.random() < 0.3:
            spec.subs = tuple(self._spec([], depth + 1) for _ in range(rng.randint(1, 3)))
        self._regulate(spec)
        return spec

    def _regulate(self, spec: Spec) -> None:
        """Its policies."""
        more, world = self.more, self.world
        if world.retries and more.random() < 0.6:
            if more.random() < 0.8:
                rule = RetryRule(
                    max=more.choice((0, 1, 2, 4)),
                    delay=more.choice((0.0, 0.01, 0.05)),
                    factor=more.choice((1.0, 2.0)),
                    max_delay=more.choice((0.06, 600.0)),
                    jitter=more.choice(("none", "none", "equal", "full")),
                    deadline=more.choice((None, None, 0.05, 0.3)),
                    on_limit=more.random() < 0.7,
                )
                spec.options = spec.options.replace(retry=rule)
            if more.random() < 0.3:
                spec.delay = more.choice((0.0, 0.02))
            spec.picky = more.random() < 0.3
            if spec.picky and spec.span:
                spec.fails |= {more.randrange(spec.count)}
            if more.random() < 0.7:
                items = {more.randrange(spec.count) for _ in range(more.randint(1, 3))}
                spec.flaky = {item: more.choice((1, 2, 5)) for item in sorted(items)}
        if world.limits and more.random() < 0.5:
            spec.options = spec.options.replace(time_limit=more.choice((0.005, 0.03, 0.2)))
            if more.random() < 0.5:
                spec.hangs = {more.randrange(spec.count): more.choice((1, 9))}
            spec.near = more.random() < 0.4
        if world.expires and more.random() < 0.5:
            after = spec.options.countdown + more.choice((0.001, 0.01, 0.05, 0.3))
            spec.options = spec.options.replace(expires=after)

    def new_task(self, spec: Spec) -> Task:
        """A record for it, with new ids."""
        id_, self.ids = self.ids, self.ids + spec.count
        for item in range(spec.count):
            self.spec_of[id_ + item] = spec, item
            self.needs_of[id_ + item] = spec.needs
        payload = Blob(spec.size) if spec.size else b"x" * (spec.key % 50)
        return Task(id_, spec.fn, payload, spec.options, spec.count, 0, spec.span, spec.needs)

    def entry(self, task: Task) -> Entry:
        """As it travels."""
        assert task.state == LEASED, "a task was sent that is not leased"
        spec, item = self.spec_of[task.id]
        assert (task.offset, task.fn, task.span) == (item, spec.fn, spec.span), "a span was cut wrong"
        assert task.attempt > 0, "an attempt was not counted"
        return Entry(task.ordinal, task.id, task.offset, task.count, task.span, task.inputs, spec)

    def duration(self, fn: int) -> float:
        """How long it takes this time."""
        seconds = self.costs[fn] * (0.5 + self.rng.random())
        return seconds * 50 if self.faulty and self.rng.random() < 0.05 else seconds

    @staticmethod
    def mix(key: int, item: int, inputs: list[Any]) -> int:
        """What every task computes."""
        return hash((key, item, *inputs))

    def value(self, id_: int) -> Any:
        """The oracle: what `id_` is worth, evaluated here."""
        spec, item = self.spec_of[id_]
        if (spec.key, item) not in self.values:
            self.values[spec.key, item] = self.mix(spec.key, item, [self.value(need) for need in spec.needs])
        return self.values[spec.key, item]

    # ---- the host: what programs, children and faults do to the dispatcher

    def receive(self, peer: int, message: Any) -> None:
        """A message has arrived."""
        if isinstance(message, Submit):
            message.known = {
                need: self.final[need].known()
                for task in message.tasks
                for need in task.needs
                if need in self.final
            }
            for task in message.tasks:
                if task.id not in self.submitted:
                    self.submitted.update(range(task.id, task.id + task.count))
        elif isinstance(message, Returned):
            self.children[peer].recalls -= 1
            self.children[peer].vain_since = None if message.rest else self.now
        elif isinstance(message, Done):
            self.children[peer].vain_since = None
        elif isinstance(message, Waiting):  # a host starts another
            at_work = sum(1 for child in self.children.values() if not child.lost and not child.waiting)
            if self.world.slots is not None and at_work < self.world.slots:
                self.at(1e-3, self.join)
        if self.trace:
            said = [self._short(task) for task in message.tasks] if isinstance(message, Submit) else message
            self.note(f"{peer:4} -> {said}")
        self.machine.receive(peer, message, self.clock())
        if peer in self.children:
            self.children[peer].said = self.now
        self.in_turn.append((peer, message))
        self._turn_soon()

    def _turn_soon(self) -> None:
        if not self.turn_is_due:
            self.turn_is_due = True
            self.at(self.rng.random() * self.world.loop_s, self.turn)

    def _wake_up(self) -> None:
        self._turn_soon()

    def join(self) -> None:
        """A new child."""
        self.peers += 1
        self.children[self.peers] = Child(self, self.peers)
        self.receive(self.peers, Joined(1))

    def submit(self, tasks: list[Task]) -> None:
        """A program submits, and sometimes says it again."""
        self.receive(CLIENT, Submit(tasks))
        if self.rng.random() < 0.1:
            self.at(self.rng.random() * 0.02, self.receive, CLIENT, Submit(tasks))

    def cancel(self, id_: int | None, terminate: bool) -> None:
        """A program asks; of what is in hands above all."""
        if id_ is None:
            groups: dict[int, list[Task]] = {}  # what is in hands, and spans by their state
            for task in self.machine.ledger.tasks.values():
                if task.state == LEASED or task.count > 1:
                    groups.setdefault(task.state, []).append(task)
            odds = [*groups, LEASED, LEASED] if LEASED in groups else list(groups)
            chosen = self.rng.choice(groups[self.rng.choice(odds)]) if groups else None
            id_ = chosen.id + self.rng.randrange(chosen.count) if chosen else -5
            through = [child.through for child in self.children.values() if child.through in self.unsettled]
            if through and self.rng.random() < 0.4:
                id_ = self.rng.choice(through)  # its outcome is on its way
        if id_ in self.submitted or id_ < 0:
            self.questions.append(Question(id_, terminate))
            self.receive(CLIENT, Cancel(id_, terminate, len(self.questions) - 1))

    def cancel_range(self, ids: range) -> None:
        """A program has no use any more for a part of what it submitted, as far as it has not started."""
        if ids[0] in self.submitted:
            self.dropped.update(ids)
            self.receive(CLIENT, Cancel(ids[0], False, None, len(ids)))

    def _victim(self) -> Child | None:
        alive = [child for child in self.children.values() if not child.lost]
        return self.rng.choice(alive) if alive else None

    def crash(self) -> None:
        """A child ends, or falls silent, for no fault of its task."""
        if (child := self._victim()) is None:
            return
        if (entry := child.current) is not None:
            id_ = entry.id + child.item
            innocent = entry.offset + child.item not in entry.spec.poison
            if innocent and self.deaths[id_] + 1 >= entry.spec.options.max_deliveries:
                return  # so that whoever is DEAD is to blame
        child.die("crash", lives_on=self.world.zombies and self.rng.random() < 0.5)

    def stop(self) -> None:
        """A child stands still for a while."""
        if (child := self._victim()) is not None and child.stopped_until <= self.now:
            longest = 3 * (self.world.silence_s or 0.03)
            child.stopped_until = child.stood_still = self.now + self.rng.random() * longest
            self.note(f"  child {child.peer} stops until {child.stopped_until * 1e3:.3f} ms")

    def jump(self) -> None:
        """The clock does."""
        self.jumped += self.rng.choice((0.01, 0.2, 3600.0))
        self.note(f"  the clock jumps to {self.clock():.3f}")
        self._turn_soon()

    def lose(self, child: Child, message: Lost) -> None:
        """The host has noticed; a new child comes under a new id."""
        self.excuses.update(child.started)
        self.receive(child.peer, message)
        self.at(0.002, self.join)

    def _gave_up(self, child: Child) -> None:
        """The dispatcher takes a silent child for lost; it may live on, and come back."""
        silence_s = self.world.silence_s
        if silence_s is None or (
            max(child.stood_still, child.joined) < self.now - silence_s and not self.world.late
        ):
            raise Wrong(f"peer {child.peer} was given up, and had not been silent")
        self.given_up += 1
        self.excuses.update(child.started)
        child.die("silent", lives_on=True)

    def kill(self, child: Child, ending: int) -> None:
        """The host ends a child because its task is to be cancelled by force."""
        if child.lost:
            return
        if child.current is not None and (hit := child.current.id + child.item) != ending:
            raise Wrong(f"the kill for task {ending} hit task {hit}")
        child.die("killed")

    def end(self, child: Child, ordinal: int, item: int) -> None:
        """The host ends a child if it runs that: it is over its limit."""
        entry = child.current
        if child.lost or entry is None or (entry.ordinal, entry.offset + child.item) != (ordinal, item):
            return
        id_, limit, ran = (
            entry.id + child.item,
            entry.spec.options.time_limit,
            self.clock() - child.began_clock,
        )
        if limit is None or ran < limit - 1e-9:
            raise Wrong(f"task {id_} is ended after {ran} s, its limit is {limit}")
        if ran > limit + LATE_S and not self.world.jumps:
            raise Wrong(f"task {id_} is ended after {ran} s, its limit is {limit}")
        self.limited[id_] += 1
        self.asked[id_] = None
        child.die("limit", blamed=False)

    # ---- what must hold

    def started(self, child: Child, entry: Entry, id_: int) -> None:
        """A child starts an item."""
        self.note(f"  child {child.peer} starts {id_} ({entry.ordinal})")
        self.begun.add(id_)
        if child.lost:
            return
        child.started.add(id_)
        if id_ in self.running and self.where[id_] is not child:
            raise Wrong(f"task {id_} runs in two places")
        if id_ in self.final:
            raise Wrong(f"task {id_} starts after it was settled")
        self.starts[id_] += 1
        if self.starts[id_] > 1 + self.excuses[id_]:
            raise Wrong(
                f"task {id_} was started {self.starts[id_]} times, {self.excuses[id_]} of its peers were lost"
            )
        if self.clock() < self.eta[id_] - 1e-9:
            raise Wrong(f"task {id_} starts before its time")
        if self.clock() < self.retry_at.get(id_, (0.0, 0.0))[0] - 1e-9:
            raise Wrong(f"task {id_} is retried before its backoff is over")
        world, latest = self.world, self._latest(id_)
        exact = not (world.stops or world.late or world.jumps or world.overtaking or world.silence_s)
        if exact and self.starts[id_] == 1 + self.retried[id_] and self.clock() > latest + LATE_S:
            raise Wrong(f"task {id_} starts {self.clock() - latest:.3f} s after its time was over")
        if bad := [
            need for need in entry.spec.needs if need not in self.final or self.final[need].state != SUCCEEDED
        ]:
            raise Wrong(f"task {id_} starts without {bad}")
        self.running.add(id_)
        self.where[id_] = child
        self._idle(progress=True)

    def _left_late(self) -> None:
        """What is late and has not started is asked for."""
        for child in self.children.values():
            peer = self.machine.peers.get(child.peer)
            if peer is None or child.lost or peer.asked or peer.ending >= 0 or child.stopped_until > self.now:
                continue
            for entry in child.hand:
                if self._latest(entry.id) + 5e-3 < self.clock() and child.current is not None:
                    raise Wrong(f"task {entry.id} is late, and left in the hand of peer {child.peer}")

    def _latest(self, id_: int) -> float:
        """When `id_` must have started, as far as it has not started before."""
        options = self.spec_of[id_][0].options
        after = options.expires
        if self.retried[id_]:
            after = options.retry.deadline if options.retry else None
        elif self.deaths[id_]:
            after = None
        return float("inf") if after is None else self.born[id_] + after

    def _delivered(self, id_: int, deliveries: int) -> bool:
        """Whether so many are what the dispatcher should know."""
        return deliveries == self.deaths[id_] or (id_ in self.over and deliveries < self.deaths[id_])

    def _retried(self, id_: int) -> None:
        """The dispatcher has decided to retry."""
        rule = self.spec_of[id_][0].options.retry or DEFAULT_RETRY
        full = min(rule.max_delay, rule.delay * rule.factor ** self.retried[id_])
        least = {"none": full, "equal": full / 2, "full": 0.0}[rule.jitter]
        if id_ not in self.asked and id_ not in self.over:
            raise Wrong(f"task {id_} is retried, and has not asked for it")
        if (delay := self.asked.get(id_)) is not None:
            # One that was ordered to be ended has failed by itself, or has crashed, and then its delay is the rule's.
            least, full = (min(least, delay), max(full, delay)) if id_ in self.over else (delay, delay)
        self.retry_at[id_] = self.clock() + least, self.clock() + full
        self.retried[id_] += 1
        self.excuses[id_] += 1
        self.running.discard(id_)
        if self.retried[id_] > rule.max:
            raise Wrong(f"task {id_} is retried for the {self.retried[id_]}th time, its rule says {rule.max}")
        if rule.deadline is not None and self.clock() + least > self.born[id_] + rule.deadline + 1e-9:
            raise Wrong(f"task {id_} is to be retried after its deadline")

    def turn(self) -> None:
        """The dispatcher decides, and everything that must hold then is looked at."""
        self.turn_is_due = False
        machine, now = self.machine, self.clock()
        arrived, self.in_turn = self.in_turn, []
        hands = {id_: bool(peer.hand) for id_, peer in machine.peers.items()}
        refused = self._to_be_refused(arrived)
        for _, message in arrived:
            for task in message.tasks if type(message) is Submit else ():
                if task.state == NEW:
                    for id_ in range(task.id, task.id + task.count):
                        self.eta[id_] = now + task.options.countdown
                        self.born[id_] = now
        effects = machine.turn(now)
        ranks = [RANK[type(effect)] for effect in effects]
        if ranks != sorted(ranks):
            raise Wrong("an effect comes before a record that it depends on")
        for peer, message in arrived:
            if isinstance(message, Done) and peer in hands:
                self.paced.update(fn for fn, _, _ in message.pace)
        for effect in effects:
            self._perform(effect)
        machine.check()
        self._look(effects, hands, refused)
        deadline = machine.next_deadline()
        for task in machine.ledger.tasks.values():
            # with needs it is later than this, when they are there
            if (
                task.state == SCHEDULED
                and not self.spec_of[task.id][0].needs
                and not (deadline and now < deadline <= self.eta[task.id])
            ):
                raise Wrong(f"task {task.id} is due at {self.eta[task.id]}, the next deadline is {deadline}")
            if task.state == RETRYING and not (
                deadline and now < deadline <= self.retry_at[task.id][1] + 1e-9
            ):
                raise Wrong(f"task {task.id} is to be retried at {self.retry_at[task.id]}, and is forgotten")
            if task.state in (WAITING, SCHEDULED, QUEUED) and task.course and not task.deliveries:
                late = [id_ for id_ in range(task.id, task.id + task.count) if self._latest(id_) <= now]
                if late:
                    raise Wrong(f"tasks {late} are late, and in state {task.state}")
        if deadline is not None and (self.faulty or self.unsettled):
            if deadline <= now:
                raise Wrong("the next deadline is past: the host would spin")
            self.alarm = self.at(deadline - now, self._wake_up)
        else:
            self.alarm = -1
        self._idle(progress=False)

    def _perform(self, effect: Any) -> None:
        if self.trace:
            self.note(f"        {self._shown(effect)}")
        match effect:
            case Record(kind, tasks, state, _):
                ids = [id_ for task in tasks for id_ in range(task.id, task.id + task.count)]
                if kind == SETTLED:
                    self.refused_now.update(id_ for id_ in ids if id_ not in self.journal)
                    self.refused |= self.refused_now
                try:
                    self.journal.append(effect)
                except ValueError as error:
                    raise Wrong(str(error)) from error
                if kind == ACCEPTED:
                    self.unsettled.update(ids)
                elif kind == DELIVERED and (
                    bad := [task.id for task in tasks if not self._delivered(task.id, task.deliveries)]
                ):
                    raise Wrong(f"deliveries of {bad} are not what they were")
                elif kind == RETRIED:
                    for id_ in ids:
                        self._retried(id_)
            case Settle(state, tasks, payloads):
                for task, payload in zip(tasks, payloads, strict=True):
                    listed = state == SUCCEEDED and task.span
                    if listed and len(payload) != task.count:
                        raise Wrong(f"span {task.id} has {task.count} items and {len(payload)} values")
                    for item in range(task.count):
                        self._settled(
                            task.id + item, Final(state, payload, item if listed else -1, task.deliveries)
                        )
            case Answer(token, cancelled):
                question = self.questions[token]
                question.answers.append(cancelled)
                ended = self.final.get(question.id)
                if cancelled and (ended is None or ended.state != CANCELLED):
                    raise Wrong(f"task {question.id} is said to be cancelled and is not")
                world = self.world
                # Surely: a recall's answer is the recall's answer.
                surely = not (world.overtaking or world.twice or world.subs)
                if (
                    surely
                    and not cancelled
                    and ended is None
                    and question.id > 0
                    and question.id not in self.begun
                ):
                    raise Wrong(f"task {question.id} has not started and is not cancelled")
            case Look(peer):
                child = self.children[peer]
                entry, claim = child.current, Claimed(peer)
                if entry is not None and entry.spec.options.time_limit:
                    claim = Claimed(peer, entry.ordinal, entry.offset + child.item, child.began_clock)
                self.receive(CLIENT, claim)
            case End(peer, ordinal, item) if ordinal >= 0:
                child = self.children[peer]
                entry = child.current
                if entry is not None and (entry.ordinal, entry.offset + child.item) == (ordinal, item):
                    self.over.add(entry.id + child.item)
                delay = self.world.control_s * self.more.random()
                self.at(delay, self.end, child, ordinal, item)
            case End(peer) if peer in self.machine.peers:  # else it was lost in this very turn
                self.at(
                    self.world.control_s * self.rng.random(),
                    self.kill,
                    self.children[peer],
                    self.machine.peers[peer].ending,
                )
            case End(peer) if not self.children[peer].lost:
                self._gave_up(self.children[peer])
            case Send(peer, message):
                self.children[peer].hear(message)

    def _settled(self, id_: int, final: Final) -> None:
        if id_ in self.final:
            raise Wrong(f"task {id_} is settled twice")
        if id_ not in self.submitted:
            raise Wrong(f"task {id_} is settled and unknown")
        if id_ in self.journal:
            raise Wrong(f"task {id_} is settled without a record")
        runs = id_ in self.running and self.where[id_].peer in self.machine.peers
        if final.state == EXPIRED and (self.clock() < self._latest(id_) or runs or final.deaths):
            raise Wrong(f"task {id_} has expired before its time, or had started")
        self.final[id_] = final
        self.unsettled.discard(id_)
        self.running.discard(id_)
        if (child := self.listeners.get(id_)) is not None:
            child.control.send(child._act, child.on_outcome, id_, final.state)

    def _look(self, effects: list[Any], hands: dict[int, bool], refused: set[int] | None) -> None:
        machine, world = self.machine, self.world
        if self.journal.unsettled().keys() != self.unsettled:
            raise Wrong("the journal's replay is not what is unsettled")
        held = {id_ for task in machine.ledger.tasks.values() for id_ in range(task.id, task.id + task.count)}
        if held != self.unsettled:
            raise Wrong(f"unsettled and forgotten, or the other way round: {held ^ self.unsettled}")
        if machine.ledger.pending != len(held):
            raise Wrong("pending does not say what is unsettled")
        runs = [
            (effect.peer, effect.message)
            for effect in effects
            if type(effect) is Send and type(effect.message) is Run
        ]
        if runs:
            dealt = [task.options.priority for _, run in runs for task in run.tasks]
            left = [task.options.priority for task in machine.ledger.tasks.values() if task.state == QUEUED]
            if dealt != sorted(dealt, reverse=True) or (left and max(left) > dealt[-1]):
                raise Wrong("a task of a lower priority was dealt before a higher one")
            at_work = sum(1 for peer in machine.peers.values() if peer.hand and not peer.waiting)
            if (
                world.slots is not None
                and at_work > world.slots
                and any(not hands.get(peer) for peer, _ in runs)
            ):
                raise Wrong(f"{at_work} peers at work, {world.slots} slots")
        for id_, run in runs:
            peer = machine.peers[id_]
            if (
                peer.waiting
                or peer.ending >= 0
                or (
                    peer.asked
                    and not any(
                        type(e) is Send and e.peer == id_ and type(e.message) is Recall for e in effects
                    )
                )
            ):
                raise Wrong(f"peer {id_} was given something while it waits, or is asked for what it has")
            before = peer.items - run.tasks[-1].count
            if peer.items > HAND_MAX or (
                peer.bytes - len(run.tasks[-1].payload) > HAND_BYTES_MAX and before >= 2 * peer.slots
            ):
                raise Wrong(f"peer {id_} has too much in hand")
            child, cost_s = self.children[id_], machine._dealer.pace.cost_s
            for task in run.tasks:
                child.estimates[task.ordinal] = cost_s(task.fn) or 0.0
            # What a task costs may have changed since it was given: neither estimate may lead to a hoard. Beside the
            # first, which runs, and whose estimate may have been all wrong.
            total = sum(
                min(child.estimates[task.ordinal], cost_s(task.fn) or 0.0) * task.count
                for task in list(peer.hand.values())[1:]
            )
            if peer.items > 2 * peer.slots and (peer.hand_s > WINDOW_S + 1e-9 or total > 5 * WINDOW_S):
                raise Wrong(f"peer {id_} has {peer.items} in hand, for {peer.hand_s} or {total} s")
            if peer.items > peer.slots and any(task.fn not in self.paced for task in peer.hand.values()):
                raise Wrong(f"peer {id_} has {peer.items} in hand, among them one of unknown cost")
        if over := [
            peer.id for peer in machine.peers.values() if peer.waiting and peer.waits_on in self.final
        ]:
            raise Wrong(f"peers {over} are taken for waiting, and what they wait for is settled")
        if world.silence_s is not None and self.unsettled and not world.jumps:
            for id_ in machine.peers:
                if (silent := self.now - self.children[id_].said) > 1.5 * world.silence_s + 0.01:
                    raise Wrong(f"peer {id_} has said nothing for {silent:.3f} s, and is not given up")
        if (world.expires or world.retries) and not (world.late or world.jumps or world.overtaking):
            self._left_late()
        if refused is not None and refused != self.refused_now:
            raise Wrong(f"refused {self.refused_now}, to be refused {refused}")

    def _to_be_refused(self, arrived: list[tuple[int, Any]]) -> set[int] | None:
        """The ids that are too many for the queue; None where other messages make that hard to say."""
        self.refused_now: set[int] = set()
        limit, pending, refused, here = (
            self.world.queue_max,
            len(self.unsettled),
            set[int](),
            set(self.unsettled),
        )
        if limit is None or not all(type(message) is Submit for _, message in arrived):
            return None
        for _, message in arrived:
            for task in message.tasks:
                if task.state != NEW or task.id in here:
                    continue
                if pending + task.count > limit:
                    refused.update(range(task.id, task.id + task.count))
                    continue
                known = {need: state for need, (state, _) in message.known.items()}
                if all(
                    known.get(need, SUCCEEDED if need in here else FAILED) == SUCCEEDED for need in task.needs
                ):
                    pending += task.count
                    here.update(range(task.id, task.id + task.count))
        return refused

    def _idle(self, *, progress: bool) -> None:
        """No peer idles for long beside work that another holds and has not started."""
        machine, world = self.machine, self.world
        if (
            self.idle_since is not None
            and self.now - self.idle_since > IDLE_S
            and not (world.stops or world.late or world.overtaking)
        ):
            raise Wrong(f"a peer has been idle beside recallable work for {self.now - self.idle_since:.3f} s")
        if progress:
            self.idle_since = None
            return
        live = [child for child in self.children.values() if not child.lost and child.peer in machine.peers]
        at_work = sum(1 for peer in machine.peers.values() if peer.hand and not peer.waiting)
        idle = world.slots is None or at_work < world.slots
        idle = idle and any(child.current is None and not machine.peers[child.peer].hand for child in live)
        if not idle or not any(child.hand and child.current is not None for child in live):
            self.idle_since = None
        elif self.idle_since is None:
            self.idle_since = self.now

    def _verify(self) -> None:
        """Everything has settled, as the oracle says."""
        machine = self.machine
        if self.unsettled:
            states = {id_: getattr(machine.ledger.find(id_), "state", None) for id_ in sorted(self.unsettled)}
            raise Wrong(f"not settled: {states}")
        if missing := self.submitted - self.final.keys():
            raise Wrong(f"never settled: {missing}")
        if (
            machine.ledger.pending
            or machine.ledger.ready.size
            or machine.ledger.addresses
            or any(p.hand for p in machine.peers.values())
        ):
            raise Wrong("something is left")
        cancelled = {question.id for question in self.questions if True in question.answers}
        for question in self.questions:
            if len(question.answers) != 1:
                raise Wrong(f"the cancel of {question.id} has {len(question.answers)} answers")
        for id_, final in self.final.items():
            spec, item = self.spec_of[id_]
            upstream = [need for need in spec.needs if self.final[need].state != SUCCEEDED]
            if (final.state == UPSTREAM_FAILED) != bool(upstream) and final.state not in (CANCELLED, EXPIRED):
                raise Wrong(f"task {id_} ended {final.state}, its needs failed: {upstream}")
            if final.state == UPSTREAM_FAILED:
                by, state, _ = final.payload
                if by not in upstream or (
                    state != self.final[by].state and final.payload[2] != "no such task"
                ):
                    raise Wrong(f"task {id_} blames {final.payload}")
                if final.payload[2] == "no such task" and by not in self.refused:
                    raise Wrong(f"task {id_} is told that {by} never was")
            too_deep = final.payload == "the recursion is too deep"  # its parent was told: it may not wait
            if (
                final.state == CANCELLED
                and not too_deep
                and id_ not in cancelled | self.refused | self.dropped
            ):
                raise Wrong(f"task {id_} ended CANCELLED, and nobody was told")
            if final.state == SUCCEEDED and (
                final.value != self.value(id_) or item in spec.fails or item in spec.poison
            ):
                raise Wrong(f"task {id_} has the value {final.value}, not {self.value(id_)}")
            if final.state == FAILED:
                self._verify_failure(id_, final, spec, item)
            if final.state == SUCCEEDED and self.runs[id_] <= spec.flaky.get(item, 0):
                raise Wrong(f"task {id_} succeeded, and none of its runs did")
            if final.state == DEAD and item not in spec.poison:
                raise Wrong(f"task {id_} is DEAD and innocent")
            enough = final.deaths == spec.options.max_deliveries and self._delivered(id_, final.deaths)
            if final.state == DEAD and not enough:
                raise Wrong(
                    f"task {id_} is DEAD after {final.deaths} deliveries, in truth {self.deaths[id_]}"
                )

    def _verify_failure(self, id_: int, final: Final, spec: Spec, item: int) -> None:
        """It had a reason, and no attempt was left."""
        rule = spec.options.retry or DEFAULT_RETRY
        if str(final.value).startswith("it ran for longer"):
            right, asks = id_ in self.over, spec.options.retry is not None and rule.on_limit
        else:
            right = {
                "own": item in spec.fails,
                "flaky": item in spec.flaky,
                "sub": bool(spec.subs),
                "deep": bool(spec.subs),
            }.get(final.value, False)
            asks = spec.asks(final.value)
        if not right:
            raise Wrong(f"task {id_} failed with {final.value}, and nothing was wrong with it")
        if asks and self.retried[id_] < rule.max and rule.deadline is None:
            raise Wrong(f"task {id_} failed after {self.retried[id_]} retries, and has {rule.max}")

    # ---- for the reader

    @staticmethod
    def _short(task: Task) -> str:
        return f"{task.id}+{task.count}@{task.ordinal} fn{task.fn}" + (
            f" needs{task.needs}" if task.needs else ""
        )

    def _shown(self, effect: Any) -> str:
        if isinstance(effect, Send) and isinstance(effect.message, Run):
            return f"run {effect.peer}: {[self._short(task) for task in effect.message.tasks]}"
        if isinstance(effect, Record):
            return f"record {effect.kind} {effect.state} {[(task.id, task.count) for task in effect.tasks]}"
        if isinstance(effect, Settle):
            return f"settle {effect.state} {[(task.id, task.count) for task in effect.tasks]}"
        return str(effect)


def first_failure(seeds: Iterable[int], machine: type[Any] = Dispatcher) -> tuple[int, str] | None:
    """The first of `seeds` that finds something, and what; None if none does."""
    for seed in seeds:
        try:
            Sim(seed, machine).run()
        except Wrong as error:
            return seed, str(error)
    return None


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("seed", nargs="?", type=int, help="replay this one")
    parser.add_argument("--seeds", type=int, default=1000, help="how many")
    parser.add_argument("--start", type=int, default=0, help="the first")
    parser.add_argument("--all", action="store_true", help="go on after a failure")
    arguments = parser.parse_args()
    if arguments.seed is not None:
        Sim(arguments.seed, trace=True).run()
        return 0
    began, failures, events = time.perf_counter(), Counter[str](), 0
    for seed in range(arguments.start, arguments.start + arguments.seeds):
        sim = Sim(seed)
        try:
            sim.run()
        except Wrong as error:
            print(f"seed {seed}: {error}")  # noqa: T201 - a program too
            failures[str(error)[:20]] += 1
            if not arguments.all:
                return 1
        events += sim.events
    took = time.perf_counter() - began
    failed, rate = sum(failures.values()), arguments.seeds / took
    print(f"{arguments.seeds} seeds, {failed} failed, {events} events, {rate:.0f} seeds/s")  # noqa: T201 - a program too
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
