"""The client: what goes in by submit, map and submit_many comes out as it should, in the order that was asked for."""

from __future__ import annotations

import functools
import gc
import itertools
import operator
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from conftest import OpenClient, until
from gate import Gate, note, wait_at

from zmqtasks import Client, ConnectionTimeout, Future, QueueFull, ResultExpired, State, UnknownTask, current
from zmqtasks.messages import CANCELLED


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    with Gate(tmp_path) as gate:
        yield gate


# ---- submit ------------------------------------------------------------------------------------------------------


def test_every_keyword_belongs_to_the_function(shared_client: Client) -> None:
    def echo(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        return args, kwargs

    words = {"fn": 1, "self": 2, "name": 3, "priority": 4, "timeout": 5, "options": 6}
    assert shared_client.submit(echo, 7, **words).result() == ((7,), words)


def test_what_is_not_callable_is_refused(shared_client: Client) -> None:
    with pytest.raises(TypeError, match=r"what to call, not 42"):
        shared_client.submit(42)  # type: ignore[arg-type]  # that is the test


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"address": 5555}, TypeError, "address is text as tcp://host:5555"),
        ({"address": "host"}, ValueError, "'host' is no address of a broker"),
        ({"address": "tcp://127.0.0.1:65536"}, ValueError, "is no address of a broker"),
        ({"address": "tcp://127.0.0.1:0"}, ValueError, "is no address of a broker"),
        ({"connect_timeout": "5"}, ValueError, "connect_timeout is seconds or a timedelta, more than 0, not '5'"),
        ({"connect_timeout": -1}, ValueError, "connect_timeout is seconds or a timedelta, more than 0, not -1"),
        ({"name": 3}, TypeError, "name is text, not 3"),
        ({"on_full": "go"}, ValueError, 'on_full is "wait" or "raise", not'),
        ({"retry": 3}, TypeError, "retry is a zmqtasks.Retry, not 3"),
    ],
)  # fmt: skip
def test_what_a_client_is_made_of(given: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=re.escape(says)):
        Client(**given)
    with pytest.raises(error, match=re.escape(says)):
        Client(**{"address": "tcp://127.0.0.1:1", **given})


def test_nobody_waits_longer_than_that_for_a_broker() -> None:
    began = monotonic()
    with pytest.raises(ConnectionTimeout, match=r"no broker answers at tcp://127.0.0.1:1 within 0.1 s"):
        Client("tcp://127.0.0.1:1", connect_timeout=timedelta(seconds=0.1))
    assert monotonic() - began < 5


@pytest.mark.parametrize(
    ("workers", "error"), [(0, ValueError), (-1, ValueError), ("2", TypeError), (True, TypeError)]
)
def test_workers_is_a_number_above_zero(workers: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="workers"):
        Client(workers=workers)


def test_workers_run_at_the_same_time(client: Client, gate: Gate) -> None:
    assert client.workers == 2
    both = [client.submit(wait_at, gate.path, mark) for mark in "ab"]
    until(lambda: sorted(gate.arrived()) == ["a", "b"])
    assert [future.running() for future in both] == [True, True]
    gate.open()
    assert client.gather(both) == ["a", "b"]


@pytest.mark.embedded_only("a node's children have the node's world")
def test_the_childs_world_is_the_callers(client: Client) -> None:
    here = Path.cwd(), os.environ.get("HOME"), os.getpid()
    folder, home, parent = client.submit(lambda: (Path.cwd(), os.environ.get("HOME"), os.getpid())).result()
    assert (folder, home) == here[:2]
    assert parent != here[2]


def test_many_threads_submit_at_once(client: Client) -> None:
    def some(thread: int) -> list[int]:
        futures = [client.submit(operator.add, thread * 10_000, index) for index in range(2000)]
        return client.gather(futures)

    with ThreadPoolExecutor(8) as threads:
        for thread, values in enumerate(threads.map(some, range(8))):
            assert values == list(range(thread * 10_000, thread * 10_000 + 2000))


