"""Each reaction of a node: what it hears from above and of its workers, and the whole list of effects that go out."""

from __future__ import annotations

from typing import Any

import pytest

from zmqtasks.core import waits
from zmqtasks.core.dispatch import Dispatcher
from zmqtasks.core.effects import ACCEPTED, DELIVERED, SETTLED, Answer, End, Record, Send, Settle
from zmqtasks.core.node import ABOVE, RECALL_S, Node
from zmqtasks.core.pace import NODE_WINDOW_S
from zmqtasks.messages import (
    CANCELLED,
    DEAD,
    FAILED,
    LEASED,
    QUEUED,
    SUCCEEDED,
    Answered,
    Cancel,
    Deep,
    Done,
    Ended,
    Ends,
    Joined,
    Leaving,
    Lost,
    Part,
    Recall,
    Resumed,
    Returned,
    Run,
    Running,
    Slots,
    Submit,
    Task,
    Unwanted,
    Waiting,
)
from zmqtasks.options import Options

CLIENT = 0
EARLY = "cancelled before it started"


class Rig:
    """A node with workers 1, 2, ..., a clock, and function 7, whose cost is known: a microsecond."""

    def __init__(self, workers: int = 1, slots: int | None = None) -> None:
        self.node = Node(workers if slots is None else slots)
        self.now = 100.0
        self.node.machine._dealer.pace.note(7, 1, 1e-6)
        self.node.machine._dealer.pace.note(8, 1, 1.0)
        for worker in range(1, workers + 1):
            assert self.say(worker, Joined()) == []

    def turn(self, *, after: float = 0.0) -> list[Any]:
        """One turn, and its effects."""
        self.now += after
        effects = self.node.turn(self.now)
        self.node.check()
        deadline = self.node.next_deadline()
        assert deadline is None or deadline > self.now
        return effects

    def say(self, peer: int, *messages: Any, after: float = 0.0) -> list[Any]:
        """What comes of these."""
        self.now += after
        for message in messages:
            self.node.receive(peer, message, self.now)
        return self.turn()

    def hear(self, *messages: Any, after: float = 0.0) -> list[Any]:
        """What comes of these words from above."""
        return self.say(ABOVE, *messages, after=after)


def single(id_: int, *, fn: int = 7, **options: Any) -> Task:
    return Task(id_, fn, b"payload", Options(**options))


def span(id_: int, count: int, *, fn: int = 7, offset: int = 0) -> Task:
    return Task(id_, fn, b"items", Options(), count=count, offset=offset, span=True)


def up(*messages: Any) -> list[Any]:
    """What is sent to the dispatcher above."""
    return [Send(ABOVE, message) for message in messages]


def settled(state: int, tasks: list[Task], payloads: list[Any]) -> list[Any]:
    """The two effects of an end, above."""
    return [Record(SETTLED, tasks, state, payloads), Settle(state, tasks, payloads)]


def broker(*, nodes: int = 1, slots: int = 1, **options: Any) -> Any:
    """A dispatcher over nodes, with the same functions known."""
    rig = Broker(**options)
    for peer in range(1, nodes + 1):
        assert rig.say(peer, Joined(slots, node=True)) == []
    return rig


class Broker:
    """The dispatcher above, and its clock."""

    def __init__(self, **options: Any) -> None:
        self.machine = Dispatcher(**options)
        self.now = 100.0
        self.machine._dealer.pace.note(7, 1, 1e-6)
        self.machine._dealer.pace.note(8, 1, 1.0)

    def say(self, peer: int, *messages: Any, after: float = 0.0) -> list[Any]:
        """What comes of these."""
        self.now += after
        for message in messages:
            self.machine.receive(peer, message, self.now)
        effects = self.machine.turn(self.now)
        self.machine.check()
        return effects

    def given(self, *tasks: Task) -> None:
        """Submit them; they are dealt."""
        self.say(CLIENT, Submit(list(tasks)))
        assert [task.state for task in tasks] == [LEASED] * len(tasks)


