"""Futures: their states, futures among arguments, cancelling, and waiting for several at once."""

from __future__ import annotations

import concurrent.futures
import os
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

import pytest
from conftest import until
from gate import Gate, note, wait_at

import zmqtasks
from zmqtasks import (
    Client,
    Future,
    NotInTask,
    State,
    TaskCancelled,
    UpstreamFailed,
    WorkerLost,
    as_completed,
    current,
)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    with Gate(tmp_path) as gate:
        yield gate


class Pair(NamedTuple):
    left: Any
    right: Any


def fail(why: str) -> None:
    raise LookupError(why)


# ---- states ------------------------------------------------------------------------------------------------------


def test_a_future_is_one_of_the_standard_library(shared_client: Client) -> None:
    future = shared_client.submit(abs, -1)
    assert isinstance(future, concurrent.futures.Future)
    assert isinstance(future, zmqtasks.Future)
    assert future.result(10) == 1
    assert future.exception() is None
    assert (future.done(), future.running(), future.cancelled()) == (True, False, False)
    assert (future.state, future.attempts) == (State.SUCCEEDED, 1)
    assert future.id in repr(future)
    assert "SUCCEEDED" in repr(future)


def test_the_states_are_in_the_order_of_a_life() -> None:
    assert list(State) == [
        *("WAITING", "SCHEDULED", "QUEUED", "RUNNING", "RETRYING"),
        *("SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED", "UPSTREAM_FAILED", "DEAD"),
    ]


def test_the_states_of_a_task(lone: Client, gate: Gate) -> None:
    running = lone.submit(wait_at, gate.path)
    until(running.running)
    assert (running.state, running.attempts, running.done()) == (State.RUNNING, 1, False)
    queued = lone.submit(abs, 1)
    waiting = lone.submit(abs, queued)
    scheduled = lone.options(countdown=3600).submit(abs, 1)
    failing = lone.submit(fail, "so")
    above = lone.submit(abs, failing)
    assert [queued.state, waiting.state, scheduled.state] == [State.QUEUED, State.WAITING, State.SCHEDULED]
    assert scheduled.cancel()
    gate.open()
    concurrent.futures.wait([running, queued, waiting, failing, above])
    assert [future.state for future in (running, queued, waiting, scheduled, failing, above)] == [
        *("SUCCEEDED", "SUCCEEDED", "SUCCEEDED", "CANCELLED", "FAILED", "UPSTREAM_FAILED"),
    ]
    assert not any(future.running() for future in (running, queued, scheduled, failing, above))


def test_a_result_may_be_waited_for_only_so_long(client: Client, gate: Gate) -> None:
    future = client.submit(wait_at, gate.path, 7)
    for wait in (future.result, future.exception):
        for timeout in (0, 0.05, -1):
            with pytest.raises(TimeoutError):
                wait(timeout)
    gate.open()
    assert future.result(30) == 7


def test_threads_wait_for_the_same_future(client: Client, gate: Gate) -> None:
    future = client.submit(wait_at, gate.path, 7)
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        results = [threads.submit(future.result) for _ in range(4)]
        gate.open()
        assert [result.result() for result in results] == [7] * 4


def test_a_value_is_made_once(shared_client: Client) -> None:
    future = shared_client.submit(lambda: [1])
    assert future.result() is future.result()
    many = shared_client.submit_many(lambda index: [index], range(3))
    assert many[1].result() is many[1].result()


def test_only_its_task_settles_a_future(shared_client: Client) -> None:
    future: Future[int] = shared_client.submit(abs, -1)
    for call in (lambda: future.set_result(1), lambda: future.set_exception(KeyError())):
        with pytest.raises(concurrent.futures.InvalidStateError):
            call()
    assert future.result() == 1