def test_a_full_queue_refuses(gate: Gate) -> None:
    with Client(workers=1, queue_max=3) as client:
        taken = [client.submit(wait_at, gate.path, index) for index in range(3)]
        refused = client.submit(abs, -1)
        with pytest.raises(QueueFull):
            refused.result()
        gate.open()
        assert client.gather(taken) == [0, 1, 2]
        assert client.submit(abs, -1).result() == 1


# ---- map and submit_many -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunksize", [None, 1, 7, 1000])
@pytest.mark.parametrize("buffersize", [None, 1, 10])
def test_map_is_as_the_builtin(shared_client: Client, chunksize: int | None, buffersize: int | None) -> None:
    def check(fn: Callable[..., Any], *iterables: Any) -> None:
        given = shared_client.map(fn, *map(iter, iterables), chunksize=chunksize, buffersize=buffersize)
        assert list(given) == list(map(fn, *iterables))

    check(abs, range(-60, 60))
    check(pow, range(40), range(50), (7,) * 45)
    check(lambda a, b: [a, b], "abc", ((), {}, None))
    check(abs, [])
    check(lambda pair: pair, [(1, 2), (3, 4)])
    assert list(shared_client.map(abs, chunksize=chunksize)) == []


def test_map_takes_generators(shared_client: Client) -> None:
    numbers = (number * number for number in range(1000))
    assert sum(shared_client.map(lambda x: x + 1, numbers)) == sum(
        number * number + 1 for number in range(1000)
    )


def test_map_with_a_buffer_is_lazy(shared_client: Client) -> None:
    taken: list[int] = []

    def endless() -> Iterator[int]:
        for number in itertools.count():
            taken.append(number)
            yield number

    values = shared_client.map(abs, endless(), buffersize=5)
    assert len(taken) <= 5
    assert list(itertools.islice(values, 20)) == list(range(20))
    assert len(taken) <= 26
    values.close()  # type: ignore[attr-defined]  # map's iterator is a generator


