"""Each handler of the dispatcher: what comes in, and the whole list of effects that go out."""

from __future__ import annotations

from typing import Any

import pytest

from zmqtasks.core import waits
from zmqtasks.core.dispatch import Dispatcher
from zmqtasks.core.effects import ACCEPTED, DELIVERED, SETTLED, Answer, End, Record, Send, Settle
from zmqtasks.core.pace import GRACE_S, STEAL_S
from zmqtasks.messages import (
    CANCELLED,
    DEAD,
    FAILED,
    FULL,
    LEASED,
    QUEUED,
    SCHEDULED,
    SUCCEEDED,
    UPSTREAM_FAILED,
    WAITING,
    Beat,
    Cancel,
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
from zmqtasks.options import Options

CLIENT = 0
CANCELLED_EARLY = "cancelled before it started"


class Rig:
    """A dispatcher with peers 1, 2, ..., a clock, and function 7, whose cost is known: a microsecond."""

    def __init__(self, peers: int = 1, **options: Any) -> None:
        self.machine = Dispatcher(**options)
        self.now = 100.0
        self.machine._dealer.pace.note(7, 1, 1e-6)
        for peer in range(1, peers + 1):
            self.machine.receive(peer, Joined(), self.now)
        assert self.turn() == []

    def turn(self) -> list[Any]:
        """One turn, and its effects."""
        effects = self.machine.turn(self.now)
        self.machine.check()
        return effects

    def say(self, peer: int, *messages: Any, after: float = 0.0) -> list[Any]:
        """What comes of these."""
        self.now += after
        for message in messages:
            self.machine.receive(peer, message, self.now)
        return self.turn()

    def given(self, *tasks: Task) -> None:
        """Submit them; they are dealt."""
        self.say(CLIENT, Submit(list(tasks)))
        assert [task.state for task in tasks] == [LEASED] * len(tasks)


def single(id_: int, *, fn: int = 7, needs: tuple[int, ...] = (), **options: Any) -> Task:
    return Task(id_, fn, b"payload", Options(**options), needs=needs)


def span(id_: int, count: int, *, fn: int = 7, **options: Any) -> Task:
    return Task(id_, fn, b"items", Options(**options), count=count, span=True)


def settled(state: int, tasks: list[Task], payloads: list[Any]) -> list[Any]:
    """The two effects of an end."""
    return [Record(SETTLED, tasks, state, payloads), Settle(state, tasks, payloads)]


# ---- submit ---------------------------------------------------------------------------------------------------------


def test_a_task_is_recorded_and_then_sent() -> None:
    task = single(10)
    assert Rig().say(CLIENT, Submit([task])) == [Record(ACCEPTED, [task]), Send(1, Run(0, [task]))]
    assert (task.state, task.peer, task.ordinal, task.attempt) == (LEASED, 1, 0, 1)


def test_without_a_peer_it_waits_in_the_queue() -> None:
    rig, task = Rig(peers=0), single(10)
    assert rig.say(CLIENT, Submit([task])) == [Record(ACCEPTED, [task])]
    assert task.state == QUEUED
    assert rig.say(1, Joined()) == [Send(1, Run(0, [task]))]


def test_what_is_said_twice_is_one_task() -> None:
    rig, task = Rig(peers=0), single(10)
    assert rig.say(CLIENT, Submit([task]), Submit([task])) == [Record(ACCEPTED, [task])]
    assert rig.say(CLIENT, Submit([task]), Submit([single(10)])) == []
    assert rig.machine.ledger.submitted == 1


def test_the_journal_gets_a_span_whole_though_it_is_cut_in_the_same_turn() -> None:
    rig, task = Rig(peers=2), span(10, 6)
    record, *sends = rig.say(CLIENT, Submit([task]))
    assert [(kept.id, kept.count) for kept in record.tasks] == [(10, 6)]
    assert [[(part.id, part.offset, part.count) for part in send.message.tasks] for send in sends] == [
        [(10, 0, 3)],
        [(13, 3, 3)],
    ]


def test_what_is_above_the_limit_is_refused_and_takes_no_room() -> None:
    rig = Rig(peers=0, queue_max=2)
    small, big, last, late = single(10), span(20, 9), single(30), single(40)
    assert rig.say(CLIENT, Submit([small, big, last, late])) == [
        Record(ACCEPTED, [small, last]),
        *settled(CANCELLED, [big, late], [FULL, FULL]),
    ]
    assert rig.machine.ledger.pending == 2


def test_a_countdown_is_waited_for() -> None:
    rig, task = Rig(), single(10, countdown=5.0)
    assert rig.say(CLIENT, Submit([task])) == [Record(ACCEPTED, [task])]
    assert (task.state, rig.machine.next_deadline()) == (SCHEDULED, 105.0)
    rig.now = 104.9
    assert rig.turn() == []
    rig.now = 105.0
    assert rig.turn() == [Send(1, Run(0, [task]))]


def test_a_need_that_was_settled_before_comes_with_the_submit() -> None:
    task = single(10, needs=(3, 3))
    effects = Rig().say(CLIENT, Submit([task], known={3: (SUCCEEDED, Value(b"three"))}))
    assert effects == [Record(ACCEPTED, [task]), Send(1, Run(0, [task]))]
    assert task.inputs == (Value(b"three"), Value(b"three"))


def test_a_need_that_is_settled_in_the_same_turn_is_not_missed() -> None:
    rig, first, items = Rig(), single(10), span(20, 2)
    rig.given(first, items)
    task = single(30, needs=(10, 21))
    rig.machine.receive(1, Done(0, [b"a"], parts=[Part(1, 0, 2, failed=False, payload=b"[bc]")]), rig.now)
    effects = rig.say(CLIENT, Submit([task]))
    assert effects[-1] == Send(1, Run(2, [task]))
    assert task.inputs == (Value(b"a"), Value(b"[bc]", 1))


@pytest.mark.parametrize("known", [{}, {3: (FAILED, b"boom")}])
def test_a_need_that_failed_or_never_was_ends_the_task(known: dict[int, Any]) -> None:
    task = single(10, needs=(3,))
    why = (3, FAILED, b"boom") if known else (3, UPSTREAM_FAILED, "no such task")
    assert Rig().say(CLIENT, Submit([task], known)) == [
        Record(ACCEPTED, [task]),
        *settled(UPSTREAM_FAILED, [task], [why]),
    ]


# ---- outcomes -------------------------------------------------------------------------------------------------------


def test_outcomes_by_ordinal() -> None:
    rig, tasks = Rig(), [single(10), single(11), single(12)]
    rig.given(*tasks)
    assert rig.say(1, Done(0, [b"a", b"x", b"c"], failed=[1])) == [
        Record(SETTLED, [tasks[0], tasks[2]], SUCCEEDED, [b"a", b"c"]),
        Record(SETTLED, [tasks[1]], FAILED, [b"x"]),
        Settle(SUCCEEDED, [tasks[0], tasks[2]], [b"a", b"c"]),
        Settle(FAILED, [tasks[1]], [b"x"]),
    ]


def test_an_outcome_counts_once_and_only_under_the_current_lease() -> None:
    rig, task = Rig(), single(10)
    rig.given(task)
    done = Done(0, [b"a"])
    assert rig.say(2, done) == []  # nobody knows that peer
    assert rig.say(1, Returned([(0, 0, 1)])) == [Send(1, Run(1, [task]))]
    assert rig.say(1, done) == []  # it was taken back, and is out under another ordinal
    assert rig.say(1, Done(1, [b"a"]), Done(1, [b"a"])) == settled(SUCCEEDED, [task], [b"a"])
    assert rig.say(1, Done(1, [b"a"])) == []


@pytest.mark.parametrize("order", ["first second", "second first", "first second first second"])
def test_parts_of_a_span_in_any_order_each_once(order: str) -> None:
    rig, task = Rig(), span(10, 4)
    rig.given(task)
    parts = {
        "first": Part(0, 0, 2, failed=False, payload=[1, 2]),
        "second": Part(0, 2, 1, failed=True, payload=b"x"),
    }
    effects = rig.say(1, Done(0, [], parts=[parts[name] for name in order.split()]))
    settles = [effect for effect in effects if type(effect) is Settle]
    assert sorted((e.tasks[0].id, e.tasks[0].offset, e.tasks[0].count, e.state) for e in settles) == [
        (10, 0, 2, SUCCEEDED),
        (12, 2, 1, FAILED),
    ]
    assert len(settles) == 2
    assert [(task.id, task.offset, task.count) for task in rig.machine.ledger.tasks.values()] == [(13, 3, 1)]
    assert list(rig.machine.peers[1].hand) == [0]
    assert Settle(SUCCEEDED, [task], [[4]]) in rig.say(1, Done(0, [], parts=[Part(0, 3, 1, False, [4])]))


def test_an_outcome_goes_to_those_that_wait_for_it() -> None:
    rig, first, items = Rig(), single(10), span(20, 3)
    rig.given(first, items)
    body = single(30, needs=(22, 10))
    assert rig.say(CLIENT, Submit([body])) == [Record(ACCEPTED, [body])]
    assert body.state == WAITING
    rig.say(1, Done(0, [b"a"]))
    assert body.state == WAITING
    *_, run = rig.say(1, Done(0, [], parts=[Part(1, 0, 3, failed=False, payload=b"[xyz]")]))
    assert run == Send(1, Run(2, [body]))
    assert body.inputs == (Value(b"[xyz]", 2), Value(b"a"))


def test_a_failure_ends_all_that_depends_on_it_once() -> None:
    rig, first = Rig(), single(10)
    rig.given(first)
    chain = [single(11, needs=(10, 10)), single(12, needs=(11,)), single(13, needs=(12, 10))]
    rig.say(CLIENT, Submit(chain))
    effects = rig.say(1, Done(0, [b"boom"], failed=[0]))
    settles = {effect.tasks[0].id: effect.payloads[0] for effect in effects if isinstance(effect, Settle)}
    assert len(effects) == 8
    assert settles[10] == b"boom"
    assert settles[11] == (10, FAILED, b"boom")
    assert settles[12] == (10, FAILED, b"boom")
    assert settles[13][0] in (10, 12)


# ---- taking back ----------------------------------------------------------------------------------------------------


def test_what_comes_back_is_dealt_again_in_its_order() -> None:
    rig, tasks = Rig(), [single(id_) for id_ in range(10, 14)]
    rig.given(*tasks)
    assert rig.say(1, Returned([(2, 0, 1), (3, 0, 1)])) == [Send(1, Run(4, tasks[2:]))]
    assert rig.say(1, Returned([(2, 0, 1), (9, 0, 1), (4, 0, 7), (4, 0, 0), (4, 1, 1)])) == []


def test_a_span_comes_back_from_its_end() -> None:
    rig, task = Rig(), span(10, 5)
    rig.given(task)
    [run] = rig.say(1, Returned([(0, 2, 3)]))
    assert [(part.id, part.offset, part.count) for part in run.message.tasks] == [(12, 2, 3)]
    hand = rig.machine.peers[1].hand
    assert [(part.id, part.offset, part.count) for part in hand.values()] == [(10, 0, 2), (12, 2, 3)]


def test_an_overdue_hand_is_recalled_and_gets_no_more_until_it_moves() -> None:
    rig, tasks = Rig(), [single(10), single(11)]
    rig.given(*tasks)
    deadline = rig.machine.next_deadline()
    assert deadline == pytest.approx(rig.now + 2 * 2e-6 + GRACE_S)
    rig.now = deadline
    assert rig.turn() == [Send(1, Recall())]
    assert rig.turn() == []
    assert rig.say(1, Returned([(1, 0, 1)])) == []
    assert rig.say(2, Joined()) == [Send(2, Run(0, [tasks[1]]))]
    new = single(12)
    assert rig.say(CLIENT, Submit([new]))[1:] == [Send(2, Run(1, [new]))]
    more = single(13)
    rig.say(2, Done(0, [b"", b""]))
    assert rig.say(1, Done(0, [b""]))[:1] == [Record(SETTLED, [tasks[0]], SUCCEEDED, [b""])]
    assert rig.say(CLIENT, Submit([more]))[1:] == [Send(1, Run(2, [more]))]


def test_a_peer_that_returns_all_it_has_is_not_overdue() -> None:
    rig, tasks = Rig(), [single(10), single(11)]
    rig.given(*tasks)
    rig.now += 1.0
    assert rig.turn() == [Send(1, Recall())]
    assert rig.say(1, Returned([(0, 0, 1), (1, 0, 1)])) == [Send(1, Run(2, tasks))]


def test_an_idle_peer_takes_from_a_rich_one_once() -> None:
    rig = Rig()
    rig.machine._dealer.pace.note(8, 1, 0.01)
    rig.given(single(10, fn=8), single(11, fn=8))
    assert rig.say(2, Joined()) == [Send(1, Recall())]
    assert rig.turn() == []
    assert rig.say(1, Returned([])) == []  # nothing to be had: no use in asking again
    assert rig.say(3, Joined()) == []


def test_a_higher_priority_takes_back_what_is_lower() -> None:
    rig = Rig()
    rig.machine._dealer.pace.note(8, 1, 0.01)
    low, urgent = [single(10, fn=8), single(11, fn=8)], single(12, fn=8, priority=9)
    rig.given(*low)
    assert rig.say(CLIENT, Submit([urgent])) == [Record(ACCEPTED, [urgent]), Send(1, Recall())]
    assert rig.say(1, Returned([(1, 0, 1)])) == [Send(1, Run(2, [urgent]))]  # next, behind what runs
    assert rig.say(1, Done(0, [b""]))[-1] == Send(1, Run(3, [low[1]]))


# ---- waiting --------------------------------------------------------------------------------------------------------


def test_a_waiting_peer_is_given_nothing_and_takes_no_slot() -> None:
    rig, parent, sub = Rig(peers=2, slots=1), single(10), single(11)
    rig.given(parent)
    assert rig.say(CLIENT, Submit([sub])) == [Record(ACCEPTED, [sub]), Send(1, Run(1, [sub]))]
    assert rig.say(1, Returned([(1, 0, 1)]), Waiting()) == [Send(2, Run(0, [sub]))]
    assert rig.say(2, Done(0, [b""])) == settled(SUCCEEDED, [sub], [b""])
    late = single(12)
    assert rig.say(1, Resumed()) == []
    assert rig.say(CLIENT, Submit([late]))[1:] == [], "nothing is in hand behind a task that may wait again"
    assert rig.say(1, Done(0, [b""]))[2:] == [Send(1, Run(2, [late]))]


def test_what_crossed_the_word_of_a_wait_is_recalled() -> None:
    rig, parent, sub = Rig(), single(10), single(11)
    rig.given(parent)
    rig.say(1, Submit([sub]))
    assert rig.say(1, Returned([]), Waiting()) == [Send(1, Recall())]


def test_too_many_must_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waits, "WAITING_MAX", 1)
    rig = Rig(peers=2)
    assert rig.say(1, Waiting()) == []
    assert rig.say(2, Waiting()) == [Send(2, Deep())]
    assert rig.say(9, Waiting(), Resumed(), Returned([]), Lost("gone")) == []


