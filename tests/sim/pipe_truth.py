"""What is true of a pipeline's inputs, whatever the machines say: what each is worth, what ran where, what came out."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from zmqtasks.core.parcels import BASE_MASK
from zmqtasks.core.retry import backoff_s
from zmqtasks.options import DEFAULT_RETRY

from .worlds import Wrong

if TYPE_CHECKING:
    from zmqtasks.core.gather import Piece
    from zmqtasks.messages import Task

    from .pipe_worker import Entry, Worker
    from .pipeline import PipeSim

STRAGGLE_S = (2.0, 5.0)


class PipeTruth:
    """Every number's life, as it was."""

    def __init__(self, sim: PipeSim) -> None:
        self.sim = sim
        self.rule = sim.world.options.retry or DEFAULT_RETRY
        self.kinds: dict[
            int, tuple[str, ...]
        ] = {}  # what each run of a number comes to; the last stands for all after
        self.costs: dict[int, float] = {}
        self.first = self.limit = self.turn_of = 0  # of the present run
        self.given: set[int] = set()
        self.failures = 0  # of this run
        self.starts: Counter[int] = Counter()
        self.runs: Counter[int] = Counter()  # also where nobody listens any more
        self.deaths: Counter[int] = Counter()
        self.asked: Counter[int] = Counter()
        self.asked_at: dict[int, float] = {}
        self.excuses: Counter[int] = Counter()
        self.where: dict[int, Worker] = {}
        self.last_start = 0.0

    def begin(self, first: int, items: int, known: tuple[tuple[int, int], ...]) -> None:
        """A run: what is in it is drawn."""
        rng, world = self.sim.rng, self.sim.world
        self.first, self.limit, self.failures = first, first + items, 0
        self.turn_of = first
        for start, end in known:
            self.given.update(range(first + start, first + end))
            if start == 0:
                self.turn_of = first + end
        for number in range(first, first + items):
            if rng.random() < world.poison:
                self.kinds[number] = rng.choice((("dies",), ("dies",), ("dies", "asks", "works")))
            elif rng.random() < world.fails:
                self.kinds[number] = ("fails",) if rng.random() < world.picky else ("asks",)
            elif rng.random() < world.flaky:
                self.kinds[number] = ("asks",) * rng.randint(1, 3) + ("works",)
        for _ in range(world.stragglers):
            self.costs[rng.randrange(first, first + items)] = rng.uniform(*STRAGGLE_S)

    def seconds(self, number: int) -> float:
        """How long it takes this time."""
        if (seconds := self.costs.get(number)) is not None:
            return seconds
        rng = self.sim.rng
        return rng.choice(self.sim.world.costs) * (0.5 + rng.random())

    @staticmethod
    def value(number: int) -> int:
        """What it is worth."""
        return number * number

    # ---- on its way

    def look_at_task(self, ordinal: int, task: Task) -> int:
        """It is what was fed; the first number of its batch."""
        base, count = task.payload
        if base != ordinal & BASE_MASK or not 0 <= task.offset < task.offset + task.count <= count:
            raise Wrong(
                f"{ordinal & BASE_MASK}, {task.offset} to {task.offset + task.count}, is of {base}, {count}"
            )
        return int(base)

    def started(self, worker: Worker, number: int, item: Entry) -> None:
        """A worker starts it."""
        if self.sim.trace:
            self.sim.note(f"  worker {worker.peer} starts {number}")
        self.runs[number] += 1
        self.last_start = self.sim.now
        if worker.lost or number < self.first:  # nobody listens
            self.excuses[number] += 1  # but what it tells the sink counts
            return
        other = self.where.get(number)
        if other is not None and not other.excused:
            raise Wrong(f"{number} runs in two places: {other.peer} and {worker.peer}")
        self.where[number] = worker
        self.starts[number] += 1
        worker.started.add(number)
        excuses, deaths, asked = self.excuses[number], self.deaths[number], self.asked[number]
        most = 1 + min(asked, self.rule.max) + deaths + excuses
        if self.starts[number] > most:
            raise Wrong(f"{number} is started {self.starts[number]} times, {most} at most")
        if not excuses:
            if number in self.given:
                raise Wrong(f"{number} starts after it was given out")
            if (item.retries, item.deliveries) != (asked, deaths):
                raise Wrong(
                    f"{number} is said to have {item.retries} retries, {item.deliveries} deaths, not {asked}, {deaths}"
                )
            if asked:
                due = self.asked_at[number] + backoff_s(self.rule, asked - 1, number)
                if self.sim.now < due - 1e-9:
                    raise Wrong(f"{number} runs again before its time")

    def ended(self, worker: Worker, number: int) -> tuple[str, Any]:
        """What comes of that run."""
        if self.where.get(number) is worker:
            del self.where[number]
        what = self._comes_to(number, self.runs[number])
        if what == "works":
            return what, self.value(number)
        if worker.lost:
            return what, f"{what} {number}"
        if what == "dies":
            self.deaths[number] += 1
        elif what == "asks":
            self.asked[number] += 1
            self.asked_at[number] = self.sim.now
        return what, f"{what} {number}"

    def _comes_to(self, number: int, run: int) -> str:
        kind = self.kinds.get(number, ("works",))
        return kind[min(run, len(kind)) - 1]

    def excuse(self, worker: Worker) -> None:
        """What it has started may start again elsewhere."""
        if not worker.excused:
            worker.excused = True
            self.excuses.update(worker.started)

    def excuse_all(self) -> None:
        """What the sink has not written is gone."""
        self.excuses.update(self.starts.keys() - self.given)

    # ---- out

    def out(self, piece: Piece) -> None:
        """The sink gives these out."""
        for index in range(piece.items):
            number = piece.first + index
            if not self.first <= number < self.limit:
                raise Wrong(f"{number} is not of this run")
            if number in self.given:
                raise Wrong(f"{number} is given out twice")
            if self.sim.world.ordered:
                if number != self.turn_of:
                    raise Wrong(f"{number} is given out, and it is {self.turn_of}'s turn")
                self.turn_of += 1
            self.given.add(number)
            if piece.failed:
                self._look_at_failure(number, piece.payload)
            elif piece.payload[piece.skip + index] != self.value(number):
                raise Wrong(f"{number} has the value {piece.payload[piece.skip + index]}")
            elif self._comes_to(number, self.runs[number]) != "works":
                raise Wrong(f"{number} has a value, and no run of it has worked")

    def _look_at_failure(self, number: int, payload: str) -> None:
        self.failures += 1
        what = payload.split(maxsplit=1)[0]
        if payload != f"{what} {number}" or what not in self.kinds.get(number, ()):
            raise Wrong(f"{number} has the failure {payload!r}")
        if what == "dies" and self.deaths[number] < self.sim.world.options.max_deliveries:
            raise Wrong(f"{number} is dead after {self.deaths[number]} deaths")
        if what == "asks" and self.asked[number] < self.rule.max + 1:
            raise Wrong(f"{number} has failed for good after {self.asked[number]} attempts")
        if (
            what == "dies"
            and not self.excuses[number]
            and self.deaths[number] > self.sim.world.options.max_deliveries
        ):
            raise Wrong(f"{number} has killed {self.deaths[number]}")
