"""Tasks that are coroutines: many at a time in one process, each with its own outcome, limit and end."""

# ruff: noqa: ASYNC110, ASYNC240
from __future__ import annotations

import asyncio
import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from conftest import until

from zmqtasks import TimeLimitExceeded, WorkerLost, current
from zmqtasks.nodes.awaiting import AT_ONCE, INSISTS

if TYPE_CHECKING:
    from zmqtasks import Client

MANY = 40  # on two processes


async def _meets(folder: str, name: int, others: int) -> tuple[int, str, int]:
    """Wait until all are there: they never are where they run one by one."""
    own = current().id
    Path(folder, str(name)).touch()
    while len(os.listdir(folder)) < others:  # noqa: PTH208 - quicker
        await asyncio.sleep(0.01)
    assert current().id == own
    return name, own, os.getpid()


async def _waits_for(file: str) -> int:
    Path(f"{file}.{current().id}").touch()
    while not Path(file).exists():
        await asyncio.sleep(0.01)
    return os.getpid()


def local(fn: Any) -> Any:
    """Return the function as one of the main module's, so that no worker imports pytest for it."""
    fn.__module__ = "__main__"
    return fn


meets, waits_for = local(_meets), local(_waits_for)


def begun(folder: Path, count: int) -> None:
    """Wait until so many of `waits_for` run."""
    until(lambda: len(list(folder.glob("go.*"))) == count)


def test_many_run_at_a_time(client: Client, tmp_path: Path) -> None:
    """Each knows which one it is."""
    futures = [client.submit(meets, str(tmp_path), i, MANY) for i in range(MANY)]
    names, ids, pids = zip(*(future.result(30) for future in futures), strict=True)
    assert names == tuple(range(MANY))
    assert ids == tuple(future.id for future in futures)
    assert len(set(pids)) <= 2


def test_a_map_runs_many_at_a_time(client: Client, tmp_path: Path) -> None:
    """It is no array where its items await."""
    args = [str(tmp_path)] * MANY, range(MANY), [MANY] * MANY
    assert [name for name, _, _ in client.map(meets, *args, timeout=30)] == list(range(MANY))


def test_the_others_run_beside_them(lone: Client, tmp_path: Path) -> None:
    """A task that does not await has its slot, however many do."""
    futures = [lone.submit(waits_for, str(tmp_path / "go")) for _ in range(20)]
    begun(tmp_path, 20)
    assert [lone.submit(abs, -i).result(20) for i in range(3)] == [0, 1, 2]
    (tmp_path / "go").touch()
    assert len({future.result(20) for future in futures}) == 1


def test_outcomes_are_each_ones_own(client: Client) -> None:
    """Values, failures, retries, what cannot be pickled, and what is cancelled from within."""

    async def ends(how: str) -> Any:
        await asyncio.sleep(0.01)
        if how == "fails":
            raise KeyError(how)
        if how == "retries" and current().attempt < 3:
            current().retry(0)
        if how == "cancels":
            raise asyncio.CancelledError
        return threading.Lock() if how == "odd" else (how, current().attempt)

    futures = {how: client.submit(ends, how) for how in ("fine", "fails", "retries", "odd", "cancels")}
    assert futures["fine"].result(20) == ("fine", 1)
    assert futures["retries"].result(20) == ("retries", 3)
    assert [type(futures[how].exception(20)).__name__ for how in ("fails", "odd", "cancels")] == [
        "KeyError",
        "NotPicklable",
        "RemoteError",
    ]


def test_one_is_cancelled_and_no_other(lone: Client, tmp_path: Path) -> None:
    """With `terminate` it ends where it awaits, and may clean up."""

    async def cleans_up(folder: str) -> None:
        Path(folder, "go.mine").touch()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            Path(folder, "clean").touch()

    others = [lone.submit(waits_for, str(tmp_path / "go")) for _ in range(3)]
    one = lone.submit(cleans_up, str(tmp_path))
    begun(tmp_path, 4)
    assert not one.cancel()
    assert one.cancel(terminate=True)
    assert one.state == "CANCELLED"
    assert (tmp_path / "clean").exists()
    (tmp_path / "go").touch()
    assert len({other.result(20) for other in others}) == 1
    assert [other.attempts for other in others] == [1, 1, 1]


def test_one_that_has_not_awaited_yet_may_clean_up_too(lone: Client, tmp_path: Path) -> None:
    """Its process is not ended for it: soon it awaits."""

    async def cleans_up(folder: str) -> None:
        Path(folder, "go.mine").touch()
        while INSISTS not in [thread.name for thread in threading.enumerate()]:  # it is asked to end
            threading.Event().wait(0.001)
        try:
            await asyncio.Event().wait()
        finally:
            Path(folder, "clean").touch()

    one = lone.submit(cleans_up, str(tmp_path))
    begun(tmp_path, 1)
    assert one.cancel(terminate=True)
    assert (tmp_path / "clean").exists()