# ---- a peer is lost -------------------------------------------------------------------------------------------------


def test_only_what_ran_is_blamed_and_all_is_dealt_again() -> None:
    rig, tasks = Rig(), [single(10), single(11), single(12)]
    rig.given(*tasks)
    rig.say(2, Joined())
    assert rig.say(1, Lost("gone", ordinal=1)) == [Record(DELIVERED, [tasks[1]]), Send(2, Run(0, tasks))]
    assert [task.deliveries for task in tasks] == [0, 1, 0]
    assert rig.say(1, Lost("gone", ordinal=1), Done(0, [b"late"]), Returned([(0, 0, 1)])) == []


def test_of_a_span_the_item_is_blamed() -> None:
    rig = Rig(peers=0)
    rig.say(1, Joined())
    rig.given(span(10, 5))
    rig.say(1, Lost("gone", ordinal=0, item=2))
    tasks = rig.machine.ledger.ready.tasks()
    assert [(task.id, task.offset, task.count, task.deliveries) for task in tasks] == [
        (10, 0, 2, 0),
        (12, 2, 1, 1),
        (13, 3, 2, 0),
    ]


def test_an_item_that_is_through_is_not_blamed_nor_the_next() -> None:
    rig = Rig()
    rig.given(span(10, 5))
    rig.say(1, Done(0, [], parts=[Part(0, 0, 3, failed=False, payload=[1, 2, 3])]))
    assert rig.say(1, Lost("gone", ordinal=0, item=2)) == []
    assert [(task.id, task.count, task.deliveries) for task in rig.machine.ledger.tasks.values()] == [
        (13, 2, 0)
    ]


