"""Joins: who ends them and with what, what is forsaken, what goes first, and whose outcome takes whose place."""

from __future__ import annotations

from typing import Any

import pytest
from test_core_dispatch import CLIENT, Rig

from zmqtasks.core.assembly import ABANDONED, LEFT, MISFIT, NESTED_MAX, TOO_DEEP
from zmqtasks.core.cancels import EARLY
from zmqtasks.core.effects import RELEASED, Answer, End, Record, Send, Settle
from zmqtasks.core.results import end as end_result
from zmqtasks.core.results import known
from zmqtasks.members import Closed, Gathered, Gone, Lapse, Members
from zmqtasks.messages import (
    CANCELLED,
    DEAD,
    EXPIRED,
    FAILED,
    FINAL_FROM,
    FULL,
    JOIN,
    LEASED,
    QUEUED,
    RETRYING,
    SCHEDULED,
    SUCCEEDED,
    UNHURT,
    UPSTREAM_FAILED,
    WAITING,
    Ask,
    Cancel,
    Done,
    Joined,
    Lost,
    Part,
    Recall,
    Returned,
    Run,
    Submit,
    Task,
    Unwanted,
    Value,
)
from zmqtasks.options import Options, RetryRule

ROOT = 900
DEADLY = "its worker was lost"
ENDS = {
    FAILED: b"boom",
    DEAD: DEADLY,
    EXPIRED: "it had not started 1 s after its submit",
    UPSTREAM_FAILED: (7, FAILED, b"before"),
    CANCELLED: EARLY,
}
"""The ends of a member that has not succeeded, with what `bring` makes of them."""


def join(id_: int, count: int | None, failure: str = "fail_fast", **more: Any) -> Task:
    return Task(id_, JOIN, Members(count, failure), **{"root": ROOT, **more})


def work(id_: int, *parent: int, **more: Any) -> Task:
    """Return a task of the workflow; `parent` is its join and the index there."""
    return Task(id_, 7, b"payload", parent=parent or None, **{"root": ROOT, **more})


def ends(effects: list[Any]) -> dict[int, tuple[int, Any]]:
    """What is settled: by id the state and the payload; each once."""
    found: dict[int, tuple[int, Any]] = {}
    for effect in effects:
        if isinstance(effect, Settle):
            for task, payload in zip(effect.tasks, effect.payloads, strict=True):
                assert task.id not in found
                found[task.id] = effect.state, payload
    return found


def runs(effects: list[Any]) -> list[int]:
    """What is handed out, in its order."""
    sends = [effect.message for effect in effects if isinstance(effect, Send)]
    return [task.id for message in sends if isinstance(message, Run) for task in message.tasks]


def released(effects: list[Any]) -> list[int]:
    records = [effect for effect in effects if isinstance(effect, Record)]
    return [task.id for record in records if record.kind == RELEASED for task in record.tasks]


class Flow(Rig):
    """A rig whose tasks are ended one by one."""

    def submit(self, *tasks: Task, known: dict[int, Any] | None = None) -> list[Any]:
        return self.say(CLIENT, Submit(list(tasks), known or {}))

    def done(self, task: Task, payload: Any = None, *, failed: bool = False) -> list[Any]:
        """Its worker says how it ended."""
        payload = payload or (b"boom" if failed else b"%d" % task.id)
        return self.say(task.peer, Done(task.ordinal, [payload], [0] if failed else []))

    def cancel(self, id_: int, *, terminate: bool = False) -> list[Any]:
        return self.say(CLIENT, Cancel(id_, terminate, "token"))

    def bring(self, task: Task, state: int) -> dict[int, tuple[int, Any]]:
        """Have `task`, which is the only one that can run, end in `state`: what is settled then."""
        if state == CANCELLED:
            return ends(self.cancel(task.id))
        if state == EXPIRED:
            self.now += 1.0
            return ends(self.turn())
        effects = self.say(1, Joined())
        assert runs(effects) == [task.id]
        if state == DEAD:
            return ends(self.say(1, Lost(DEADLY, task.ordinal)))
        return ends(self.done(task, failed=state == FAILED))


