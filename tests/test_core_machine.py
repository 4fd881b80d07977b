"""The dispatcher under any order of events that Hypothesis can think of: answers come late, twice, and after the end.

The model is smaller than the simulator's: a peer begins what is first in its hand at once, or many coroutines, and
finishes when a rule says so. What a peer says is mail, delivered in its order when a rule says so, and outcomes may be
delivered again.
"""

from __future__ import annotations

from collections import Counter, deque
from copy import copy
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from zmqtasks.core.dispatch import Dispatcher
from zmqtasks.core.effects import ACCEPTED, SETTLED, Answer, End, Record, Send, Settle
from zmqtasks.messages import (
    CANCELLED,
    DEAD,
    FAILED,
    SUCCEEDED,
    UPSTREAM_FAILED,
    Cancel,
    Done,
    Ended,
    Ends,
    Joined,
    Lost,
    Part,
    Recall,
    Resumed,
    Returned,
    Run,
    Slots,
    Submit,
    Task,
    Value,
    Waiting,
)
from zmqtasks.options import Options

FUNCTION_COSTS_S = (1e-6, 0.02, 1.0)
AWAITS = 1  # the function whose tasks may be coroutines: never spans
AT_ONCE = 5


class Worth(int):
    """A value, which has a length as all payloads have."""

    def __len__(self) -> int:
        return 8


class Worker:
    """A peer's side: its hand in order, the first of it running; and its mail."""

    def __init__(self) -> None:
        self.hand: deque[Task] = deque()
        self.mail: deque[Any] = deque()
        self.waiting = False
        self.awaits = False  # all of that function run, and others between them

    @property
    def runs_one(self) -> bool:
        """Whether one task runs there, and waits for nothing."""
        return bool(self.hand) and not (self.waiting or self.awaits)

    def give_back(self) -> Returned:
        """All but what runs."""
        rest = []
        if self.awaits:
            rest = [(task.ordinal, task.offset, task.count) for task in self.hand if task.fn != AWAITS]
            self.hand = deque(task for task in self.hand if task.fn == AWAITS)
        elif self.hand:
            running = self.hand[0]
            if running.count > 1:
                rest.append((running.ordinal, running.offset + 1, running.count - 1))
                running.count = 1
            rest += [(task.ordinal, task.offset, task.count) for task in list(self.hand)[1:]]
            self.hand = deque([running])
        return Returned(rest)

    def look(self) -> None:
        """Whose coroutine has come to an await takes more of the kind; who has none any more does not."""
        coroutines = [task for task in self.hand if task.fn == AWAITS]
        if self.awaits and not coroutines:
            self.awaits = False
            self.mail.append(Slots(1))
        elif self.runs_one and self.hand[0].fn == AWAITS:
            self.awaits = True
            self.mail.append(Slots(AT_ONCE, [], [AWAITS]))

    def end(self, id_: int) -> None:
        """A coroutine is cancelled, if it is one and is under way."""
        for task in [task for task in self.hand if self.awaits and task.id == id_ and task.fn == AWAITS]:
            self.hand.remove(task)
            self.mail.append(Ends([Ended(task.ordinal, 0, 1, CANCELLED, "gone")]))

    def finish(self, *, failed: bool, at: int = 0) -> None:
        """What runs is through; `at`: one of many."""
        at = at % len(self.hand) if self.awaits else 0
        task = self.hand[at]
        pace = [(task.fn, 1, FUNCTION_COSTS_S[task.fn])]
        value = ("failed", task.id) if failed else Worth(task.id)
        if task.span:
            part = Part(task.ordinal, task.offset, 1, failed, value if failed else [value])
            self.mail.append(Done(task.ordinal, [], parts=[part], pace=pace))
        else:
            self.mail.append(Done(task.ordinal, [value], failed=[0] if failed else [], pace=pace))
        if task.count > 1:
            task.id, task.offset, task.count = task.id + 1, task.offset + 1, task.count - 1
        else:
            del self.hand[at]