def test_what_is_on_its_way_to_a_node_is_not_late_for_it() -> None:
    rig = broker()
    megabytes = bytes(5_000_000)
    rig.given(*(Task(id_, 7, megabytes) for id_ in (10, 11)))
    assert rig.say(1, Running([]), after=0.9) == []  # 10 MB have not come there
    assert rig.say(1, Running([]), after=0.2) == [Send(1, Recall())]


# ---- cancelling, of what a node has ---------------------------------------------------------------------------------


def test_a_cancel_that_nobody_waits_for_is_answered_nowhere() -> None:
    rig, above, task = Rig(), broker(), single(10)
    above.given(task)
    nobody = Cancel(10, terminate=False, token=None)
    assert above.say(CLIENT, nobody) == [Send(1, nobody)]
    assert above.machine.peers[1].questions == []
    assert above.say(CLIENT, Cancel(99, terminate=False, token=None)) == []
    rig.hear(Run(0, [single(10)]))
    assert rig.hear(nobody) == [Send(1, Recall())]
    assert rig.say(1, Returned([(0, 0, 1)])) == up(Ends([Ended(0, 0, 1, CANCELLED, EARLY)]))
    assert rig.hear(nobody) == []


def test_a_cancel_that_crosses_what_comes_back_is_answered_before_that_is_dealt_again() -> None:
    above, task = broker(), single(10)
    above.given(task)
    question = Cancel(10, terminate=True, token="t")
    assert above.say(CLIENT, question) == [Send(1, question)]
    assert above.say(1, Returned([(0, 0, 1)])) == [
        *settled(CANCELLED, [task], [EARLY]),
        Answer("t", cancelled=True),
    ]
    assert above.say(1, Answered(10, "t", cancelled=False)) == []


# ---- waiting for what is elsewhere ----------------------------------------------------------------------------------


def test_a_worker_that_waits_for_something_above_takes_no_slot_until_that_is_settled() -> None:
    rig = Rig(workers=2, slots=1)
    rig.hear(Run(0, [single(10)]))
    rig.node.submitted(range(50, 52))
    assert rig.say(1, Waiting(50)) == up(Running([(0, 0)]), Slots(2, [7]))
    other = single(11)
    assert rig.hear(Run(1, [other])) == [*up(Running([(0, 0), (1, 0)])), Send(2, Run(0, [other]))]
    rig.node.settled([51])
    assert rig.turn() == []
    rig.node.settled([50])
    assert rig.turn() == up(Slots(1))
    assert rig.say(1, Resumed()) == []
    assert not rig.node.machine.waits.elsewhere


def test_what_takes_the_place_of_a_task_comes_from_the_worker_that_runs_it() -> None:
    rig = Rig(workers=2, slots=1)
    rig.hear(Run(0, [single(10)]))
    assert rig.node.runs_at(1, [10])
    assert rig.node.runs_at(2, []), "for nobody's place"
    assert not rig.node.runs_at(2, [10])
    assert not rig.node.runs_at(1, [10, 11])
    rig.say(1, Lost("gone", ordinal=0))
    assert rig.node.runs_at(2, [10])
    assert not rig.node.runs_at(1, [10]), "a word of the lost one that comes late would push out the other's"
    rig.say(2, Done(0, [b"a"]))
    assert not rig.node.runs_at(2, [10])


# ---- lanes ----------------------------------------------------------------------------------------------------------


def in_lane(id_: int, lane: int, *, fn: int = 7, **options: Any) -> Task:
    task = single(id_, fn=fn, **options)
    task.lane = lane
    return task


