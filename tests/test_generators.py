"""Tasks that yield: their items as they come, each once and in order, and the value that they return at the end."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from zmqtasks import (
    NotPicklable,
    Retry,
    WorkerLost,
    ZmqTasksError,
    chain,
    current,
    group,
    signature,
)
from zmqtasks.streamed import STREAM_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from zmqtasks import Client


def counts() -> Callable[[int], Any]:
    """Return a generator function that travels by value."""

    def count(n: int) -> Iterator[int]:
        yield from range(n)
        return n * n  # type: ignore[return-value]  # a generator's value

    return count


def test_items_come_while_the_task_runs(client: Client, tmp_path: Path) -> None:
    """It waits for a file that is made when its first item has come, and so on."""

    def waits(folder: str) -> Iterator[int]:
        pause = threading.Event()
        for i in range(3):
            yield i
            while not Path(folder, str(i)).exists():
                pause.wait(0.005)

    async def waits_on_a_loop(folder: str) -> AsyncIterator[int]:
        for i in range(3):
            yield i
            while not Path(folder, str(i)).exists():  # noqa: ASYNC110, ASYNC240 - so it is in tests
                await asyncio.sleep(0.005)

    for kind, task in (("plain", waits), ("async", waits_on_a_loop)):
        (folder := tmp_path / kind).mkdir()
        seen = []
        for item in client.submit(task, str(folder)).stream():
            seen.append(item)
            (folder / str(item)).touch()
        assert seen == [0, 1, 2]


def test_the_value_is_what_it_returns(client: Client) -> None:
    """For whoever asks for it, by itself, in a map, or as an argument; and the stream can be read again."""
    count = counts()
    future = client.submit(count, 4)
    assert future.result(20) == 16
    assert (list(future.stream()), list(future.stream())) == ([0, 1, 2, 3], [0, 1, 2, 3])
    assert client.submit(lambda x: x + 1, future).result(20) == 17
    assert list(client.map(count, [1, 2])) == [1, 4]
    assert list(client.submit(count, 0).stream()) == []
    many = client.submit(count, 5000)
    assert list(many.stream()) == list(range(5000))
    assert many.result() == 25_000_000


def test_items_are_of_any_kind(client: Client) -> None:
    """Large ones, and of classes that travel."""

    class Own:
        def __init__(self, x: int) -> None:
            self.x = x

    def yields() -> Iterator[Any]:
        yield b"x" * 300_000
        yield Own(3)
        yield None

    large, own, none = client.submit(yields).stream()
    assert (len(large), own.x, none) == (300_000, 3, None)


def test_another_attempt_gives_no_item_twice(client: Client, tmp_path: Path) -> None:
    """After a failure, and after the loss of its process."""

    def stumbles(flag: str, how: str) -> Iterator[int]:
        for i in range(6):
            if i == 3 and not Path(flag).exists():
                if how == "dies":
                    while not Path(f"{flag}.seen").exists():
                        threading.Event().wait(0.005)
                Path(flag).touch()
                if how == "dies":
                    os._exit(1)
                raise OSError
            yield i
        return current().attempt  # type: ignore[return-value]  # a generator's value

    failing = client.options(retry=Retry(1, delay=0)).submit(stumbles, str(tmp_path / "a"), "fails")
    assert list(failing.stream()) == list(range(6))
    assert failing.result() == 2
    dying = client.submit(stumbles, str(tmp_path / "b"), "dies")
    seen = []
    for item in dying.stream():
        seen.append(item)
        if item == 2:
            (tmp_path / "b.seen").touch()
    assert (seen, dying.result()) == (list(range(6)), 2)


def test_what_it_raises_comes_after_its_items(client: Client) -> None:
    """Those that have come; and what is no generator has no stream."""

    def fails(error: type[BaseException]) -> Iterator[Any]:
        yield 1
        yield threading.Lock() if error is NotPicklable else 2
        raise error

    with pytest.raises(KeyError):
        list(client.submit(fails, KeyError).stream())
    with pytest.raises(NotPicklable):
        list(client.submit(fails, NotPicklable).stream())
    with pytest.raises(
        TypeError, match=r"task \S+ is no generator: its result\(\) has its value, of type int"
    ):
        list(client.submit(abs, -1).stream())

    def dies() -> Iterator[int]:
        yield 1
        os._exit(3)

    with pytest.raises(WorkerLost):
        list(client.options(max_deliveries=1).submit(dies).stream())


def test_a_stream_is_bounded(lone: Client) -> None:
    """As its items are kept."""

    def floods(nbytes: int) -> Iterator[bytes]:
        while True:
            yield bytes(nbytes)

    with pytest.raises(ZmqTasksError, match="64 MiB at most"):
        lone.submit(floods, STREAM_BYTES_MAX // 4).result(30)


def test_a_task_reads_the_stream_of_another(lone: Client) -> None:
    """As it comes, its slot given away meanwhile."""
    count = counts()

    def reads(n: int) -> tuple[list[int], int]:
        future = current().client.submit(count, n)
        return list(future.stream()), future.result()

    assert lone.submit(reads, 5).result(30) == ([0, 1, 2, 3, 4], 25)


def test_a_generator_is_closed(lone: Client, tmp_path: Path) -> None:
    """Where it ends before its time, too."""

    def odd(file: str) -> Iterator[Any]:
        try:
            yield threading.Lock()
        finally:
            Path(file).touch()

    assert lone.submit(odd, str(tmp_path / "closed")).exception(20) is not None
    assert (tmp_path / "closed").exists()


def test_generators_are_parts_of_workflows(client: Client) -> None:
    """Their value goes on; the members of a group have streams."""
    count = counts()
    assert client.run(chain(signature(count, 3), signature(count), signature(abs))).result(20) == 81
    future = client.run(group(signature(count, n) for n in (2, 3)))
    assert future.result(20) == [4, 9]
    assert [list(child.stream()) for child in future.children] == [[0, 1], [0, 1, 2]]
    assert chain(signature(count, 3), signature(count)).apply() == 81

    async def naps(n: int) -> AsyncIterator[int]:
        yield n

    assert signature(naps, 1).apply() is None
    assert list(client.run(signature(naps, 1)).stream()) == [1]