def test_dead_after_as_many_deliveries_as_allowed() -> None:
    rig, task = Rig(peers=2), single(10, max_deliveries=2)
    rig.given(task)
    assert rig.say(1, Lost("one", ordinal=0)) == [Record(DELIVERED, [task]), Send(2, Run(0, [task]))]
    body = single(11, needs=(10,))
    rig.say(CLIENT, Submit([body]))
    effects = rig.say(2, Lost("two", ordinal=0))
    assert effects[::2] == settled(DEAD, [task], ["two"])
    assert effects[1::2] == settled(UPSTREAM_FAILED, [body], [(10, DEAD, "two")])


# ---- cancelling -----------------------------------------------------------------------------------------------------


def test_cancelling_what_nobody_knows() -> None:
    assert Rig().say(CLIENT, Cancel(10, terminate=True, token="t")) == [Answer("t", cancelled=False)]


@pytest.mark.parametrize("options", [{}, {"countdown": 5.0}, {"needs": (1,)}])
def test_cancelling_what_is_in_no_hand(options: dict[str, Any]) -> None:
    rig, task = Rig(peers=0), single(10, **options)
    rig.say(CLIENT, Submit([single(1), task]))
    assert rig.say(CLIENT, Cancel(10, terminate=False, token="t")) == [
        *settled(CANCELLED, [task], [CANCELLED_EARLY]),
        Answer("t", cancelled=True),
    ]
    assert rig.machine.next_deadline() is None


