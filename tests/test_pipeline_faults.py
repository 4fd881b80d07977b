"""Children, workers and connections that are killed, stopped and cut during a run: each input comes out once."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from pipes import Pipes, own_worker, repeated_or_missing, wait_for
from time import monotonic
from typing import Any

import psutil
import pytest
from conftest import has_ended, until
from gate import Gate, note, wait_at, work
from light import slow_square
from proxy import Proxy

from zmqtasks import Ventilator

INPUTS = 800
RANDOM_S = float(os.environ.get("ZMQTASKS_TEST_PIPELINE_S", "2"))
"""How long workers are killed at random, in seconds; from 60 on a worker is stopped for a minute, too."""
MINUTE_S = 60


@pytest.fixture
def pipes(_leaves_nothing: None) -> Iterator[Pipes]:
    with Pipes() as pipes:
        yield pipes


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    with Gate(tmp_path) as gate:
        yield gate


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is silent is given up sooner than usual."""
    monkeypatch.setattr("zmqtasks.nodes.ventilator.SILENCE_S", 2.0)


def squares_with(
    pipeline: Ventilator[Any, Any], events: dict[int, Callable[[], Any]], count: int = INPUTS
) -> None:
    """Run `count` inputs; when so many outcomes have come, this happens. Each comes out once, and right."""
    found = []
    for each in pipeline.run(range(count)):
        found.append(each)
        if (event := events.get(len(found))) is not None:
            event()
    assert repeated_or_missing(found, count) == {}
    assert all(value == index * index for index, value in found)


def children_of(worker: psutil.Process) -> list[psutil.Process]:
    """Those that run tasks: below the worker's fork server."""
    return [child for server in worker.children() for child in server.children()]


def wait_until_leaving(pipeline: Ventilator[Any, Any]) -> None:
    """Wait until each worker has said that it leaves."""
    hands = pipeline._pipe.node._stream.hands
    until(lambda: hands and all(hand.leaving for hand in list(hands.values())))


# ---- kill -9 -----------------------------------------------------------------------------------------------------


def test_children_that_are_killed_lose_nothing() -> None:
    with Ventilator(slow_square, workers=2) as pipeline:
        worker = own_worker(pipeline)

        def kill() -> None:
            for child in until(lambda: children_of(worker)):
                child.kill()

        squares_with(pipeline, {50: kill, 300: kill})
        assert own_worker(pipeline).pid == worker.pid


def test_the_own_worker_is_started_anew_as_often_as_it_is_killed() -> None:
    with Ventilator(slow_square, workers=2) as pipeline:
        gone: list[psutil.Process] = []

        def kill() -> None:
            wait_for(pipeline, "local")
            worker = own_worker(pipeline)
            gone.extend([worker, *worker.children(recursive=True)])
            worker.kill()
            until(lambda: pipeline._pipe.node._own.pid not in (0, worker.pid))

        squares_with(pipeline, dict.fromkeys((50, 300), kill))
        until(lambda: all(has_ended(each.pid) for each in gone))
        assert dict(pipeline.run([5])) == {0: 25}


def test_the_own_workers_fork_server_is_killed() -> None:
    with Ventilator(slow_square, workers=2) as pipeline:
        wait_for(pipeline, "local")
        worker = own_worker(pipeline)

        def kill() -> None:
            worker.children()[0].kill()

        squares_with(pipeline, {100: kill})


def test_a_worker_that_cannot_come_up_is_an_error_and_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zmqtasks.nodes.own._BOOT", "import sys; sys.exit('no such luck')")
    with Ventilator(abs, workers=1) as pipeline, pytest.raises(Exception, match="no worker comes up"):
        list(pipeline.run(range(3)))


def test_one_of_two_workers_is_killed(pipes: Pipes) -> None:
    pipeline = pipes.ventilator(slow_square)
    one, two = pipes.worker(pipeline.address), pipes.worker(pipeline.address)
    wait_for(pipeline, "worker0", "worker1")
    below = psutil.Process(one.pid).children(recursive=True)
    squares_with(pipeline, {200: lambda: one.signal(signal.SIGKILL)})
    until(lambda: all(has_ended(each.pid) for each in below))
    wait_for(pipeline, "worker1")
    two.signal(signal.SIGTERM)
    assert two.wait() == 0


# ---- silence -----------------------------------------------------------------------------------------------------


def test_a_worker_that_is_stopped_is_given_up_and_what_it_says_later_is_not_heard_twice(
    pipes: Pipes, impatient: None, gate: Gate
) -> None:
    here = gate.path

    def waits_once(number: int) -> int:
        if number == 5 and not Path(here).is_file():
            wait_at(here, os.getpid())
        return slow_square(number)

    pipeline = pipes.ventilator(waits_once)
    pipes.worker(pipeline.address)
    wait_for(pipeline, "worker0")
    values = pipeline.run(range(INPUTS))
    found = [next(values)]
    until(gate.arrived)  # the first worker has inputs, and one of them runs
    pipes.worker(pipeline.address)
    wait_for(pipeline, "worker0", "worker1")
    pipes.workers[0].signal(signal.SIGSTOP)
    wait_for(pipeline, "worker1")
    gate.open()  # its child goes on, and has an outcome for it
    found.extend(next(values) for _ in range(200))
    pipes.workers[0].signal(signal.SIGCONT)
    found.extend(values)
    assert repeated_or_missing(found, INPUTS) == {}
    assert all(value == index * index for index, value in found)
    wait_for(pipeline, "worker0", "worker1")  # as a new one
    squares_with(pipeline, {}, count=100)


