"""The queue and the clock's queue against models of a few lines, and the cutting of spans."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from zmqtasks.core.queue import Later, Ready, split
from zmqtasks.messages import CANCELLED, LEASED, QUEUED, SCHEDULED, Task
from zmqtasks.options import Options


class ReadyModel(RuleBasedStateMachine):
    """`Ready` is a list, sorted by priority, stable."""

    def __init__(self) -> None:
        super().__init__()
        self.ready = Ready()
        self.model: list[Task] = []
        self.out: list[Task] = []
        self.ids = 0

    def _new(self, priority: int, count: int) -> Task:
        self.ids += count
        return Task(self.ids - count, 0, b"", Options(priority=priority), count, 0, count > 1, state=QUEUED)

    @rule(priority=st.integers(0, 9), count=st.integers(1, 5))
    def push(self, priority: int, count: int) -> None:
        task = self._new(priority, count)
        self.ready.push(task)
        self.model.append(task)

    @precondition(lambda self: self.out)
    @rule()
    def push_front(self) -> None:
        task = self.out.pop()
        task.state = QUEUED
        self.ready.push_front(task)
        self.model.insert(0, task)

    @precondition(lambda self: self.model)
    @rule()
    def take(self) -> None:
        level = self.ready.level(0)
        assert level is not None
        task = level.popleft()
        task.state = LEASED
        self.ready.forget(task)
        assert task is self._first()
        self.model.remove(task)
        self.out.append(task)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        task = data.draw(st.sampled_from(self.model))
        task.state = CANCELLED
        self.ready.forget(task)
        self.model.remove(task)

    @precondition(lambda self: any(task.count > 1 for task in self.model))
    @rule(data=st.data())
    def cut(self, data: st.DataObject) -> None:
        task = data.draw(st.sampled_from([task for task in self.model if task.count > 1]))
        front = split(task, data.draw(st.integers(1, task.count - 1)))
        self.ready.insert(task, [front])
        self.model.insert(next(at for at, other in enumerate(self.model) if other is task), front)

    def _first(self) -> Task:
        return max(self.model, key=lambda task: task.options.priority)  # the first of the highest

    @invariant()
    def same(self) -> None:
        assert self.ready.size == sum(task.count for task in self.model)
        level = self.ready.level(0)
        assert (level is not None) == bool(self.model)
        if level is not None:
            assert level[0] is self._first()
        assert {id(task) for task in self.ready.tasks()} == {id(task) for task in self.model}
        assert len(self.ready.tasks()) == len(self.model)


class LaterModel(RuleBasedStateMachine):
    """`Later` is a list of (time, order of coming)."""

    def __init__(self) -> None:
        super().__init__()
        self.later = Later()
        self.model: list[tuple[float, Task]] = []
        self.now = 0.0
        self.ids = 0

    @initialize(now=st.floats(-10, 10))
    def start(self, now: float) -> None:
        self.now = now

    @rule(delay=st.sampled_from([0.0, 1.0, 2.0, 2.0, 5.5]), count=st.integers(1, 3))
    def push(self, delay: float, count: int) -> None:
        task = Task(self.ids, 0, b"", count=count, span=count > 1, state=SCHEDULED)
        self.ids += count
        self.later.push(self.now + delay, task)
        self.model.append((self.now + delay, task))

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        pair = data.draw(st.sampled_from(self.model))
        pair[1].state = CANCELLED
        self.model.remove(pair)

    @precondition(lambda self: any(task.count > 1 for _, task in self.model))
    @rule(data=st.data())
    def cut(self, data: st.DataObject) -> None:
        eta, task = data.draw(st.sampled_from([pair for pair in self.model if pair[1].count > 1]))
        fronts = [split(task, 1)]
        self.later.insert(task, fronts)
        self.model += [(eta, front) for front in fronts]

    @rule(step=st.floats(0, 6))
    def due(self, step: float) -> None:
        self.now += step
        expected = sorted((pair for pair in self.model if pair[0] <= self.now), key=lambda pair: pair[0])
        assert [task.id for task in self.later.due(self.now)] == [task.id for _, task in expected]
        self.model = [pair for pair in self.model if pair[0] > self.now]

    @invariant()
    def same(self) -> None:
        assert self.later.next_deadline() == min((eta for eta, _ in self.model), default=None)


TestReady = ReadyModel.TestCase
TestLater = LaterModel.TestCase
TestReady.settings = TestLater.settings = settings(max_examples=60, stateful_step_count=30)


@given(st.integers(2, 50), st.data())
def test_a_cut_span_is_two_spans(count: int, data: st.DataObject) -> None:
    task = Task(
        100, 3, b"items", Options(priority=4), count, 7, span=True, state=QUEUED, attempt=2, deliveries=1
    )
    task.inputs = (b"input",)
    items = data.draw(st.integers(1, count - 1))
    front = split(task, items)
    assert (front.id, front.offset, front.count) == (100, 7, items)
    assert (task.id, task.offset, task.count) == (100 + items, 7 + items, count - items)
    for name in ("fn", "payload", "options", "span", "state", "attempt", "deliveries", "inputs", "face"):
        assert getattr(front, name) == getattr(task, name), name