@pytest.mark.parametrize(
    "wrong", [{"chunksize": 0}, {"chunksize": -1}, {"buffersize": 0}, {"buffersize": -1}]
)
def test_wrong_sizes_are_refused(shared_client: Client, wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        shared_client.map(abs, [1], **wrong)  # type: ignore[arg-type]  # that is the test


@pytest.mark.parametrize("how", [{}, {"chunksize": 1}, {"buffersize": 3}])
def test_map_has_a_timeout(client: Client, gate: Gate, how: dict[str, int]) -> None:
    values = client.map(lambda index: wait_at(gate.path) if index else index, range(4), timeout=0.2, **how)  # type: ignore[arg-type]  # of several types
    began = monotonic()
    with pytest.raises(TimeoutError):
        list(values)
    assert 0.1 < monotonic() - began < 5
    gate.open()


def queued(client: Client) -> int:
    """Return how many tasks are in nobody's hand: a broker knows of other clients which functions are short."""
    host = client._host
    if hasattr(host, "inquire"):
        return int(client.inspect.status()["queues"].get("default", 0))
    client.flush()
    return int(host._dispatcher.ledger.ready.size)


def cancelled(client: Client) -> int:
    """Return how many tasks were cancelled: a broker says so once it and its nodes have given them up."""
    host = client._host
    if hasattr(host, "inquire"):
        return int(client.inspect.status()["tasks"]["CANCELLED"])
    return int(host._dispatcher.ledger.counts[CANCELLED])


@pytest.mark.parametrize("how", [{}, {"chunksize": 1}, {"chunksize": 100}, {"buffersize": 50}])
def test_map_raises_at_the_first_failure(client: Client, gate: Gate, how: dict[str, int]) -> None:
    def some(index: int) -> int:
        if index == 3:
            raise KeyError(index)
        return wait_at(gate.path, index) if index > 3 else index

    values = client.map(some, range(400), **how)  # type: ignore[arg-type]  # of several types
    if how != {"chunksize": 100}:
        assert [next(values) for _ in range(3)] == [0, 1, 2]
    before, some_wait = cancelled(client), how != {"buffersize": 50}
    with pytest.raises(KeyError, match="3"):
        list(values)
    client.flush()
    until(lambda: cancelled(client) - before > (200 if some_wait else 20))
    gate.open()  # what waits at it goes on, what has not started is cancelled
    client.close()
    assert len(gate.arrived()) < 20


def test_a_map_that_is_left_cancels_the_rest(client: Client, gate: Gate) -> None:
    values = client.map(lambda index: wait_at(gate.path, index) if index else index, range(400), chunksize=1)
    assert next(values) == 0
    before = cancelled(client)
    values.close()  # type: ignore[attr-defined]  # map's iterator is a generator
    client.flush()
    until(lambda: cancelled(client) - before > 300)
    gate.open()
    client.close()
    assert len(gate.arrived()) < 20


def test_submit_many_is_a_sequence_of_futures(shared_client: Client) -> None:
    futures = shared_client.submit_many(abs, iter(range(-500, 0)))
    assert isinstance(futures, Sequence)
    assert len(futures) == 500
    assert all(isinstance(future, Future) for future in futures)
    assert shared_client.gather(futures) == list(range(500, 0, -1))
    assert futures[0].result() == 500
    assert futures[-1].result() == 1
    assert [future.result() for future in futures[10:13]] == [490, 489, 488]
    assert [future.result() for future in reversed(futures)][:2] == [1, 2]
    assert len({future.id for future in futures}) == 500
    for index in (500, -501):
        with pytest.raises(IndexError):
            futures[index]
    assert list(shared_client.submit_many(abs, [])) == []


def test_the_futures_of_submit_many_stay_the_same(shared_client: Client, gate: Gate) -> None:
    futures = shared_client.submit_many(lambda index: wait_at(gate.path, index), range(4))
    place = {future: index for index, future in enumerate(futures)}
    assert [place[future] for future in futures] == [0, 1, 2, 3]
    gate.open()
    assert shared_client.gather(futures) == [0, 1, 2, 3]
    assert [place.get(future) for future in futures] == [0, 1, 2, 3], (
        "a future that was looked at is another one now"
    )


def test_an_item_of_many_fails_alone(shared_client: Client) -> None:
    def inverse(number: int) -> float:
        return 1 / number

    futures = shared_client.submit_many(inverse, range(-50, 50))
    for number, future in zip(range(-50, 50), futures, strict=True):
        if number:
            assert future.result() == 1 / number
            assert future.state is State.SUCCEEDED
        else:
            with pytest.raises(ZeroDivisionError):
                future.result()
            assert future.state is State.FAILED


def test_items_may_be_futures(shared_client: Client) -> None:
    numbers = shared_client.submit_many(abs, range(-20, 0))
    doubled = shared_client.submit_many(
        lambda pair: pair[0] * pair[1]["by"], [(one, {"by": 2}) for one in numbers]
    )
    assert shared_client.gather(doubled) == [2 * number for number in range(20, 0, -1)]
    assert list(shared_client.map(operator.add, numbers, doubled)) == [
        3 * number for number in range(20, 0, -1)
    ]


def test_items_of_many_can_be_cancelled(lone: Client, gate: Gate) -> None:
    first = lone.submit(wait_at, gate.path)
    until(first.running)
    futures = lone.submit_many(abs, range(100))
    assert [futures[index].cancel() for index in (0, 50, 99)] == [True] * 3
    gate.open()
    done = [
        index for index, future in enumerate(futures) if not future.cancelled() and future.result() == index
    ]
    assert done == sorted(set(range(100)) - {0, 50, 99})


# ---- options -----------------------------------------------------------------------------------------------------


def test_the_higher_priority_goes_first(lone: Client, gate: Gate, tmp_path: Path) -> None:
    log = str(tmp_path / "order")
    first = lone.submit(wait_at, gate.path)
    until(first.running)
    futures: list[Any] = []
    for priority in (0, 5, 9, 5, 0, 9):
        client = lone.options(priority=priority)
        futures.append(client.submit(note, log, f"{priority} {len(futures)}"))
    futures += lone.options(priority=7).submit_many(lambda index: note(log, f"7 {index}"), [6, 7, 8])
    until(lambda: queued(lone) == 9)
    gate.open()
    lone.gather(futures)
    order = Path(log).read_text().splitlines()
    assert order == ["9 2", "9 5", "7 6", "7 7", "7 8", "5 1", "5 3", "0 0", "0 4"]


@pytest.mark.parametrize("countdown", [0.3, timedelta(milliseconds=300)])
def test_a_countdown_delays_the_start(shared_client: Client, countdown: Any) -> None:
    began = monotonic()
    late = shared_client.options(countdown=countdown).submit(monotonic)
    many = shared_client.options(countdown=countdown).submit_many(lambda _: monotonic(), range(3))
    assert all(when - began >= 0.3 for when in [late.result(), *shared_client.gather(many)])


def test_what_waits_for_its_time_can_be_cancelled(shared_client: Client) -> None:
    late = shared_client.options(countdown=3600).submit(abs, 1)
    assert shared_client.submit(abs, -2).result(30) == 2, "others do not wait"
    assert late.state is State.SCHEDULED
    assert late.cancel()
    assert late.state is State.CANCELLED


def test_a_task_has_a_name_and_tags(shared_client: Client) -> None:
    def about() -> tuple[str, str, dict[str, str], int]:
        assert current().queue == "default"
        return current().id, current().name, current().tags, current().attempt

    named = shared_client.options(name="north", tags={"to": "pole"})
    future = named.submit(about)
    assert future.result() == (future.id, "north", {"to": "pole"}, 1)
    plain = shared_client.submit(about)
    assert plain.result() == (plain.id, about.__qualname__, {}, 1)
    both = named.options(tags={"or": "not"}).submit(about)
    assert both.result()[1:3] == ("north", {"or": "not"})
    many = named.submit_many(lambda _: about(), range(5))
    assert [value[:3] for value in shared_client.gather(many)] == [
        (future.id, "north", {"to": "pole"}) for future in many
    ]


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"priority": 10}, ValueError),
        ({"priority": -1}, ValueError),
        ({"priority": 1.0}, ValueError),
        ({"countdown": -1}, ValueError),
        ({"countdown": float("nan")}, ValueError),
        ({"countdown": "1"}, ValueError),
        ({"name": 1}, ValueError),
        ({"tags": ["a"]}, ValueError),
        ({"tags": {"a": 1}}, ValueError),
        ({"max_deliveries": 0}, ValueError),
        ({"max_deliveries": None}, ValueError),
        ({"prioritY": 1}, TypeError),
    ],
)
def test_wrong_options_are_refused_at_once(
    shared_client: Client, wrong: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error, match=next(iter(wrong))):
        shared_client.options(**wrong)


