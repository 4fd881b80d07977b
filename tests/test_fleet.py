"""Brokers, nodes and children that are killed, stopped and cut off, in the middle of thousands of tasks."""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from conftest import has_ended, python_environment, until
from fleet import Fleet
from gate import Gate, note, work
from proxy import Proxy

from zmqtasks import current

TASKS = 2000
MB = 1 << 20


def large(nbytes: int) -> bytes:
    work(0.02)
    return bytes(nbytes)


def slow_square(number: int) -> int:
    work(0.001)
    return number * number


def my_pid(_: int = 0) -> int:
    work(0.002)
    return os.getpid()


def test_a_node_that_is_killed_loses_no_task() -> None:
    with Fleet(nodes=2) as fleet:
        client = fleet.client()
        fleet.wait_for(client, 2)
        futures = [client.submit(slow_square, number) for number in range(TASKS)]
        futures[100].result(20)
        children = psutil.Process(fleet.nodes[0].pid).children(recursive=True)
        assert children
        fleet.nodes[0].signal(signal.SIGKILL)
        assert [future.result(30) for future in futures] == [number * number for number in range(TASKS)]
        until(lambda: all(has_ended(child.pid) for child in children))
        fleet.wait_for(client, 1)
        assert client.inspect.status()["submitted"] == TASKS


def test_a_node_that_is_killed_in_the_middle_of_a_map_loses_no_item() -> None:
    with Fleet(nodes=2) as fleet:
        client = fleet.client()
        fleet.wait_for(client, 2)
        values = client.map(slow_square, range(TASKS))
        first = next(values)
        fleet.nodes[1].signal(signal.SIGKILL)
        assert [first, *values] == [number * number for number in range(TASKS)]


def test_a_node_that_is_stopped_is_given_up_and_refused_when_it_is_back() -> None:
    with Fleet(nodes=2, silence_s=1.5) as fleet:
        client = fleet.client()
        fleet.wait_for(client, 2)
        futures = [client.submit(slow_square, number) for number in range(TASKS)]
        futures[100].result(20)
        fleet.nodes[0].signal(signal.SIGSTOP)
        assert [future.result(30) for future in futures] == [number * number for number in range(TASKS)]
        fleet.wait_for(client, 1)
        fleet.nodes[0].signal(signal.SIGCONT)
        fleet.wait_for(client, 2)  # as a new one
        status = client.inspect.status()
        assert status["tasks"]["SUCCEEDED"] == status["submitted"] == TASKS
        pids: set[int] = set()
        until(lambda: pids.update(client.map(my_pid, range(100))) or len(pids) > 2)


def test_children_that_are_killed_lose_no_task(tmp_path: Path) -> None:
    with Fleet(nodes=1) as fleet:
        client = fleet.client()
        futures = [client.submit(slow_square, number) for number in range(TASKS)]
        for stage in (200, 800, 1500):
            futures[stage].result(20)
            server = psutil.Process(fleet.nodes[0].pid).children()[0]
            for child in server.children():
                child.kill()
        assert [future.result(30) for future in futures] == [number * number for number in range(TASKS)]


def test_a_child_that_is_stopped_for_a_while_loses_no_task() -> None:
    with Fleet(nodes=1) as fleet:
        client = fleet.client()
        futures = [client.submit(slow_square, number) for number in range(TASKS)]
        futures[200].result(20)
        stopped = psutil.Process(fleet.nodes[0].pid).children()[0].children()[0]
        stopped.suspend()
        until(lambda: sum(future.done() for future in futures) > TASKS - 100)  # all but what it has in hand
        stopped.resume()
        assert [future.result(30) for future in futures] == [number * number for number in range(TASKS)]
        assert client.inspect.status()["submitted"] == TASKS


def test_what_a_killed_child_was_running_runs_again_soon(tmp_path: Path) -> None:
    log = tmp_path / "log"

    def dies_once() -> int:
        note(log, time.monotonic())
        if current().attempt == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return current().attempt

    with Fleet(nodes=1) as fleet:
        client = fleet.client()
        assert [client.submit(dies_once).result(20) for _ in range(20)] == [2] * 20
    begun = [float(line) for line in log.read_text().split()]
    assert len(begun) == 40
    took = [begun[at + 1] - begun[at] for at in range(0, 40, 2)]
    assert statistics.quantiles(took)[0] < 0.25  # of the quickest: this machine does other things too


def test_a_task_that_kills_its_child_is_dead_after_its_deliveries() -> None:
    with Fleet(nodes=1) as fleet:
        client = fleet.client()
        poison = client.options(max_deliveries=2).submit(lambda: os.kill(os.getpid(), signal.SIGKILL))
        innocent = [client.submit(slow_square, number) for number in range(50)]
        assert [future.result(20) for future in innocent] == [number * number for number in range(50)]
        assert type(poison.exception(20)).__name__ == "WorkerLost"
        assert (poison.state, poison.attempts) == ("DEAD", 2)


