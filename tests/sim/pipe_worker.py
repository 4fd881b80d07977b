"""A worker of the pipeline, modelled: it reads its end of the pipe, claims what it has read, and runs it.

It reads only while its hand has room, or when it is recalled: then until nothing has come for a while. What has an
outcome goes to the sink, what is to be decided above (another attempt, the end of what has killed too many) over its
control link. It may be killed, stand still for long, be given up and live on until it is told, and leave.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zmqtasks.core.parcels import PIPE_S
from zmqtasks.messages import (
    DEAD,
    Ask,
    Beat,
    Claim,
    Done,
    Ended,
    Ends,
    Leaving,
    Part,
    Recall,
    Returned,
    Run,
    Slots,
)

from .links import Channel
from .worlds import Wrong

if TYPE_CHECKING:
    from .pipeline import PipeSim

QUIET_S = 0.02  # a pipe of which nothing has come for so long is empty
BEATS = 5  # within the time after which silence counts
SHY_S = 0.15
FN = 1


class SinkLink(Channel):
    """To the sink: in order, now and then very late."""

    def send(self, act: Callable[..., None], *args: Any) -> float:
        """`act` is called when it has arrived."""
        sim = self.sim
        if sim.faulty and sim.world.sink_late and sim.rng.random() < sim.world.sink_late:
            self.last = max(self.last, sim.now) + sim.rng.random()
        return super().send(act, *args)


class Pipe:
    """The one-way link from the ventilator: it takes a few messages, and they lie there until they are read."""

    def __init__(self, sim: PipeSim, worker: Worker) -> None:
        self.sim = sim
        self.worker = worker
        self.link = Channel(sim, sim.world.pipe_s)
        self.runs: deque[Run] = deque()
        self.arrived = 0  # so many of them can be read

    @property
    def has_room(self) -> bool:
        """Whether it takes one more."""
        return len(self.runs) < self.sim.world.hwm

    def push(self, run: Run) -> None:
        """In."""
        self.runs.append(run)
        self.link.send(self._arrive, self.link)

    def _arrive(self, link: Channel) -> None:
        if link is self.link:
            self.arrived += 1
            self.worker.act(self.worker.on_readable)

    def pop(self) -> Run | None:
        """What is to be read."""
        if not self.arrived:
            return None
        self.arrived -= 1
        return self.runs.popleft()

    def reset(self) -> None:
        """What is in it is lost."""
        self.runs.clear()
        self.arrived = 0
        self.link = Channel(self.sim, self.sim.world.pipe_s)


@dataclass(slots=True)
class Entry:
    """Items `first` to `limit` of a batch in a worker's hand."""

    ordinal: int
    base: int
    first: int
    limit: int
    deliveries: int
    retries: int


