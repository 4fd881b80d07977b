"""What is remembered of what has happened to tasks, as a dispatcher tells it."""

from __future__ import annotations

from typing import Any

from zmqtasks.core.dispatch import Dispatcher
from zmqtasks.core.effects import Send
from zmqtasks.core.history import PIECES_MAX, Happened, History, Node
from zmqtasks.core.ranges import Ranges
from zmqtasks.messages import (
    CANCELLED,
    FAILED,
    FULL,
    JOIN,
    LEASED,
    NEW,
    QUEUED,
    RETRYING,
    SCHEDULED,
    SUCCEEDED,
    UPSTREAM_FAILED,
    WAITING,
    Ask,
    Cancel,
    Done,
    Joined,
    Lost,
    Part,
    Returned,
    Run,
    Submit,
    Task,
)
from zmqtasks.options import Options, RetryRule


class Rig:
    """A dispatcher with peers 1, 2, ... that tells a history all, and a clock."""

    def __init__(self, peers: int = 1, **options: Any) -> None:
        self.history = History("0a")
        self.machine = Dispatcher(history=self.history, **options)
        self.now = 100.0
        for peer in range(1, peers + 1):
            self.machine.receive(peer, Joined(), self.now)
        self.turn()

    def turn(self) -> list[Any]:
        """One turn, a second after the one before; what was handed out in it."""
        self.now += 1.0
        effects = self.machine.turn(self.now)
        self.machine.check()
        return [
            effect.message for effect in effects if isinstance(effect, Send) and type(effect.message) is Run
        ]

    def say(self, message: Any, peer: int = 0) -> list[Any]:
        """`peer` says something, and there is a turn."""
        self.machine.receive(peer, message, self.now)
        return self.turn()

    def story(self, id_: int) -> list[tuple[Any, ...]]:
        """What has happened to one task: (seconds since the beginning, was, state, peer, attempt, reason)."""
        found = self.history.of(Ranges([(id_, id_ + 1)]))
        assert all((each.id, each.items) == (id_, 1) for each in found)
        return [
            (each.at - 101.0, each.was, each.state, each.place, each.attempt, each.reason) for each in found
        ]


def job(id_: int, **fields: Any) -> Task:
    return Task(id_, 7, b"", **fields)


def ended(first: int, *payloads: Any, failed: tuple[int, ...] = (), **fields: Any) -> Done:
    return Done(first, list(payloads), failed=[*failed], **fields)


def test_a_task_that_is_run() -> None:
    rig = Rig()
    rig.say(Submit([job(5)]))
    rig.say(ended(0, b"v"), peer=1)
    assert rig.story(5) == [
        (1, NEW, QUEUED, -1, 0, "accepted"),
        (1, QUEUED, LEASED, 1, 1, ""),
        (2, LEASED, SUCCEEDED, 1, 1, ""),
    ]
    assert rig.story(6) == []


def test_a_task_that_waits_for_others_and_for_its_time() -> None:
    rig = Rig()
    rig.say(Submit([job(5), job(6, needs=(5,)), job(7, options=Options(countdown=3.0))]))
    assert rig.story(6) == [(1, NEW, WAITING, -1, 0, "accepted: it waits for others")]
    rig.say(ended(0, b"v"), peer=1)
    assert rig.story(6)[1:] == [
        (2, WAITING, QUEUED, -1, 0, "what it waited for is there"),
        (2, QUEUED, LEASED, 1, 1, ""),
    ]
    rig.say(ended(1, b"v"), peer=1)
    rig.turn()
    assert rig.story(7) == [
        (1, NEW, SCHEDULED, -1, 0, "accepted: its time has not come"),
        (4, SCHEDULED, QUEUED, -1, 0, "its time has come"),
        (4, QUEUED, LEASED, 1, 1, ""),
    ]


def test_attempts_of_a_task_that_is_retried_and_whose_worker_is_lost() -> None:
    rig = Rig(peers=2)
    rule = RetryRule(max=1, delay=0.5, jitter="none")
    (run,) = rig.say(Submit([job(5, options=Options(retry=rule))]))
    peer = rig.machine.ledger.tasks[5].peer
    rig.say(ended(run.first, b"e", failed=(0,), asks=[Ask(run.first, text="OSError: no")]), peer=peer)
    rig.turn()
    peer = rig.machine.ledger.tasks[5].peer
    ordinal = rig.machine.ledger.tasks[5].ordinal
    rig.say(Lost("killed by SIGKILL", ordinal), peer=peer)
    story = [(was, state, attempt, reason) for _, was, state, _, attempt, reason in rig.story(5)]
    assert story == [
        (NEW, QUEUED, 0, "accepted"),
        (QUEUED, LEASED, 1, ""),
        (LEASED, RETRYING, 1, "attempt 1: OSError: no"),
        (RETRYING, QUEUED, 1, "its time has come"),
        (QUEUED, LEASED, 2, ""),
        (LEASED, QUEUED, 2, "its worker was lost: killed by SIGKILL"),
        (QUEUED, LEASED, 3, ""),
    ]