def doomed(id_: int, *parent: int, state: int) -> tuple[Task, dict[int, Any]]:
    """Return a task that can be brought to `state`, and what is known of what it needs."""
    options = Options(expires=1.0 if state == EXPIRED else None, max_deliveries=1)
    needs = (7,) if state == UPSTREAM_FAILED else ()
    return work(id_, *parent, options=options, needs=needs), {7: (FAILED, b"before")}


# ---- joins ----------------------------------------------------------------------------------------------------------


def test_a_join_gathers_its_members_in_the_order_of_their_places() -> None:
    flow, root = Flow(peers=3), join(ROOT, 3)
    first, second, third = (work(10 + at, ROOT, at) for at in range(3))
    flow.submit(root, first, second, third)
    assert root.state == WAITING
    assert not ends(flow.done(third)).keys() & {ROOT}
    assert not ends(flow.done(first)).keys() & {ROOT}
    assert ends(flow.done(second))[ROOT] == (
        SUCCEEDED,
        Gathered([Value(b"10"), Value(b"11"), Value(b"12")]),
    )
    assert flow.machine.ledger.joins.assemblies == {}


def test_spans_are_gathered_by_the_piece_however_they_are_cut() -> None:
    flow, root = Flow(peers=2), join(ROOT, 7)
    span = Task(20, 7, b"items", count=6, span=True, parent=(ROOT, 1), root=ROOT)
    single = work(10, ROOT, 0)
    flow.submit(root, single, span)
    parts = [task for peer in flow.machine.peers.values() for task in peer.hand.values() if task.span]
    assert len(parts) > 1  # it was cut for two
    assert sorted(part.parent[1] - part.offset for part in parts if part.parent) == [1] * len(parts)
    for part in parts:
        flow.say(
            part.peer,
            Done(0, [], parts=[Part(part.ordinal, part.offset, part.count, False, b"%d" % part.offset)]),
        )
    gathered = ends(flow.done(single))[ROOT][1]
    assert gathered.values[0] == Value(b"10")
    assert [(value.payload, value.index, value.count) for value in gathered.values[1:]] == [
        (b"%d" % offset, 0, count) for offset, count in sorted((part.offset, part.count) for part in parts)
    ]


def test_a_join_of_none_succeeds_at_once_and_a_body_gets_what_it_gathered() -> None:
    flow, body = Flow(), work(ROOT, needs=(10,))
    effects = flow.submit(join(10, 0), body)
    assert ends(effects) == {10: (SUCCEEDED, Gathered([]))}
    assert runs(effects) == [ROOT]
    assert body.inputs == (Value(Gathered([])),)


def test_a_join_with_needs_waits_for_those_too() -> None:
    flow, step = Flow(), work(10)
    flow.submit(step, join(20, 0, needs=(10,)), body := work(ROOT, needs=(20,)))
    assert body.state == WAITING
    assert ends(flow.done(step)) == {10: (SUCCEEDED, b"10"), 20: (SUCCEEDED, Gathered([]))}
    assert body.state == LEASED
    flow.submit(step := work(11), join(21, 1, needs=(11,)), member := work(12, 21, 0, needs=(11,)))
    flow.done(step, failed=True)
    assert member.state == UPSTREAM_FAILED
    assert 21 not in flow.machine.ledger.tasks


def test_joins_within_joins_gather_lists_of_lists() -> None:
    flow = Flow(peers=2)
    flow.submit(join(ROOT, 2), join(20, 1, parent=(ROOT, 1)), a := work(10, ROOT, 0), b := work(21, 20, 0))
    flow.done(a)
    found = ends(flow.done(b))
    assert found[20] == (SUCCEEDED, Gathered([Value(b"21")]))
    assert found[ROOT] == (SUCCEEDED, Gathered([Value(b"10"), Value(Gathered([Value(b"21")]))]))


@pytest.mark.parametrize("state", ENDS)
def test_fail_fast_ends_with_the_first_failure_as_that_ended(state: int) -> None:
    flow, root = Flow(peers=0), join(ROOT, 2)
    member, known_ = doomed(10, ROOT, 0, state=state)
    other = Task(11, 7, b"payload", Options(countdown=50), parent=(ROOT, 1), root=ROOT)
    found = ends(flow.submit(root, other, member, known=known_))
    if state != UPSTREAM_FAILED:
        found = flow.bring(member, state)
    expected = (UPSTREAM_FAILED, (10, CANCELLED, EARLY)) if state == CANCELLED else (state, ENDS[state])
    assert found == {10: (state, ENDS[state]), ROOT: expected, 11: (CANCELLED, LEFT)}