def test_progress_reaches_the_future(client: Client, gate: Gate) -> None:
    def work(path: str) -> int:
        for _ in current().track(range(3)):
            pass
        current().progress(5, 10, "half", colour="red")
        wait_at(path)
        current().progress(10, 10)
        return 1

    future = client.submit(work, gate.path)
    plain = client.submit(abs, 1)
    until(lambda: future.progress and future.progress.done == 5)
    assert future.progress == (5, 10, "half", {"colour": "red"})
    gate.open()
    assert future.result() == 1
    assert until(lambda: future.progress and future.progress.done == 10)
    assert plain.progress is None


def test_outside_a_task_there_is_no_current() -> None:
    with pytest.raises(NotInTask):
        current()


# ---- futures as arguments ----------------------------------------------------------------------------------------


def test_futures_at_any_depth_become_their_values(shared_client: Client) -> None:
    one, two = shared_client.submit(abs, -1), shared_client.submit_many(abs, [-1, -2])[1]

    def flat(*args: Any, **kwargs: Any) -> str:
        return repr((args, kwargs))

    deep: Any = one
    for _ in range(50):
        deep = [deep]
    future = shared_client.submit(flat, one, [two, (one,)], {"a": {"b": Pair(one, two)}}, x=two, y=[{1: one}])
    assert future.result() == repr(((1, [2, (1,)], {"a": {"b": Pair(1, 2)}}), {"x": 2, "y": [{1: 1}]}))
    assert shared_client.submit(str, deep).result() == "[" * 50 + "1" + "]" * 50
    assert shared_client.submit(lambda: one).result() == 1, "a captured one"


def test_a_value_that_was_looked_at_before_is_an_argument_too(shared_client: Client) -> None:
    small, big, item = (
        shared_client.submit(lambda: [1]),
        shared_client.submit(bytes, 3 << 20),
        shared_client.submit_many(list, ["ab"])[0],
    )
    assert (small.result(), len(big.result()), item.result()) == ([1], 3 << 20, ["a", "b"])
    assert shared_client.submit(lambda a, b, c: (a, len(b), c), small, big, item).result() == (
        [1],
        3 << 20,
        ["a", "b"],
    )


def test_the_same_future_twice_is_one_value(shared_client: Client) -> None:
    value = shared_client.submit(lambda: [1])
    assert shared_client.submit(lambda a, b: a is b[0], value, [value]).result()


def test_a_tree_of_tasks(shared_client: Client) -> None:
    level: list[Any] = [shared_client.submit(abs, index) for index in range(64)]
    while len(level) > 1:
        level = [shared_client.submit(sum, list(pair)) for pair in zip(level[::2], level[1::2], strict=True)]
    assert level[0].result() == sum(range(64))


def test_a_long_chain_of_tasks(shared_client: Client, gate: Gate) -> None:
    future = shared_client.submit(wait_at, gate.path, 0)
    for _ in range(1500):
        future = shared_client.submit(lambda value: value + 1, future)
    gate.open()
    assert future.result() == 1500


def test_a_task_waits_for_all_of_its_inputs(client: Client, gate: Gate, tmp_path: Path) -> None:
    quick, slow = client.submit(abs, -1), client.submit(wait_at, gate.path, 2)
    body = client.submit(lambda a, b, log: note(log, (a, b)), quick, slow, log := str(tmp_path / "body"))
    assert quick.result() == 1
    assert client.submit(abs, -3).result() == 3
    assert not Path(log).exists()
    gate.open()
    body.result()
    assert Path(log).read_text() == "(1, 2)\n"


def test_a_failure_upstream_is_told_with_its_cause(shared_client: Client) -> None:
    failed = shared_client.submit(fail, "no such thing")
    futures: list[Any] = [shared_client.submit(abs, failed)]
    futures.append(shared_client.submit(abs, futures[0]))
    assert failed.exception() is not None
    futures.append(shared_client.submit(abs, failed))
    futures += list(shared_client.submit_many(lambda pair: pair, [(failed, 1), (2, futures[0])]))
    for future in futures:
        with pytest.raises(UpstreamFailed) as caught:
            future.result()
        assert future.state is State.UPSTREAM_FAILED
        cause: Any = caught.value
        while isinstance(cause, UpstreamFailed):
            cause = cause.__cause__
        assert type(cause) is LookupError
        assert cause.args == ("no such thing",)
    with pytest.raises(UpstreamFailed, match=failed.id):
        futures[0].result()


