"""The client in an event loop: futures are awaited, nothing blocks the loop, nothing is left behind in it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
from conftest import OpenClient
from gate import Gate, wait_at

from zmqtasks import Client, State, TaskCancelled, as_completed


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    with Gate(tmp_path) as gate:
        yield gate


@pytest.fixture(scope="module")
def shared_client(shared_client: Client) -> Client:
    """Yield conftest's, with its thread for callbacks there before any test takes stock."""
    shared_client._host.call_back(lambda: None)
    return shared_client


def in_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Make a test of a coroutine function."""

    @wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 30), debug=True)

    return run


async def turning_until(fact: Callable[[], bool]) -> None:
    """Let the loop turn until `fact` holds."""
    while not fact():  # noqa: ASYNC110 - no event tells of it
        await asyncio.sleep(0)


def fail() -> None:
    raise LookupError("no such thing")


@in_a_loop
async def test_a_future_is_awaited(shared_client: Client) -> None:
    assert await shared_client.submit(abs, -1) == 1
    with pytest.raises(LookupError, match="no such thing"):
        await shared_client.submit(fail)
    done = shared_client.submit(abs, -2)
    done.result()
    assert await done == 2
    assert await done == 2, "again"
    assert await shared_client.submit_many(abs, [-3, -4])[1] == 4


@in_a_loop
async def test_gather_of_asyncio(shared_client: Client) -> None:
    assert await asyncio.gather(*(shared_client.submit(abs, index) for index in range(200))) == list(
        range(200)
    )
    values = await asyncio.gather(
        shared_client.submit(abs, 1), shared_client.submit(fail), return_exceptions=True
    )
    assert values[0] == 1
    assert isinstance(values[1], LookupError)


@in_a_loop
async def test_the_loop_goes_on_while_a_task_runs(client: Client, gate: Gate) -> None:
    waiting = asyncio.ensure_future(wrapped(client, gate.path))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not waiting.done()
    assert await client.submit(abs, -1) == 1
    gate.open()
    assert await waiting == "through"


async def wrapped(client: Client, gate: str) -> str:
    return await asyncio.wrap_future(client.submit(wait_at, gate, "through"))


@in_a_loop
async def test_an_asynchronous_with_closes_without_blocking_the_loop(
    open_client: OpenClient, gate: Gate
) -> None:
    async with open_client(1) as client:
        future = client.submit(wait_at, gate.path, 1)
        # The loop must turn for this while the client closes.
        asyncio.get_running_loop().call_later(0.1, gate.open)
    assert future.result(0) == 1


@in_a_loop
async def test_an_error_leaves_an_asynchronous_with(open_client: OpenClient) -> None:
    with pytest.raises(KeyError):
        async with open_client(1) as client:
            future = client.submit(abs, -1)
            raise KeyError
    assert future.result(0) == 1


@in_a_loop
async def test_as_completed_in_a_loop(client: Client, gate: Gate) -> None:
    slow = client.submit(wait_at, gate.path, "slow")
    quick = [client.submit(abs, index) for index in range(5)]
    seen = []
    async for future in as_completed([slow, *quick, quick[0]]):
        seen.append(future)
        assert future.done()
        if len(seen) == 5:
            gate.open()
    assert seen[-1] is slow
    assert set(seen) == {slow, *quick}
    assert [future async for future in as_completed([])] == []


@in_a_loop
async def test_as_completed_in_a_loop_has_a_timeout(client: Client, gate: Gate) -> None:
    with pytest.raises(TimeoutError):
        async for _ in as_completed([client.submit(wait_at, gate.path)], timeout=0.1):
            pass
    gate.open()


@in_a_loop
async def test_waiting_may_be_given_up(client: Client, gate: Gate) -> None:
    future = client.submit(wait_at, gate.path, 1)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(future), 0.1)
    gate.open()
    assert await future == 1


@in_a_loop
async def test_a_cancelled_wait_cancels_what_has_not_started(open_client: OpenClient, gate: Gate) -> None:
    async with open_client(1) as client:
        running = client.submit(wait_at, gate.path, 1)
        await turning_until(running.running)
        queued = client.submit(abs, -1)
        waits = [asyncio.wrap_future(running), asyncio.wrap_future(queued)]
        for wait in waits:
            wait.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits[1]
        await turning_until(queued.cancelled)
        assert queued.state is State.CANCELLED
        assert not running.cancelled(), "what runs goes on"
        gate.open()
    assert running.result() == 1


@in_a_loop
async def test_a_cancelled_task_raises_where_it_is_awaited(open_client: OpenClient, gate: Gate) -> None:
    async with open_client(1) as client:
        running = client.submit(wait_at, gate.path)
        await turning_until(running.running)
        queued = client.submit(abs, -1)
        wait = asyncio.wrap_future(queued)
        assert queued.cancel()
        with pytest.raises((asyncio.CancelledError, TaskCancelled)):
            await wait
        assert running.cancel(terminate=True)


@in_a_loop
async def test_many_waits_and_no_thread_for_each(client: Client) -> None:
    before = threading.active_count()
    futures = client.submit_many(abs, range(500))
    waits = [asyncio.wrap_future(future) for future in futures]
    assert threading.active_count() <= before + 2
    assert await asyncio.gather(*waits) == list(range(500))


@in_a_loop
async def test_coroutines_submit_at_the_same_time(shared_client: Client) -> None:
    async def some(first: int) -> int:
        return sum([await shared_client.submit(abs, first + index) for index in range(20)])

    async with asyncio.TaskGroup() as group:
        sums = [group.create_task(some(first)) for first in range(10)]
    assert [each.result() for each in sums] == [sum(range(first, first + 20)) for first in range(10)]


def test_a_loop_that_has_ended_does_no_harm(client: Client, gate: Gate) -> None:
    future = client.submit(wait_at, gate.path, 1)

    async def give_up() -> None:
        async with asyncio.timeout(0.1):
            async for _ in as_completed([future]):
                pass

    with pytest.raises(TimeoutError):
        asyncio.run(give_up())
    gate.open()
    assert future.result() == 1
    assert client.submit(abs, -1).result() == 1