@pytest.mark.parametrize("state", ENDS)
def test_wait_fails_with_all_lapses_when_all_have_ended(state: int) -> None:
    flow, root = Flow(peers=0), join(ROOT, 2, "wait")
    member, known_ = doomed(10, ROOT, 1, state=state)
    other = Task(11, 7, b"payload", Options(countdown=50), parent=(ROOT, 0), root=ROOT)
    flow.submit(root, other, member, known=known_)
    if state != UPSTREAM_FAILED:
        assert ROOT not in flow.bring(member, state)
    assert root.state == WAITING
    assert ends(flow.cancel(11))[ROOT] == (
        FAILED,
        Gathered([Lapse(11, CANCELLED, EARLY), Lapse(10, state, ENDS[state])]),
    )


@pytest.mark.parametrize("state", ENDS)
def test_collect_has_lapses_in_their_places(state: int) -> None:
    flow, root = Flow(peers=0), join(ROOT, 2, "collect")
    member, known_ = doomed(10, ROOT, 1, state=state)
    other = Task(11, 7, b"payload", Options(countdown=50), parent=(ROOT, 0), root=ROOT)
    flow.submit(root, other, member, known=known_)
    if state != UPSTREAM_FAILED:
        assert ROOT not in flow.bring(member, state)
    flow.now += 60.0
    if not flow.machine.peers:
        flow.say(9, Joined())
    flow.turn()
    assert ends(flow.done(other))[ROOT] == (
        SUCCEEDED,
        Gathered([Value(b"11"), Lapse(10, state, ENDS[state])]),
    )


@pytest.mark.parametrize("state", [SUCCEEDED, *ENDS])
def test_catch_is_there_for_a_failure_and_for_nothing_else(state: int) -> None:
    flow = Flow(peers=0)
    task, known_ = doomed(10, state=state)
    catch, alarm = join(20, 1, "catch", needs=(10,)), Task(30, 7, b"payload", needs=(20,))
    after = Task(31, 7, b"payload", needs=(30,))
    found = ends(flow.submit(task, catch, alarm, after, known=known_))
    if state != UPSTREAM_FAILED:
        found = flow.bring(task, state)
    if state in (SUCCEEDED, CANCELLED):
        unhurt = (CANCELLED, UNHURT)
        assert {id_: found[id_] for id_ in (20, 30, 31)} == {20: unhurt, 30: unhurt, 31: unhurt}
    else:
        assert found[20] == (SUCCEEDED, Gathered([Lapse(10, state, ENDS[state])]))
        assert alarm.inputs == (Value(found[20][1]),)
        assert alarm.state in (QUEUED, LEASED)


def test_a_catch_of_a_join_hears_of_it_once() -> None:
    flow = Flow(peers=2)
    members = [work(10 + at, ROOT, at) for at in range(2)]
    flow.submit(join(ROOT, 2, "wait"), *members, join(20, 1, "catch", needs=(ROOT,), root=-1))
    flow.done(members[0], failed=True)
    lapses = Gathered([Lapse(10, FAILED, b"boom"), Lapse(11, FAILED, b"boom")])
    assert ends(flow.done(members[1], failed=True))[20] == (
        SUCCEEDED,
        Gathered([Lapse(ROOT, FAILED, lapses)]),
    )


def test_what_a_failure_leaves_of_a_span_lapses_item_by_item() -> None:
    flow, root = Flow(peers=0), join(ROOT, 3, "collect")
    span = Task(20, 7, b"items", count=3, span=True, parent=(ROOT, 0), root=ROOT)
    flow.submit(root, span)
    assert ends(flow.say(CLIENT, Cancel(20, False, None, 3)))[ROOT] == (
        SUCCEEDED,
        Gathered([Lapse(20 + at, CANCELLED, EARLY) for at in range(3)]),
    )