@pytest.mark.parametrize("id_", [10, 12, 14])
@pytest.mark.parametrize("state", [QUEUED, SCHEDULED, WAITING])
def test_cancelling_one_of_a_span_leaves_its_neighbours_where_they_are(id_: int, state: int) -> None:
    rig, task, last = Rig(peers=0), span(10, 5, countdown=5.0 if state == SCHEDULED else 0.0), single(20)
    task.needs = (1,) if state == WAITING else ()
    rig.say(CLIENT, Submit([single(1), task, last]))
    effects = rig.say(CLIENT, Cancel(id_, terminate=False, token="t"))
    assert [(one.id, one.count) for one in effects[0].tasks] == [(id_, 1)]
    assert effects[-1] == Answer("t", cancelled=True)
    rest = [one for one in rig.machine.ledger.tasks.values() if one.span]
    assert {one.state for one in rest} == {state}
    assert sorted(one.id + item for one in rest for item in range(one.count)) == [
        i for i in range(10, 15) if i != id_
    ]
    queued = [one.id for one in rig.machine.ledger.ready.tasks()]
    assert queued == sorted(queued)
    rig.say(1, Joined(), after=5.0)
    rig.say(1, Done(0, [b"one"]))
    assert {one.state for one in rest} == {LEASED}
    if state == WAITING:
        assert {one.inputs for one in rest} == {(Value(b"one"),)}


