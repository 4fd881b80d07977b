"""The workload: a random graph of tasks, and the same evaluated here."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from zmqtasks.messages import LEASED, Task
from zmqtasks.options import Options

from .child import Entry
from .worlds import LANES, Blob, Spec

if TYPE_CHECKING:
    from .system import Sim

ATTEMPTS_MAX = 20  # how often a task is handed out, beside once more for each child that was lost


class Worth(int):
    """A value, which has a length as all payloads have."""

    def __len__(self) -> int:
        return 8


class Work:
    """What there is to do, and what it is worth."""

    def __init__(self, sim: Sim) -> None:
        self.sim = sim
        self.ids = 1000
        self.keys = 0
        self.spec_of: dict[int, tuple[Spec, int]] = {}  # by id: what it does, and which item of it
        self.costs: list[float] = []
        self._dealt: Counter[int] = Counter()  # how often it was handed to a child: of this node
        self._handed: Counter[int] = Counter()  # to a node
        self._values: dict[tuple[int, int], Any] = {}

    def spec(self, ids: list[int], depth: int = 0) -> Spec:
        """A task by chance; it may need some of `ids`."""
        rng, world = self.sim.rng, self.sim.world
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
            spec.subs = tuple(self.spec([], depth + 1) for _ in range(rng.randint(1, 3)))
        self.sim.policies.regulate(spec)
        if world.lanes:
            spec.lane = rng.randrange(LANES)
        return spec

    def new_task(self, spec: Spec, id_: int | None = None) -> Task:
        """A record for it, with new ids, or those from `id_` on."""
        if id_ is None:
            id_, self.ids = self.ids, self.ids + spec.count
        for item in range(spec.count):
            self.spec_of[id_ + item] = spec, item
        payload = Blob(spec.size) if spec.size else b"x" * (spec.key % 50)
        return Task(id_, spec.fn, payload, spec.options, spec.count, 0, spec.span, spec.needs, lane=spec.lane)

    def entry(self, task: Task) -> Entry:
        """As it travels to a child."""
        self._look(task, self._dealt)
        spec, _ = self.spec_of[task.id]
        return Entry(task.ordinal, task.id, task.offset, task.count, task.span, task.inputs, spec)

    def copy(self, task: Task) -> Task:
        """As it travels to a node: what belongs to one dispatcher does not."""
        self._look(task, self._handed)
        self._dealt.pop(task.id, None)
        return Task(
            id=task.id,
            fn=task.fn,
            payload=task.payload,
            options=task.options,
            count=task.count,
            offset=task.offset,
            span=task.span,
            inputs=task.inputs,
            attempt=task.attempt - 1,
            deliveries=task.deliveries,
        )

    def _look(self, task: Task, handed: Counter[int]) -> None:
        assert task.state == LEASED, "a task was sent that is not leased"
        spec, item = self.spec_of[task.id]
        assert (task.offset, task.fn, task.span) == (item, spec.fn, spec.span), "a span was cut wrong"
        assert task.attempt > 0, "an attempt was not counted"
        # Whoever waits, and has not been heard of yet, gives back what it is given for as long as that takes.
        handed[task.id] += 1
        free = self.sim.world.subs or self.sim.world.plague
        most = ATTEMPTS_MAX + self.sim.truth.losses
        assert handed[task.id] <= most or free, f"task {task.id} goes to and fro"

    def duration(self, fn: int) -> float:
        """How long it takes this time."""
        seconds = self.costs[fn] * (0.5 + self.sim.rng.random())
        return seconds * 50 if self.sim.faulty and self.sim.rng.random() < 0.05 else seconds

    @staticmethod
    def mix(key: int, item: int, inputs: list[Any]) -> int:
        """What every task computes."""
        return Worth(hash((key, item, *inputs)))

    def value(self, id_: int) -> Any:
        """The oracle: what `id_` is worth, evaluated here."""
        spec, item = self.spec_of[id_]
        if (found := self.sim.flows.value(id_)) is not None:
            return found
        if (id_, item) not in self._values:
            inputs = [self.value(need) for need in spec.needs]
            self._values[id_, item] = self.mix(spec.key, item, inputs)
        return self._values[id_, item]