def test_nobody_is_given_what_it_does_not_take() -> None:
    rig = Broker()
    rig.say(1, Joined(1, node=True, lanes=frozenset({1, 2})))
    plain, first, second = in_lane(10, 0), in_lane(11, 1), in_lane(12, 2)
    assert rig.say(CLIENT, Submit([plain])) == [Record(ACCEPTED, [plain])]
    assert rig.say(CLIENT, Submit([first, second]))[1:] == [
        Send(1, Run(0, [first])),
        Send(1, Run(1, [second])),
    ]
    assert rig.say(1, Joined(1, node=True, lanes=frozenset({0, 1, 2}))) == [Send(1, Run(2, [plain]))]


def test_priorities_hold_across_lanes() -> None:
    rig = Broker()
    rig.say(1, Joined(1, node=True, lanes=frozenset({1})))
    tasks = [
        in_lane(10, 1, priority=9, fn=8),
        in_lane(11, 1, priority=0, fn=8),
        in_lane(12, 2, priority=5, fn=8),
    ]
    rig.say(CLIENT, Submit(tasks))
    assert [task.peer for task in tasks] == [1, -1, -1]
    assert rig.say(2, Joined(1, node=True)) == [Send(2, Run(0, [tasks[2]]))]
    assert rig.say(3, Joined(1, node=True)) == [Send(3, Run(0, [tasks[1]]))]


def test_who_has_no_room_for_the_urgent_is_not_given_what_is_less_so() -> None:
    rig = Broker()
    rig.say(
        CLIENT, Submit([in_lane(10, 1, priority=9, fn=8), in_lane(11, 1, priority=9, fn=8), in_lane(12, 2)])
    )
    [run] = rig.say(1, Joined(1, node=True))
    assert [task.id for task in run.message.tasks] == [10]
    assert rig.say(2, Joined(1, node=True, lanes=frozenset({2})))[0].message.tasks[0].id == 12


def test_nothing_is_recalled_for_an_idle_node_that_does_not_take_it() -> None:
    rig = Broker()
    rig.machine._dealer.pace.note(9, 1, 0.01)
    rig.say(1, Joined(1, node=True))
    rig.say(CLIENT, Submit([in_lane(10, 1, fn=9), in_lane(11, 1, fn=9)]))
    assert rig.say(2, Joined(1, node=True, lanes=frozenset({2}))) == []
    assert rig.say(3, Joined(1, node=True, lanes=frozenset({1}))) == [Send(1, Recall())]


# ---- a recall -------------------------------------------------------------------------------------------------------


def test_without_workers_all_comes_back_at_once() -> None:
    rig = Rig(workers=0, slots=2)
    assert rig.hear(Run(0, [single(10), span(20, 3, offset=4)])) == []
    assert rig.hear(Recall()) == up(Returned([(0, 0, 1), (1, 4, 3)]))
    assert rig.node.idle
    assert rig.hear(Recall()) == up(Returned([]))
    assert rig.node.next_deadline() is None


def test_workers_are_asked_first_and_nothing_is_dealt_meanwhile() -> None:
    rig = Rig(workers=2)
    one, two, three = single(10), single(11), single(12, fn=8)
    assert rig.hear(Run(0, [three])) == [*up(Running([(0, 0)])), Send(1, Run(0, [three]))]
    assert rig.hear(Run(1, [one, two])) == [Send(2, Run(0, [one, two]))]
    assert rig.hear(Recall()) == [Send(2, Recall())]
    assert rig.hear(Run(3, [single(13)])) == []
    assert rig.say(2, Returned([(1, 0, 1)])) == up(Returned([(2, 0, 1), (3, 0, 1)]))
    again = single(14)
    assert rig.hear(Run(4, [again])) == [Send(2, Run(2, [again]))]


def test_who_does_not_answer_is_not_waited_for_and_stops_nobody() -> None:
    rig = Rig(workers=2)
    mine, hers = [single(10), single(11)], [single(12), single(13)]
    assert rig.hear(Run(0, mine + hers)) == [Send(1, Run(0, mine)), Send(2, Run(0, hers))]
    assert rig.hear(Recall()) == [Send(1, Recall()), Send(2, Recall())]
    assert rig.say(1, Returned([(1, 0, 1)])) == []
    assert rig.turn(after=RECALL_S) == up(Returned([(1, 0, 1)]))
    more = single(14)
    assert rig.hear(Run(4, [more])) == [Send(1, Run(2, [more]))]  # the other worker goes on
    assert rig.say(2, Returned([(1, 0, 1)])) == [Send(2, Run(2, [hers[1]]))]  # it has room for it
    assert rig.node.next_deadline() is not None