class Worker:
    """One life of a node: after it was given up it is another."""

    def __init__(self, sim: PipeSim, peer: int, slots: int) -> None:
        world = sim.world
        self.sim = sim
        self.peer = peer
        self.slots = slots
        self.up, self.down = Channel(sim, world.control_s), Channel(sim, world.control_s)
        self.sink = SinkLink(sim, world.sink_s)
        self.pipe = Pipe(sim, self)
        self.alive = True
        self.lost = False  # the ventilator takes it for that
        self.excused = False  # that what it had started may start again
        self.leaving = False
        self.stopped_until = 0.0
        self.stood_still = -1.0  # until when it did last
        self.hand: deque[Entry] = deque()
        self.running: dict[int, Entry] = {}  # by number
        self.mending = 0  # children that have died, and are not there again
        self.vain_since: float | None = None  # a recall has brought nothing, and nothing has been read since
        self.started: set[int] = set()
        self.outbox: list[Part] = []
        self._told: Part | None = (
            None  # the last value that the sink was told, to be told again with the next
        )
        self.draining = False
        self.heard_at = 0.0  # of the pipe
        self.pace = [0, 0.0]
        if sim.rng.random() < world.shy:
            self.stopped_until = sim.now + sim.rng.random() * SHY_S
        self.act(self._begin)

    def _begin(self) -> None:
        self.say(Slots(self.slots))
        if (silence_s := self.sim.world.silence_s) is not None:
            self._beat(silence_s / BEATS)

    def act(self, act: Callable[..., None], *args: Any) -> None:
        """Now, or as soon as it goes on; never if it is dead."""
        if not self.alive:
            return
        if self.stopped_until > self.sim.now:
            self.sim.at_time(self.stopped_until, self.act, act, *args)
        else:
            act(*args)

    def say(self, message: Any) -> None:
        """To the ventilator."""
        self.up.send(self.sim.ventilator.hear, self.peer, message)

    def hear(self, message: Any) -> None:
        """The ventilator says `message`: it is on its way."""
        assert type(message) is Recall
        excused = self.leaving or self.sim.ventilator.stream._sent  # maybe lost: then everybody has to look
        if not excused and self.vain_since is not None and self.sim.now < self.vain_since + PIPE_S / 2:
            raise Wrong(f"worker {self.peer} is recalled again in vain")
        self.down.send(self.act, self._recall)

    def _beat(self, every_s: float) -> None:
        if not self.sim.finished:
            self.sim.at(every_s, self.act, self._beat, every_s)
            self.say(Beat())

    # ---- in

    @property
    def waiting(self) -> int:
        """How many items in hand have not started."""
        return sum([entry.limit - entry.first for entry in self.hand])

    def unstarted(self) -> Iterator[int]:
        """By number."""
        return (entry.base + item for entry in self.hand for item in range(entry.first, entry.limit))

    def on_readable(self) -> None:
        """Something lies in the pipe."""
        self.heard_at = self.sim.now
        self._read()

    def _read(self) -> None:
        read = []
        room = self.slots * (1 + self.sim.world.ahead)
        while self.draining or len(self.running) + self.waiting < room:
            if (run := self.pipe.pop()) is None:
                break
            self._take(run)
            read.append(run.first)
        if read:
            self.vain_since = None
            self._claim(read)
            self.sim.ventilator.pipe_has_room()
            self._start()

    def _take(self, run: Run) -> None:
        (task,) = run.tasks
        base = self.sim.truth.look_at_task(run.first, task)
        course = task.course
        assert course is not None
        self.hand.append(
            Entry(run.first, base, task.offset, task.offset + task.count, task.deliveries, course.retries)
        )

    def _claim(self, ordinals: list[int]) -> None:
        items, seconds = self.pace
        self.pace = [0, 0.0]
        self.say(Claim(ordinals, [(FN, items, seconds)] if items else []))

    # ---- work

    def _start(self) -> None:
        sim = self.sim
        while self.hand and len(self.running) + self.mending < self.slots:
            entry = self.hand[0]
            if entry.limit - entry.first == 1:
                self.hand.popleft()
            number = entry.base + entry.first
            item = Entry(
                entry.ordinal, entry.base, entry.first, entry.first + 1, entry.deliveries, entry.retries
            )
            entry.first += 1
            self.running[number] = item
            sim.truth.started(self, number, item)
            seconds = sim.truth.seconds(number)
            sim.at(seconds, self.act, self._end, number, seconds)

    def _end(self, number: int, seconds: float) -> None:
        sim = self.sim
        item = self.running.pop(number)
        what, payload = sim.truth.ended(self, number)
        self.pace[0] += 1
        self.pace[1] += seconds
        if what == "dies":
            item.deliveries += 1
            self.mending += 1
            sim.at(sim.world.mends_s, self.act, self._mended)
            if item.deliveries >= sim.world.options.max_deliveries:
                self.say(Ends([Ended(item.ordinal, item.first, 1, DEAD, payload)]))
            else:
                self.hand.appendleft(item)
        elif what == "asks":
            ask = Ask(item.ordinal, item.first, text=str(payload))
            died = [(*ask.lease, item.deliveries)] if item.deliveries else []
            failed = Part(item.ordinal, item.first, 1, True, payload)
            self.say(Done(item.ordinal, [], parts=[failed], asks=[ask], died=died))
        else:
            self._tell(item, payload, failed=what == "fails")
        self._start()
        self._read()
        if self.leaving and self.hand:
            self._give_back()
        if self.leaving and not self.running:
            self._go()

    def _mended(self) -> None:
        self.mending -= 1
        self._start()

    def _tell(self, item: Entry, payload: Any, *, failed: bool) -> None:
        if not self.outbox:
            self.sim.at(self.sim.world.flush_s * self.sim.rng.random(), self.act, self._flush)
        last = self.outbox[-1] if self.outbox else None
        if failed:
            self.outbox.append(Part(item.ordinal, item.first, 1, True, payload))
        elif (
            last is not None
            and not last.failed
            and (last.ordinal, last.offset + last.items) == (item.ordinal, item.first)
        ):
            last.items += 1
            last.payload.append(payload)
        else:
            self.outbox.append(Part(item.ordinal, item.first, 1, False, [payload]))

    def _flush(self) -> None:
        outbox, self.outbox = self.outbox, []
        if not outbox:
            return
        hear, rng = self.sim.sink.hear, self.sim.rng
        twice = self.sim.faulty and rng.random() < self.sim.world.twice
        last, first = self._told, outbox[0]
        if (
            twice
            and not first.failed
            and last is not None
            and (last.ordinal, last.offset + last.items) == (first.ordinal, first.offset)
        ):
            both = Part(
                last.ordinal, last.offset, last.items + first.items, False, last.payload + first.payload
            )
            self.sink.send(hear, [both])
        self.sink.send(hear, outbox)
        if twice:
            self.sink.send(hear, outbox)
        self._told = None if outbox[-1].failed else outbox[-1]

    # ---- back

    def _recall(self) -> None:
        self.draining = True
        self.heard_at = self.sim.now
        self._read()
        self._drain()

    def _drain(self) -> None:
        if (left := self.heard_at + QUIET_S - self.sim.now) > 1e-9:
            self.sim.at(left, self.act, self._drain)
            return
        self.draining = False
        self._give_back()

    def _give_back(self) -> None:
        rest = [(entry.ordinal, entry.first, entry.limit - entry.first) for entry in self.hand]
        died = [(entry.ordinal, entry.first, entry.deliveries) for entry in self.hand if entry.deliveries]
        self.hand.clear()
        self.vain_since = None if rest else self.sim.now
        self.say(Returned(rest, died))
        self._read()

    def leave(self) -> None:
        """It lets go of the pipe, finishes what runs, and goes."""
        self.act(self._leave)

    def _leave(self) -> None:
        if self.leaving or self.lost:
            return
        self.sim.note(f"  worker {self.peer} leaves")
        self.leaving = True
        self.sim.ventilator.disconnect(self)
        if self.sim.rng.random() < 0.5:
            self.draining = True
            self._read()
        self.pipe.reset()
        self.say(Leaving())
        self._give_back()
        if not self.running:
            self._go()

    def _go(self) -> None:
        self._flush()
        self.alive = False
        self.up.send(self.sim.ventilator.part_with, self)

    # ---- faults

    def stop(self, seconds: float) -> None:
        """It stands still, its children too."""
        self.stopped_until = self.stood_still = self.sim.now + seconds
        self.sim.note(f"  worker {self.peer} stops until {self.stopped_until * 1e3:.3f} ms")

    def kill(self) -> None:
        """At once; what it had sent may arrive, or not."""
        self.sim.note(f"  worker {self.peer} is killed")
        self.alive = False
        self.sim.truth.excuse(self)
        self.pipe.reset()
        self.up.cut = self.sim.rng.random() < 0.5
        self.sink.cut = self.sim.rng.random() < 0.5

    def hear_that_it_is_given_up(self) -> None:
        """It will: then it ends its children and joins anew, by new links."""
        self.down.send(self.act, self._start_anew)

    def _start_anew(self) -> None:
        self.sim.note(f"  worker {self.peer} starts anew")
        self.alive = False
        self.sim.ventilator.join(self.slots)