def test_one_that_lets_no_other_run_ends_with_its_process(lone: Client, tmp_path: Path) -> None:
    """The others run again, and are not blamed."""

    async def stays(folder: str, name: str) -> int:
        await asyncio.sleep(0)
        Path(folder, f"go.{name}").write_text(str(os.getpid()))
        if name == "mine":
            threading.Event().wait()
        while not Path(folder, "go").exists():
            await asyncio.sleep(0.01)
        return os.getpid()

    client = lone.options(max_deliveries=1)
    others = [client.submit(stays, str(tmp_path), str(i)) for i in range(3)]
    begun(tmp_path, 3)
    one = lone.submit(stays, str(tmp_path), "mine")
    begun(tmp_path, 4)
    assert one.cancel(terminate=True)
    assert one.state == "CANCELLED"
    (tmp_path / "go").touch()
    ended = (tmp_path / "go.mine").read_text()
    assert ended not in {str(other.result(20)) for other in others}


def test_it_may_ask_whether_it_is_wanted(lone: Client, tmp_path: Path) -> None:
    """A word for one is not for another."""

    async def asks(folder: str) -> bool:
        Path(folder, f"go.{current().id}").touch()
        while not (Path(folder, "end").exists() or current().cancelled()):
            await asyncio.sleep(0.01)
        return current().cancelled()

    one, other = lone.submit(asks, str(tmp_path)), lone.submit(asks, str(tmp_path))
    begun(tmp_path, 2)
    assert not one.cancel()
    assert one.result(20) is True
    (tmp_path / "end").touch()
    assert other.result(20) is False


@pytest.mark.parametrize("kind", ["awaits", "swallows", "blocks"])
def test_a_time_limit_ends_one_and_no_other(lone: Client, tmp_path: Path, kind: str) -> None:
    """Where it awaits; and with its process where it does not stop: the others run again, and are not blamed."""

    async def late(kind: str) -> None:
        while True:
            try:
                if kind == "blocks":
                    threading.Event().wait(30)
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if kind != "swallows":
                    raise

    others = [lone.options(max_deliveries=1).submit(waits_for, str(tmp_path / "go")) for _ in range(3)]
    begun(tmp_path, 3)
    with pytest.raises(TimeLimitExceeded, match=r"0\.3 s"):
        lone.options(time_limit=0.3).submit(late, kind).result(20)
    (tmp_path / "go").touch()
    assert len({other.result(20) for other in others}) == 1


def test_who_ends_the_process_is_blamed(lone: Client, tmp_path: Path) -> None:
    """By a step; where it is killed while all of them await, they run again."""

    async def ends() -> None:
        await asyncio.sleep(0.01)
        os._exit(7)

    others = [lone.options(max_deliveries=2).submit(waits_for, str(tmp_path / "go")) for _ in range(3)]
    begun(tmp_path, 3)
    with pytest.raises(WorkerLost, match="status 7"):
        lone.options(max_deliveries=1).submit(ends).result(20)

    async def pid() -> int:
        return os.getpid()

    os.kill(lone.submit(pid).result(20), signal.SIGKILL)
    (tmp_path / "go").touch()
    assert len({other.result(20) for other in others}) == 1


def test_tasks_await_tasks(client: Client) -> None:
    """What they submit comes to the same dispatcher; in threads and tasks of theirs `current()` is theirs, too."""

    async def leaf(x: int) -> int:
        await asyncio.sleep(0.001)
        return x

    async def sums(n: int) -> tuple[int, bool]:
        own = current().id
        values = await asyncio.gather(*[current().client.submit(leaf, i) for i in range(n)])
        there = await asyncio.to_thread(lambda: current().id)
        here = await asyncio.create_task(asyncio.sleep(0.01, current().id))
        return sum(values), {own, there, here} == {own}

    futures = [client.submit(sums, n) for n in range(6)]
    assert [future.result(30) for future in futures] == [(n * (n - 1) // 2, True) for n in range(6)]


def test_each_says_how_far_it_is(lone: Client, tmp_path: Path) -> None:
    """The last word of each arrives."""

    async def reports(file: str, i: int) -> None:
        current().progress(i, 10)
        while not Path(file).exists():
            await asyncio.sleep(0.01)

    futures = [lone.submit(reports, str(tmp_path / "go"), i) for i in range(1, 4)]
    assert until(lambda: all(future.progress is not None for future in futures))
    assert [future.progress.done for future in futures if future.progress is not None] == [1, 2, 3]
    (tmp_path / "go").touch()
    assert [future.result(20) for future in futures] == [None] * 3


def test_more_await_others_than_run_at_a_time(lone: Client) -> None:
    """Who awaits another task has given its place away, or none would go on."""

    async def down(x: int, depth: int) -> int:
        await asyncio.sleep(0)
        return x if depth == 0 else 1 + await current().client.submit(down, x, depth - 1)

    count = 2 * AT_ONCE + 10
    futures = [lone.submit(down, i, 3) for i in range(count)]
    assert [future.result(50) for future in futures] == [i + 3 for i in range(count)]