def test_what_comes_back_later_and_finds_no_room_goes_up() -> None:
    rig = Rig(workers=1)
    tasks = [single(10), single(11)]
    rig.hear(Run(0, tasks))
    assert rig.hear(Recall()) == [Send(1, Recall())]
    assert rig.turn(after=RECALL_S) == up(Returned([]))
    assert rig.say(1, Returned([(1, 0, 1)]), Waiting()) == up(
        Running([(0, 0)]), Returned([(1, 0, 1)]), Slots(2, [7])
    )


def test_who_leaves_gives_back_what_is_left_by_a_worker_that_died() -> None:
    rig = Rig(workers=2)
    runs = single(10, fn=8)
    rig.hear(Run(0, [runs]))
    rig.node.leave(rig.now)
    assert rig.turn() == up(Returned([]))
    assert rig.say(1, Lost("gone", ordinal=0)) == up(Returned([(0, 0, 1)], died=[(0, 0, 1)]))
    assert rig.node.idle


def test_what_has_killed_workers_of_one_node_is_counted_on_at_the_next() -> None:
    above, task = broker(), single(10, max_deliveries=2)
    above.given(task)
    back = Returned([(0, 0, 1)], died=[(0, 0, 1)])
    assert above.say(1, back) == [Record(DELIVERED, [task]), Send(1, Run(1, [task]))]
    assert task.deliveries == 1
    rig = Rig()
    rig.hear(Run(1, [Task(10, 7, b"payload", task.options, attempt=1, deliveries=1)]))
    assert rig.say(1, Lost("gone", ordinal=0)) == up(Ends([Ended(1, 0, 1, DEAD, "gone", 2)]))


# ---- slots ----------------------------------------------------------------------------------------------------------


def test_an_overdue_node_with_a_free_slot_is_given_what_its_task_waits_for() -> None:
    rig = broker()
    parent, other, sub = single(10), single(11), single(12)
    rig.given(parent, other)
    assert rig.say(CLIENT, after=1.0) == [Send(1, Recall())]
    assert rig.say(1, Returned([(1, 0, 1)])) == []  # no more until it makes progress
    assert rig.say(1, Submit([sub])) == [Record(ACCEPTED, [sub])]
    assert rig.say(1, Slots(2)) == [Send(1, Run(2, [sub, other]))]


def test_a_free_slot_comes_before_a_little_less_work() -> None:
    rig = broker()
    rig.machine._dealer.pace.note(9, 1, 0.002)
    rig.given(single(10, fn=9))
    rig.say(2, Joined(3, node=True))
    rig.given(single(11, fn=9), single(12, fn=9))
    assert [task.id for task in rig.machine.peers[2].hand.values()] == [11, 12]
    third = single(13, fn=9)
    # Node 2 has more in hand, and a slot that is free: given to node 1, this would be recalled at once, and so on.
    assert rig.say(CLIENT, Submit([third]))[1:] == [Send(2, Run(2, [third]))]


def test_who_has_more_slots_gets_a_larger_share() -> None:
    rig = Broker()
    rig.say(1, Joined(1, node=True))
    rig.say(2, Joined(3, node=True))
    rig.given(*(single(id_, fn=8) for id_ in range(10, 14)))
    assert [peer.items for peer in rig.machine.peers.values()] == [1, 3]


def test_a_hand_is_weighed_anew_when_the_slots_change() -> None:
    rig = broker(slots=2)
    rig.machine._dealer.pace.note(9, 1, 0.05)
    rig.given(*(single(id_, fn=9) for id_ in range(10, 14)))
    peer = rig.machine.peers[1]
    assert peer.hand_s == pytest.approx(4 * NODE_WINDOW_S)
    assert rig.say(1, Slots(1)) == []
    assert peer.hand_s == pytest.approx(4 * 0.05)


