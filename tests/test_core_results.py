"""Outcomes that a broker keeps: what was confirmed takes nothing, but what tasks may take as arguments."""

from __future__ import annotations

from zmqtasks.core.results import Results, end
from zmqtasks.messages import CANCELLED, FAILED, LATE, SUCCEEDED, Task

LARGE = b"x" * 1000


def ended(id_: int, payload: bytes = LARGE) -> Task:
    task = Task(id_, 1, b"arguments", state=SUCCEEDED)
    end(task, payload)
    return task


def test_what_was_confirmed_holds_no_payload_though_its_batch_is_kept() -> None:
    results = Results(bytes_max=1 << 30, ttl_s=100.0)
    kept, *confirmed = [ended(id_) for id_ in range(300)]
    results.put([kept, *confirmed], 0.0)
    results.drop(confirmed)
    results.expire(1.0)
    assert len(results) == 1
    assert results.find(0) is kept
    assert sum(len(task.payload) for task in confirmed) == 0
    assert kept.payload == LARGE


def test_what_is_pushed_out_says_so_to_whoever_is_still_to_be_told() -> None:
    results = Results(bytes_max=3 * (len(LARGE) + 300), ttl_s=100.0)
    tasks = [ended(id_) for id_ in range(5)]
    for task in tasks:
        results.put([task], 0.0)
    assert [task.id for task in results] == [2, 3, 4]
    assert (tasks[0].state, tasks[0].payload) == (CANCELLED, LATE)


def test_what_is_too_old_goes() -> None:
    results = Results(bytes_max=1 << 30, ttl_s=10.0)
    results.put([ended(1)], 0.0)
    results.put([ended(2)], 5.0)
    results.expire(10.0)
    assert (results.find(1), len(results)) == (None, 1)


def test_what_has_arrived_is_kept_as_an_argument_where_it_is_large() -> None:
    results = Results(bytes_max=1 << 30, ttl_s=100.0)
    large, small, failed = ended(1, 2 * LARGE), ended(2), ended(3, 2 * LARGE)
    failed.state = FAILED
    results.put([large, small, failed], 0.0)
    results.release([large, small, failed])
    assert (results.lend(1), results.find(2), results.find(3)) == (large, None, None)
    assert large.payload == 2 * LARGE


def test_what_has_arrived_goes_first_and_of_that_what_was_not_used_for_longest() -> None:
    results = Results(bytes_max=5000, ttl_s=100.0)
    waits, *arrived = [ended(id_, 2 * LARGE if id_ else LARGE) for id_ in range(3)]
    results.put([waits], 0.0)
    for task in arrived[:1]:
        results.put([task], 0.0)
    results.release(arrived[:1])
    results.spare(arrived[1:], 0.0)  # with it, it is too much
    assert [results.find(id_) is not None for id_ in range(3)] == [True, False, True]
    assert arrived[1].payload == 2 * LARGE  # what is kept is a copy
    assert waits.payload == LARGE
    roomy = Results(bytes_max=7000, ttl_s=100.0)
    for id_ in (1, 2):
        roomy.spare([ended(id_, 2 * LARGE)], 0.0)
    assert roomy.lend(1) is not None
    roomy.spare([ended(3, 2 * LARGE)], 0.0)
    roomy.spare([ended(4, 2 * LARGE)], 0.0)
    assert [id_ for id_ in range(5) if roomy.find(id_)] == [1, 3, 4]
    assert roomy.nbytes == sum(300 + len(task.payload) for task in roomy)


def test_what_is_larger_than_all_that_is_kept_goes_at_once() -> None:
    results = Results(bytes_max=1000, ttl_s=100.0)
    results.spare([ended(1, 2 * LARGE)], 0.0)
    assert (len(results), results.nbytes) == (0, 0)


def test_arguments_go_with_those_who_could_name_them() -> None:
    results = Results(bytes_max=1 << 30, ttl_s=100.0)
    results.put([ended(7)], 0.0)
    results.spare([ended(id_, 2 * LARGE) for id_ in (5, 8, 20)], 0.0)
    results.forget(5, 10)
    assert sorted(task.id for task in results) == [7, 20]
