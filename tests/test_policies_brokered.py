"""Retries, time limits and expiry through a broker: the node hands failures up and ends what is over its limit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import until
from fleet import Fleet
from gate import Gate, wait_at, work

from zmqtasks import Client, Retry, State, TaskExpired, TimeLimitExceeded, current


@pytest.fixture(scope="module")
def brokered(_module_leaves_nothing: None) -> Iterator[Client]:
    """A client of a broker with one node of two children."""
    with Fleet(nodes=1) as fleet:
        client = fleet.client()
        wait_for_both(client)
        yield client


def wait_for_both(client: Client) -> None:
    """Both children are up, before the next test takes stock."""
    until(lambda: len(set(client.map(my_pid, range(50)))) == 2)


def my_pid(_: int) -> int:
    work(0.002)
    return os.getpid()


def test_a_failed_task_runs_again_and_its_error_names_the_attempts(brokered: Client) -> None:
    def task(times: int) -> Any:
        if current().attempt <= times:
            raise OSError(f"run {current().attempt}")
        return current().attempt

    client = brokered.options(retry=Retry(3, on=OSError, delay=0.01))
    assert client.submit(task, 2).result(30) == 3
    assert list(client.map(task, [0, 1, 2, 3])) == [1, 2, 3, 4]
    error = client.submit(task, 9).exception(30)
    assert str(error) == "run 4"
    assert "attempt 3: OSError: run 3" in "\n".join(getattr(error, "__notes__", ()))


def test_a_task_over_its_limit_is_ended_or_retried(brokered: Client) -> None:
    def task(attempts: int) -> int:
        while current().attempt <= attempts:
            pass
        return current().attempt

    client = brokered.options(time_limit=0.3)
    future = client.submit(task, 9)
    assert isinstance(future.exception(30), TimeLimitExceeded)
    assert future.state is State.FAILED
    assert client.options(retry=Retry(1, delay=0)).submit(task, 1).result(30) == 2
    assert isinstance(
        client.options(retry=Retry(1, delay=0)).submit(task, 9).exception(30), TimeLimitExceeded
    )
    wait_for_both(brokered)


def test_what_has_not_started_in_time_expires(brokered: Client, tmp_path: Path) -> None:
    with Gate(tmp_path) as gate:
        busy = [brokered.submit(wait_at, gate.path, number) for number in range(2)]
        until(lambda: len(gate.arrived()) == 2)
        late = brokered.options(expires=0.2).submit(abs, -1)
        assert isinstance(late.exception(30), TaskExpired)
        assert not any(future.done() for future in busy)
        gate.open()
        assert [future.result(30) for future in busy] == [0, 1]
