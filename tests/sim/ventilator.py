"""The host of a `Stream`: inputs in, batches into the pipes, words from workers, outcomes from the sink or at it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zmqtasks.core.effects import End, Send, Settle
from zmqtasks.core.parcels import PIPE_S
from zmqtasks.messages import Accepted, Feed, Lost, Run, Slots

from .pipe_worker import Pipe, Worker
from .pipe_worlds import HALT, Course
from .worlds import Wrong

if TYPE_CHECKING:
    from .pipeline import PipeSim


class Ventilator:
    """One process. Whatever comes is read at the beginning of a turn, be it that it stood still until then."""

    def __init__(self, sim: PipeSim) -> None:
        self.sim = sim
        self.stream = sim.core.stream(sim.world.options, silence_s=sim.world.silence_s)
        self.workers: dict[int, Worker] = {}
        self.peers = 0
        self.pipes: list[Pipe] = []
        self.stopped_until = self._deaf_until = -1.0
        self.course: Course | None = None
        self.number = self.limit = 0  # of the next input, and where the run ends
        self.fed: list[tuple[int, int]] = []  # of this run
        self._gaps: list[tuple[int, int]] = []  # that need not run
        self._inbox: list[tuple[int, Any]] = []
        self._next_pipe = 0
        self._is_full = False
        self._turn_is_due = False
        self._alarm = -1
        self.halted = False

    # ---- runs

    def begin(self, course: Course, first: int) -> None:
        """The next run."""
        self.sim.note(f"  a run from {first} on: {course}")
        self.course = course
        self.number, self.limit = first, first + course.items
        self._gaps = [(first + start, first + end) for start, end in course.known]
        self.fed = []
        self.halted = False
        self.sim.truth.begin(first, course.items, course.known)
        self.sim.sink.begin(first, self._gaps)
        self.turn_soon()

    def drop(self) -> None:
        """The present run is over, whatever is left of it."""
        for worker in self.workers.values():
            worker.vain_since = None  # what it has is another's now
        self.sim.note("  the run is over")
        self.stream.drop()
        self.course = None
        self.sim.next_run()

    def _is_through(self) -> bool:
        return self.number >= self.limit and not self.stream.unsettled

    def _look_at_the_end(self) -> None:
        course = self.course
        if course is None:
            return
        if self._is_through():
            missing = set(range(self.sim.truth.first, self.limit)) - self.sim.truth.given
            if missing and not self.sim.world.remote:  # a sink elsewhere has said so before
                raise Wrong(f"the run is over without {sorted(missing)}")
            self.drop()
        elif course.end == HALT and self.sim.truth.failures >= course.after and not self.halted:
            self.sim.note("  the run is halted")
            self.halted = True
            self.stream.halt()
            self.turn_soon()
        elif self.halted and not self.stream.running:
            self.drop()

    def drop_now(self, course: Course) -> None:
        """If that run is still on."""
        if self.course is course:
            self.drop()

    # ---- in

    def hear(self, peer: int, message: Any) -> None:
        """Something has arrived."""
        if self._deaf_until > self.sim.now:
            self.sim.at_time(self._deaf_until, self.hear, peer, message)
            return
        if type(message) is Slots and self.workers[peer].lost:
            return  # the number was given up, and whoever has it is being told
        self._inbox.append((peer, message))
        self.turn_soon()

    def accepted(self, base: int, offset: int, items: int) -> None:
        """The sink has that."""
        self.hear(0, Accepted(base, offset, items))

    def accepted_range(self, first: int, limit: int) -> None:
        """A sink that was started anew says what it has, by numbers."""
        for base, count in self.fed:
            start, end = max(first, base), min(limit, base + count)
            if start < end:
                self.accepted(base, start - base, end - start)

    def join(self, slots: int) -> None:
        """A new worker: its end of the pipe is there before its first word."""
        self.peers += 1
        worker = self.workers[self.peers] = self.sim.worker(self.sim, self.peers, slots)
        self.sim.note(f"  worker {self.peers} with {slots} slots joins")
        self.pipes.append(worker.pipe)
        self.turn_soon()

    def lose(self, worker: Worker, reason: str) -> None:
        """Its link is gone; if it lives it hears of it, and starts anew."""
        if worker.lost:
            return
        self._give_up(worker, reason)
        self.hear(worker.peer, Lost(reason))

    def _give_up(self, worker: Worker, reason: str) -> None:
        self.sim.note(f"  worker {worker.peer} is given up: {reason}")
        worker.lost = True
        self.sim.truth.excuse(worker)
        self.disconnect(worker)
        if worker.alive:
            worker.hear_that_it_is_given_up()
        else:
            self.sim.at(0.002, self.join, worker.slots)

    def part_with(self, worker: Worker) -> None:
        """It has left, as it said it would."""
        if not worker.lost:
            worker.lost = True
            self.hear(worker.peer, Lost("it has left"))
            world, late = self.sim.world, worker.sink.last > self.sim.now + PIPE_S / 2
            if late or (world.remote and world.ordered):
                self.sim.truth.excuse(worker)  # its last outcomes are not confirmed for long
        self.join(worker.slots)

    def lose_all(self) -> None:
        """The sink was started anew: whatever was on its way to it is gone, and nobody knows what that was."""
        for worker in list(self.workers.values()):
            self.lose(worker, "the sink is another")

    # ---- the pipes

    def disconnect(self, worker: Worker) -> None:
        """Nothing more for it."""
        if worker.pipe in self.pipes:
            self.pipes.remove(worker.pipe)

    def pipe_has_room(self) -> None:
        """A full one may have it now."""
        if self._is_full:
            self.turn_soon()

    def _push(self, run: Run) -> bool:
        pipes = self.pipes
        if self.halted:
            raise Wrong("something goes out after a halt")
        for step in range(len(pipes)):
            at = (self._next_pipe + step) % len(pipes)
            if pipes[at].has_room:
                self._next_pipe = at + 1
                if self.sim.trace:
                    (task,) = run.tasks
                    self.sim.note(
                        f"        run {task.payload} {task.offset}+{task.count} to {pipes[at].worker.peer}"
                    )
                pipes[at].push(run)
                return True
        return False

    # ---- a turn

    def turn_soon(self) -> None:
        """There is something to decide."""
        if not self._turn_is_due:
            self._turn_is_due = True
            self.sim.at(self.sim.rng.random() * self.sim.world.loop_s, self.turn)

    def stand_still(self, seconds: float) -> None:
        """For so long; at times its whole machine does, and what comes to it is late."""
        if self._deaf_until > self.sim.now:
            return  # what is late already would be overtaken
        self.sim.note("  the ventilator stands still")
        self.stopped_until = max(self.stopped_until, self.sim.now + seconds)
        if self.sim.rng.random() < 0.5:
            self._deaf_until = self.stopped_until + 0.001
            self.sim.truth.excuse_all()  # the last outcomes of who has left may be late

    def turn(self) -> None:
        """Read, feed, decide, act, push, and see when the next one is due."""
        if self.stopped_until > self.sim.now:
            self.sim.at_time(self.stopped_until, self.turn)
            return
        self._turn_is_due = False
        stream, now = self.stream, self.sim.now
        inbox, self._inbox = self._inbox, []
        for peer, message in inbox:
            if self.sim.trace:
                self.sim.note(f"{peer:4} -> {message}")
            stream.receive(peer, message, now)
        self.sim.sink.turn()
        self._feed(now)
        for effect in stream.turn(now):
            if self.sim.trace:
                self.sim.note(f"        {effect}")
            self._perform(effect)
        self._is_full = False
        while (run := stream.next(now)) is not None:
            if not self._push(run):
                stream.refused(run)
                self._is_full = True
                break
        stream.check()
        self._look_at_the_end()
        if stream.wanted and self.number < self.limit and self._has_window():
            self.turn_soon()
        self._set_alarm(now)

    def _has_window(self) -> bool:
        return bool(self.course is not None and self._room() > 0)

    def _room(self) -> int:
        return int(self.sim.world.window - self.stream.unsettled - self.sim.sink.waiting)

    def _feed(self, now: float) -> None:
        stream = self.stream
        if self.course is None:
            return
        room = self._room()
        for _ in range(stream.wanted):
            limit = self.limit
            for start, end in self._gaps:
                if start <= self.number < end:
                    self.number = end
                elif self.number < start:
                    limit = min(limit, start)
            count = min(stream.batch_items, limit - self.number, room)
            if count <= 0:
                break
            stream.receive(0, Feed(self.number, count, (self.number, count)), now)
            self.fed.append((self.number, count))
            self.number += count
            room -= count

    def _perform(self, effect: Any) -> None:
        match effect:
            case Send(peer, message):
                self.workers[peer].hear(message)
            case Settle(_, [task], [payload]):
                self.sim.sink.fail(task.id, payload)
            case End(peer):
                worker = self.workers[peer]
                self._look_at_silence(worker)
                if not worker.lost:
                    self._give_up(worker, "it is silent")
            case _:
                raise Wrong(f"what is {effect}?")

    def _look_at_silence(self, worker: Worker) -> None:
        silence_s, world = self.sim.world.silence_s, self.sim.world
        spoke = (
            worker.alive and worker.stood_still < self.sim.now - (silence_s or 0.0) and not self.sim.finished
        )
        if spoke and not worker.lost and not world.late:
            raise Wrong(f"worker {worker.peer} is given up, and was not silent")

    def _set_alarm(self, now: float) -> None:
        deadline = self.stream.next_deadline()
        if self._alarm >= 0:
            self.sim.time.drop(self._alarm)
            self._alarm = -1
        if deadline is None or self.sim.finished:
            return
        if deadline <= now:
            raise Wrong("the next deadline is past: the host would spin")
        self._alarm = self.sim.at(deadline - now, self._wake_up)

    def _wake_up(self) -> None:
        self._alarm = -1
        self.turn_soon()

    # ---- the end

    def verify(self) -> None:
        """Nothing is left."""
        stream = self.stream
        if not self.sim.finished:
            raise Wrong(f"not settled: {stream.unsettled}, the next input is {self.number}")
        held = {hand.id: hand.parcels for hand in stream.hands.values() if hand.parcels}
        if stream.unsettled or stream.running or stream._batches or stream._sent or held:
            raise Wrong(f"something is left: {stream._batches} {stream._sent} {held}")