def test_what_depends_on_a_cancelled_or_dead_task_fails(lone: Client, gate: Gate) -> None:
    first = lone.submit(wait_at, gate.path)
    until(first.running)
    cancelled = lone.submit(abs, 1)
    dead = lone.options(max_deliveries=1).submit(os._exit, 3)
    after = [lone.submit(abs, cancelled), lone.submit(abs, dead)]
    assert cancelled.cancel()
    after.append(lone.submit(abs, cancelled))
    gate.open()
    for future, cause in zip(after, (TaskCancelled, WorkerLost, TaskCancelled), strict=True):
        with pytest.raises(UpstreamFailed) as caught:
            future.result()
        assert type(caught.value.__cause__) is cause
    assert dead.state is State.DEAD


def test_an_input_may_be_large(shared_client: Client) -> None:
    large = shared_client.submit(bytes, 5 << 20)
    sizes = [shared_client.submit(lambda value, more: len(value) + more, large, index) for index in range(4)]
    assert shared_client.gather(sizes) == [(5 << 20) + index for index in range(4)]


# ---- several at once ---------------------------------------------------------------------------------------------


def test_gather_keeps_the_order_and_raises_the_first_failure(shared_client: Client) -> None:
    assert shared_client.gather(shared_client.submit(abs, -index) for index in range(10)) == list(range(10))
    futures: list[Any] = [
        shared_client.submit(abs, 1),
        shared_client.submit(fail, "a"),
        shared_client.submit(fail, "b"),
    ]
    with pytest.raises(LookupError, match="a"):
        shared_client.gather(futures)


@pytest.mark.parametrize("completed", [as_completed, concurrent.futures.as_completed])
def test_as_completed_gives_the_first_first(client: Client, gate: Gate, completed: Any) -> None:
    slow = client.submit(wait_at, gate.path, "slow")
    quick = [client.submit(abs, index) for index in range(5)]
    seen = []
    for future in completed([slow, *quick]):
        seen.append(future)
        if len(seen) == 5:
            gate.open()
    assert seen[-1] is slow
    assert set(seen[:5]) == set(quick)


def test_as_completed_over_many_and_with_a_timeout(client: Client, gate: Gate) -> None:
    futures = client.submit_many(abs, range(300))
    assert sorted(future.result() for future in as_completed(futures)) == list(range(300))
    with pytest.raises(TimeoutError):
        list(as_completed([client.submit(wait_at, gate.path)], timeout=0.1))
    assert list(as_completed([])) == []


def test_the_standard_librarys_wait(client: Client, gate: Gate) -> None:
    slow, quick, wrong = client.submit(wait_at, gate.path), client.submit(abs, 1), client.submit(fail, "")
    done, rest = concurrent.futures.wait([slow, wrong], return_when=concurrent.futures.FIRST_EXCEPTION)
    assert (done, rest) == ({wrong}, {slow})
    done, rest = concurrent.futures.wait([slow, quick], return_when=concurrent.futures.FIRST_COMPLETED)
    assert (done, rest) == ({quick}, {slow})
    assert concurrent.futures.wait([slow], timeout=0.05).done == set()
    gate.open()
    assert concurrent.futures.wait([slow, quick, wrong]).not_done == set()


def test_callbacks_may_use_the_client(client: Client) -> None:
    later: concurrent.futures.Future[int] = concurrent.futures.Future()
    first = client.submit(abs, -20)
    first.add_done_callback(lambda future: later.set_result(client.submit(pow, future.result(), 2).result()))
    assert later.result(10) == 400
    called: list[Any] = []
    first.add_done_callback(called.append)
    assert called == [first], "it is done: called at once"