def test_a_retry_is_no_end() -> None:
    flow, root = Flow(), join(ROOT, 1)
    member = work(10, ROOT, 0, options=Options(retry=RetryRule(max=1, delay=1.0, jitter="none")))
    flow.submit(root, member)
    ask = Ask(member.ordinal, text="boom")
    assert ends(flow.say(1, Done(member.ordinal, [b"boom"], [0], asks=[ask]))) == {}
    assert (member.state, root.state) == (RETRYING, WAITING)
    flow.now += 1.0
    flow.turn()
    assert ends(flow.done(member))[ROOT] == (SUCCEEDED, Gathered([Value(b"10")]))


# ---- open joins -----------------------------------------------------------------------------------------------------


def test_an_open_join_ends_when_it_is_closed_and_complete() -> None:
    flow, root = Flow(peers=2), join(ROOT, None)
    flow.submit(root, a := work(10, ROOT, 0))
    assert ROOT not in ends(flow.done(a))
    flow.submit(b := work(11, ROOT, 1))
    assert ends(flow.say(CLIENT, Closed(ROOT, 2))) == {}
    assert ends(flow.done(b))[ROOT] == (SUCCEEDED, Gathered([Value(b"10"), Value(b"11")]))
    assert flow.say(CLIENT, Closed(ROOT, 2)) == []


def test_the_word_that_it_is_closed_travels_behind_the_members() -> None:
    flow, root = Flow(), join(ROOT, None)
    closed = Task(ROOT, JOIN, Closed(ROOT, 1), root=ROOT)
    flow.submit(root, member := work(10, ROOT, 0), closed)
    assert ends(flow.done(member))[ROOT] == (SUCCEEDED, Gathered([Value(b"10")]))
    assert flow.machine.ledger.submitted == 2
    flow.submit(join(20, None, root=20), Task(20, JOIN, Closed(20, 0), root=20))
    assert 20 not in flow.machine.ledger.tasks


@pytest.mark.parametrize("count", [0, 2])
def test_an_open_join_that_is_closed_with_another_count_is_cancelled(count: int) -> None:
    flow = Flow(peers=0)
    flow.submit(join(ROOT, None), work(10, ROOT, 0))
    assert ends(flow.say(CLIENT, Closed(ROOT, count))) == {ROOT: (CANCELLED, MISFIT), 10: (CANCELLED, LEFT)}


@pytest.mark.parametrize("places", [(0, 0), (0, 2), (1, 2)])
def test_a_join_whose_members_do_not_fit_is_cancelled(places: tuple[int, int]) -> None:
    flow = Flow(peers=2)
    flow.submit(join(ROOT, 2), *(members := [work(10 + at, ROOT, place) for at, place in enumerate(places)]))
    flow.done(members[0])
    assert ends(flow.done(members[1]))[ROOT] == (CANCELLED, MISFIT)


def test_a_join_with_more_members_than_it_has_is_cancelled() -> None:
    flow = Flow(peers=0)
    found = ends(flow.submit(join(ROOT, 1), work(10, ROOT, 0), work(11, ROOT, 1)))
    assert found == {ROOT: (CANCELLED, MISFIT), 10: (CANCELLED, LEFT), 11: (CANCELLED, MISFIT)}
    assert ends(flow.submit(work(12, ROOT, 2))) == {12: (CANCELLED, LEFT)}


def test_who_is_gone_leaves_no_join_that_waits_for_ever() -> None:
    flow = Flow(peers=0)
    flow.submit(join(ROOT, None), work(10, ROOT, 0), join(800, 2, root=800), work(11, 800, 0, root=800))
    flow.submit(join(801, 1, root=801), whole := work(12, 801, 0, root=801), join(1800, None, root=1800))
    found = ends(flow.say(CLIENT, Gone(800, 200)))
    assert found.keys() == {ROOT, 10, 800, 11}
    assert found[ROOT] == found[800] == (CANCELLED, ABANDONED)
    assert whole.state == QUEUED
    assert flow.machine.ledger.tasks.keys() == {801, 12, 1800}


# ---- what is forsaken -----------------------------------------------------------------------------------------------


