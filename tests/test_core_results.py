"""Outcomes that a broker keeps: what was confirmed takes nothing, whatever came with it."""

from __future__ import annotations

from zmqtasks.core.results import Results, end
from zmqtasks.messages import CANCELLED, LATE, SUCCEEDED, Task

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