def test_what_has_not_come_back_when_asked_for_is_running_and_not_asked_for_again() -> None:
    rig = broker(slots=2)
    rig.machine._dealer.pace.note(9, 1, 0.01)
    low = [single(id_, fn=9) for id_ in range(10, 14)]
    rig.given(*low)
    urgent = [single(id_, fn=9, priority=9) for id_ in range(20, 28)]
    assert rig.say(CLIENT, Submit(urgent))[-1] == Send(1, Recall())
    assert rig.say(1, Returned([(0, 0, 1)])) == [
        Send(1, Run(4, urgent[:1]))
    ]  # those that run are not the first two


# ---- what runs, and what comes of it --------------------------------------------------------------------------------


def test_what_is_given_is_dealt_and_the_journal_is_not_asked() -> None:
    rig, task = Rig(), single(10)
    assert rig.hear(Run(5, [task])) == [Send(1, Run(0, [task]))]
    assert (task.face, task.ordinal) == (5, 0)
    assert not rig.node.idle
    assert rig.say(1, Done(0, [b"a"], pace=[(7, 1, 0.5)])) == up(Done(5, [b"a"], pace=[(7, 1, 0.5)]))
    assert rig.node.idle


def test_a_countdown_is_over_when_a_node_hears_of_it() -> None:
    rig, task = Rig(), single(10, countdown=9.0, priority=3)
    assert rig.hear(Run(0, [task])) == [Send(1, Run(0, [task]))]
    assert task.options == Options(priority=3)


def test_outcomes_go_up_by_runs_of_ordinals_with_their_failures() -> None:
    rig = Rig(workers=2)
    tasks = [single(id_) for id_ in range(10, 16)]
    rig.hear(Run(0, tasks))
    assert [task.peer for task in tasks] == [1, 1, 1, 2, 2, 2]
    first = Done(0, [b"a", b"x", b"c"], failed=[1], pace=[(7, 3, 0.3)])
    last = Done(1, [b"y", b"f"], failed=[0], pace=[(7, 2, 0.2)])
    rig.node.receive(2, last, rig.now)
    assert rig.say(1, first) == up(
        Running([(3, 0)]),  # what follows takes longer than was thought
        Done(0, [b"a", b"x", b"c"], failed=[1], pace=[(7, 5, 0.5)]),
        Done(4, [b"y", b"f"], failed=[0]),
    )
    assert rig.say(2, Done(0, [b"d"], pace=[(7, 1, 0.1)])) == up(Done(3, [b"d"], pace=[(7, 1, 0.1)]))


def test_a_span_is_cut_over_workers_and_told_in_any_order() -> None:
    rig = Rig(workers=2)
    rig.hear(Run(0, [span(10, 6, offset=4)]))
    assert rig.say(2, Done(0, [], parts=[Part(0, 7, 3, failed=False, payload=[4, 5, 6])])) == up(
        Done(0, [], parts=[Part(0, 7, 3, failed=False, payload=[4, 5, 6])])
    )
    parts = [Part(0, 4, 2, failed=False, payload=[1, 2]), Part(0, 6, 1, failed=True, payload=b"x")]
    assert rig.say(1, Done(0, [], parts=parts, pace=[(7, 3, 0.1)])) == up(
        Done(0, [], parts=parts, pace=[(7, 3, 0.1)])
    )
    assert rig.node.idle