def test_cancelling_what_may_have_started() -> None:
    rig, tasks = Rig(), [single(10), single(11)]
    rig.given(*tasks)
    assert rig.say(CLIENT, Cancel(11, terminate=False, token="b")) == [Send(1, Recall())]
    assert rig.say(CLIENT, Cancel(10, terminate=False, token="a")) == []
    effects = rig.say(1, Returned([(1, 0, 1)]))
    assert effects == [
        *settled(CANCELLED, [tasks[1]], [CANCELLED_EARLY]),
        Answer("b", cancelled=True),
        Send(1, Recall()),
    ]
    assert rig.say(1, Returned([])) == [Send(1, Unwanted(10)), Answer("a", cancelled=False)]
    assert rig.say(CLIENT, Cancel(10, terminate=False, token="c")) == [
        Send(1, Unwanted(10)),
        Answer("c", cancelled=False),
    ]


def test_cancelling_by_force_ends_the_peer_and_nothing_else() -> None:
    rig, task = Rig(peers=2), single(10)
    rig.given(task)
    assert rig.say(CLIENT, Cancel(10, terminate=True, token="t")) == [Send(1, Recall())]
    assert rig.say(1, Returned([])) == [End(1)]
    other = single(11)
    assert rig.say(CLIENT, Submit([other]))[1:] == [Send(2, Run(0, [other]))]
    assert rig.say(1, Lost("killed", ordinal=0)) == [
        *settled(CANCELLED, [task], ["cancelled while it was running"]),
        Answer("t", cancelled=True),
    ]