def test_what_has_not_started_is_cancelled_and_what_runs_finishes_unheard() -> None:
    flow, root = Flow(peers=2), join(ROOT, 4)
    members = [work(10 + at, ROOT, at) for at in range(4)]
    flow.submit(root, *members)
    held = {peer.id: list(peer.hand.values()) for peer in flow.machine.peers.values()}
    assert sum(map(len, held.values())) == 4
    first, behind = held[1]
    effects = flow.done(first, failed=True)
    assert ends(effects) == {first.id: (FAILED, b"boom"), ROOT: (FAILED, b"boom")}
    # What others have in hand is asked for: what has not started comes back, and is cancelled.
    assert {effect.peer for effect in effects if isinstance(effect, Send)} == {1, 2}
    runs_on, waits = held[2]
    effects = flow.say(2, Returned([(waits.ordinal, 0, 1)]))
    assert ends(effects) == {waits.id: (CANCELLED, LEFT)} or waits.state == CANCELLED
    assert ends(flow.done(runs_on)) == {runs_on.id: (SUCCEEDED, b"%d" % runs_on.id)}
    flow.say(1, Returned([]))
    assert behind.state == LEASED  # it has begun meanwhile
    assert ends(flow.done(behind, failed=True)) == {behind.id: (FAILED, b"boom")}
    assert not flow.machine.ledger.tasks


def test_what_nobody_hears_of_is_not_run_again() -> None:
    flow, root = Flow(peers=3), join(ROOT, 3)
    retry = Options(retry=RetryRule(max=5, delay=1.0))
    failing, again, lost = (
        work(10 + at, ROOT, at, options=retry if at == 1 else Options()) for at in range(3)
    )
    flow.submit(root, failing, again, lost)
    flow.done(failing, failed=True)
    found = ends(flow.say(again.peer, Done(again.ordinal, [b"no"], [0], asks=[Ask(again.ordinal)])))
    assert found == {11: (FAILED, b"no")}
    assert ends(flow.say(lost.peer, Lost("gone", lost.ordinal)))[12][0] == CANCELLED


def test_cancelling_the_root_cancels_what_is_left_all_the_way_down() -> None:
    flow = Flow(peers=0)
    chain = [work(10), work(11, needs=(10,))]
    flow.submit(
        join(20, 2), join(30, 1, parent=(20, 0)), inner := work(31, 30, 0), *chain,
        step := work(21, 20, 1, needs=(11,)), body := work(22, needs=(20,)), root := work(ROOT, needs=(22,)),
    )  # fmt: skip
    found = ends(flow.cancel(ROOT))
    assert found.pop(ROOT) == (CANCELLED, EARLY)
    assert found == dict.fromkeys((10, 11, 20, 21, 22, 30, 31), (CANCELLED, LEFT))
    assert {task.state for task in (*chain, inner, step, body, root)} == {CANCELLED}


def test_cancelling_with_force_ends_what_runs_for_it() -> None:
    flow = Flow(peers=1)
    flow.submit(running := work(10), work(ROOT, needs=(10,)))
    effects = flow.say(CLIENT, Cancel(ROOT, True, "token"))
    assert Answer("token", True) in effects
    assert [effect for effect in effects if isinstance(effect, Send)] == [Send(1, Recall())]
    assert flow.say(1, Returned([])) == [End(1)]
    assert ends(flow.say(1, Lost("killed", running.ordinal))) == {
        10: (CANCELLED, "cancelled while it was running")
    }


def test_cancelling_without_force_tells_what_runs() -> None:
    flow = Flow(peers=1)
    flow.submit(running := work(10), work(ROOT, needs=(10,)))
    flow.cancel(ROOT)
    assert flow.say(1, Returned([])) == [Send(1, Unwanted(10))]
    assert ends(flow.done(running)) == {10: (SUCCEEDED, b"10")}


def test_what_others_of_the_workflow_need_is_kept() -> None:
    flow = Flow(peers=0)
    shared, mine = work(10), work(11)
    flow.submit(shared, mine, a := work(20, needs=(10, 11)), b := work(21, needs=(10,)))
    assert ends(flow.cancel(20)).keys() == {20, 11}
    assert (shared.state, a.state, b.state) == (QUEUED, CANCELLED, WAITING)
    assert ends(flow.cancel(21)).keys() == {21, 10}


def test_what_a_user_passed_is_never_cancelled() -> None:
    flow = Flow(peers=0)
    own, others = Task(10, 7, b"payload"), work(11, root=800)
    flow.submit(own, others, root := work(ROOT, needs=(10, 11)))
    assert ends(flow.cancel(ROOT)).keys() == {ROOT}
    assert (own.state, others.state, root.state) == (QUEUED, QUEUED, CANCELLED)


