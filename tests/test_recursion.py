"""Tasks that submit tasks and wait for them: their slot is free meanwhile, however few children there are."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from conftest import until
from gate import Gate, note, wait_at

from zmqtasks import Client, NotInTask, TaskCancelled, TooDeep, UpstreamFailed, as_completed, current


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    with Gate(tmp_path) as gate:
        yield gate


def recursions() -> tuple[Callable[[int], int], Callable[[int], int]]:
    """Make the functions here: as closures they travel by value, and no child imports pytest for them."""

    def countdown(depth: int) -> int:
        return 0 if depth == 0 else 1 + current().client.submit(countdown, depth - 1).result()

    def fib(n: int) -> int:
        if n < 2:
            return n
        client = current().client
        return sum(client.gather([client.submit(fib, n - 1), client.submit(fib, n - 2)]))

    return countdown, fib


countdown, fib = recursions()


def test_a_linear_recursion_on_one_worker(lone: Client) -> None:
    assert lone.submit(countdown, 50).result() == 50


def test_fibonacci_on_one_worker(lone: Client) -> None:
    assert lone.submit(fib, 12).result() == 144


def test_a_recursive_closure(client: Client) -> None:
    def tree(depth: int) -> int:
        return 1 + sum(current().client.map(tree, [depth - 1] * 2)) if depth else 1

    assert client.submit(tree, 4).result() == 31


def test_too_deep_is_said_promptly_and_the_client_goes_on(lone: Client) -> None:
    began = monotonic()
    with pytest.raises(TooDeep, match="recursion is too deep"):
        lone.submit(countdown, 200).result()
    assert monotonic() - began < 15
    assert lone.submit(abs, -1).result() == 1
    assert lone.submit(countdown, 10).result() == 10


def test_too_deep_can_be_caught(lone: Client) -> None:
    def as_far_as_it_goes(depth: int) -> int:
        try:
            return current().client.submit(as_far_as_it_goes, depth + 1).result()
        except TooDeep:
            return depth

    assert lone.submit(as_far_as_it_goes, 1).result() >= 64
    assert lone.submit(abs, -1).result() == 1


def test_a_waiting_task_makes_room_for_others(lone: Client, gate: Gate) -> None:
    def parent(path: str) -> Any:
        late = current().client.options(countdown=3600).submit(abs, -7)
        note(f"{path}.log", late.id)
        try:
            return late.result()
        except TaskCancelled:
            return "cancelled"

    parents = [lone.submit(parent, gate.path) for _ in range(3)]
    until(lambda: len(gate.arrived()) == 3)
    assert lone.submit(abs, -1).result() == 1
    assert not any(future.done() for future in parents), "though they all wait"
    assert all(lone.cancel(late) for late in gate.arrived())
    assert lone.gather(parents) == ["cancelled"] * 3


def test_the_standard_librarys_waits_in_a_task(lone: Client) -> None:
    def work() -> tuple[Any, ...]:
        client = current().client
        futures = [client.submit(abs, -index) for index in range(10)]
        done = concurrent.futures.wait(futures).done
        first = concurrent.futures.wait(
            [client.submit(abs, -1), client.submit(abs, -1)], return_when=concurrent.futures.FIRST_COMPLETED
        )
        seen = [future.result() for future in concurrent.futures.as_completed([client.submit(abs, -2)])]
        ours = [future.result() for future in as_completed([client.submit(abs, -3)])]
        return len(done), len(first.done) >= 1, seen, ours

    assert lone.submit(work).result() == (10, True, [2], [3])


def test_map_and_submit_many_in_a_task(lone: Client) -> None:
    def work(n: int) -> tuple[Any, ...]:
        client = current().client
        squares = list(client.map(pow, range(n), [2] * n))
        many = client.submit_many(abs, range(-n, 0))
        lazy = list(client.map(abs, range(20), buffersize=3))
        return sum(squares), len(many), many[0].result(), many[-1].result(), lazy

    assert lone.submit(work, 500).result() == (sum(n * n for n in range(500)), 500, 500, 1, list(range(20)))


def test_futures_as_arguments_in_a_task(lone: Client) -> None:
    def work() -> tuple[Any, ...]:
        client = current().client
        one = client.submit(abs, -1)
        two = client.submit(lambda a, b: a + b["b"], one, {"b": one})
        seen = one.result()
        failed = client.submit(lambda: 1 / 0)
        broken = client.submit(abs, failed).exception()
        return two.result(), client.submit(abs, one).result(), seen, type(broken), type(broken.__cause__)

    assert lone.submit(work).result() == (2, 1, 1, UpstreamFailed, ZeroDivisionError)


def test_failures_come_back_through_tasks(lone: Client) -> None:
    class Own(Exception):
        pass

    def fail(depth: int) -> None:
        if depth == 0:
            raise Own("deep down")
        current().client.submit(fail, depth - 1).result()

    with pytest.raises(Own, match="deep down"):
        lone.submit(fail, 3).result()


def test_a_task_cancels_its_tasks(lone: Client) -> None:
    def work() -> list[Any]:
        client = current().client
        late = client.options(countdown=3600).submit(abs, 1)
        cancelled = late.cancel()
        done = client.submit(abs, 1)
        done.result()
        try:
            late.result()
        except TaskCancelled:
            return [cancelled, late.cancelled(), done.cancel(), client.cancel(done.id)]
        return []

    assert lone.submit(work).result() == [True, True, False, False]


def test_a_task_does_not_wait_for_what_it_leaves(lone: Client, gate: Gate) -> None:
    def work(path: str) -> str:
        current().client.submit(wait_at, path, "left")
        return "through"

    assert lone.submit(work, gate.path).result() == "through"
    until(gate.arrived)
    gate.open()


def test_a_task_may_open_a_client_of_its_own(lone: Client) -> None:
    def work() -> tuple[int, int, list[int]]:
        with Client() as client:
            return client.workers, client.submit(abs, -1).result(), list(client.map(abs, range(-5, 0)))

    assert lone.submit(work).result() == (1, 1, [5, 4, 3, 2, 1])
    assert lone.submit(work).result()[0] == 1, "and again"


def test_clients_in_tasks_of_clients_in_tasks(lone: Client) -> None:
    def work(depth: int) -> int:
        if depth == 0:
            return 1
        with Client() as client:
            return 1 + client.submit(work, depth - 1).result()

    assert lone.submit(work, 3).result() == 4


def test_threads_of_a_task_use_its_current(client: Client) -> None:
    def work() -> tuple[Any, ...]:
        mine, seen, waited = current().id, [], []

        def thread() -> None:
            seen.append(current().id)
            waited.append(current().client.submit(abs, -7).result())

        threads = [threading.Thread(target=thread) for _ in range(4)]
        for each in threads:
            each.start()
        return (
            mine,
            seen,
            waited,
            [each.join(20) for each in threads] and [each.is_alive() for each in threads],
        )

    # A thread's waiting does not free the slot: the main thread might be at work.
    mine, seen, waited, alive = client.submit(work).result()
    assert seen == [mine] * 4
    assert waited == [7] * 4
    assert alive == [False] * 4


def test_a_thread_that_outlives_its_task_has_no_current(lone: Client, gate: Gate) -> None:
    def work(path: str) -> str:
        context = current()

        def thread() -> None:
            Path(path).read_bytes()
            context.progress(1)  # unheard, no harm
            try:
                current()
            except NotInTask as error:
                Path(f"{path}.outcome").write_text(str(error))

        threading.Thread(target=thread).start()
        return context.id

    future = lone.submit(work, gate.path)
    assert future.result() == future.id
    gate.open()
    until(lambda: Path(f"{gate.path}.outcome").exists() and Path(f"{gate.path}.outcome").read_text())


def test_many_tasks_each_with_tasks(client: Client) -> None:
    def parent(index: int) -> int:
        return sum(current().client.map(abs, range(index)))

    assert list(client.map(parent, range(40))) == [sum(range(index)) for index in range(40)]


def test_a_terminated_parent_leaves_the_client_in_order(lone: Client, gate: Gate) -> None:
    def parent(path: str) -> Any:
        return current().client.submit(wait_at, path, "child").result()

    future = lone.submit(parent, gate.path)
    until(gate.arrived)
    assert future.cancel(terminate=True)
    gate.open()
    assert lone.submit(countdown, 5).result() == 5


def test_a_parent_whose_child_process_dies_hears_of_it(lone: Client) -> None:
    def parent() -> str:
        import os

        victim = current().client.options(max_deliveries=1).submit(os._exit, 1)
        return type(victim.exception()).__name__

    assert lone.submit(parent).result() == "WorkerLost"
