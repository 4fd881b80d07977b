"""The pipeline in one thread: a ventilator, workers, pipes, a sink, with a virtual clock and one seed.

    python -m tests.sim SEED --pipeline     one seed, with every message
    python -m tests.sim --seeds 2000 --pipeline

The machines are the real ones (`Stream`, `Gather`), the workers a model, or with `--nodes` `Node` and a model of its
children. Phase one, safety: workers are killed, stand
still and come back, leave and join; what lies in a pipe is lost; the ventilator stands still; a sink of its own process
is killed and comes back with what it had written. Phase two, liveness: no more faults, and everything has to settle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random
from typing import Any, NamedTuple

from zmqtasks.core.gather import Gather
from zmqtasks.core.ranges import Ranges
from zmqtasks.core.stream import Stream

from .links import Time
from .pipe_node import NodeWorker
from .pipe_truth import PipeTruth
from .pipe_worker import Worker
from .pipe_worlds import DROP, PipeWorld
from .sink import Sink
from .ventilator import Ventilator
from .worlds import Wrong

SAFETY_S = 1.0  # how long faults go on
LIVENESS_S = 400.0  # within which everything settles after that
IDLE_S = 1.5  # how long workers may idle beside work that has not started
SAMPLE_S = 0.2


class PipeCore(NamedTuple):
    """The machines: the real ones, or some with a bug planted."""

    stream: type[Any]
    gather: type[Any]
    ranges: type[Any]


PIPE_CORE = PipeCore(Stream, Gather, Ranges)


class PipeSim:
    """One seed. `nodes`: the workers are `Node`s with modelled children."""

    def __init__(
        self,
        seed: int,
        core: PipeCore = PIPE_CORE,
        *,
        nodes: bool = False,
        trace: Callable[[str], object] | None = None,
    ) -> None:
        self.worker = NodeWorker if nodes else Worker
        self.seed = seed
        self.rng = Random(seed)
        self.core = core
        self.trace = trace
        self.world = PipeWorld.draw(self.rng)
        self.faulty = True
        self.finished = False
        self.time = Time()
        self.at, self.at_time = self.time.at, self.time.at_time
        self.truth = PipeTruth(self)
        self.ventilator = Ventilator(self)
        self.sink = Sink(self)
        self._runs = list(self.world.runs)
        self._idle_since: float | None = None

    @property
    def now(self) -> float:
        """Seconds."""
        return self.time.now

    @property
    def events(self) -> int:
        """How many have happened."""
        return self.time.events

    def note(self, text: str) -> None:
        """For the reader of a seed."""
        if self.trace is not None:
            self.trace(f"{self.now * 1e3:10.3f} ms {text}")

    def run(self) -> None:
        """Both phases; `Wrong` if anything is."""
        try:
            self.note(str(self.world))
            self._plan()
            self.time.go(SAFETY_S)
            self.faulty = False
            self.note("no more faults")
            self.time.go(SAFETY_S + LIVENESS_S)
            self.ventilator.verify()
        except Wrong:
            raise
        except AssertionError as error:
            raise Wrong(f"invariant: {error}") from error
        except Exception as error:
            raise Wrong(f"{type(error).__name__}: {error}") from error

    def _plan(self) -> None:
        rng, world = self.rng, self.world
        self.next_run()
        for slots in world.slots:
            self.at(rng.random() * 0.005, self.ventilator.join, slots)
        for _ in range(world.joins):
            self.at(rng.random() * SAFETY_S, self.ventilator.join, rng.choice((1, 2)))
        for times, fault in (
            (world.kills, self._kill),
            (world.stops, self._stop),
            (world.resets, self._reset),
            (world.leaves, self._leave),
            (world.stalls, self._stall),
            (world.sink_kills, self.sink.kill),
        ):
            self._some_time(times, fault)
        self.at(SAMPLE_S, self._sample)

    def _some_time(self, times: int, fault: Callable[[], None]) -> None:
        latest = self.rng.choice((0.03, 0.3, SAFETY_S))
        for _ in range(times):
            self.at(self.rng.random() * latest, fault)

    def next_run(self) -> None:
        """If there is one."""
        if not self._runs:
            self.finished = True
            return
        course = self._runs.pop(0)
        first = self.truth.limit + self.rng.choice((0, 5))
        self.ventilator.begin(course, first)
        if course.end == DROP:
            self.at(course.after, self.ventilator.drop_now, course)

    # ---- faults

    def _victim(self) -> Worker | None:
        there = [worker for worker in self.ventilator.workers.values() if worker.alive and not worker.lost]
        return self.rng.choice(there) if there else None

    def _kill(self) -> None:
        if (worker := self._victim()) is None:
            return
        worker.kill()
        known = worker.peer in self.ventilator.stream.hands  # else nobody notices that it is silent
        if self.world.silence_s is None or not known or self.rng.random() < 0.5:
            self.at(self.rng.choice((0.0, 1e-3, 0.05)), self.ventilator.lose, worker, "its link is gone")

    def _stop(self) -> None:
        if (worker := self._victim()) is None or worker.stopped_until > self.now:
            return
        worker.stop(self.rng.random() * self.rng.choice((0.1, 1.0)))
        if self.rng.random() < 0.4:
            self.at(self.rng.random() * 0.2, self.ventilator.lose, worker, "its link is cut")

    def _reset(self) -> None:
        if (worker := self._victim()) is not None:
            self.note(f"  what is in the pipe of {worker.peer} is lost: {len(worker.pipe.runs)}")
            worker.pipe.reset()

    def _leave(self) -> None:
        there = [worker for worker in self.ventilator.workers.values() if worker.alive and not worker.leaving]
        if there:  # who is at work for long is more interesting
            max(
                there, key=lambda worker: sum(number in self.truth.costs for number in worker.running)
            ).leave()

    def _stall(self) -> None:
        self.ventilator.stand_still(self.rng.random() * self.rng.choice((0.1, 1.0)))

    # ---- nobody idles for long beside work that could be its own

    def _sample(self) -> None:
        if self.finished:
            return
        self.at(SAMPLE_S, self._sample)
        if not self._somebody_idles():
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = self.now
        elif self.now - max(self._idle_since, self.truth.last_start) > IDLE_S:
            raise Wrong(f"somebody idles since {self._idle_since:.3f} beside work that has not started")

    def _somebody_idles(self) -> bool:
        ventilator, stream = self.ventilator, self.ventilator.stream
        workers = [worker for worker in ventilator.workers.values() if not worker.lost]
        if ventilator.course is None or ventilator.halted or ventilator.stopped_until > self.now:
            return False
        if any(not worker.alive or worker.stopped_until > self.now for worker in workers):
            return False  # it cannot be asked, and is not given up yet
        # What a worker has done may be on its way to the sink for long: then nobody sees that it idles.
        seen = [
            worker
            for worker in workers
            if (hand := stream.hands.get(worker.peer)) and hand.count < hand.slots
        ]
        if not any(not (w.running or w.waiting or w.pipe.runs or w.leaving) for w in seen):
            return False
        unstarted = any(
            number not in self.truth.given
            for worker in workers
            for number in worker.unstarted()
            if number >= self.truth.first
        )
        return bool(unstarted or stream._sent or stream._ready.first is not None)


def first_pipe_failure(
    seeds: Iterable[int], core: PipeCore = PIPE_CORE, *, nodes: bool = False
) -> tuple[int, str] | None:
    """The first of `seeds` that finds something, and what; None if none does."""
    for seed in seeds:
        try:
            PipeSim(seed, core, nodes=nodes).run()
        except Wrong as error:
            return seed, str(error)
    return None