def test_a_broker_takes_the_parts_of_a_span_with_holes_between() -> None:
    above, task = broker(), span(10, 6)
    above.given(task)
    middle = above.say(1, Done(0, [], parts=[Part(0, 2, 2, failed=False, payload=[3, 4])]))
    assert [(type(e), e.tasks[0].id, e.tasks[0].count) for e in middle] == [(Record, 12, 2), (Settle, 12, 2)]
    last = above.say(1, Done(0, [], parts=[Part(0, 5, 1, failed=True, payload=b"x")]))
    assert [(e.tasks[0].id, e.state) for e in last] == [(15, FAILED)] * 2
    assert above.say(1, Done(0, [], parts=[Part(0, 2, 2, failed=False, payload=[3, 4])])) == []  # said twice
    first = above.say(1, Done(0, [], parts=[Part(0, 0, 2, failed=False, payload=[1, 2])]))
    assert [(e.tasks[0].id, e.tasks[0].count) for e in first] == [(10, 2)] * 2
    rest = above.say(1, Returned([(0, 4, 1)]))
    assert [(part.id, part.offset, part.count) for part in rest[0].message.tasks] == [(14, 4, 1)]
    above.machine.check()


def test_what_a_worker_died_of_too_often_ends_here() -> None:
    rig = Rig(workers=2)
    rig.hear(Run(3, [Task(10, 8, b"items", Options(max_deliveries=1), count=2, offset=5, span=True)]))
    effects = rig.say(1, Lost("gone", ordinal=0, item=5))
    assert effects == up(Ends([Ended(3, 5, 1, DEAD, "gone", 1)]))
    above = broker()
    items = span(20, 2)
    above.given(items)
    effects = above.say(1, Ends([Ended(0, 1, 1, DEAD, "gone"), Ended(7, 0, 1, DEAD, "old")]))
    assert [(e.state, e.tasks[0].id, e.payloads) for e in effects] == [(DEAD, 21, ["gone"])] * 2


# ---- cancelling, in a node ------------------------------------------------------------------------------------------


def asked(id_: int, token: str = "t", *, terminate: bool = False) -> Cancel:
    return Cancel(id_, terminate, token)


def test_a_cancel_of_what_waits_in_the_node() -> None:
    rig = Rig(workers=1)
    rig.hear(Run(0, [single(10, fn=8), single(11, fn=8)]))
    assert rig.hear(asked(11)) == up(
        Ends([Ended(1, 0, 1, CANCELLED, EARLY)]), Answered(11, "t", cancelled=True)
    )


def test_a_cancel_of_what_runs_asks_the_worker() -> None:
    rig = Rig()
    rig.hear(Run(0, [single(10)]))
    assert rig.hear(asked(10)) == [Send(1, Recall())]
    assert rig.say(1, Returned([])) == [Send(1, Unwanted(10)), *up(Answered(10, "t", cancelled=False))]


def test_a_cancel_by_force_ends_the_worker() -> None:
    rig = Rig()
    rig.hear(Run(4, [single(10)]))
    assert rig.hear(asked(10, terminate=True)) == [Send(1, Recall())]
    assert rig.say(1, Returned([])) == [End(1)]
    assert rig.say(1, Lost("killed", ordinal=0)) == up(
        Ends([Ended(4, 0, 1, CANCELLED, "cancelled while it was running", 1)]),
        Answered(10, "t", cancelled=True),
    )


def test_a_cancel_of_what_is_not_here() -> None:
    assert Rig().hear(asked(10)) == up(Answered(10, "t", cancelled=False))


def test_each_question_has_its_own_answer() -> None:
    rig = Rig()
    rig.hear(Run(0, [single(10, fn=8), single(11, fn=8)]))
    assert rig.hear(asked(10, "a"), asked(11, "b")) == [
        Send(1, Recall()),
        *up(Ends([Ended(1, 0, 1, CANCELLED, EARLY)]), Answered(11, "b", cancelled=True)),
    ]
    assert rig.say(1, Returned([]))[1:] == up(Answered(10, "a", cancelled=False))