def test_what_comes_back_unstarted_has_not_begun() -> None:
    rig = Rig()
    rig.machine.pace.note(7, 1, 1e-4)
    rig.say(Submit([job(5), job(6)]))
    rig.say(Cancel(6, terminate=False, token="t"))
    rig.say(Returned([(1, 0, 1)]), peer=1)
    assert rig.story(6)[1:] == [
        (1, QUEUED, LEASED, 1, 1, ""),
        (3, LEASED, QUEUED, 1, 0, "given back before it began"),
        (3, QUEUED, CANCELLED, -1, 0, "cancelled before it started"),
    ]


def test_why_a_task_has_not_succeeded() -> None:
    rig = Rig(queue_max=3)
    rig.say(Submit([job(5), job(6, needs=(5,)), job(7, needs=(6,)), job(8)]))
    rig.say(ended(0, b"e", failed=(0,)), peer=1)
    assert rig.story(5)[-1][1:] == (LEASED, FAILED, 1, 1, "it raised an exception")
    assert rig.story(6)[-1][1:] == (WAITING, UPSTREAM_FAILED, -1, 0, "task 0a-5 is FAILED")
    assert rig.story(7)[-1][2] == UPSTREAM_FAILED
    assert rig.story(8) == [(1, NEW, CANCELLED, -1, 0, FULL)]


def test_a_batch_is_an_entry_and_neighbours_are_a_range() -> None:
    rig = Rig()
    rig.machine.pace.note(7, 1, 1e-6)
    rig.say(Submit([job(id_) for id_ in range(1000, 2000)]))
    assert rig.history.of(Ranges([(0, 5000)])) == [
        Happened(102.0, 1000, 1000, NEW, QUEUED, -1, 0, "accepted"),
        Happened(102.0, 1000, 1000, QUEUED, LEASED, 1, 1, ""),
    ]
    small = rig.history.nbytes
    rig.say(ended(0, *[b"v"] * 1000), peer=1)
    assert rig.story(1500)[-1] == (2, LEASED, SUCCEEDED, 1, 1, "")
    rig.say(Submit([job(id_) for id_ in (7, 9, 5000, 8)]))
    assert rig.story(9)[0] == (3, NEW, QUEUED, -1, 0, "accepted")
    assert rig.story(5000)[-1] == (3, QUEUED, LEASED, 1, 1, "")
    assert rig.story(6) == []
    assert rig.history.nbytes - small < 1000


def test_a_span_is_told_by_its_parts() -> None:
    rig = Rig()
    rig.machine.pace.note(7, 1, 1e-4)
    (run,) = rig.say(Submit([Task(100, 7, b"", count=500, span=True)]))
    taken = run.tasks[0].count
    assert 1 < taken < 500
    rig.say(Done(0, [], parts=[Part(0, 0, 2, False, b"v"), Part(0, 2, 1, True, b"e")]), peer=1)
    found = rig.history.of(Ranges([(101, 103)]))
    assert [(each.id, each.items, each.state) for each in found] == [
        (101, 2, QUEUED),
        (101, 2, LEASED),
        (101, 1, SUCCEEDED),
        (102, 1, FAILED),
    ]
    assert rig.story(100 + taken)[0][2] == QUEUED


def test_what_is_old_is_forgotten_and_what_is_left_begins_late() -> None:
    rig = Rig()
    rig.history._nbytes_max = 4000
    rig.say(Submit([job(5)]))
    for id_ in range(10, 60):
        rig.say(Submit([job(id_, options=Options(countdown=1000.0))]))
    assert rig.history.nbytes <= 4000
    assert rig.story(5) == []
    rig.say(ended(0, b"v"), peer=1)
    assert [(was, state) for _, was, state, *_ in rig.story(5)] == [(LEASED, SUCCEEDED)]


def test_nothing_is_kept_alive() -> None:
    rig = Rig()
    task = job(5)
    rig.say(Submit([task]))
    payload = bytes(1000)
    rig.say(ended(0, payload), peer=1)
    held = [each for entry in rig.history._entries for each in entry]
    assert not any(each is task or each is payload for each in held)


def test_which_tasks_are_of_a_workflow() -> None:
    rig = Rig()
    tasks = [job(20, root=22), job(21, root=22, needs=(20,)), job(22, root=22, needs=(21,)), job(23)]
    rig.say(Submit(tasks))
    assert rig.history.nodes(22) == [Node(7, 20, 3)]
    assert rig.history.nodes(23) == []
    history = History()
    history.begin(1.0, empty=True)
    history.accepted(Task(1, JOIN, None, root=1))
    history.accepted(Task(100, 7, b"", count=50, span=True, root=1))
    history.accepted(Task(150, 7, b"", root=1))
    assert history.nodes(1) == [Node(JOIN, 1, 1), Node(7, 100, 51)]
    assert [(each.id, each.items, each.state) for each in history.of(Ranges([(1, 2), (100, 151)]))] == [
        (1, 1, WAITING),
        (100, 50, QUEUED),
        (150, 1, QUEUED),
    ]


def test_of_too_many_workflows_the_oldest_are_forgotten() -> None:
    history = History()
    history.begin(1.0, empty=True)
    for root in range(0, 2 * (PIECES_MAX + 10), 2):
        history.accepted(job(root, root=root))
    assert history.nodes(0) == []
    assert history.nodes(2 * PIECES_MAX) == [Node(7, 2 * PIECES_MAX, 1)]
    assert history._pieces == PIECES_MAX