@pytest.mark.skipif(RANDOM_S < MINUTE_S, reason="takes a minute: ZMQTASKS_TEST_PIPELINE_S=60")
@pytest.mark.timeout(3 * MINUTE_S)
@pytest.mark.parametrize("whole", [False, True], ids=["the node", "the node and its children"])
def test_a_node_that_is_stopped_for_a_minute(pipes: Pipes, *, whole: bool) -> None:
    pipeline = pipes.ventilator(slow_square, window=2000)
    for _ in range(2):
        pipes.worker(pipeline.address)
    wait_for(pipeline, "worker0", "worker1")
    stopped = [psutil.Process(pipes.workers[0].pid)]
    if whole:
        stopped += stopped[0].children(recursive=True)
    fed, ends = 0, False

    def inputs() -> Iterator[int]:
        nonlocal fed
        while not ends:
            yield fed
            fed += 1

    values = pipeline.run(inputs())
    found = [next(values) for _ in range(500)]
    for process in stopped:
        process.suspend()
    until_s = monotonic() + MINUTE_S
    while monotonic() < until_s:
        found.append(next(values))
    assert list(pipeline.workers) == ["worker1"]
    for process in stopped:
        process.resume()
    while sorted(pipeline.workers) != ["worker0", "worker1"]:
        found.append(next(values))
    found.extend(next(values) for _ in range(2000))
    ends = True
    found.extend(values)
    assert repeated_or_missing(found, fed) == {}
    assert all(value == index * index for index, value in found)


def test_a_cut_between_a_worker_and_the_ventilator_loses_nothing(pipes: Pipes) -> None:
    pipeline = pipes.ventilator(slow_square)
    with Proxy(("127.0.0.1", int(pipeline.address.rpartition(":")[2]))) as proxy:
        pipes.worker(proxy.address)
        wait_for(pipeline, "worker0")

        def cut() -> None:
            proxy.cut()
            wait_for(pipeline)
            proxy.heal()

        squares_with(pipeline, {100: cut, 400: cut})


# ---- coming and leaving ------------------------------------------------------------------------------------------


def test_outcomes_that_a_cut_has_lost_are_made_again(pipes: Pipes, tmp_path: Path) -> None:
    runs = tmp_path / "runs"

    def square(number: int) -> int:
        with runs.open("ab") as file:
            file.write(b".")
        return slow_square(number)

    pipeline = pipes.ventilator(square)
    intake = pipeline._pipe.node._intake
    with Proxy(("127.0.0.1", int(intake.address.rpartition(":")[2]))) as proxy:
        intake.address = proxy.address  # of the worker's connections only that to the sink is cut
        pipes.worker(pipeline.address)
        wait_for(pipeline, "worker0")

        def cut() -> None:
            proxy.freeze()
            before = runs.stat().st_size
            until(lambda: runs.stat().st_size >= before + 20)
            proxy.cut()
            proxy.heal()
            proxy.thaw()

        squares_with(pipeline, {100: cut, 400: cut})
    assert runs.stat().st_size > INPUTS


def test_workers_that_come_late_and_leave_warm(pipes: Pipes) -> None:
    pipeline = pipes.ventilator(slow_square)
    values = pipeline.run(range(INPUTS), ordered=True)
    first = pipes.worker(pipeline.address)  # there is a run, and nobody for it
    found = [next(values) for _ in range(200)]
    pipes.worker(pipeline.address, slots=2)
    wait_for(pipeline, "worker0", "worker1")
    first.signal(signal.SIGTERM)
    assert first.wait() == 0
    found.extend(values)
    assert found == [(number, number * number) for number in range(INPUTS)]
    assert list(pipeline.workers) == ["worker1"]


def test_a_worker_that_leaves_warm_finishes_what_runs_and_gives_back_the_rest(
    pipes: Pipes, gate: Gate, tmp_path: Path
) -> None:
    here, log = gate.path, str(tmp_path / "log")

    def marks(number: int) -> int:
        note(log, number)
        return int(wait_at(here, number)) if number == 0 else number

    pipeline = pipes.ventilator(marks)
    first = pipes.worker(pipeline.address)
    wait_for(pipeline, "worker0")
    values = pipeline.run(range(50))
    until(gate.arrived)
    first.signal(signal.SIGTERM)
    wait_until_leaving(pipeline)
    pipes.worker(pipeline.address)
    found = [next(values) for _ in range(49)]
    gate.open()
    found.extend(values)
    assert sorted(found) == [(number, number) for number in range(50)]
    assert first.wait() == 0
    assert sorted(Path(log).read_text().split(), key=int) == [str(number) for number in range(50)], (
        "each ran once"
    )