class Machine(RuleBasedStateMachine):
    """The dispatcher, its workers, and what must hold."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = Dispatcher(slots=3, queue_max=60)
        self.now = 0.0
        self.workers: dict[int, Worker] = {}
        self.peers = 0
        self.ids = 0
        self.hurried = self.awaiting = False
        self.echoes: list[tuple[int, Any]] = []  # what may be heard again
        self.needs: dict[int, tuple[int, ...]] = {}
        self.unsettled: set[int] = set()
        self.final: dict[int, tuple[int, Any]] = {}
        self.questions: dict[int, int] = {}  # token: id
        self.answers: Counter[int] = Counter()
        self.true: set[int] = set()  # ids of cancels that were answered with True
        self.ending: set[int] = set()

    @initialize(hurried=st.booleans(), awaiting=st.booleans())
    def start(self, hurried: bool, awaiting: bool) -> None:
        self.hurried, self.awaiting = hurried, awaiting
        for _ in range(2):
            self.join()

    def _hear(self, peer: int, message: Any) -> None:
        self.machine.receive(peer, message, self.now)
        if self.hurried:
            self.turn(0.0)

    # ---- what programs do

    @rule(
        fn=st.sampled_from([0, AWAITS, AWAITS, 2]),
        priority=st.sampled_from([0, 0, 5]),
        countdown=st.sampled_from([0.0, 0.0, 1.5]),
        count=st.sampled_from([1, 1, 2, 7, 30]),
        needs=st.lists(st.integers(1, 12), max_size=2),
        how_many=st.integers(1, 3),
    )
    def submit(
        self, fn: int, priority: int, countdown: float, count: int, needs: list[int], how_many: int
    ) -> None:
        fn = 0 if fn == AWAITS and count > 1 else fn
        options, tasks = Options(priority=priority, countdown=countdown), []
        for _ in range(how_many):
            ids = tuple(self.ids - back for back in needs if back < self.ids)
            task = Task(self.ids, fn, b"xy", options, count, 0, count > 1, ids)
            self.needs.update(dict.fromkeys(range(self.ids, self.ids + count), ids))
            self.ids += count
            tasks.append(task)
        known = {
            id_: (state, Value(value) if state == SUCCEEDED else value)
            for task in tasks
            for id_ in task.needs
            for state, value in [self.final.get(id_, (None, None))]
            if state is not None
        }
        self._hear(0, Submit(tasks, known))

    @precondition(lambda self: self.ids)
    @rule(back=st.integers(1, 40), terminate=st.booleans())
    def cancel(self, back: int, terminate: bool) -> None:
        token, id_ = len(self.questions), max(0, self.ids - back)
        self.questions[token] = id_
        self._hear(0, Cancel(id_, terminate, token))

    # ---- what workers do

    @precondition(lambda self: len(self.workers) < 4)
    @rule()
    def join(self) -> None:
        self.peers += 1
        self.workers[self.peers] = Worker()
        self._hear(self.peers, Joined())

    @precondition(lambda self: any(worker.hand for worker in self.workers.values()))
    @rule(data=st.data(), times=st.integers(1, 10), failed=st.booleans(), at=st.integers(0, AT_ONCE))
    def finish(self, data: st.DataObject, times: int, failed: bool, at: int) -> None:
        worker = self.workers[data.draw(st.sampled_from([p for p, w in self.workers.items() if w.hand]))]
        if not worker.waiting:
            for last in range(times, 0, -1):
                if worker.hand:
                    worker.finish(failed=failed and last == 1, at=at)
            worker.look() if worker.awaits else None

    @precondition(lambda self: any(worker.hand for worker in self.workers.values()))
    @rule(failed=st.booleans())
    def work(self, failed: bool) -> None:
        """All do what they have, and it is heard of."""
        for peer, worker in list(self.workers.items()):
            while worker.hand and not worker.waiting:
                worker.finish(failed=failed)
            worker.look() if worker.awaits else None
            while worker.mail:
                self._hear(peer, worker.mail.popleft())

    @precondition(lambda self: any(worker.runs_one for worker in self.workers.values()))
    @rule(data=st.data())
    def wait(self, data: st.DataObject) -> None:
        busy = [p for p, w in self.workers.items() if w.runs_one]
        worker = self.workers[data.draw(st.sampled_from(busy))]
        worker.mail += [worker.give_back(), Waiting()]
        worker.waiting = True

    @precondition(lambda self: any(worker.waiting for worker in self.workers.values()))
    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        worker = self.workers[data.draw(st.sampled_from([p for p, w in self.workers.items() if w.waiting]))]
        worker.mail.append(Resumed())
        worker.waiting = False

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        self._lose(data.draw(st.sampled_from(sorted(self.workers))), in_a_step=data.draw(st.booleans()))

    def _lose(self, peer: int, *, in_a_step: bool = True) -> None:
        worker = self.workers.pop(peer)
        self.echoes += [(peer, message) for message in worker.mail]  # heard after its end, if at all
        running = worker.hand[0] if worker.hand and (in_a_step or not worker.awaits) else None
        ordinal, item = (running.ordinal, running.offset) if running else (-1, 0)
        self._hear(peer, Lost("gone", ordinal, item))
        self.ending.discard(peer)

    # ---- what the network does

    @precondition(lambda self: any(worker.mail for worker in self.workers.values()))
    @rule(data=st.data(), messages=st.integers(1, 8), again=st.booleans())
    def deliver(self, data: st.DataObject, messages: int, again: bool) -> None:
        peer = data.draw(st.sampled_from([p for p, w in self.workers.items() if w.mail]))
        mail = self.workers[peer].mail
        for _ in range(min(messages, len(mail))):
            message = mail.popleft()
            if again and isinstance(message, Done):
                self.echoes.append((peer, message))
            self._hear(peer, message)

    @precondition(lambda self: self.echoes)
    @rule(data=st.data())
    def echo(self, data: st.DataObject) -> None:
        self._hear(*data.draw(st.sampled_from(self.echoes)))

    # ---- what the clock does

    @rule(step=st.sampled_from([0.0, 0.001, 0.02, 2.0]))
    def wake(self, step: float) -> None:
        self.turn(step)

    def turn(self, step: float) -> None:
        self.now += step
        for effect in self.machine.turn(self.now):
            self._perform(effect)
        self.machine.check()
        deadline = self.machine.next_deadline()
        assert deadline is None or deadline > self.now

    def _perform(self, effect: Any) -> None:
        match effect:
            case Record(kind, tasks, _, _):
                ids = {id_ for task in tasks for id_ in range(task.id, task.id + task.count)}
                if kind == ACCEPTED:
                    assert not ids & (self.unsettled | self.final.keys())
                    self.unsettled |= ids
                elif kind == SETTLED:
                    self.unsettled -= ids
            case Settle(state, tasks, payloads):
                for task, payload in zip(tasks, payloads, strict=True):
                    for place in range(task.count):
                        assert task.id + place not in self.final, "settled twice"
                        value = payload[place] if state == SUCCEEDED and task.span else payload
                        self.final[task.id + place] = (state, value)
                        assert state != SUCCEEDED or value == task.id + place, "the value of another task"
            case Answer(token, cancelled):
                self.answers[token] += 1
                assert not cancelled or self.final[self.questions[token]][0] == CANCELLED
                if cancelled:
                    self.true.add(self.questions[token])
            case End(peer):
                self.ending.add(peer)
            case Send(peer, Run(first, tasks)):
                assert [task.ordinal for task in tasks] == list(range(first, first + len(tasks)))
                self.workers[peer].hand += [copy(task) for task in tasks]
                if self.awaiting:
                    self.workers[peer].look()
                assert not self.machine.peers[peer].awaits or {task.fn for task in tasks} == {AWAITS}
                for task in tasks:
                    for id_ in range(task.id, task.id + task.count):
                        assert id_ not in self.final, "settled and handed out"
                        inputs = [v.payload if v.index < 0 else v.payload[v.index] for v in task.inputs]
                        assert [(SUCCEEDED, value) for value in inputs] == [
                            self.final[need] for need in self.needs[id_]
                        ]
            case Send(peer, Cancel(id_, True, None)) if peer in self.workers:
                self.workers[peer].end(id_)
            case Send(peer, Recall()) if peer in self.workers:
                self.workers[peer].mail.append(self.workers[peer].give_back())

    # ---- what must hold

    @invariant()
    def the_journal_knows_what_is_unsettled(self) -> None:
        held = self.machine.ledger.tasks.values()
        assert {id_ for task in held for id_ in range(task.id, task.id + task.count)} == self.unsettled

    def teardown(self) -> None:
        """Nothing more goes wrong: everything settles."""
        self.join() if not self.workers else None
        for _ in range(3000):
            self.turn(0.05)
            if not self.unsettled and sum(self.answers.values()) == len(self.questions):
                break
            for peer in list(self.workers):
                worker = self.workers[peer]
                if peer in self.ending:
                    self._lose(peer)
                    self.join()
                    continue
                if worker.waiting:
                    worker.mail.append(Resumed())
                    worker.waiting = False
                while worker.hand:
                    worker.finish(failed=False)
                worker.look() if worker.awaits else None
                while worker.mail:
                    self._hear(peer, worker.mail.popleft())
        assert not self.unsettled, "something never settles"
        assert self.final.keys() == set(range(self.ids))
        assert set(self.answers.values()) <= {1}
        assert len(self.answers) == len(self.questions), "a question has no answer"
        for id_, (state, value) in self.final.items():
            failed = [need for need in self.needs[id_] if self.final[need][0] != SUCCEEDED]
            assert (state == UPSTREAM_FAILED) == bool(failed) or state == CANCELLED, (id_, state, failed)
            assert state != FAILED or value == ("failed", id_)
            assert state != CANCELLED or id_ in self.true or value == "the queue is full"
            assert state != DEAD or value == "gone"


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=80, stateful_step_count=50, deadline=None)