def test_what_has_a_place_elsewhere_is_kept_for_that() -> None:
    flow = Flow(peers=0)
    flow.submit(root := join(ROOT, 1), member := work(10, ROOT, 0), taker := work(11, needs=(10,)))
    assert ends(flow.cancel(11)).keys() == {11}
    assert (root.state, member.state, taker.state) == (WAITING, QUEUED, CANCELLED)


def test_of_a_span_that_others_need_a_part_is_forsaken() -> None:
    flow = Flow(peers=0)
    span = Task(10, 7, b"items", count=3, span=True, root=ROOT)
    flow.submit(span, a := work(20, needs=(10, 11)), work(21, needs=(11,)))
    assert ends(flow.cancel(a.id)).keys() == {20, 10}
    assert [(task.id, task.count) for task in flow.machine.ledger.tasks.values() if task.span] == [(11, 2)]


def test_an_inner_failure_goes_up_to_the_root_and_names_what_failed() -> None:
    flow = Flow(peers=1)
    flow.submit(a := work(10), work(11, needs=(10,)), work(12, needs=(11,)), work(ROOT, needs=(12,)))
    found = ends(flow.done(a, failed=True))
    assert {found[id_] for id_ in (11, 12, ROOT)} == {(UPSTREAM_FAILED, (10, FAILED, b"boom"))}


def test_what_is_refused_ends_its_join() -> None:
    flow = Flow(peers=0, queue_max=2)
    found = ends(flow.submit(join(ROOT, 2), work(10, ROOT, 0), work(11, ROOT, 1)))
    assert found == {11: (CANCELLED, FULL), ROOT: (CANCELLED, FULL), 10: (CANCELLED, LEFT)}


# ---- what goes first ------------------------------------------------------------------------------------------------


def test_what_is_released_goes_before_what_has_not_begun() -> None:
    flow = Flow(peers=0)
    flow.submit(
        first := work(10), Task(11, 7, b"payload"), Task(12, 7, b"payload"), body := work(20, needs=(10,))
    )
    effects = flow.say(1, Joined())
    assert runs(effects) == [10, 11, 12]
    flow.say(1, Returned([(1, 0, 1), (2, 0, 1)]))  # as if it had been asked
    effects = flow.done(first)
    assert released(effects) == [20]
    assert runs(effects)[0] == 20
    assert body.inputs == (Value(b"10"),)


def test_a_body_with_a_countdown_waits_for_it() -> None:
    flow = Flow(peers=1)
    flow.submit(first := work(10), body := work(20, needs=(10,), options=Options(countdown=5)))
    flow.done(first)
    assert body.state == SCHEDULED
    flow.now += 5
    assert runs(flow.turn()) == [20]


# ---- long and wide --------------------------------------------------------------------------------------------------

MANY = 10_000


def test_a_chain_of_ten_thousand_fails_and_is_cancelled_without_recursion() -> None:
    for cancelled in (False, True):
        flow = Flow(peers=1)
        tasks = [work(1, needs=()), *(work(id_, needs=(id_ - 1,)) for id_ in range(2, MANY + 1))]
        flow.submit(*tasks)
        if cancelled:
            found = ends(flow.cancel(MANY))
            assert found.keys() == set(range(2, MANY + 1))
        else:
            found = ends(flow.done(tasks[0], failed=True))
            assert found[MANY] == (UPSTREAM_FAILED, (1, FAILED, b"boom"))


def test_a_fan_in_of_ten_thousand() -> None:
    flow = Flow(peers=1)
    members = [work(id_, 1, id_ - 10) for id_ in range(10, 10 + MANY)]
    flow.submit(join(1, MANY), *members, body := work(ROOT * MANY, needs=(1,)))
    while members[-1].state < FINAL_FROM:
        hand = list(flow.machine.peers[1].hand.values())
        flow.machine.receive(1, Done(hand[0].ordinal, [b"v"] * len(hand)), flow.now)
        flow.machine.turn(flow.now)
    flow.machine.check()
    assert body.state == LEASED
    assert len(body.inputs[0].payload.values) == MANY