# ---- cancelling --------------------------------------------------------------------------------------------------


def test_what_has_not_started_is_cancelled(lone: Client, gate: Gate, tmp_path: Path) -> None:
    running = lone.submit(wait_at, gate.path, 1)
    until(running.running)
    queued = [lone.submit(note, str(tmp_path / "ran"), index) for index in range(10)]
    assert [future.cancel() for future in queued[::2]] == [True] * 5
    assert [future.cancel() for future in queued[::2]] == [True] * 5, "again"
    gate.open()
    for future in queued[::2]:
        assert future.state is State.CANCELLED
        assert future.cancelled()
        with pytest.raises(TaskCancelled):
            future.result()
        with pytest.raises(concurrent.futures.CancelledError):
            future.exception()
    lone.gather(queued[1::2])
    assert (tmp_path / "ran").read_text().split() == ["1", "3", "5", "7", "9"]


def test_what_runs_is_not_cancelled_but_may_ask(client: Client, gate: Gate) -> None:
    def work(path: str) -> str:
        before = current().cancelled()
        wait_at(path, before)
        while not current().cancelled():
            pass
        return "stopped by itself"

    future = client.submit(work, gate.path)
    until(future.running)
    until(gate.arrived)
    assert gate.arrived() == ["False"]
    assert not future.cancel()
    gate.open()
    assert future.result() == "stopped by itself"
    assert not future.cancel(), "it is done"
    assert not future.cancel(terminate=True)
    assert not client.submit(lambda: current().cancelled()).result(), "the next is another's"


def test_what_runs_can_be_terminated(client: Client, gate: Gate) -> None:
    victim, neighbour = (client.submit(wait_at, gate.path, mark) for mark in ("victim", "neighbour"))
    until(lambda: len(gate.arrived()) == 2)
    ran = gate.log.with_name("ran")

    def once(index: int) -> int:
        note(ran, index)
        return index

    queued = [client.submit(once, index) for index in range(20)]
    began = monotonic()
    assert victim.cancel(terminate=True)
    assert monotonic() - began < 5
    assert victim.state is State.CANCELLED
    with pytest.raises(TaskCancelled):
        victim.result()
    assert client.gather(queued) == list(range(20))
    assert not neighbour.done()
    gate.open()
    assert neighbour.result() == "neighbour"
    assert neighbour.attempts == 1
    assert sorted(map(int, ran.read_text().split())) == list(range(20))  # what was taken back had not started


def test_an_item_that_runs_can_be_terminated(lone: Client, gate: Gate) -> None:
    futures = lone.submit_many(lambda index: wait_at(gate.path, index) if index == 30 else index, range(60))
    until(gate.arrived)
    assert futures[30].cancel(terminate=True)
    assert [
        future.result() for future in futures if future is not futures[30] and not future.cancelled()
    ] == [index for index in range(60) if index != 30]
    assert futures[30].state is State.CANCELLED


def test_terminating_removes_what_has_not_started_too(lone: Client, gate: Gate) -> None:
    running = lone.submit(wait_at, gate.path, 1)
    until(running.running)
    queued, waiting = lone.submit(abs, 1), lone.submit(abs, running)
    assert queued.cancel(terminate=True)
    assert waiting.cancel()
    gate.open()
    assert running.result() == 1


def test_a_loop_that_ignores_everything_is_terminated(lone: Client, gate: Gate) -> None:
    def stubborn(path: str) -> None:
        import signal

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        note(f"{path}.log", "here")
        while True:
            try:
                while True:
                    pass
            except BaseException:  # noqa: BLE001 - whatever would end it
                continue

    future = lone.submit(stubborn, gate.path)
    until(gate.arrived)
    assert future.cancel(terminate=True)
    assert lone.submit(abs, -1).result() == 1
