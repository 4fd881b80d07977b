"""Values that were lent: asked for once, and what waits for them goes where it would have gone."""

from __future__ import annotations

from typing import Any

from zmqtasks.core.dispatch import Dispatcher
from zmqtasks.core.effects import RELEASED, Record, Send, Settle
from zmqtasks.core.loans import Lender, Loans
from zmqtasks.loans import LAPSED, Lacks, Told, is_light
from zmqtasks.messages import (
    CANCELLED,
    FAILED,
    SUCCEEDED,
    UPSTREAM_FAILED,
    Cancel,
    Done,
    Joined,
    Lent,
    Lost,
    Run,
    Submit,
    Task,
    Value,
)

LENDER, WORKER = 7, 1
X, Y = 100, 101
VALUE = (SUCCEEDED, Value(b"value"))


def needing(id_: int, *needs: int) -> Task:
    return Task(id_, 1, b"", needs=needs)


def sent(effects: list[Any], kind: type) -> list[tuple[int, Any]]:
    return [
        (each.peer, each.message) for each in effects if type(each) is Send and type(each.message) is kind
    ]


def settled(effects: list[Any]) -> dict[int, tuple[int, Any]]:
    return {
        task.id: (each.state, payload)
        for each in effects
        if type(each) is Settle
        for task, payload in zip(each.tasks, each.payloads, strict=True)
    }


def turn(machine: Dispatcher, *said: tuple[int, Any]) -> list[Any]:
    for peer, message in said:
        machine.receive(peer, message, 0.0)
    effects = machine.turn(0.0)
    machine.check()
    return effects


def test_what_several_need_is_asked_for_once_and_reaches_each() -> None:
    machine = Dispatcher()
    lent: dict[int, Any] = {X: Lent(LENDER), Y: Lent(LENDER)}
    asked = turn(machine, (LENDER, Submit([needing(1, X), needing(2, X, Y)], dict(lent))))
    assert sent(asked, Lacks) == [(LENDER, Lacks([X, Y]))]
    assert not sent(turn(machine, (LENDER, Submit([needing(3, X)], {X: Lent(LENDER)}))), Lacks)
    told = turn(machine, (LENDER, Told({X: VALUE})), (WORKER, Joined()))
    assert [task.id for each in told if type(each) is Record and each.kind == RELEASED for task in each.tasks]
    ((_, run),) = sent(told, Run)
    assert [(task.id, task.inputs) for task in run.tasks] == [(1, (VALUE[1],))]
    turn(machine, (LENDER, Told({Y: VALUE, X: VALUE})))
    assert not machine.ledger.addresses
    assert len(machine.ledger.loans) == 0
    assert machine.ledger.pending == 3


def test_what_was_asked_for_takes_its_turn_behind_what_was_there() -> None:
    machine = Dispatcher()
    turn(machine, (LENDER, Submit([needing(id_, X) for id_ in (1, 2)], {X: Lent(LENDER)})))
    turn(machine, (LENDER, Submit([Task(3, 1, b"")])), (LENDER, Told({X: VALUE})), (WORKER, Joined()))
    order = []
    for ordinal in range(3):
        order += [task.id for task in machine.peers[WORKER].hand.values()]
        turn(machine, (WORKER, Done(ordinal, [b"v"], pace=[(1, 1, 10.0)])))
    assert order == [3, 1, 2]


def test_what_waits_for_a_value_can_be_cancelled_and_the_value_hurts_nobody() -> None:
    machine = Dispatcher()
    turn(machine, (LENDER, Submit([needing(1, X)], {X: Lent(LENDER)})))
    assert settled(turn(machine, (0, Cancel(1, terminate=False, token="t"))))[1][0] == CANCELLED
    assert not settled(turn(machine, (LENDER, Told({X: VALUE})), (LENDER, Told({X: VALUE}))))


def test_what_waits_for_a_lender_that_is_gone_fails_also_where_both_come_together() -> None:
    machine = Dispatcher()
    turn(machine, (LENDER, Submit([needing(1, X)], {X: Lent(LENDER)})))
    effects = turn(
        machine,
        (LENDER, Submit([needing(2, Y)], {Y: Lent(LENDER)})),
        (8, Submit([needing(3, 200)], {200: Lent(8)})),
        (LENDER, Lost("gone")),
    )
    assert settled(effects) == {
        1: (UPSTREAM_FAILED, (X, UPSTREAM_FAILED, LAPSED)),
        2: (UPSTREAM_FAILED, (Y, UPSTREAM_FAILED, LAPSED)),
    }
    assert sent(effects, Lacks) == [(8, Lacks([200]))]


def test_nothing_is_said_to_be_taken_in_while_something_is_owed() -> None:
    loans, lender = Loans(), Lender()
    lender.lend(1, {X: "x"})
    lender.lend(3, {X: "x", Y: "y"})
    loans.owe(X, LENDER)
    assert loans.taken(LENDER, 3, -1) == -1
    assert loans.taken(8, 3, -1) == 3
    assert loans.of(LENDER) == [X]
    assert (loans.settle(X), loans.settle(X)) == (True, False)
    lender.take_off(loans.taken(LENDER, 2, -1))
    assert (lender.find(X), lender.find(Y)) == ("x", "y")
    lender.take_off(3)
    assert not lender
    assert lender.find(X) is None


def test_a_failure_and_a_small_value_go_along() -> None:
    assert is_light((FAILED, b"x" * 10_000))
    assert is_light((SUCCEEDED, Value(b"x" * 1024)))
    assert not is_light((SUCCEEDED, Value(b"x" * 1025)))