@pytest.mark.parametrize("failure", ["collect", "wait"])
@pytest.mark.parametrize("depth", [NESTED_MAX, 1000])
def test_nested_as_deep_as_it_goes(depth: int, failure: str) -> None:
    flow = Flow(peers=1)
    joins = [
        join(id_, 1, failure, **({"parent": (id_ - 1, 0)} if id_ > 1 else {})) for id_ in range(1, depth + 1)
    ]
    flow.submit(*joins, leaf := work(depth + 1, depth, 0))
    found = ends(flow.done(leaf, failed=failure == "wait"))
    assert found.keys() == set(range(1, depth + 2))
    state, payload = found[depth - NESTED_MAX + 1]
    assert (state, payload.depth) == (FAILED if failure == "wait" else SUCCEEDED, NESTED_MAX)
    if depth > NESTED_MAX:
        assert found[depth - NESTED_MAX] == (CANCELLED, TOO_DEEP)


# ---- instead --------------------------------------------------------------------------------------------------------


def replaced(flow: Flow, *, span: bool = False) -> tuple[Task, Task]:
    """Submit X, a member of ROOT, and have it submit Y in its place: (X, Y); Y is in the queue."""
    more: dict[str, Any] = {"span": True} if span else {}
    flow.submit(join(ROOT, 1), x := work(10, ROOT, 0, **more))
    y = Task(50, 7, b"payload", root=50)
    flow.say(x.peer, Submit([y], instead={50: 10}))
    return x, y


def hand_over(flow: Flow, x: Task, by: int = 50) -> list[Any]:
    """X says that Y ends for it."""
    if x.span:
        ask = Ask(x.ordinal, x.offset, instead=by)
        part = Part(x.ordinal, x.offset, 1, True, b"-")
        return flow.say(x.peer, Done(0, [], parts=[part], asks=[ask]))
    return flow.say(x.peer, Done(x.ordinal, [b"-"], [0], asks=[Ask(x.ordinal, instead=by)]))


def test_a_task_ends_with_the_outcome_of_what_takes_its_place() -> None:
    flow = Flow()
    x, y = replaced(flow)
    assert ends(hand_over(flow, x)) == {}
    assert (x.state, x.peer, y.state) == (WAITING, -1, LEASED)
    assert ends(flow.done(y, b"why")) == {
        50: (SUCCEEDED, b"why"),
        10: (SUCCEEDED, b"why"),
        ROOT: (SUCCEEDED, Gathered([Value(b"why")])),
    }


def test_an_item_of_a_span_ends_with_a_list_of_one() -> None:
    flow = Flow()
    x, y = replaced(flow, span=True)
    hand_over(flow, x)
    found = ends(flow.done(y, b"why"))
    assert found[10] == (SUCCEEDED, Gathered([Value(b"why")]))
    assert found[ROOT] == (SUCCEEDED, Gathered([Value(Gathered([Value(b"why")]), 0, 1)]))


def test_it_may_end_before_the_other_has_said_so() -> None:
    flow = Flow(peers=2)
    x, y = replaced(flow)
    assert y.peer == 2
    assert ends(flow.done(y, b"why")) == {50: (SUCCEEDED, b"why")}
    assert x.state == LEASED
    assert ends(hand_over(flow, x))[10] == (SUCCEEDED, b"why")


def test_a_join_may_take_its_place_even_an_empty_one() -> None:
    flow = Flow()
    flow.submit(x := work(10))
    flow.say(1, Submit([join(50, 0, root=50)], instead={50: 10}))
    assert ends(hand_over(flow, x)) == {10: (SUCCEEDED, Gathered([]))}


@pytest.mark.parametrize("state", [FAILED, CANCELLED])
def test_whatever_becomes_of_it_becomes_of_the_other(state: int) -> None:
    flow = Flow(peers=0)
    flow.say(1, Joined())
    x, y = replaced(flow)
    hand_over(flow, x)
    if state == FAILED:
        found = ends(flow.done(y, failed=True))
    else:
        assert y.state == LEASED
        flow.cancel(50)
        found = ends(flow.say(1, Returned([(y.ordinal, 0, 1)])))
    assert found[10] == (state, ENDS[state])


