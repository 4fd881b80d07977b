"""Every task that is not settled, its state, and what waits for its outcome: the dispatcher's memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from zmqtasks.core.assembly import Assembly, caught, upstream
from zmqtasks.core.attempts import known_attempts
from zmqtasks.core.effects import RELEASED, SETTLED, Record, Settle
from zmqtasks.core.history import History
from zmqtasks.core.join import Addresses, Delivery, Join, Slot
from zmqtasks.core.joins import UNHEARD, Joins, Left
from zmqtasks.core.loans import Known, Loans
from zmqtasks.core.queue import Later, Ready, split
from zmqtasks.core.stand import Stand
from zmqtasks.core.starts import Starts
from zmqtasks.members import Closed, Gone
from zmqtasks.messages import (
    CANCELLED,
    DEAD,
    EXPIRED,
    FAILED,
    FINAL_FROM,
    JOIN,
    LEASED,
    NEW,
    QUEUED,
    RETRYING,
    SCHEDULED,
    SUCCEEDED,
    UPSTREAM_FAILED,
    WAITING,
    Lent,
    Task,
    Value,
)
from zmqtasks.options import DEFAULT_OPTIONS, Options

TRANSITIONS: tuple[frozenset[int], ...] = (
    frozenset({WAITING, SCHEDULED, QUEUED, CANCELLED}),  # NEW
    frozenset({SCHEDULED, QUEUED, *range(FINAL_FROM, DEAD + 1)}),  # WAITING
    frozenset({QUEUED, CANCELLED, EXPIRED}),  # SCHEDULED
    frozenset({QUEUED, CANCELLED}),  # RETRYING
    frozenset({LEASED, CANCELLED, EXPIRED, FAILED}),  # QUEUED
    frozenset({QUEUED, RETRYING, WAITING, SUCCEEDED, FAILED, CANCELLED, DEAD}),  # LEASED
    *(frozenset[int]() for _ in range(FINAL_FROM, DEAD + 1)),
)


def _value(task: Task, place: int, state: int, payload: Any) -> Any:
    """The outcome of item `place` of `task` as the input of another, or the reason why there is none."""
    return Value(payload, place if task.span else -1) if state == SUCCEEDED else payload


class Ledger:
    """Tasks by id, items by state, the queue, and the addresses of outcomes."""

    def __init__(self) -> None:
        self.tasks: dict[int, Task] = {}  # a span stands under its first id
        self.spans: set[int] = set()  # the keys of the spans of several
        self.counts: list[int] = [0] * (DEAD + 1)  # items by state
        self.submitted = 0
        self.ready = Ready()
        self.later = Later()
        self.starts = Starts(self.tasks)
        self.addresses = Addresses()
        self.joins = Joins()
        self.loans = Loans()
        self.records: list[Record] = []  # what this turn has for the journal
        self.settles: list[Settle] = []  # what this turn has for those who asked
        self.history: History | None = None  # what is told of all that happens, if somebody may ask for that

    @property
    def pending(self) -> int:
        """How many tasks are not settled."""
        return self.submitted - sum(self.counts[FINAL_FROM:])

    def find(self, id_: int) -> Task | None:
        """The task, or the span that holds it; None if it is settled or was never submitted."""
        task = self.tasks.get(id_)
        if task is None and self.spans:
            key = max((key for key in self.spans if key < id_), default=None)
            task = self.tasks[key] if key is not None and id_ < key + self.tasks[key].count else None
        return task

    def within(self, first: int, count: int) -> list[Task]:
        """The tasks that have only ids among those `count` from `first` on."""
        tasks, end = self.tasks, first + count
        if count > len(tasks):
            return [task for task in tasks.values() if first <= task.id and task.id + task.count <= end]
        found: list[Task] = []
        while first < end:
            task = tasks.get(first)
            if task is not None and first + task.count <= end:
                found.append(task)
            first += 1 if task is None else task.count
        return found

    # ---- intake --------------------------------------------------------------------------------------------------

    def add(self, task: Task, known: Known, now: float, *, nested: bool = False) -> None:
        """A new task: wherever its needs and its countdown put it.

        What a task asks for (`nested`) goes first: a recursion runs depth first, and few of its tasks wait at a time.
        """
        self.tasks[task.id] = task
        if task.count > 1:
            self.spans.add(task.id)
        if task.parent is not None:
            reason, work = self.joins.expect(task)
            if reason:
                self.deliver([*self.settle(CANCELLED, [task], [reason]), *work], now)
                return
        if self.history is not None:
            self.history.accepted(task)
        if task.fn == JOIN:
            self._open(task, known, now)
        elif task.needs:
            self._await(task, known, now)
        else:
            self._schedule(task, now, first=nested)

    def add_plain(self, tasks: list[Task], root: int = -1) -> int:
        """The hot path: take in new single tasks to be run at once, up to the first of another kind; how many.

        They are of no workflow, or members of one join, as `Joins.neighbours` gives them, in the workflow `root`.
        """
        known, level = self.tasks, self.ready.level_of
        options: Options | None = None
        lane = -1
        append: Callable[[Task], None] = tasks.append  # of the level that the task before was put on
        count = 0
        for task in tasks:
            if task.needs or task.span or task.root != root or task.state != NEW or task.id in known:
                break
            if task.options is not options or task.lane != lane:
                options, lane = task.options, task.lane
                if options is not DEFAULT_OPTIONS and options.timed:
                    break
                append = level(task).append
            task.state = QUEUED
            known[task.id] = task
            append(task)
            count += 1
        if count and root != -1:
            self.joins.expect_all(tasks[0], count)
        self.ready.size += count
        self.submitted += count
        self.counts[QUEUED] += count
        return count

    def _schedule(self, task: Task, now: float, *, first: bool = False) -> None:
        if task.options.countdown:
            self.move(task, SCHEDULED)
            self.later.push(now + task.options.countdown, task)
        else:
            self.move(task, QUEUED)
            if first:
                self.ready.push_front(task)
            else:
                self.ready.push(task)

    def release_due(self, now: float) -> None:
        """What was scheduled, for its first attempt or another, and is due is queued."""
        for task in self.later.due(now):
            was = task.state
            self.move(task, QUEUED)
            self.ready.push(task)
            if self.history is not None:
                self.history.moved([task], was, QUEUED, "its time has come")

    def _open(self, task: Task, known: Known, now: float) -> None:
        """A join: it waits for its members, for what it needs, or for that to fail."""
        if task.payload.failure != "catch":
            self.joins.assemblies[task.id] = Assembly(task)
        if task.needs:
            self._await(task, known, now)
        else:
            self.move(task, WAITING)
            self.deliver(self.joins.complete(task.id), now)

    def close(self, message: Closed, now: float) -> None:
        """An open join is complete."""
        self.deliver(self.joins.close(message.id, message.count), now)

    def abandon(self, message: Gone, now: float) -> None:
        """Somebody will not complete what he has begun to submit."""
        self.deliver(self.joins.abandon(message.first, message.count), now)

    def _await(self, task: Task, known: Known, now: float) -> None:
        self.move(task, WAITING)
        join = Join(task, len(task.needs))
        for index, id_ in enumerate(task.needs):
            if type(outcome := known.get(id_)) is Lent:
                self.loans.owe(id_, outcome.peer)
                self.addresses.add(id_, Slot(join, index))
            elif outcome is not None:
                self.deliver([(Slot(join, index), id_, *outcome)], now, fresh=True)
            elif self.find(id_) is not None:
                self.addresses.add(id_, Slot(join, index))
            else:
                self.deliver([(Slot(join, index), id_, *self._just_settled(id_))], now, fresh=True)

    def _just_settled(self, id_: int) -> tuple[int, Any]:
        """State and value of what was settled in this very turn: whoever submitted could not know it yet."""
        for state, tasks, payloads in self.settles:
            for task, payload in zip(tasks, payloads, strict=True):
                if task.id <= id_ < task.id + task.count:
                    return state, _value(task, id_ - task.id, state, payload)
        return UPSTREAM_FAILED, "no such task"

    def told(self, known: dict[int, tuple[int, Any]], now: float) -> None:
        """What was lent is here, or is lost with its lender; what waited for it goes where it would have gone."""
        for id_, (state, value) in known.items():
            if self.loans.settle(id_):
                slots = reversed(self.addresses.take(id_))
                self.deliver([(slot, id_, state, value) for slot in slots], now, last=True)

    # ---- moves ---------------------------------------------------------------------------------------------------

    def move(self, task: Task, state: int) -> None:
        """To another state that is not final."""
        if state not in TRANSITIONS[task.state]:
            raise AssertionError(f"task {task.id} cannot go from state {task.state} to {state}")
        self.counts[task.state] -= task.count
        self.counts[state] += task.count
        task.state = state

    def requeue(self, tasks: list[Task], reason: str) -> None:
        """What was out goes to the head of the queue, in its order."""
        if self.history is not None and tasks:
            self.history.moved(tasks, LEASED, QUEUED, reason)
        if self.joins.stands:
            self.joins.returned(tasks)
        for task in reversed(tasks):
            task.peer = task.ordinal = -1
            self.move(task, QUEUED)
            self.ready.push_front(task)
            if task.root == UNHEARD:
                self.joins.left.append(Left(None, [(task.id, task.count)]))
            if task.course is not None:
                self.starts.watch(task)

    def give_up_queued(self) -> list[Task]:
        """Everything that is queued: it is known here no more."""
        tasks = self.ready.tasks()
        for task in tasks:
            self.ready.forget(task)
            self.counts[QUEUED] -= task.count
            self.submitted -= task.count
            task.state = NEW
            del self.tasks[task.id]
            self.spans.discard(task.id)
        return tasks

    def split(self, task: Task, items: int) -> Task:
        """Cut `items` off the front of a span; both parts are known, the front has no place yet."""
        self.spans.discard(task.id)
        front = split(task, items)
        for part in (front, task):
            self.tasks[part.id] = part
            if part.count > 1:
                self.spans.add(part.id)
        return front

    def single(self, task: Task, id_: int) -> Task:
        """The task of that one id, out of a span that is in no hand; its neighbours stay where the span was."""
        fronts = [self.split(task, id_ - task.id)] if id_ > task.id else []
        if task.count > 1:
            fronts.append(self.split(task, 1))
        if fronts and task.state == QUEUED:
            self.ready.insert(task, fronts)
        elif fronts and task.state == SCHEDULED:
            self.later.insert(task, fronts)
        elif fronts:
            self.addresses.fork(task, fronts)
        return self.tasks[id_]

    # ---- outcomes ------------------------------------------------------------------------------------------------

    def settle(
        self, state: int, tasks: list[Task], payloads: list[Any], lease: tuple[int, int] | None = None
    ) -> list[Delivery]:
        """The one end of every task. Gives back what is to be delivered to those that waited for it.

        `lease`: single tasks that have succeeded were in this peer's hand, with this ordinal and those after it.
        """
        known, counts, ready = self.tasks, self.counts, self.ready
        if self.history is not None and lease is not None:
            self.history.succeeded(*lease, tasks)
        elif self.history is not None and tasks:
            self.history.settled(state, tasks, payloads)
        for task in tasks:
            if state not in TRANSITIONS[task.state]:
                raise AssertionError(f"task {task.id} cannot go from state {task.state} to {state}")
            if task.state == QUEUED:
                ready.forget(task)
            counts[task.state] -= task.count
            counts[state] += task.count
            task.state = state
            known.pop(task.id, None)
            if task.count > 1:
                self.spans.discard(task.id)
        self.records.append(Record(SETTLED, tasks, state, payloads))
        self.settles.append(Settle(state, tasks, payloads))
        work = self._addressed(state, tasks, payloads) if self.addresses else []
        if self.joins.assemblies:
            work += self.joins.gather(state, tasks, payloads)
        if state != SUCCEEDED or self.joins.stands:
            self.joins.leave(state, tasks)
        return work

    def settle_outcomes(self, outcomes: list[tuple[Task, Any, bool]]) -> list[Delivery]:
        """The ends of tasks that ran: (task, payload, failed)."""
        work: list[Delivery] = []
        for state in (SUCCEEDED, FAILED):
            chosen = [(task, payload) for task, payload, failed in outcomes if failed == (state == FAILED)]
            if chosen:
                work += self.settle(state, [task for task, _ in chosen], [payload for _, payload in chosen])
        return work

    def _addressed(self, state: int, tasks: list[Task], payloads: list[Any]) -> list[Delivery]:
        work: list[Delivery] = []
        for task, payload in zip(tasks, payloads, strict=True):
            for place, slots in self.addresses.take_span(task.id, task.count):
                value = _value(task, place, state, payload)
                work += [(slot, task.id + place, state, value) for slot in slots]
        return work

    def deliver(self, work: list[Delivery], now: float, *, fresh: bool = False, last: bool = False) -> None:
        """Outcomes to their addresses, and what follows from them; no recursion, for chains may be long.

        What that releases goes first, for what was begun is to end, or `last`. `fresh`: it has come just now.
        """
        while work:
            (join, index), id_, state, value = work.pop()
            body = join.body
            if isinstance(join, Stand) and body is None:
                join.outcome = state, value  # it has not said yet that another ends for it
            elif body is None or body.state != WAITING:
                continue  # it failed by another slot, or was cancelled
            elif isinstance(join, Stand):
                del self.joins.stands[body.id]
                work += self.settle(state, [body], [join.payload(state, value)])
            elif isinstance(join, Assembly):
                if state == SUCCEEDED:
                    del self.joins.assemblies[body.id]
                work += self.settle(state, [body], [value])
            elif body.fn == JOIN and body.payload.failure == "catch":
                end, value = caught(id_, state, value)
                work += self.settle(end, [body], [value])
            elif state != SUCCEEDED:
                end, value = upstream(id_, state, value)
                work += self.settle(end, [body], [value])
            elif join.fill(index, value):
                if body.fn == JOIN:
                    self.joins.assemblies[body.id].held = False
                    work += self.joins.complete(body.id)
                    continue
                body.inputs = tuple(join.values)
                if not fresh:
                    self.records.append(Record(RELEASED, [body]))
                self._schedule(body, now, first=not (fresh or last))
                if self.history is not None:
                    self.history.moved([body], WAITING, body.state, "what it waited for is there")

    # ---- invariants ----------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Assert what must hold of tasks, counters, queue and addresses."""
        items: Counter[int] = Counter()
        for key, task in self.tasks.items():
            assert key == task.id, f"task {task.id} stands under {key}"
            assert task.count == 1 or task.span, f"task {key} has items and is no span"
            assert (task.count > 1) == (key in self.spans), f"span {key} is not where spans are"
            assert task.state < FINAL_FROM, f"task {key} is settled and still here"
            assert task.state == LEASED or task.peer == -1, (
                f"task {key} is in state {task.state} and has a peer"
            )
            assert task.attempt >= known_attempts(task), f"task {key} has begun more often than it is said to"
            items[task.state] += task.count
        assert self.spans <= self.tasks.keys(), "a span that is no task"
        for state in range(FINAL_FROM):
            assert self.counts[state] == items[state], (
                f"{self.counts[state]} counted, {items[state]} in state {state}"
            )
        assert sum(self.counts) == self.submitted, "the counters do not balance"
        queued = self.ready.tasks()
        assert sum(task.count for task in queued) == self.ready.size == items[QUEUED], "the queue's size"
        assert len({task.id for task in queued}) == len(queued), "a task is queued twice"
        for id_ in self.addresses.ids():
            assert self.find(id_) is not None or id_ in self.loans, f"task {id_} is waited for and gone"
        assert sum(id_ in self.loans for id_ in self.addresses.ids()) == len(self.loans), "owed to nobody"
        self.joins.check(self.tasks)
        slots = self.addresses.by_join()
        for task in self.tasks.values():
            if task.state == WAITING and task.id not in self.joins.assemblies:
                assert slots[task.id], f"task {task.id} waits for nothing"