def test_attempts_are_counted_where_children_die(tmp_path: Path) -> None:
    log = tmp_path / "log"

    def dies_twice(_: int = 0) -> int:
        note(log, current().attempt)
        if current().attempt < 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return current().attempt

    with Fleet(nodes=1, slots=1) as fleet:
        client = fleet.client()
        future = client.submit(dies_twice)
        assert (future.result(20), future.attempts) == (3, 3)
        many = client.submit_many(dies_twice, range(2))
        assert [(each.result(20), each.attempts) for each in many] == [(3, 3), (3, 3)]
        single, spans = log.read_text().split()[:3], log.read_text().split()[3:]
        assert single == ["1", "2", "3"]
        # What the first has returned may not have left when the second ends their child: then it returns it again.
        assert [spans.count(attempt) for attempt in ("1", "2")] == [2, 2]
        assert set(spans) == {"1", "2", "3"}
        with fleet.client() as other:
            plain = other.submit(slow_square, 3)
            assert (plain.result(20), plain.attempts) == (9, 1)


def kill_node() -> None:
    os.kill(psutil.Process(os.getppid()).ppid(), signal.SIGKILL)
    work(60)


def test_a_task_that_kills_its_node_each_time_is_dead_and_alone_so() -> None:
    with Fleet(nodes=1) as fleet:
        client = fleet.client()
        fleet.wait_for(client, 1)
        assert client.submit(slow_square, 2).result(20) == 4
        poison = client.submit(kill_node)
        innocent = [client.submit(slow_square, number) for number in range(300)]
        for _ in range(3):
            assert fleet.nodes[-1].wait() == -signal.SIGKILL
            fleet.start_node()
        assert type(poison.exception(20)).__name__ == "WorkerLost"
        assert (poison.state, poison.attempts) == ("DEAD", 3)
        assert [future.result(20) for future in innocent] == [number * number for number in range(300)]


def test_a_cut_between_node_and_broker_loses_no_task() -> None:
    with Fleet() as fleet:
        port = int(fleet.address.rpartition(":")[2])
        with Proxy(("127.0.0.1", port)) as proxy:
            fleet.start_node(address=proxy.address)
            client = fleet.client()
            fleet.wait_for(client, 1)
            futures = [client.submit(slow_square, number) for number in range(TASKS)]
            for stage in (100, 700):
                futures[stage].result(20)
                proxy.cut()
                fleet.wait_for(client, 0)
                proxy.heal()
            assert [future.result(30) for future in futures] == [number * number for number in range(TASKS)]


def test_a_node_that_leaves_warm_gives_back_what_has_not_started() -> None:
    with Fleet(nodes=1) as fleet:
        client = fleet.client()
        fleet.wait_for(client, 1)
        futures = [client.submit(slow_square, number) for number in range(TASKS)]
        futures[100].result(20)
        fleet.start_node()
        fleet.wait_for(client, 2)
        fleet.nodes[0].signal(signal.SIGTERM)
        assert fleet.nodes[0].wait() == 0
        assert [future.result(30) for future in futures] == [number * number for number in range(TASKS)]
        status = client.inspect.status()
        assert status["submitted"] == TASKS
        assert status["tasks"]["SUCCEEDED"] == TASKS


def test_short_tasks_do_not_wait_beside_a_long_one() -> None:
    with Fleet(nodes=1) as fleet:
        client = fleet.client()
        long = client.submit(lambda: threading.Event().wait())
        until(long.running, 30)
        short = [client.submit(slow_square, number) for number in range(100)]
        assert [future.result(30) for future in short] == [number * number for number in range(100)]
        assert not long.done()
        assert long.cancel(terminate=True)


def test_a_client_that_is_killed_leaves_its_results(run_python: object) -> None:
    with Fleet(nodes=1) as fleet:
        os.environ["ZMQTASKS_KEYS"] = str(fleet.keys)
        try:
            script = (
                "import os, signal, sys, time\n"
                "from zmqtasks import Client\n"
                "client = Client(sys.argv[1])\n"
                "future = client.submit(lambda: sum(range(3_000_000)) and 'kept')\n"
                "client.flush()\n"
                "print(future.id, flush=True)\n"
                "os.kill(os.getpid(), signal.SIGKILL)\n"
            )
            ended = run_python("-c", script, fleet.address)  # type: ignore[operator]
        finally:
            del os.environ["ZMQTASKS_KEYS"]
        assert ended.returncode == -signal.SIGKILL
        assert fleet.client().result(ended.stdout.strip(), timeout=20) == "kept"


