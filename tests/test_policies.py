"""Retries, time limits and expiry on real processes."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import statistics
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from time import monotonic, time
from typing import Any

import pytest
from conftest import RunPython, has_ended, until
from gate import Gate, note, wait_at

from zmqtasks import (
    Client,
    NotPicklable,
    RemoteError,
    Retry,
    State,
    TaskExpired,
    TimeLimitExceeded,
    UpstreamFailed,
    WorkerLost,
    ZmqTasksError,
    current,
)

SOON = Retry(3, delay=0.01, jitter="none")
LIMIT_S = 0.3
BOUND_S = 0.2
"""Within which, after its limit, a task is promised to be over."""
BUSY_S = 2.0
"""What a machine that does other things may add to that once in a while."""


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    with Gate(tmp_path) as gate:
        yield gate


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log"
    path.touch()
    return path


def failing(times: int, log: Path, error: type[Exception] = OSError) -> Callable[..., Any]:
    """A task that fails so many times, and notes each run with its time."""

    def task(value: Any = "value") -> Any:
        with log.open("a") as file:
            file.write(f"{value} {current().attempt} {monotonic()}\n")
        if sum(line.split()[0] == str(value) for line in log.read_text().splitlines()) <= times:
            raise error(f"run {current().attempt}")
        return value

    return task


def runs(log: Path) -> list[list[str]]:
    return [line.split() for line in log.read_text().splitlines()]


# ---- retries --------------------------------------------------------------------------------------------------------


def test_a_failed_task_runs_again_under_its_id_after_its_backoff(client: Client, log: Path) -> None:
    rule = Retry(3, on=OSError, delay=0.1, factor=2, jitter="none")
    future = client.options(retry=rule).submit(failing(2, log))
    assert future.result(30) == "value"
    assert (future.state, future.attempts) == (State.SUCCEEDED, 3)
    attempts = [int(attempt) for _, attempt, _ in runs(log)]
    first, second, third = (float(when) for _, _, when in runs(log))
    assert attempts == [1, 2, 3]
    assert second - first >= 0.1
    assert third - second >= 0.2


def test_the_last_error_names_the_attempts_before_it(client: Client, log: Path) -> None:
    future = client.options(retry=Retry(2, delay=0, max_delay=0)).submit(failing(9, log))
    error = future.exception(30)
    assert isinstance(error, OSError)
    assert str(error) == "run 3"
    assert (future.state, future.attempts, len(runs(log))) == (State.FAILED, 3, 3)
    note = "\n".join(error.__notes__)
    assert "attempt 1: OSError: run 1\nattempt 2: OSError: run 2" in note
    assert "nodes/" not in note  # the frames of what called it are none of the user's


def test_only_what_the_rule_names_is_retried(client: Client, log: Path) -> None:
    class Odd(Exception):
        """Of no module: it travels by value."""

    class Odder(Odd):
        """So does this."""

    rule = Retry(2, on=(Odd, KeyError), not_on=Odder, delay=0)
    for error, expected in ((Odd, 3), (Odder, 1), (KeyError, 3), (OSError, 1)):
        log.write_text("")
        future = client.options(retry=rule).submit(failing(9, log, error))
        assert type(future.exception(30)) is error
        assert len(runs(log)) == expected, error


def test_a_class_of_the_main_module(run_python: RunPython, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "from zmqtasks import Client, Retry, current\n"
        "class Odd(Exception): pass\n"
        "def task():\n"
        "    if current().attempt < 3: raise Odd\n"
        "    return current().attempt\n"
        "with Client(workers=1, retry=Retry(on=Odd, delay=0.01)) as client:\n"
        "    print(client.submit(task).result())\n"
    )
    ended = run_python("script.py")
    assert (ended.stdout, ended.stderr) == ("3\n", "")


def test_items_of_a_map_are_retried_one_by_one(client: Client, log: Path) -> None:
    one = failing(1, log)

    def task(index: int) -> int:
        return int(one(index)) if index % 10 == 3 else index

    assert list(client.options(retry=SOON).map(task, range(50))) == list(range(50))
    assert Counter(int(value) for value, _, _ in runs(log)) == dict.fromkeys(range(3, 50, 10), 2)


def test_the_default_of_a_client_and_what_overrides_it(log: Path) -> None:
    with Client(workers=1, retry=Retry(1, delay=0)) as client:
        assert client.submit(failing(1, log)).result(30) == "value"
        log.write_text("")
        assert client.options(retry=None).submit(failing(1, log)).exception(30)
        log.write_text("")
        assert client.options(retry=SOON, name="other").submit(failing(3, log)).result(30) == "value"
    with pytest.raises(TypeError, match=r"zmqtasks\.Retry"):
        Client(workers=1, retry=3)  # type: ignore[arg-type]


def test_a_retry_that_waits_is_seen_and_can_be_cancelled(client: Client, log: Path) -> None:
    future = client.options(retry=Retry(delay=600, jitter="none")).submit(failing(9, log))
    until(lambda: future.state is State.RETRYING)
    assert not future.running()
    assert not future.done()
    assert future.cancel()
    assert future.state is State.CANCELLED


def test_what_depends_on_a_task_waits_for_its_retries(client: Client, log: Path) -> None:
    future = client.options(retry=SOON).submit(failing(2, log), 20)
    assert client.submit(lambda x: x + 1, future).result(30) == 21


def test_a_task_of_a_task_is_retried(client: Client, log: Path) -> None:
    task = failing(2, log)

    def parent() -> Any:
        future = current().client.options(retry=Retry(on=OSError, delay=0.01)).submit(task)
        return future.result(), future.attempts

    assert client.submit(parent).result(30) == ("value", 3)


def test_no_retry_after_the_deadline(client: Client, log: Path) -> None:
    rule = Retry(99, delay=0.4, factor=1, jitter="none", deadline=1.0)
    assert client.submit(abs, -1).result(30) == 1  # a worker is there, before the time runs
    assert isinstance(client.options(retry=rule).submit(failing(99, log)).exception(30), OSError)
    assert 1 <= len(runs(log)) <= 3


def test_a_result_that_cannot_travel_is_not_retried(client: Client, log: Path) -> None:
    def task() -> Any:
        note(log, "ran")
        return threading.Lock()

    assert isinstance(client.options(retry=SOON).submit(task).exception(30), NotPicklable)
    assert len(runs(log)) == 1


def test_what_is_raised_to_end_a_process_is_retried_only_where_it_is_named(client: Client, log: Path) -> None:
    def task() -> None:
        note(log, "ran")
        raise SystemExit(3)

    assert isinstance(client.options(retry=SOON).submit(task).exception(30), RemoteError)
    assert len(runs(log)) == 1
    rule = Retry(1, on=BaseException, delay=0)
    assert isinstance(client.options(retry=rule).submit(task).exception(30), RemoteError)
    assert len(runs(log)) == 3


def test_a_rule_that_cannot_be_applied_is_named(client: Client) -> None:
    class Hostile(type):
        def __instancecheck__(cls, _: object) -> bool:
            raise ZeroDivisionError("no")

    class Odd(Exception, metaclass=Hostile):
        """Its check raises."""

    error = client.options(retry=Retry(on=Odd)).submit(lambda: 1 / 0).exception(30)
    assert isinstance(error, ZeroDivisionError)
    assert "its Retry could not be applied: ZeroDivisionError: no" in "\n".join(error.__notes__)


def test_losses_of_workers_are_counted_apart(client: Client, log: Path) -> None:
    def task() -> str:
        note(log, current().attempt)
        run = len(log.read_text().splitlines())
        if run in (1, 3):
            os._exit(1)
        if run in (2, 4):
            raise OSError("boom")
        return "value"

    options = {"retry": Retry(2, delay=0), "max_deliveries": 3}
    assert client.options(**options).submit(task).result(30) == "value"
    assert log.read_text().split() == ["1", "2", "3", "4", "5"]
    log.write_text("")
    error = client.options(retry=SOON, max_deliveries=1).submit(task).exception(30)
    assert isinstance(error, WorkerLost)


# ---- current().retry() ----------------------------------------------------------------------------------------------


def test_a_task_asks_for_another_attempt_itself(client: Client, log: Path) -> None:
    def task() -> int:
        with log.open("a") as file:
            file.write(f"{monotonic()}\n")
        if current().attempt < 3:
            try:
                Path("/nowhere").read_bytes()
            except OSError:
                current().retry(delay=timedelta(seconds=0.1))
        return current().attempt

    assert client.submit(task).result(30) == 3
    first, second, third = (float(line) for line in log.read_text().split())
    assert min(second - first, third - second) >= 0.1


@pytest.mark.parametrize("how", ["exc", "handled", "nothing"])
def test_what_it_fails_with_when_there_is_none_left(client: Client, how: str) -> None:
    def task() -> None:
        if how == "nothing":
            current().retry(delay=0)
        try:
            Path("/nowhere").read_bytes()
        except OSError:
            current().retry(delay=0, exc=KeyError("given") if how == "exc" else None)

    error = client.options(retry=Retry(1)).submit(task).exception(30)
    kinds: dict[str, type[BaseException]] = {
        "exc": KeyError,
        "handled": FileNotFoundError,
        "nothing": ZmqTasksError,
    }
    assert type(error) is kinds[how]
    assert "attempt 1: " in "\n".join(error.__notes__)


def test_an_item_of_a_map_asks_too_and_nothing_swallows_it(client: Client, log: Path) -> None:
    def task(index: int) -> int:
        try:
            if index == 7 and current().attempt == 1:
                current().retry(0)
        except Exception:  # noqa: BLE001 - it must not see it
            return -1
        return index

    assert list(client.map(task, range(20))) == list(range(20))


def test_a_delay_out_of_range_is_refused(client: Client) -> None:
    assert isinstance(client.submit(lambda: current().retry(-1)).exception(30), ValueError)


# ---- limits ---------------------------------------------------------------------------------------------------------


def overruns() -> dict[str, Callable[[Path, str], None]]:
    """Ways to run for ever; each notes when it began."""

    def began(log: Path) -> None:
        with log.open("a") as file:
            file.write(f"{os.getpid()} {monotonic()}\n")

    def holds_the_gil(log: Path, gate: str) -> None:
        began(log)
        re.match(r"(a+)+$", "a" * 60 + "b")

    def loops(log: Path, gate: str) -> None:
        began(log)
        while True:
            pass

    def ignores_every_exception(log: Path, gate: str) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        began(log)
        while True:
            try:
                threading.Event().wait()
            except BaseException:  # noqa: BLE001 - that is what it does
                continue

    def stands_still(log: Path, gate: str) -> None:
        began(log)
        os.kill(os.getpid(), signal.SIGSTOP)

    def waits_for_another(log: Path, gate: str) -> None:
        began(log)
        current().client.submit(wait_at, gate, "child").result()

    return {
        way.__name__: way
        for way in (holds_the_gil, loops, ignores_every_exception, stands_still, waits_for_another)
    }


OVERRUNS = overruns()


def test_a_task_knows_its_queue_and_when_its_time_is_over(client: Client) -> None:
    def left(_: object = None) -> tuple[str, float | None]:
        deadline = current().deadline
        return current().queue, None if deadline is None else deadline - time()

    async def left_after_a_while() -> tuple[str, float | None]:
        await asyncio.sleep(0.1)
        return left()

    limited = client.options(time_limit=60, queue="some")
    assert client.submit(left).result(30) == ("default", None)
    (queue, now), (_, later) = limited.submit(left).result(30), limited.submit(left_after_a_while).result(30)
    assert queue == "some"
    assert now is not None
    assert later is not None
    assert 50 < later < now <= 60
    assert later <= 59.9
    assert all(50 < seconds <= 60 for _, seconds in limited.map(left, range(20)) if seconds)


@pytest.mark.parametrize("way", OVERRUNS)
def test_whatever_it_does_it_is_ended_at_its_limit_and_its_neighbour_is_not(
    client: Client, log: Path, gate: Gate, way: str
) -> None:
    neighbour = client.submit(wait_at, gate.path, os.getpid())
    until(gate.arrived)

    def overrun() -> list[list[str]]:
        """It began; on a busy machine it may be over before that."""
        nonlocal now
        future = client.options(time_limit=LIMIT_S).submit(OVERRUNS[way], log, gate.path)
        error = future.exception(30)
        now = monotonic()
        assert isinstance(error, TimeLimitExceeded)
        assert isinstance(error, TimeoutError)
        assert "longer than 0.3 s" in str(error)
        assert (future.state, future.attempts) == (State.FAILED, 1)
        return runs(log)

    now = 0.0
    ((pid, began),) = until(overrun)
    assert now - float(began) < LIMIT_S + BOUND_S + BUSY_S
    assert has_ended(int(pid))
    gate.open()
    assert neighbour.result(30) == os.getpid()
    assert list(client.map(abs, range(-9, 0))) == list(range(9, 0, -1))  # it was replaced
    assert gate.arrived().count(str(os.getpid())) == 1


def test_it_is_over_within_the_bound(client: Client, log: Path) -> None:
    took = []
    for _ in range(10):
        log.write_text("")
        submitted = monotonic()
        future = client.options(time_limit=0.05).submit(OVERRUNS["holds_the_gil"], log, "")
        assert isinstance(future.exception(30), TimeLimitExceeded)
        ran = runs(log)  # on a busy machine it may be over before it says so
        took.append(monotonic() - (float(ran[0][1]) if ran else submitted))
    assert statistics.median(took) < 0.05 + BOUND_S, took


def test_near_the_limit_nobody_else_is_hit(client: Client, log: Path) -> None:
    """Tasks that take about as long as they may, some far less or more, each beside one without a limit."""

    def task(index: int, seconds: float) -> int:
        note(log, index)
        threading.Event().wait(seconds)
        return index

    limited, free = client.options(time_limit=0.03), client
    futures = []
    for index in range(0, 160, 2):
        seconds = 0.025 + index / 160 * 0.01
        other = {0: 0.0, 8: 30.0}.get(index % 16, seconds)
        futures += [limited.submit(task, index, other), free.submit(task, index + 1, seconds)]
    outcomes = Counter[str]()
    for index, future in enumerate(futures):
        error = future.exception(60)
        outcomes[type(error).__name__] += 1
        assert error is None or (index % 2 == 0 and isinstance(error, TimeLimitExceeded)), (index, error)
        assert error is not None or future.result() == index
    ran = Counter(int(line) for line in log.read_text().split())
    assert max(ran.values()) == 1
    ended = {index for index, future in enumerate(futures) if future.state is State.FAILED}
    assert set(range(160)) - ran.keys() <= ended  # the limit is for the loading too
    assert outcomes["NoneType"] > 80
    assert outcomes["TimeLimitExceeded"] >= 10


def test_of_a_map_the_item_that_overruns_is_ended(client: Client) -> None:
    def task(index: int) -> int:
        threading.Event().wait(60 if index in (3, 40) else 0.001)
        return index

    futures = client.options(time_limit=timedelta(seconds=0.5)).submit_many(task, range(60))
    for index, future in enumerate(futures):
        if index in (3, 40):
            assert isinstance(future.exception(30), TimeLimitExceeded)
        else:
            assert future.result(30) == index


@pytest.mark.parametrize("on", [Exception, TimeoutError, TimeLimitExceeded, OSError, ValueError])
def test_a_limit_is_a_failure_that_may_be_retried(client: Client, log: Path, on: type[Exception]) -> None:
    def task() -> str:
        note(log, current().attempt)
        if current().attempt == 1:
            threading.Event().wait(60)
        return "value"

    future = client.options(time_limit=1, retry=Retry(1, on=on, delay=0)).submit(task)
    if on is ValueError:
        assert isinstance(future.exception(30), TimeLimitExceeded)
        assert future.attempts == 1
        assert len(runs(log)) <= 1  # on a busy machine it may be over before it says so
    else:
        assert future.result(30) == "value"
        assert future.attempts == 2


def test_the_error_of_a_limit_names_the_attempts_before_it_and_travels(client: Client) -> None:
    def child() -> None:
        threading.Event().wait(60)

    def parent() -> None:
        current().client.options(time_limit=0.1, retry=Retry(1, delay=0)).submit(child).result()

    error = client.submit(parent).exception(30)
    assert isinstance(error, TimeLimitExceeded)
    assert "attempt 1: TimeLimitExceeded: it ran for longer than 0.1 s" in "\n".join(error.__notes__)


def test_the_limit_counts_from_the_start_and_not_from_the_submit(client: Client, gate: Gate) -> None:
    waiting = [client.submit(wait_at, gate.path, n) for n in range(2)]
    until(lambda: len(gate.arrived()) == 2)
    futures = [client.options(time_limit=0.5).submit(abs, -n) for n in range(10)]
    began = monotonic()
    until(lambda: monotonic() - began > 0.7)
    gate.open()
    assert [future.result(30) for future in futures] == list(range(10))
    assert [future.result(30) for future in waiting] == [0, 1]


# ---- expiry ---------------------------------------------------------------------------------------------------------


def test_what_has_not_started_in_time_expires_promptly(client: Client, gate: Gate, log: Path) -> None:
    busy = [client.submit(wait_at, gate.path, n) for n in range(2)]
    until(lambda: len(gate.arrived()) == 2)
    began = monotonic()
    late = client.options(expires=0.2).submit(note, log, "ran")
    items = client.options(expires=timedelta(seconds=0.2)).submit_many(abs, range(10))
    after = client.submit(abs, late)
    error = late.exception(30)
    assert 0.2 <= monotonic() - began < 0.2 + BUSY_S
    assert isinstance(error, TaskExpired)
    assert late.state is State.EXPIRED
    assert {type(item.exception(30)) for item in items} == {TaskExpired}
    cause = after.exception(30)
    assert isinstance(cause, UpstreamFailed)
    assert isinstance(cause.__cause__, TaskExpired)
    gate.open()
    assert [future.result(30) for future in busy] == [0, 1]
    assert client.submit(abs, -3).result(30) == 3
    assert runs(log) == []


def test_what_starts_in_time_may_take_as_long_as_it_likes(client: Client) -> None:
    def task() -> str:
        threading.Event().wait(0.5)
        return "value"

    assert client.submit(abs, -1).result(30) == 1  # a worker is there, before the time runs
    assert client.options(expires=0.3).submit(task).result(30) == "value"


def test_what_cannot_start_in_time_is_refused(client: Client) -> None:
    with pytest.raises(ValueError, match="expires before it may start"):
        client.options(countdown=2, expires=1)
    with pytest.raises(ValueError, match="time_limit"):
        client.options(time_limit=0)