# ---- the rest of the face ----------------------------------------------------------------------------------------


def test_scattered_values_stand_for_themselves(client: Client) -> None:
    table = client.scatter({"a": 1, "b": bytes(2 << 20)})
    assert table.done()
    assert not table.cancel()
    lookups = [client.submit(lambda table, key: table[key], table, key) for key in ("a", "b")]
    assert client.gather(lookups) == [1, bytes(2 << 20)]
    assert client.submit(len, [table, table]).result() == 2
    assert table.result()["a"] == 1


def test_flush_and_accepted(client: Client, gate: Gate) -> None:
    future = client.submit(wait_at, gate.path, 1)
    assert future.accepted(10)
    assert client.flush(10)
    assert not future.done()
    gate.open()
    assert future.result() == 1
    assert future.accepted()
    assert client.flush()


def test_the_client_cancels_by_future_and_by_id(lone: Client, gate: Gate) -> None:
    running = lone.submit(wait_at, gate.path, 1)
    until(running.running)
    queued = [lone.submit(abs, 1) for _ in range(3)]
    assert lone.cancel(queued[0])
    assert lone.cancel(queued[1].id)
    assert not lone.cancel(running)
    assert not lone.cancel(running.id)
    assert lone.cancel(queued[1].id)  # it is so already
    for unknown in ("", "nothing", f"{running.id}0", running.id.replace("-", "0-"), "-1"):
        with pytest.raises(UnknownTask):
            lone.cancel(unknown)
    with pytest.raises(TypeError, match="a future, or a task by its id, not 3"):
        lone.cancel(3)  # type: ignore[arg-type]
    gate.open()
    assert running.result() == 1
    assert queued[2].result() == 1
    assert not lone.cancel(queued[2].id)


