"""Credit: how much a peer is given, and what a task is taken to cost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmqtasks.blobs import Buffer, Packed
from zmqtasks.core.deal import Dealer
from zmqtasks.core.dispatch import Dispatcher
from zmqtasks.core.ledger import Ledger
from zmqtasks.core.pace import COST_S_MIN, HAND_BYTES_MAX, HAND_MAX, SHORT_S, WINDOW_S, Pace
from zmqtasks.core.peer import Peer
from zmqtasks.messages import LEASED, Done, Joined, Submit, Task, Value
from zmqtasks.options import Options


def dealer(tasks: list[Task], *, slots: int | None = None, **costs: float) -> Dealer:
    """With `tasks` queued, and functions known by their cost: `fn7=0.01`."""
    made = Dealer(Ledger(), slots)
    for name, cost in costs.items():
        made.pace.note(int(name[2:]), 1, cost)
    for task in tasks:
        made.ledger.submitted += task.count
        made.ledger.counts[0] += task.count
        made.ledger.add(task, {}, 0.0)
    return made


def singles(count: int, *, fn: int = 7, size: int = 0, priority: int = 0, start: int = 0) -> list[Task]:
    return [Task(start + i, fn, b"x" * size, Options(priority=priority)) for i in range(count)]


def dealt(made: Dealer, *peers: Peer, now: float = 0.0) -> list[int]:
    """How many tasks each peer has in hand after a deal."""
    made.deal(peers, now)
    made.ledger.check()
    return [peer.items for peer in peers]


@pytest.mark.parametrize("slots", [1, 3])
def test_a_function_without_an_outcome_goes_one_a_slot(slots: int) -> None:
    made = dealer(singles(9))
    peer = Peer(1, slots, 0.0)
    assert dealt(made, peer) == [slots]
    assert dealt(made, peer) == [slots]


def test_nothing_of_another_function_follows_one_of_unknown_cost() -> None:
    made = dealer([*singles(1, fn=8), *singles(5, start=10)], fn7=1e-6)
    assert dealt(made, Peer(1, 1, 0.0)) == [1]


@pytest.mark.parametrize(
    ("cost", "expected"),
    [
        (1e-4, int(WINDOW_S / 1e-4)),
        (WINDOW_S / 2, 2),
        (0.01, 2),
        (SHORT_S * 0.99, 2),
        (SHORT_S, 1),
        (10.0, 1),
        (0.0, 5000),
    ],
)
def test_a_hand_is_measured_in_time(cost: float, expected: int) -> None:
    made = dealer(singles(5000), fn7=cost)
    assert dealt(made, Peer(1, 1, 0.0)) == [min(expected, HAND_MAX)]


@pytest.mark.parametrize(("slots", "times"), [(1, 1), (4, 1), (8, 2), (16, 4)])
def test_where_there_are_many_each_has_more_in_hand(slots: int, times: int) -> None:
    machine = Dispatcher(slots=slots)
    machine.pace.note(7, 1, 1e-4)
    for peer in range(1, slots + 1):
        machine.receive(peer, Joined(), 0.0)
    machine.receive(0, Submit(singles(5000)), 0.0)
    machine.turn(0.0)
    assert {peer.items for peer in machine.peers.values()} == {int(times * WINDOW_S / 1e-4)}


def test_a_dear_task_that_is_done_takes_no_credit_of_cheap_ones_behind_it() -> None:
    machine = Dispatcher(slots=1)
    for fn in (7, 8):
        machine.pace.note(fn, 1, 4e-4)
    machine.receive(1, Joined(), 0.0)
    machine.receive(0, Submit([Task(1, 8, b""), *singles(100, start=10)]), 0.0)
    machine.turn(0.0)
    assert machine.peers[1].items == 10
    machine.receive(1, Done(0, [b""], pace=[(8, 1, 1.0)]), 1.0)
    machine.turn(1.0)
    assert machine.peers[1].items in (9, 10)  # one more at the most, and not ten


def test_a_hand_has_a_limit_in_bytes_beyond_the_first_two() -> None:
    third = HAND_BYTES_MAX // 3
    made, peer = dealer(singles(9, size=third), fn7=1e-6), Peer(1, 1, 0.0)
    assert dealt(made, peer)[0] <= 4  # one may go over it
    full = peer.items
    assert dealt(made, peer) == [full]
    assert dealt(dealer(singles(9, size=HAND_BYTES_MAX + 1), fn7=1e-6), Peer(1, 1, 0.0))[0] in (1, 2)


def test_the_values_that_a_task_takes_count_in_its_hand() -> None:
    third = HAND_BYTES_MAX // 3
    tasks = singles(9)
    for task in tasks:
        task.inputs = (Value(b"x" * third),)
    made, peer = dealer(tasks, fn7=1e-6), Peer(1, 1, 0.0)
    assert dealt(made, peer)[0] <= 4
    assert peer.bytes >= 3 * third
    peer.check()


def test_what_travels_once_does_not_count_each_time() -> None:
    blob = Buffer(HAND_BYTES_MAX, memory=b"x" * HAND_BYTES_MAX, digest=b"d")
    tasks = singles(9)
    for task in tasks:
        task.inputs = (Value(Packed(b"stream", [blob])),)
    assert dealt(dealer(tasks, fn7=1e-6), Peer(1, 1, 0.0)) == [9]


def test_all_have_some_before_one_has_much() -> None:
    assert dealt(dealer(singles(9), fn7=1e-6), Peer(1, 1, 0.0), Peer(2, 1, 0.0), Peer(3, 1, 0.0)) == [3, 3, 3]
    assert dealt(dealer(singles(1), fn7=1e-6), Peer(1, 1, 0.0), Peer(2, 1, 0.0)) == [1, 0]


def test_a_span_is_cut_to_measure() -> None:
    made = dealer([Task(10, 7, b"items", count=10, span=True)], fn7=1e-6)
    peers = [Peer(1, 1, 0.0), Peer(2, 1, 0.0), Peer(3, 1, 0.0)]
    assert dealt(made, *peers) == [4, 3, 3]
    parts = [task for peer in peers for task in peer.hand.values()]
    assert [(part.id, part.offset, part.count, part.state, part.attempt) for part in parts] == [
        (10, 0, 4, LEASED, 1),
        (14, 4, 3, LEASED, 1),
        (17, 7, 3, LEASED, 1),
    ]


def test_the_emptiest_is_served_first_and_the_highest_priority_dealt_first() -> None:
    made = dealer(singles(2) + singles(2, priority=9, start=10), fn7=0.003)
    busy, idle = Peer(1, 1, 0.0), Peer(2, 1, 0.0)
    busy.give([Task(99, 7, b"", state=LEASED)], 0.003)
    runs = made.deal([busy, idle], 0.0)
    assert [(peer.id, [task.id for task in run.tasks]) for peer, run in runs] == [(2, [10, 11]), (1, [0])]


@pytest.mark.parametrize("flag", ["overdue", "waiting", "asked", "ending"])
def test_who_is_given_nothing(flag: str) -> None:
    peer = Peer(1, 1, 0.0)
    peer.give(singles(1, start=9), 1e-6)
    setattr(peer, flag, 5 if flag == "ending" else True)
    assert not peer.open()
    assert dealt(dealer(singles(3), fn7=1e-6), peer) == [1]


def test_an_overdue_peer_is_given_what_its_free_slots_can_run() -> None:
    peer = Peer(1, 2, 0.0)
    peer.give(singles(1, start=9), 1e-6)
    peer.overdue = True
    assert peer.open()
    assert dealt(dealer(singles(3), fn7=1e-6), peer) == [4]
    assert not peer.open()


def test_slots_limit_how_many_are_at_work_beside_those_that_wait() -> None:
    made = dealer(singles(9), slots=2, fn7=1.0)
    peers = [Peer(index, 1, 0.0) for index in range(1, 5)]
    assert dealt(made, *peers) == [1, 1, 0, 0]
    peers[0].waiting = True
    assert dealt(made, *peers) == [1, 1, 1, 0]
    peers[0].waiting = False  # it is back: one more than there are slots, and no new work for anybody
    assert dealt(made, *peers) == [1, 1, 1, 0]


def test_who_is_recalled_from() -> None:
    made = dealer([], fn7=0.01)
    rich, poor, idle = Peer(1, 1, 0.0), Peer(2, 1, 0.0), Peer(3, 1, 0.0)
    for index in range(3):
        rich.give([Task(index, 7, b"", state=LEASED)], 0.01)
    poor.give([Task(9, 7, b"", state=LEASED)], 0.01)
    assert made.steal([rich, poor]) == []
    assert made.steal([rich, poor, idle]) == [rich]
    for flag in ("asked", "barren"):
        setattr(rich, flag, True)
        assert made.steal([rich, poor, idle]) == []
        setattr(rich, flag, False)


def test_a_moving_mean() -> None:
    pace = Pace()
    assert pace.cost_s(7) is None
    pace.note(7, 2, 2.0)
    assert pace.cost_s(7) == 1.0
    pace.note(7, 1, 5.0)
    assert pace.cost_s(7) == 2.0
    pace.note(7, 16, 64.0)
    assert pace.cost_s(7) == 3.0
    pace.note(8, 1, 0.0)
    assert pace.cost_s(8) == COST_S_MIN
    pace.forget(7)
    assert pace.cost_s(7) is None


@given(st.lists(st.tuples(st.integers(1, 1000), st.floats(0, 100)), min_size=1))
def test_a_mean_is_between_the_extremes(notes: list[tuple[int, float]]) -> None:
    pace = Pace()
    for tasks, seconds in notes:
        pace.note(7, tasks, seconds)
    each = [max(seconds / tasks, COST_S_MIN) for tasks, seconds in notes]
    cost = pace.cost_s(7)
    assert cost is not None
    assert min(each) * (1 - 1e-9) <= cost <= max(each) * (1 + 1e-9)


@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(0, 9)), max_size=30),
    st.integers(1, 4),
    st.floats(1e-7, 1.0),
)
def test_nothing_is_lost_or_dealt_twice(batch: list[tuple[int, int, int]], peers: int, cost: float) -> None:
    tasks, id_ = [], 0
    for fn, count, priority in batch:
        tasks.append(Task(id_, fn, b"", Options(priority=priority), count=count, span=count > 1))
        id_ += count
    made = dealer(tasks, fn1=cost, fn2=cost / 100)
    runs = made.deal([Peer(index, 1, 0.0) for index in range(peers)], 0.0)
    made.ledger.check()
    out = [task for _, run in runs for task in run.tasks]
    ids = [task.id + item for task in out + made.ledger.ready.tasks() for item in range(task.count)]
    assert sorted(ids) == list(range(id_))
    priorities = [task.options.priority for task in out]
    assert priorities == sorted(priorities, reverse=True)