def test_a_worker_that_leaves_cold_gives_back_what_runs(pipes: Pipes, gate: Gate) -> None:
    here = gate.path

    def waits(number: int) -> int:
        return int(wait_at(here, number))

    pipeline = pipes.ventilator(waits)
    first = pipes.worker(pipeline.address)
    wait_for(pipeline, "worker0")
    values = pipeline.run(range(20))
    until(gate.arrived)
    first.signal(signal.SIGTERM)
    wait_until_leaving(pipeline)
    first.signal(signal.SIGTERM)
    until(lambda: not pipeline.workers)
    first.wait()
    gate.open()
    pipes.worker(pipeline.address)
    assert sorted(values) == [(number, number) for number in range(20)]


def test_a_straggler_holds_up_nobody(pipes: Pipes, gate: Gate) -> None:
    here = gate.path

    def some(number: int) -> int:
        return int(wait_at(here, number)) if number == 3 else number

    pipeline = pipes.ventilator(some)
    for _ in range(2):
        pipes.worker(pipeline.address)
    wait_for(pipeline, "worker0", "worker1")
    values = pipeline.run(range(400))
    found = [next(values) for _ in range(399)]
    assert sorted(index for index, _ in found) == [number for number in range(400) if number != 3]
    gate.open()
    assert list(values) == [(3, 3)]
    assert gate.arrived() == ["3"], "it ran once"


def test_a_straggler_holds_up_nobody_of_the_own_worker_either(gate: Gate) -> None:
    with Ventilator(lambda n: wait_at(gate.path, n) if n == 3 else n, workers=2) as pipeline:
        values = pipeline.run(range(400))
        assert len([next(values) for _ in range(399)]) == 399
        gate.open()
        assert list(values) == [(3, 3)]


# ---- all of it ---------------------------------------------------------------------------------------------------


class Chaos:
    """A thread that does something bad to a worker, again and again, until it is over."""

    def __init__(self, pipes: Pipes, pipeline: Ventilator[Any, Any], seed: int) -> None:
        self._pipes, self._pipeline = pipes, pipeline
        self._rng = random.Random(seed)
        self.deeds: list[str] = []
        self.error: BaseException | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._over.wait(self._rng.uniform(0.02, 0.4)):
                deed = self._rng.choice(
                    [self.kill_child, self.kill_own, self.kill_worker, self.leave, self.stop]
                )
                deed()
                self.deeds.append(deed.__name__)
        except BaseException as error:  # noqa: BLE001 - the test's thread shows it
            self.error = error

    def kill_child(self) -> None:
        workers = [psutil.Process(), *(psutil.Process(each.pid) for each in self._pipes.workers[-2:])]
        below = [child for worker in workers for child in worker.children(recursive=True)]
        self._try(self._rng.choice(below).kill)

    def kill_own(self) -> None:
        if "local" in self._pipeline.workers:  # or it has not come up, which is another matter
            self._try(own_worker(self._pipeline).kill)

    def kill_worker(self) -> None:
        self._pipes.workers[-1].signal(signal.SIGKILL)
        self._pipes.worker(self._pipeline.address)

    def leave(self) -> None:
        self._pipes.workers[-1].signal(signal.SIGTERM)
        self._pipes.worker(self._pipeline.address)

    def stop(self) -> None:
        worker = self._pipes.workers[-1]
        worker.signal(signal.SIGSTOP)
        self._over.wait(self._rng.uniform(0, 1.0))
        worker.signal(signal.SIGCONT)

    @staticmethod
    def _try(kill: Callable[[], None]) -> None:
        try:
            kill()
        except psutil.NoSuchProcess:
            pass

    def end(self) -> None:
        self._over.set()
        self._thread.join()
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize("ordered", [False, True], ids=["as they come", "ordered"])
@pytest.mark.timeout(60 + 10 * RANDOM_S)
def test_whatever_happens_each_input_comes_out_once(pipes: Pipes, impatient: None, *, ordered: bool) -> None:
    def some(number: int) -> int:
        work(0.01 if number % 100 == 0 else 0.0003)
        return number * number

    pipeline = pipes.ventilator(some, workers=1, max_deliveries=1000, window=500)
    pipes.worker(pipeline.address)
    wait_for(pipeline, "local", "worker0")
    deadline = monotonic() + RANDOM_S / 2
    fed = 0

    def inputs() -> Iterator[int]:
        nonlocal fed
        while monotonic() < deadline or fed < 500:
            yield fed
            fed += 1

    chaos = Chaos(pipes, pipeline, seed=7 + ordered)
    try:
        found = list(pipeline.run(inputs(), ordered=ordered))
    finally:
        chaos.end()
    assert repeated_or_missing(found, fed) == {}, chaos.deeds
    assert all(value == index * index for index, value in found)
    assert not ordered or [index for index, _ in found] == list(range(fed))
    assert chaos.deeds