def test_a_kill_that_comes_too_late_leaves_the_outcome() -> None:
    rig, task = Rig(), single(10)
    rig.given(task)
    rig.say(CLIENT, Cancel(10, terminate=True, token="t"))
    assert rig.say(1, Returned([])) == [End(1)]
    assert rig.say(1, Done(0, [b"a"])) == settled(SUCCEEDED, [task], [b"a"])
    assert rig.say(1, Lost("killed")) == [Answer("t", cancelled=False)]


def test_nobody_is_killed_while_outcomes_are_on_their_way() -> None:
    rig, tasks = Rig(), [single(10), single(11)]
    rig.given(*tasks)
    rig.say(CLIENT, Cancel(10, terminate=True, token="t"))
    assert rig.say(1, Returned([])) == []  # 10 is through or runs, so is 11: it may be the one that runs
    assert rig.machine.next_deadline() == rig.now + STEAL_S
    assert rig.say(1, Done(0, [b"a"])) == [
        *settled(SUCCEEDED, tasks[:1], [b"a"]),
        Answer("t", cancelled=False),
    ]
    rig.say(CLIENT, Cancel(11, terminate=True, token="u"))
    assert rig.say(1, Returned([])) == [End(1)]


def test_a_question_is_asked_again_if_nothing_comes() -> None:
    rig = Rig()
    rig.given(single(10), single(11))
    rig.say(CLIENT, Cancel(10, terminate=True, token="t"))
    rig.say(1, Returned([]))
    rig.now += STEAL_S
    assert rig.turn() == [Send(1, Recall())]


def test_a_question_is_answered_when_the_peer_is_lost() -> None:
    rig, tasks = Rig(), [single(10), single(11)]
    rig.given(*tasks)
    rig.say(CLIENT, Cancel(11, terminate=False, token="t"))
    assert rig.say(1, Lost("gone", ordinal=0)) == [
        Record(DELIVERED, [tasks[0]]),
        *settled(CANCELLED, [tasks[1]], [CANCELLED_EARLY]),
        Answer("t", cancelled=True),
    ]


def test_a_range_is_cancelled_as_far_as_it_has_not_started() -> None:
    rig, tasks = Rig(peers=2), [span(10, 4), single(14, countdown=9.0), single(15)]
    rig.given(tasks[0], tasks[2])
    rig.say(CLIENT, Submit([tasks[1]]))
    effects = rig.say(CLIENT, Cancel(10, terminate=False, token=None, count=5))
    assert effects[:2] == settled(CANCELLED, [tasks[1]], [CANCELLED_EARLY])
    assert sorted(effects[2:]) == [Send(1, Recall()), Send(2, Recall())]
    asked = [peer.questions for peer in rig.machine.peers.values()]
    assert [len(questions) for questions in asked] == [1, 1]
    rig.say(1, Returned([(0, 0, 1)]))
    # However often it is looked at.
    assert max(len(peer.questions) for peer in rig.machine.peers.values()) == 1


# ---- the contract ---------------------------------------------------------------------------------------------------