def test_a_range_is_passed_on_and_has_no_answer() -> None:
    above, dropped = broker(), Cancel(10, terminate=False, token=None, count=5)
    above.given(single(10), single(11))
    assert above.say(CLIENT, dropped) == [Send(1, dropped)]
    rig = Rig()
    rig.hear(Run(0, [single(10, fn=8), single(11, fn=8)]))
    assert rig.hear(dropped) == [Send(1, Recall()), *up(Ends([Ended(1, 0, 1, CANCELLED, EARLY)]))]
    assert rig.say(1, Returned([])) == []


@pytest.mark.parametrize("lost", [False, True])
def test_a_range_crosses_what_a_node_gives_back_or_is_lost_with(lost: bool) -> None:
    above, tasks = broker(), [single(10), span(11, 4), single(20)]
    above.given(*tasks)
    dropped = Cancel(10, terminate=False, token=None, count=5)
    assert above.say(CLIENT, dropped, dropped) == [Send(1, dropped)] * 2
    assert above.machine.peers[1].questions == [dropped]
    rest = [(task.ordinal, 0, task.count) for task in tasks]
    effects = above.say(1, Lost("gone") if lost else Returned(rest))
    assert [effect for effect in effects if not isinstance(effect, Send)][-2:] == settled(
        CANCELLED, tasks[:2], [EARLY] * 2
    )
    assert above.say(2, Joined(1, node=True))[-1:] == ([Send(2, Run(0, tasks[2:]))] if lost else [])
    assert above.machine.ledger.tasks == {20: tasks[2]}
    assert [node.questions for node in above.machine.peers.values()] == [[]] * (1 if lost else 2)


def test_the_dispatcher_above_asks_and_says_what_the_node_says() -> None:
    above, task = broker(), single(10)
    above.given(task)
    assert above.say(CLIENT, asked(10, "a"), asked(10, "b")) == [
        Send(1, asked(10, "a")),
        Send(1, asked(10, "b")),
    ]
    assert above.say(1, Answered(10, "a", cancelled=False)) == [Answer("a", cancelled=False)]
    assert above.say(1, Answered(10, "a", cancelled=False)) == []
    assert above.say(1, Ends([Ended(0, 0, 1, CANCELLED, EARLY)]), Answered(10, "b", cancelled=True)) == [
        *settled(CANCELLED, [task], [EARLY]),
        Answer("b", cancelled=True),
    ]


def test_a_question_about_what_a_lost_node_had_is_answered() -> None:
    above, task = broker(), single(10)
    above.given(task)
    above.say(CLIENT, asked(10))
    assert above.say(1, Lost("gone")) == [*settled(CANCELLED, [task], [EARLY]), Answer("t", cancelled=True)]


# ---- a recursion that is refused, and a node that leaves ------------------------------------------------------------


def test_a_recursion_that_is_refused_ends_above(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waits, "WAITING_MAX", 0)
    rig = Rig()
    rig.hear(Run(0, [single(10)]))
    rig.node.submitted([50])
    refused = Cancel(50, terminate=False, token=None)
    [running, *rest] = rig.say(1, Waiting(50))
    assert running == Send(ABOVE, Running([(0, 0)]))
    assert rest == [Send(1, Deep()), *up(refused, Slots(1, [7]))]
    above, sub = broker(nodes=0), single(50)
    above.say(CLIENT, Submit([sub]))
    assert above.say(CLIENT, refused) == settled(CANCELLED, [sub], [EARLY])


def test_a_waiting_worker_that_is_lost_takes_its_slot_with_it() -> None:
    rig = Rig()
    rig.hear(Run(0, [single(10, max_deliveries=1)]))
    rig.node.submitted([50])
    assert rig.say(1, Waiting(50)) == up(Running([(0, 0)]), Slots(2, [7]))
    assert rig.say(1, Lost("gone", ordinal=0)) == up(Ends([Ended(0, 0, 1, DEAD, "gone", 1)]), Slots(1))