@contextlib.contextmanager
def stopped_client(fleet: Fleet, gate: Gate, nbytes: int) -> Iterator[subprocess.Popen[str]]:
    """A program that waits for 300 tasks, each of which returns so many bytes, stopped before the first has ended."""
    script = (
        "import pathlib, sys\n"
        "from zmqtasks import Client\n"
        "def task(path, nbytes):\n    pathlib.Path(path).read_bytes()\n    return bytes(nbytes)\n"
        "client = Client(sys.argv[1])\n"
        "futures = [client.submit(task, sys.argv[2], int(sys.argv[3])) for _ in range(300)]\n"
        "client.flush()\n"
        "print('begun', flush=True)\n"
        "print(sum(len(future.result()) for future in futures), flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, fleet.address, gate.path, str(nbytes)],
        env={**python_environment(), "ZMQTASKS_KEYS": str(fleet.keys)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
            process.send_signal(signal.SIGSTOP)
            yield process
        finally:
            process.kill()


def test_a_client_that_is_stopped_for_a_while_has_all_its_results(tmp_path: Path) -> None:
    with (
        Gate(tmp_path) as gate,
        Fleet(nodes=1, silence_s=1.5) as fleet,
        fleet.client() as other,
        stopped_client(fleet, gate, 1000) as process,
    ):
        until(lambda: other.inspect.status()["away"] == 1)
        gate.open()
        until(lambda: other.inspect.status()["tasks"]["SUCCEEDED"] == 300)
        process.send_signal(signal.SIGCONT)
        assert process.communicate(timeout=40)[0] == "300000\n"
        assert process.returncode == 0


def test_a_client_that_never_takes_its_results_costs_the_broker_no_more_than_is_kept(tmp_path: Path) -> None:
    with (
        Gate(tmp_path) as gate,
        Fleet(nodes=1, silence_s=60, result_bytes_max=32 * MB) as fleet,
        fleet.client() as other,
        stopped_client(fleet, gate, MB),
    ):
        broker = psutil.Process(fleet.broker.pid)
        before = broker.memory_info().rss
        gate.open()
        until(lambda: other.inspect.status()["tasks"]["SUCCEEDED"] == 300, 30)
        assert broker.memory_info().rss - before < 150 * MB
        assert other.submit(abs, -1).result(20) == 1


def test_a_broker_that_is_to_stop_waits_for_those_who_are_there(run_python: object) -> None:
    """For a client that has outcomes to hear, and not for one that was killed and never will."""
    with Fleet(nodes=1) as fleet:
        client = fleet.client()
        fleet.wait_for(client, 1)
        os.environ["ZMQTASKS_KEYS"] = str(fleet.keys)
        try:
            script = (
                "import os, signal, sys\n"
                "from zmqtasks import Client\n"
                "client = Client(sys.argv[1])\n"
                "client.submit(lambda: sum(range(3_000_000)))\n"
                "client.flush()\n"
                "os.kill(os.getpid(), signal.SIGKILL)\n"
            )
            run_python("-c", script, fleet.address)  # type: ignore[operator]
        finally:
            del os.environ["ZMQTASKS_KEYS"]
        until(lambda: client.inspect.status()["tasks"]["SUCCEEDED"] == 1)
        futures = [client.submit(large, 20 * MB) for _ in range(12)]  # more than is sent unconfirmed
        client.flush()
        fleet.broker.signal(signal.SIGTERM)
        assert fleet.broker.wait() == 0
        until(lambda: client._host.line.is_in is False)
        assert [len(future.result(20)) for future in futures] == [20 * MB] * 12


@pytest.mark.parametrize("terminate", [False, True])
def test_a_cancel_reaches_the_child(terminate: bool) -> None:
    with Fleet(nodes=1, slots=1) as fleet:
        client = fleet.client()
        long = client.submit(time.sleep, 60)
        behind = client.submit(slow_square, 3)
        until(long.running)
        assert long.cancel(terminate=terminate) is terminate
        if terminate:
            assert behind.result(20) == 9
            assert long.cancelled()
        else:
            assert behind.cancel()
            assert long.cancel(terminate=True)


def test_a_poison_task_does_not_start_anew_on_each_node(tmp_path: Path) -> None:
    log = tmp_path / "log"

    def mark_and_die() -> None:
        note(log, os.getpid())
        os._exit(3)

    with Fleet(nodes=2, slots=1) as fleet:
        client = fleet.client()
        fleet.wait_for(client, 2)
        poison = client.options(max_deliveries=3).submit(mark_and_die)
        assert type(poison.exception(30)).__name__ == "WorkerLost"
        assert len(log.read_text().splitlines()) == 3