def test_it_counts_no_more_when_the_worker_is_lost_before() -> None:
    flow = Flow()
    x, y = replaced(flow)
    found = ends(flow.say(x.peer, Lost("gone", x.ordinal)))
    assert found == {50: (CANCELLED, LEFT)}
    assert x.state == QUEUED
    flow.say(2, Joined())
    z = Task(51, 7, b"payload", root=51)
    flow.say(2, Submit([z], instead={51: 10}))
    hand_over(flow, x, 51)
    assert y.state == CANCELLED
    assert ends(flow.done(z))[10] == (SUCCEEDED, b"51")


def test_a_second_run_at_the_same_peer_takes_the_word_of_the_first_back() -> None:
    flow = Flow()
    x, y = replaced(flow)
    z = Task(51, 7, b"payload", root=51)
    assert Send(1, Recall()) in flow.say(x.peer, Submit([z], instead={51: 10}))
    hand_over(flow, x, 51)
    assert ends(flow.say(1, Returned([(y.ordinal, 0, 1)]))).keys() == {50}
    assert ends(flow.done(z, b"zet"))[10] == (SUCCEEDED, b"zet")


def test_a_task_that_ends_by_itself_after_all_leaves_the_other_behind() -> None:
    flow = Flow()
    x, y = replaced(flow)
    assert ends(flow.done(x, b"ex")) == {10: (SUCCEEDED, b"ex"), ROOT: (SUCCEEDED, Gathered([Value(b"ex")]))}
    assert ends(flow.say(1, Returned([(y.ordinal, 0, 1)]))).keys() == {50}
    assert y.state == CANCELLED


def test_cancelling_one_cancels_the_other() -> None:
    flow = Flow(peers=1)
    x, y = replaced(flow)
    flow.submit(blocker := Task(60, 7, b"payload"))
    hand_over(flow, x)
    effects = flow.cancel(10)
    found = ends(effects)
    assert found[10] == (CANCELLED, EARLY)
    assert found[ROOT] == (UPSTREAM_FAILED, (10, CANCELLED, EARLY))
    assert Send(1, Recall()) in effects or y.state == CANCELLED
    assert blocker.state in (QUEUED, LEASED)


def test_who_does_not_run_it_cannot_take_its_place() -> None:
    flow = Flow(peers=2)
    flow.submit(x := work(10))
    y = Task(50, 7, b"payload", root=50)
    assert ends(flow.say(3 - x.peer, Submit([y], instead={50: 10}))) == {50: (CANCELLED, LEFT)}
    assert ends(hand_over(flow, x)) == {10: (UPSTREAM_FAILED, (50, UPSTREAM_FAILED, "no such task"))}


def test_one_after_the_other_as_deep_as_it_goes() -> None:
    flow = Flow()
    flow.submit(x := work(1, root=1))
    last = x
    for id_ in range(2, 2000):
        y = Task(id_, 7, b"payload", root=id_)
        flow.machine.receive(1, Submit([y], instead={id_: id_ - 1}), flow.now)
        asks = [Ask(last.ordinal, instead=id_)]
        flow.machine.receive(1, Done(last.ordinal, [b"-"], [0], asks=asks), flow.now)
        flow.machine.turn(flow.now)
        last = y
    found = ends(flow.done(last, b"end"))
    assert found == dict.fromkeys(range(1, 2000), (SUCCEEDED, b"end"))


def test_time_is_not_over_for_what_has_begun() -> None:
    flow = Flow()
    flow.submit(x := work(10, options=Options(expires=1.0)))
    flow.say(1, Submit([Task(50, 7, b"payload", Options(countdown=5), root=50)], instead={50: 10}))
    hand_over(flow, x)
    flow.now += 3.0
    assert ends(flow.turn()) == {}


# ---- results ---------------------------------------------------------------------------------------------------------


def test_what_was_gathered_is_known_to_what_is_submitted_later() -> None:
    flow = Flow()
    flow.submit(root := join(ROOT, 1), member := work(10, ROOT, 0))
    gathered = ends(flow.done(member))[ROOT][1]
    end_result(root, gathered)
    flow.submit(later := Task(30, 7, b"payload", needs=(ROOT,)), known={ROOT: known(root, ROOT)})
    assert later.inputs == (Value(gathered),)
    assert len(gathered) == len(b"10")