def test_of_a_function_that_waits_a_node_is_given_one_a_slot() -> None:
    above, tasks = broker(), [single(10), single(11), single(12)]
    above.given(*tasks[:2])
    assert above.say(1, Slots(2, [7])) == []
    assert above.say(CLIENT, Submit([tasks[2]]))[1:] == [], "not one more, for it would begin too early"
    done = above.say(1, Done(1, [b""], pace=[(7, 1, 1e-6)]))
    assert done[2:] == [Send(1, Run(2, [tasks[2]]))], "and what it costs is no matter"


def test_who_leaves_finishes_what_runs_and_takes_nothing_more() -> None:
    rig = Rig()
    runs = single(10, fn=8)
    rig.hear(Run(0, [runs, single(11, fn=8)]))
    rig.node.leave(rig.now)
    rig.node.leave(rig.now)
    assert rig.turn() == up(Returned([(1, 0, 1)]))
    assert rig.hear(Run(2, [single(12)])) == up(Returned([(2, 0, 1)]))  # it has crossed the word
    assert rig.say(1, Done(0, [b"a"])) == up(Done(0, [b"a"]))
    assert rig.node.idle


def test_who_says_that_it_leaves_is_asked_for_what_it_has_and_given_nothing() -> None:
    above = broker(nodes=2)
    tasks = [single(10, fn=8), single(11, fn=8)]
    above.given(*tasks)
    assert above.say(1, Leaving()) == [Send(1, Recall())]
    late = single(12, fn=8)
    assert above.say(CLIENT, Submit([late])) == [Record(ACCEPTED, [late])]
    assert above.say(1, Returned([])) == []
    assert above.say(1, Done(0, [b"a"])) == settled(SUCCEEDED, tasks[:1], [b"a"])
    assert above.say(1, Lost("it has left")) == []
    assert late.state == QUEUED


# ---- two slots ------------------------------------------------------------------------------------------------------


def test_short_tasks_do_not_wait_for_a_long_one_in_the_other_slot() -> None:
    above, rig = broker(slots=2), Rig(workers=2)
    long = single(10, fn=8)
    shorts = [single(id_, fn=9) for id_ in range(11, 111)]
    down = above.say(CLIENT, Submit([long, *shorts]))
    done, busy, turns = 0, False, 0
    while done < 100:
        turns += 1
        assert turns < 150, f"{done} of 100 are through"
        above.now = rig.now = rig.now + 0.001
        words = [effect.message for effect in down if isinstance(effect, Send)]
        copies = [
            Run(run.first, [Task(task.id, task.fn, task.payload) for task in run.tasks])
            if isinstance(run, Run)
            else run
            for run in words
        ]
        effects = rig.hear(*copies)
        while children := [effect for effect in effects if effect.peer != ABOVE]:
            said: list[Any] = []
            for peer, message in children:
                if isinstance(message, Recall):
                    said.append((peer, Returned([])))
                for ordinal, task in enumerate(getattr(message, "tasks", ()), getattr(message, "first", 0)):
                    if task.fn == 8:
                        busy = True
                    else:
                        said.append((peer, Done(ordinal, [b""], pace=[(9, 1, 0.0005)])))
            effects = [effect for effect in effects if effect.peer == ABOVE]
            for peer, message in said:
                rig.node.receive(peer, message, rig.now)
            effects += rig.turn()
        down = []
        for effect in effects:
            message = effect.message
            done += len(message.payloads) if isinstance(message, Done) else 0
            above.machine.receive(1, message, above.now)
        down = above.say(CLIENT)
    assert busy
    assert rig.now < 100.0 + 0.2


def test_of_two_half_idle_nodes_the_one_with_nothing_to_start_takes_from_the_other() -> None:
    above = broker(slots=2)
    above.machine._dealer.pace.note(9, 1, 0.05)
    above.given(*(single(id_, fn=9) for id_ in range(10, 14)))
    assert above.say(2, Joined(2, node=True)) == [Send(1, Recall())]
    back = above.say(1, Returned([(2, 0, 1), (3, 0, 1)]))
    assert [(send.peer, [task.id for task in send.message.tasks]) for send in back] == [(2, [12, 13])]