def test_a_result_by_its_id(lone: Client, gate: Gate) -> None:
    running = lone.submit(wait_at, gate.path, [1])
    with pytest.raises(TimeoutError):
        lone.result(running.id, timeout=0.01)
    failing = lone.submit(int, "x")
    spans = lone.submit_many(abs, [-1, -2])
    gate.open()
    assert lone.result(running.id) is running.result()
    assert lone.result(spans[1].id) == 2
    with pytest.raises(ValueError, match="invalid literal"):
        lone.result(failing.id)
    gone = running.id
    del running
    gc.collect()
    with pytest.raises(ResultExpired, match=f"{gone} is SUCCEEDED"):
        lone.result(gone)
    for unknown in ("", "nothing", f"{gone}0", "-1"):
        with pytest.raises(UnknownTask):
            lone.result(unknown)


def test_closing_waits_for_what_is_pending(open_client: OpenClient, gate: Gate) -> None:
    with open_client(1) as client:
        futures = [client.submit(wait_at, gate.path, index) for index in range(3)]
        opener = threading.Timer(0.1, gate.open)
        opener.start()
    assert [future.done() for future in futures] == [True] * 3
    assert client.gather(futures) == [0, 1, 2]
    opener.join()


def test_an_exception_in_the_with_block_still_waits(open_client: OpenClient, gate: Gate) -> None:
    gate.open()
    with pytest.raises(KeyError), open_client(1) as client:
        future = client.submit(wait_at, gate.path, 1)
        raise KeyError
    assert future.result() == 1


def test_shutdown_can_cancel_what_has_not_started(lone: Client, gate: Gate) -> None:
    running = lone.submit(wait_at, gate.path, 1)
    until(running.running)
    queued = [lone.submit(abs, index) for index in range(10)]
    many = lone.submit_many(abs, range(100))
    lone.shutdown(wait=False, cancel_futures=True)
    until(lambda: all(future.cancelled() for future in [*queued, *many]))
    assert not running.done()
    gate.open()
    assert running.result() == 1


def test_closing_an_idle_client_is_quick_and_may_be_repeated(open_client: OpenClient) -> None:
    client = open_client()
    client.submit(abs, 1).result()
    began = monotonic()
    client.close()
    assert monotonic() - began < 2
    client.close()
    client.shutdown()


def test_two_clients_at_the_same_time(client: Client, open_client: OpenClient) -> None:
    with open_client(1) as other:
        assert client.submit(abs, -1).result() == other.submit(abs, -1).result() == 1
        assert client.submit(os.getpid).result() != other.submit(os.getpid).result()


def test_results_come_as_they_are_done(client: Client, gate: Gate) -> None:
    slow = client.submit(wait_at, gate.path, "slow")
    quick = [client.submit(functools.partial(pow, 2), index) for index in range(20)]
    assert client.gather(quick) == [2**index for index in range(20)], "nothing waits behind the slow one"
    gate.open()
    assert slow.result() == "slow"


def test_short_tasks_do_not_wait_behind_a_long_one(client: Client, gate: Gate) -> None:
    def work(path: str | None) -> str:
        return wait_at(path, "long") if path else "short"

    client.gather(client.submit_many(work, [None] * 1000))  # known to be short: many go into one hand
    before = [client.submit(work, None) for _ in range(50)]
    long = client.submit(work, gate.path)
    behind = [client.submit(work, None) for _ in range(100)]
    assert [future.result(10) for future in before + behind] == ["short"] * 150
    assert not long.done()
    gate.open()
    assert long.result(10) == "long"