def test_a_move_outside_the_table_stops_the_machine() -> None:
    rig, task = Rig(peers=0), single(10)
    rig.say(CLIENT, Submit([task]))
    with pytest.raises(AssertionError, match="cannot go"):
        rig.machine.ledger.move(task, WAITING)
    with pytest.raises(AssertionError, match="cannot go"):
        rig.machine.ledger.settle(SUCCEEDED, [task], [b""])


@pytest.mark.parametrize("spoil", ["state", "peer", "hand", "items", "counts", "size"])
def test_check_sees_what_is_wrong(spoil: str) -> None:
    rig, task = Rig(), single(10)
    rig.given(task)
    match spoil:
        case "state":
            task.state = QUEUED
        case "peer":
            task.peer = 2
        case "hand":
            rig.machine.peers[1].hand.clear()
        case "items":
            rig.machine.peers[1].items += 1
        case "counts":
            rig.machine.ledger.counts[SUCCEEDED] += 1
        case "size":
            rig.machine.ledger.ready.size += 1
    with pytest.raises((AssertionError, KeyError)):
        rig.machine.check()


def test_nothing_to_do_is_no_effect_and_no_deadline() -> None:
    rig = Rig()
    assert rig.turn() == []
    assert rig.machine.next_deadline() is None


# ---- silence --------------------------------------------------------------------------------------------------------


def beating(rig: Rig, *peers: int, seconds: float) -> list[Any]:
    """A beat of each of `peers` every quarter of a second; all effects."""
    effects = []
    for _ in range(int(seconds * 4)):
        effects += rig.say(*((peers[0], Beat()) if peers else (CLIENT,)), after=0.25)
    return effects


def test_who_falls_silent_is_given_up_and_what_it_had_goes_elsewhere() -> None:
    rig = Rig(peers=2, silence_s=1.0)
    first, second = single(10, fn=8), single(11, fn=8)
    rig.given(first, second)
    assert (first.peer, second.peer) == (1, 2)
    assert beating(rig, 2, seconds=0.75) == []
    assert rig.say(2, Beat(), after=0.25) == [End(1)]
    assert list(rig.machine.peers) == [2]
    assert (first.state, first.deliveries) == (QUEUED, 0)  # nobody knows what ran there: nobody is blamed
    effects = rig.say(2, Done(0, [b"value"], pace=[(8, 1, 0.01)]))
    assert Send(2, Run(1, [first])) in effects


def test_what_a_peer_says_after_it_was_given_up_means_nothing() -> None:
    rig = Rig(peers=2, silence_s=1.0)
    task = single(10)
    rig.given(task)
    assert task.peer == 1
    assert End(1) in beating(rig, 2, seconds=1.0)
    assert rig.say(1, Done(0, [b"late"])) == []
    assert rig.say(1, Returned([(0, 0, 1)]), Waiting(), Beat()) == []
    assert (task.state, task.peer) == (LEASED, 2)


def test_any_word_counts() -> None:
    rig = Rig(peers=1, silence_s=1.0)
    for message in (Resumed(), Returned([]), Done(0, []), Beat()):
        assert End(1) not in rig.say(1, message, after=0.9)


def test_the_next_deadline_looks_at_who_is_silent() -> None:
    assert Rig(peers=1).machine.next_deadline() is None
    assert Rig(peers=0, silence_s=1.0).machine.next_deadline() is None
    rig = Rig(peers=1, silence_s=1.0)
    assert rig.machine.next_deadline() == rig.now + 0.25


def test_a_process_that_has_stood_still_does_not_take_the_others_for_silent() -> None:
    rig = Rig(peers=2, silence_s=1.0)
    rig.now += 60.0
    assert rig.turn() == []  # they may have said much since: it is on its way in
    assert rig.say(1, Beat(), after=0.25) == []
    assert End(2) in beating(rig, 1, seconds=1.0)


def test_a_cancel_that_waits_for_a_silent_peer_is_answered() -> None:
    rig = Rig(peers=2, silence_s=1.0)
    task = single(10)
    rig.given(task)
    rig.say(CLIENT, Cancel(10, terminate=False, token="asked"))
    assert Answer("asked", cancelled=True) in beating(rig, 2, seconds=1.0)
    assert task.state == CANCELLED
