"""Which worker has which inputs: the decisions, one by one; the whole is simulated (`sim/pipeline.py`)."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

from zmqtasks.core.effects import End, Send, Settle
from zmqtasks.core.parcels import ASK_S, BASE_BITS, BASE_MASK, OVERDUE_S, PIPE_S
from zmqtasks.core.stream import FN, ITEMS_MAX, Stream
from zmqtasks.messages import (
    DEAD,
    FAILED,
    Accepted,
    Ask,
    Beat,
    Claim,
    Done,
    Ended,
    Ends,
    Feed,
    Leaving,
    Lost,
    Part,
    Recall,
    Returned,
    Run,
    Slots,
)
from zmqtasks.options import DEFAULT_OPTIONS, RetryRule

PROMPT = RetryRule(max=2, delay=1.0, factor=2.0, jitter="none")


class Pipe:
    """A stream with a host that keeps time, and checks after each turn."""

    def __init__(self, *workers: int, **settings: Any) -> None:
        self.stream = Stream(**settings)
        self.now = 100.0
        for peer, slots in enumerate(workers, 1):
            self.stream.receive(peer, Slots(slots), self.now)
        self.turn()

    def turn(self, after_s: float = 0.0) -> list[Any]:
        """What it wants done."""
        self.now += after_s
        effects = self.stream.turn(self.now)
        self.stream.check()
        deadline = self.stream.next_deadline()
        assert deadline is None or deadline > self.now
        return effects

    def hear(self, peer: int, *messages: Any) -> list[Any]:
        """What it makes of these, in one turn."""
        for message in messages:
            self.stream.receive(peer, message, self.now)
        return self.turn()

    def feed(self, count: int, base: int = 0) -> None:
        self.hear(0, Feed(base, count, f"payload {base}"))

    def sent(self) -> list[Run]:
        """Whatever goes into the pipe now."""
        runs = []
        while (run := self.stream.next(self.now)) is not None:
            runs.append(run)
            self.stream.check()
        return runs

    def give(self, peer: int, count: int, base: int = 0, *, cost_s: float = 1e-5) -> int:
        """A batch that `peer` has claimed; its ordinal."""
        self.stream.pace.note(FN, 1000, 1000 * cost_s)
        self.feed(count, base)
        (run,) = self.sent()
        self.hear(peer, Claim([run.first]))
        return run.first


def spans(runs: list[Run]) -> list[tuple[int, int]]:
    """First number and how many, of each."""
    return [((run.first & BASE_MASK) + task.offset, task.count) for run in runs for task in run.tasks]


# ---- out ------------------------------------------------------------------------------------------------------------


def test_a_batch_goes_out_as_a_span_under_an_ordinal_of_its_own() -> None:
    pipe = Pipe(1)
    pipe.stream.pace.note(FN, 100, 1e-3)
    pipe.feed(3, base=7)
    (run,) = pipe.sent()
    (task,) = run.tasks
    assert run.first == 1 << BASE_BITS | 7
    assert (task.id, task.fn, task.payload, task.count, task.offset, task.span) == (
        run.first, FN, "payload 7", 3, 0, True,
    )  # fmt: skip
    assert task.course is not None
    assert (task.course.since, task.course.retries, task.course.log) == (inf, 0, ())
    assert pipe.stream.running == 3


def test_nothing_goes_out_while_nobody_is_there() -> None:
    pipe = Pipe()
    pipe.feed(1)
    assert pipe.sent() == []
    pipe.hear(1, Slots(1))
    assert spans(pipe.sent()) == [(0, 1)]


def test_what_was_fed_larger_than_a_batch_should_be_is_cut() -> None:
    pipe = Pipe(1)
    pipe.feed(3)
    assert spans(pipe.sent()) == [(0, 1), (1, 1), (2, 1)]  # nothing is known of what they cost


def test_a_batch_is_some_milliseconds_of_work() -> None:
    stream = Pipe(1).stream
    assert stream.batch_items == 1
    stream.pace.note(FN, 100, 100 * 0.001)
    assert stream.batch_items == 4
    stream.pace.note(FN, 100, 100.0)
    assert stream.batch_items == 1
    for _ in range(60):
        stream.pace.note(FN, 10**6, 1e-3)
    assert stream.batch_items == ITEMS_MAX


def test_what_the_pipe_refuses_comes_again_and_uses_up_no_ordinal() -> None:
    pipe = Pipe(1)
    pipe.feed(1, base=3)
    for _ in range(3):
        run = pipe.stream.next(pipe.now)
        assert run is not None
        assert run.first == 1 << BASE_BITS | 3
        pipe.stream.refused(run)
        pipe.stream.check()
    assert pipe.stream.running == 0


def test_more_is_wanted_until_a_pipeful_is_ready() -> None:
    pipe = Pipe(1, 2)
    assert pipe.stream.wanted == 8
    pipe.feed(1)
    assert pipe.stream.wanted == 7
    pipe.stream.halt()
    assert pipe.stream.wanted == 0


# ---- in -------------------------------------------------------------------------------------------------------------


def test_what_the_sink_has_is_gone_wherever_it_is() -> None:
    pipe = Pipe(1)
    ordinal = pipe.give(1, 10)
    pipe.hear(0, Accepted(0, 2, 3), Accepted(0, 4, 2))
    assert pipe.stream.unsettled == 6
    pipe.hear(1, Returned([(ordinal, 0, 8)]))
    assert spans(pipe.sent()) == [(0, 2), (6, 2)]
    pipe.hear(0, Accepted(0, 0, 10), Accepted(0, 0, 10))
    assert (pipe.stream.unsettled, pipe.stream.running, pipe.stream._batches) == (0, 0, {})


def test_a_failure_that_asks_waits_for_its_next_attempt() -> None:
    pipe = Pipe(1, options=DEFAULT_OPTIONS.replace(retry=PROMPT))
    ordinal = pipe.give(1, 3)
    failure = Done(ordinal, [], parts=[Part(ordinal, 1, 1, True, "E")], asks=[Ask(ordinal, 1, text="E: 1")])
    assert pipe.hear(1, failure, failure) == []
    assert pipe.stream.next_deadline() == pipe.now + 1.0
    assert pipe.turn(after_s=1.0) == []
    (again,) = pipe.sent()
    (task,) = again.tasks
    assert spans([again]) == [(1, 1)]
    assert task.course is not None
    assert (task.course.retries, task.course.log) == (1, ("attempt 1: E: 1",))


def test_the_last_failure_is_the_outcome() -> None:
    pipe = Pipe(1, options=DEFAULT_OPTIONS.replace(retry=RetryRule(max=0)))
    ordinal = pipe.give(1, 3)
    (effect,) = pipe.hear(
        1, Done(ordinal, [], parts=[Part(ordinal, 1, 1, True, "E")], asks=[Ask(ordinal, 1, text="E")])
    )
    assert isinstance(effect, Settle)
    assert (effect.state, effect.tasks[0].id, effect.payloads) == (FAILED, 1, ["E"])


def test_what_has_killed_too_many_ends() -> None:
    pipe = Pipe(1)
    ordinal = pipe.give(1, 3, base=5)
    effects = pipe.hear(1, Ends([Ended(ordinal, 1, 2, DEAD, "it died")]))
    assert [(e.state, [task.id for task in e.tasks]) for e in effects] == [(DEAD, [6]), (DEAD, [7])]


def test_deaths_go_along_with_what_comes_back() -> None:
    pipe = Pipe(1)
    ordinal = pipe.give(1, 3)
    pipe.hear(1, Returned([(ordinal, 1, 1), (ordinal, 2, 1)], [(ordinal, 1, 2)]))
    assert [task.deliveries for run in pipe.sent() for task in run.tasks] == [2, 0]


def test_words_about_what_somebody_else_has_count_for_nothing() -> None:
    pipe = Pipe(1, 1)
    ordinal = pipe.give(1, 3)
    words = (
        Done(ordinal, [], parts=[Part(ordinal, 1, 1, True, "E")], asks=[Ask(ordinal, 1)]),
        Ends([Ended(ordinal, 1, 2, DEAD, "it died")]),
        Returned([(ordinal, 0, 3)]),
        Claim([ordinal]),
    )
    for stranger in (2, 3):
        assert pipe.hear(stranger, *words) == []
    assert pipe.sent() == []


# ---- workers come and go --------------------------------------------------------------------------------------------


def test_what_a_lost_worker_had_goes_out_again_under_another_ordinal() -> None:
    pipe = Pipe(1, 1)
    ordinal = pipe.give(1, 3)
    pipe.hear(1, Lost("it died"))
    (run,) = pipe.sent()
    assert spans([run]) == [(0, 3)]
    assert run.first != ordinal


def test_who_is_silent_is_given_up() -> None:
    pipe = Pipe(1, 1, silence_s=1.0)
    pipe.give(1, 3)
    for _ in range(5):
        assert pipe.hear(2, Beat()) == []
        pipe.now += 0.24
    assert pipe.hear(2, Beat()) == [End(1)]
    assert spans(pipe.sent()) == [(0, 3)]


def test_nobody_is_given_up_when_this_process_has_stood_still() -> None:
    pipe = Pipe(1, 1, silence_s=1.0)
    assert pipe.turn(after_s=60.0) == []
    assert list(pipe.stream.hands) == [1, 2]


def test_the_last_outcomes_of_who_leaves_are_waited_for() -> None:
    """They are on their way to the sink by another link than its farewell."""
    pipe = Pipe(1, 1)
    pipe.give(1, 3)
    pipe.hear(1, Leaving(), Returned([]), Lost("it has left"))
    assert pipe.sent() == []
    pipe.hear(0, Accepted(0, 0, 2))
    pipe.turn(after_s=PIPE_S)
    assert spans(pipe.sent()) == [(2, 1)]


# ---- what is lost in the pipe ---------------------------------------------------------------------------------------


def test_what_nobody_has_read_is_found_once_all_have_looked() -> None:
    pipe = Pipe(1, 1)
    pipe.feed(1)
    assert len(pipe.sent()) == 1
    assert pipe.turn(after_s=PIPE_S / 2) == []
    assert pipe.turn(after_s=PIPE_S / 2) == [Send(1, Recall()), Send(2, Recall())]
    pipe.hear(1, Returned([]))
    assert pipe.sent() == []
    pipe.hear(2, Returned([]))
    assert spans(pipe.sent()) == [(0, 1)]


def test_who_is_new_may_have_something_in_the_pipe_all_the_same() -> None:
    """Its end of the pipe was there before its first word was heard."""
    pipe = Pipe(1)
    pipe.feed(1)
    (run,) = pipe.sent()
    pipe.now += 2 * PIPE_S
    pipe.hear(2, Slots(1))
    pipe.hear(1, Lost("it died"))
    assert pipe.sent() == []
    pipe.hear(2, Claim([run.first]), Returned([]))
    assert pipe.stream.running == 1
    assert pipe.sent() == []


def test_who_leaves_has_let_go_of_the_pipe() -> None:
    """And is not asked: what is lost there is found though its last item takes an hour."""
    pipe = Pipe(1, 1)
    pipe.give(1, 1)
    pipe.feed(1, base=1)
    pipe.sent()
    pipe.hear(1, Leaving(), Returned([]))
    assert pipe.turn(after_s=PIPE_S) == [Send(2, Recall())]
    pipe.hear(2, Returned([]))
    assert spans(pipe.sent()) == [(1, 1)]


def test_what_is_on_its_way_is_not_lost_because_all_that_were_heard_of_leave() -> None:
    """Somebody new has it, whose first word is on its way."""
    pipe = Pipe(1)
    pipe.feed(1)
    pipe.sent()
    pipe.hear(1, Leaving(), Returned([]), Lost("it has left"))
    pipe.hear(2, Slots(1))
    assert pipe.sent() == []


def test_what_is_overdue_is_looked_for_though_all_seem_busy() -> None:
    """What they have done may be with a sink that has not written it: it waits for what is lost."""
    pipe = Pipe(1)
    ordinal = pipe.give(1, 2)
    pipe.feed(1, base=2)
    pipe.sent()
    assert pipe.turn(after_s=PIPE_S) == []
    assert pipe.turn(after_s=OVERDUE_S - PIPE_S) == [Send(1, Recall())]
    pipe.hear(1, Returned([]))
    assert spans(pipe.sent()) == [(2, 1)]
    assert pipe.turn(after_s=OVERDUE_S / 2) == []
    pipe.hear(0, Accepted(0, 0, 2), Accepted(2, 0, 1))
    assert ordinal not in pipe.stream.hands[1].parcels


# ---- what comes back ------------------------------------------------------------------------------------------------


def test_whoever_has_more_than_it_can_run_gives_back_when_another_idles() -> None:
    pipe = Pipe(1, 1)
    ordinal = pipe.give(1, 3)
    assert pipe.turn(after_s=ASK_S) == []  # it was asked when the other came
    pipe.hear(1, Returned([(ordinal, 1, 2)]))
    assert spans(pipe.sent()) == [(1, 2)]


def test_who_has_had_nothing_to_give_back_is_left_alone() -> None:
    pipe = Pipe(1, 1)
    pipe.give(1, 3)
    pipe.hear(1, Returned([]))
    assert pipe.turn(after_s=10.0) == []


def test_who_may_be_at_work_on_what_is_forgotten_is_asked_too() -> None:
    """It has one item, as many as it can run; but it still runs one of the run before."""
    pipe = Pipe(1, 1)
    pipe.give(1, 1)
    assert pipe.turn(after_s=PIPE_S / 2) == []
    assert pipe.turn(after_s=PIPE_S / 2) == [Send(1, Recall())]
    assert pipe.hear(1, Returned([])) == []
    assert pipe.stream.next_deadline() is None


def test_what_is_ready_and_done_already_keeps_nobody_from_being_asked() -> None:
    """The worker that it came back from was only thought lost."""
    pipe = Pipe(1)
    pipe.give(1, 3)
    pipe.feed(2, base=3)
    assert pipe.hear(2, Slots(1)) == []
    assert pipe.hear(0, Accepted(3, 0, 2)) == [Send(1, Recall())]


# ---- the end of a run -----------------------------------------------------------------------------------------------


def test_after_a_halt_nothing_goes_out_and_what_has_not_started_comes_back() -> None:
    pipe = Pipe(1)
    pipe.give(1, 3)
    pipe.feed(1, base=3)
    pipe.stream.halt()
    assert pipe.sent() == []
    assert pipe.turn() == [Send(1, Recall())]
    assert pipe.stream.unsettled == 4


def test_what_was_fed_before_a_drop_is_dropped() -> None:
    pipe = Pipe(1)
    pipe.stream.receive(0, Feed(0, 3, "old"), pipe.now)
    pipe.stream.drop()
    pipe.feed(1, base=10)
    assert spans(pipe.sent()) == [(10, 1)]
    assert pipe.stream.unsettled == 1


def test_what_has_not_started_is_called_back_when_it_is_dropped() -> None:
    pipe = Pipe(1, 1)
    pipe.give(1, 1)
    pipe.stream.drop()
    assert pipe.turn() == [Send(1, Recall())]


@pytest.mark.parametrize("late", [Accepted(0, 0, 3), Accepted(0, 1, 1)])
def test_after_a_drop_late_words_mean_nothing(late: Accepted) -> None:
    pipe = Pipe(1)
    ordinal = pipe.give(1, 3)
    pipe.stream.drop()
    pipe.feed(1, base=10)
    pipe.hear(0, late)
    pipe.hear(1, Claim([ordinal]), Returned([(ordinal, 0, 3)]))
    assert spans(pipe.sent()) == [(10, 1)]
