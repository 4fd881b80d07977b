"""Retries, time limits and expiry, each reaction of the dispatcher: what comes in, and all effects that go out."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from test_core_dispatch import CLIENT, Rig, settled, single, span

from zmqtasks import Retry
from zmqtasks.core.effects import ACCEPTED, RETRIED, Answer, End, Look, Record, Send, Settle
from zmqtasks.core.limits import AGAIN_S
from zmqtasks.core.retry import LOG_MAX, backoff_s, chance
from zmqtasks.core.starts import Starts
from zmqtasks.messages import (
    CANCELLED,
    DEAD,
    EXPIRED,
    FAILED,
    LEASED,
    QUEUED,
    RETRYING,
    SUCCEEDED,
    UPSTREAM_FAILED,
    WAITING,
    Ask,
    Cancel,
    Claimed,
    Course,
    Done,
    Joined,
    Lost,
    Part,
    Recall,
    Returned,
    Run,
    Submit,
    Task,
)
from zmqtasks.options import Options, RetryRule

PLAIN = RetryRule(max=2, delay=1.0, jitter="none")
LIMIT = "it ran for longer than 2 s"


def fails(rig: Rig, task: Task, *, text: str = "boom", delay: float | None = None) -> list[Any]:
    """Its peer says that it failed, and asks for another attempt."""
    ask = Ask(task.ordinal, -1, delay, text)
    return rig.say(task.peer, Done(task.ordinal, [b"error"], [0], asks=[ask]))


# ---- backoff --------------------------------------------------------------------------------------------------------


def test_the_backoff_grows_to_its_end() -> None:
    rule = RetryRule(delay=0.5, factor=3.0, max_delay=10.0, jitter="none")
    assert [backoff_s(rule, n, 7) for n in range(5)] == [0.5, 1.5, 4.5, 10.0, 10.0]
    assert backoff_s(rule, 10**6, 7) == 10.0  # no float is that large
    assert backoff_s(RetryRule(delay=0.0, jitter="none"), 10**6, 7) == 0.0


@pytest.mark.parametrize(("jitter", "least"), [("full", 0.0), ("equal", 0.5), ("none", 1.0)])
def test_the_jitter_spreads_evenly_and_is_the_same_for_the_same_attempt(jitter: str, least: float) -> None:
    rule = RetryRule(delay=1.0, jitter=jitter)
    delays = [backoff_s(rule, 0, id_) for id_ in range(10_000)]
    assert delays == [backoff_s(rule, 0, id_) for id_ in range(10_000)]
    assert least <= min(delays) <= max(delays) <= 1.0
    assert sum(delays) / len(delays) == pytest.approx((1 + least) / 2, abs=0.01)
    tenths = [
        sum(1 for delay in delays if n <= (delay - least) / (1.001 - least) * 10 < n + 1) for n in range(10)
    ]
    assert jitter == "none" or min(tenths) > 850


def test_chance_is_unlike_from_attempt_to_attempt() -> None:
    assert len({chance(id_, attempt) for id_ in range(100) for attempt in range(10)}) == 1000
    assert all(0 <= chance(id_, 0) < 1 for id_ in (0, 1, 2**64 - 1, 2**80))


# ---- retries --------------------------------------------------------------------------------------------------------


def test_a_failure_that_asks_is_retried_after_the_backoff_as_often_as_the_rule_says() -> None:
    rig, task = Rig(), single(10, retry=PLAIN)
    rig.given(task)
    assert fails(rig, task) == [Record(RETRIED, [task])]
    assert (task.state, task.peer, rig.machine.next_deadline()) == (RETRYING, -1, 101.0)
    rig.now = 100.9
    assert rig.turn() == []
    rig.now = 101.0
    assert rig.turn() == [Send(1, Run(1, [task]))]
    assert (task.state, task.attempt) == (LEASED, 2)
    fails(rig, task, text="bang")
    assert rig.machine.next_deadline() == 103.0
    rig.now = 103.0
    rig.turn()
    assert task.course is not None
    assert task.course.log == ("attempt 1: boom", "attempt 2: bang")
    assert fails(rig, task) == settled(FAILED, [task], [b"error"])


def test_a_failure_that_does_not_ask_is_final_and_so_is_a_success_that_does() -> None:
    rig, tasks = Rig(), [single(10, retry=PLAIN), single(11, retry=PLAIN), single(12, retry=PLAIN)]
    rig.given(*tasks)
    effects = rig.say(1, Done(0, [b"v", b"x", b"y"], [1, 2], asks=[Ask(0), Ask(2)]))
    assert [(type(e), e.tasks) for e in effects] == [
        (Record, [tasks[2]]),
        (Record, [tasks[0]]),
        (Record, [tasks[1]]),
        (Settle, [tasks[0]]),
        (Settle, [tasks[1]]),
    ]
    assert [task.state for task in tasks] == [SUCCEEDED, FAILED, RETRYING]


def test_the_task_may_say_how_long_it_wants_to_wait_and_needs_no_rule() -> None:
    rig, task = Rig(), single(10)
    rig.given(task)
    fails(rig, task, delay=7.5)
    assert rig.machine.next_deadline() == 107.5
    for _ in range(2):
        rig.now += 7.5
        rig.turn()
        assert fails(rig, task, delay=7.5) == [Record(RETRIED, [task])]
    rig.now += 7.5
    rig.turn()
    assert fails(rig, task, delay=7.5) == settled(FAILED, [task], [b"error"])


def test_no_retry_is_planned_for_after_the_deadline() -> None:
    rig, task = Rig(), single(10, retry=RetryRule(max=9, delay=2.0, factor=1.0, jitter="none", deadline=5.0))
    rig.given(task)
    for _ in range(2):
        assert fails(rig, task) == [Record(RETRIED, [task])]
        rig.now += 2.0
        assert rig.turn() == [Send(1, Run(task.ordinal, [task]))]
    assert fails(rig, task) == settled(FAILED, [task], [b"error"])  # at 106 s, and 105 is the last


def test_what_waits_in_the_queue_past_the_deadline_fails_with_its_last_error() -> None:
    rig, task = Rig(), single(10, fn=8, retry=RetryRule(delay=2.0, jitter="none", deadline=5.0))
    rig.given(task)
    fails(rig, task)
    rig.given(single(11, fn=9))  # takes the only peer
    rig.now = 102.0
    assert rig.turn() == []
    assert (task.state, rig.machine.next_deadline()) == (QUEUED, 105.0)
    rig.now = 105.0
    assert rig.turn() == settled(FAILED, [task], [b"error"])


def test_an_item_of_a_span_is_retried_alone() -> None:
    rig, task = Rig(), span(10, 4, retry=PLAIN)
    rig.given(task)
    parts = [Part(0, 0, 1, failed=False, payload=b"[0]"), Part(0, 1, 1, failed=True, payload=b"error")]
    effects = rig.say(1, Done(0, [], parts=parts, asks=[Ask(0, 1, None, "boom")]))
    assert [(type(e), [(t.id, t.count) for t in e.tasks]) for e in effects] == [
        (Record, [(10, 1)]),
        (Record, [(11, 1)]),
        (Settle, [(10, 1)]),
    ]
    rig.say(1, Done(0, [], parts=[Part(0, 2, 2, failed=False, payload=b"[2, 3]")]), after=0.5)
    rig.now += 0.5
    (send,) = rig.turn()
    again = send.message.tasks[0]
    assert (again.id, again.offset, again.count, again.span) == (11, 1, 1, True)
    part = Part(again.ordinal, 1, 1, failed=True, payload=b"other")
    assert rig.say(1, Done(0, [], parts=[part]))[-1] == Settle(FAILED, [again], [b"other"])


def test_losses_are_counted_apart() -> None:
    rig, task = Rig(peers=0), single(10, fn=8, retry=PLAIN, max_deliveries=2)
    rig.say(CLIENT, Submit([task]))
    rig.say(1, Joined())
    fails(rig, task)
    rig.now += 1.0
    rig.turn()
    rig.say(1, Lost("gone", task.ordinal))
    assert (task.state, task.deliveries) == (QUEUED, 1)
    rig.say(2, Joined())
    fails(rig, task)
    assert task.course is not None
    assert task.course.log == ("attempt 1: boom", "attempt 3: boom")
    rig.now += 2.0
    rig.turn()
    assert rig.say(2, Lost("gone", task.ordinal))[-1] == Settle(DEAD, [task], ["gone"])


def test_what_waits_for_its_retry_can_be_cancelled_and_what_depends_on_it_waits() -> None:
    rig, task = Rig(), single(10, retry=PLAIN)
    rig.given(task)
    fails(rig, task)
    body = single(11, needs=(10,))
    rig.say(CLIENT, Submit([body]))
    assert body.state == WAITING
    effects = rig.say(CLIENT, Cancel(10, terminate=False, token="t"))
    assert Answer("t", cancelled=True) in effects
    assert (task.state, body.state) == (CANCELLED, UPSTREAM_FAILED)
    assert rig.machine.next_deadline() is None


def test_a_dispatcher_that_does_not_retry_says_that_it_was_asked() -> None:
    rig, task = Rig(retries=False), single(10, retry=PLAIN, expires=1.0)
    rig.given(task)
    assert rig.machine.next_deadline() is None
    assert fails(rig, task, text="boom", delay=2.0) == settled(FAILED, [task], [b"error"])
    assert task.ask == Ask(0, -1, 2.0, "boom")


def test_the_log_of_attempts_has_an_end() -> None:
    rig, task = Rig(), single(10, retry=RetryRule(max=99, delay=0.0))
    rig.given(task)
    for _ in range(50):
        fails(rig, task)
        rig.turn()
    assert task.course is not None
    assert len(task.course.log) == LOG_MAX
    assert task.course.log[-1] == "attempt 50: boom"


# ---- limits ---------------------------------------------------------------------------------------------------------


def test_it_is_looked_when_a_limit_can_be_over_and_again_when_it_is() -> None:
    rig, task = Rig(), single(10, time_limit=2.0)
    rig.given(task)
    assert rig.machine.next_deadline() == 102.0
    rig.now = 102.0
    assert rig.turn() == [Look(1)]
    assert rig.say(CLIENT, Claimed(1, 0, 0, 100.5)) == []
    assert rig.machine.next_deadline() == 102.5
    rig.now = 102.5
    assert rig.turn() == [Look(1)]
    assert rig.say(CLIENT, Claimed(1, 0, 0, 100.5)) == [End(1, 0, 0)]
    assert rig.machine.next_deadline() == 102.5 + AGAIN_S
    late = single(11)
    assert rig.say(CLIENT, Submit([late])) == [Record(ACCEPTED, [late])]  # it is given nothing more
    assert rig.say(1, Lost("killed", 0)) == settled(FAILED, [task], [LIMIT])
    assert (task.deliveries, rig.machine.next_deadline()) == (0, None)


def test_a_neighbour_is_not_taken_for_the_one_that_is_over() -> None:
    rig, tasks = Rig(), [single(10, time_limit=2.0), single(11), single(12, time_limit=9.0)]
    rig.given(*tasks)
    for claim in (
        Claimed(1),
        Claimed(1, 1, 0, 3.0),
        Claimed(1, 2, 0, 100.0),
        Claimed(1, 7, 0, 0.0),
        Claimed(5, 0),
    ):
        assert rig.say(CLIENT, claim, after=2.0) in ([], [Send(1, Recall())], [Look(1)])
    assert rig.machine.peers[1].doomed == (-1, 0)


def test_who_finishes_just_in_time_is_not_ended_and_goes_on() -> None:
    rig, task = Rig(), single(10, time_limit=2.0)
    rig.given(task)
    rig.now = 102.0
    rig.turn()
    assert rig.say(CLIENT, Claimed(1, 0, 0, 100.0)) == [End(1, 0, 0)]
    assert rig.say(1, Done(0, [b"value"])) == settled(SUCCEEDED, [task], [b"value"])
    late = single(11)
    assert rig.say(CLIENT, Submit([late]))[-1] == Send(1, Run(1, [late]))
    assert rig.say(1, Lost("crashed", 1)) == [Record("delivered", [late])]


def test_of_a_span_the_item_is_ended_and_the_rest_runs_elsewhere() -> None:
    rig, task = Rig(), span(10, 4, time_limit=2.0)
    rig.given(task)
    rig.say(1, Done(0, [], parts=[Part(0, 0, 1, failed=False, payload=b"[0]")]))
    rig.now = 102.0
    assert Look(1) in rig.turn()
    assert rig.say(CLIENT, Claimed(1, 0, 2, 100.0)) == [End(1, 0, 2)]
    effects = rig.say(1, Lost("killed", 0, 2))
    assert [(type(e), e.state, [(t.id, t.count) for t in e.tasks]) for e in effects] == [
        (Record, FAILED, [(12, 1)]),
        (Settle, FAILED, [(12, 1)]),
    ]
    assert [(t.id, t.count, t.state) for t in rig.machine.ledger.tasks.values()] == [
        (11, 1, QUEUED),
        (13, 1, QUEUED),
    ]


@pytest.mark.parametrize("on_limit", [True, False])
def test_whether_it_is_retried_was_decided_at_the_submit(on_limit: bool) -> None:
    rule = RetryRule(max=1, delay=1.0, jitter="none", on_limit=on_limit)
    rig, task = Rig(peers=2), single(10, time_limit=2.0, retry=rule)
    rig.given(task)
    rig.now = 102.0
    rig.turn()
    rig.say(CLIENT, Claimed(1, 0, 0, 100.0))
    effects = rig.say(1, Lost("killed", 0))
    if not on_limit:
        assert effects == settled(FAILED, [task], [LIMIT])
        return
    assert effects == [Record(RETRIED, [task])]
    rig.now = 103.0
    assert rig.turn() == [Send(2, Run(0, [task]))]
    rig.now = 105.0
    rig.turn()
    rig.say(CLIENT, Claimed(2, 0, 0, 103.0))
    text = f"{LIMIT}\nattempt 1: TimeLimitExceeded: {LIMIT}"
    assert rig.say(2, Lost("killed", 0)) == settled(FAILED, [task], [text])


def test_a_dispatcher_that_does_not_retry_says_so_of_a_limit_too() -> None:
    rig, task = Rig(retries=False), single(10, time_limit=2.0, retry=PLAIN)
    rig.given(task)
    rig.now = 102.0
    rig.turn()
    rig.say(CLIENT, Claimed(1, 0, 0, 100.0))
    assert rig.say(1, Lost("killed", 0)) == settled(FAILED, [task], [LIMIT])
    assert task.ask is not None


def test_cancelled_by_force_comes_before_a_limit() -> None:
    rig, task = Rig(), single(10, time_limit=2.0)
    rig.given(task)
    rig.say(CLIENT, Cancel(10, terminate=True, token="t"))
    assert rig.say(1, Returned([])) == [End(1)]
    rig.now = 102.0
    rig.turn()
    rig.say(CLIENT, Claimed(1, 0, 0, 100.0))
    assert rig.say(1, Lost("killed", 0))[-1] == Answer("t", cancelled=True)
    assert task.state == CANCELLED


def test_a_dispatcher_over_nodes_looks_at_nobody() -> None:
    rig, task = Rig(limits=False), single(10, time_limit=2.0)
    rig.given(task)
    assert rig.machine.next_deadline() is None


def test_who_has_nothing_with_a_limit_is_left_alone() -> None:
    rig, task = Rig(), single(10, time_limit=2.0)
    rig.given(task)
    rig.say(1, Done(0, [b"v"]))
    rig.given(single(11))
    rig.now = 102.0
    assert rig.turn() == []
    assert rig.machine.next_deadline() is None


# ---- expiry ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["queued", "scheduled", "waiting"])
def test_what_has_not_started_by_its_time_ends_and_so_does_what_depends_on_it(where: str) -> None:
    rig, first = Rig(peers=0), single(9)
    task = single(
        10, needs=(9,) if where == "waiting" else (), expires=5.0, countdown=4.0 * (where == "scheduled")
    )
    body = single(11, needs=(10,))
    rig.say(CLIENT, Submit([first, task, body]))
    assert rig.machine.next_deadline() == (104.0 if where == "scheduled" else 105.0)
    rig.now = 104.0
    assert rig.turn() == []
    rig.now = 105.0
    reason = "it had not started 5 s after its submit"
    records, settles = rig.turn()[:2], rig.turn()
    assert settles == []
    assert records == [
        Record("settled", [task], EXPIRED, [reason]),
        Record("settled", [body], UPSTREAM_FAILED, [(10, EXPIRED, reason)]),
    ]
    assert rig.machine.next_deadline() is None


def test_what_has_started_does_not_expire() -> None:
    rig, task = Rig(), single(10, expires=5.0)
    rig.given(task)
    rig.now = 105.0
    assert rig.turn() == []
    assert rig.say(1, Lost("gone", 0)) == [Record("delivered", [task])]
    assert task.state == QUEUED
    rig.now = 200.0
    assert rig.turn() == []
    assert rig.say(2, Joined()) == [Send(2, Run(0, [task]))]


def test_what_is_in_a_hand_behind_another_is_asked_for_and_expires_when_it_is_back() -> None:
    rig = Rig()
    rig.machine._dealer.pace.note(8, 1, 0.02)
    tasks = [single(10, fn=8), single(11, fn=8, expires=0.01)]
    rig.given(*tasks)
    rig.now += 0.01
    assert rig.turn() == [Send(1, Recall())]
    assert rig.turn() == []
    reason = "it had not started 0.01 s after its submit"
    assert rig.say(1, Returned([(1, 0, 1)])) == settled(EXPIRED, [tasks[1]], [reason])


def test_all_that_is_left_of_a_span_expires() -> None:
    rig, task = Rig(peers=0), span(10, 5, expires=5.0)
    rig.say(CLIENT, Submit([task]))
    rig.say(CLIENT, Cancel(12, terminate=False, token="t"))
    rig.now = 105.0
    (_, settle) = rig.turn()
    assert sorted((t.id, t.count) for t in settle.tasks) == [(10, 2), (13, 2)]


def test_what_is_settled_before_its_time_is_forgotten() -> None:
    tasks: dict[int, Task] = {}
    starts = Starts(tasks)
    for id_ in range(10_000):
        tasks[id_] = task = single(id_, expires=1e6)
        task.course = Course(0.0)
        starts.watch(task)
        tasks.pop(id_ - 10, None)
    assert len(starts.heap) < 200


# ---- options --------------------------------------------------------------------------------------------------------


def test_durations_are_seconds_or_timedelta() -> None:
    options = Options().replace(time_limit=timedelta(minutes=1), expires=timedelta(hours=1), countdown=3)
    assert (options.time_limit, options.expires) == (60.0, 3600.0)
    retry = Retry(delay=timedelta(seconds=2), max_delay=timedelta(minutes=1), deadline=timedelta(hours=1))
    assert (retry.delay, retry.max_delay, retry.deadline) == (2.0, 60.0, 3600.0)
    assert Retry(5, on=OSError).on == (OSError,)
    assert Options().replace(time_limit=None, expires=None, retry=None) == Options()


@pytest.mark.parametrize(
    "changes",
    [
        {"time_limit": 0},
        {"time_limit": "1"},
        {"time_limit": float("inf")},
        {"time_limit": float("nan")},
        {"expires": -1},
        {"expires": True},
        {"countdown": 5, "expires": 5},
        {"countdown": 6, "expires": timedelta(seconds=5)},
        {"retry": 3},
    ],
)
def test_options_out_of_range_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Options().replace(**changes)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"max": -1}, ValueError),
        ({"max": 1.5}, ValueError),
        ({"on": "OSError"}, TypeError),
        ({"on": (OSError, 3)}, TypeError),
        ({"not_on": int}, TypeError),
        ({"delay": -1}, ValueError),
        ({"factor": 0.5}, ValueError),
        ({"max_delay": float("nan")}, ValueError),
        ({"jitter": "some"}, ValueError),
        ({"deadline": 0}, ValueError),
    ],
)
def test_a_retry_out_of_range_is_refused(changes: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        Retry(**changes)
