"""Brokers, nodes and children that are killed, stopped and cut off, in the middle of thousands of tasks."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil
import pytest
from conftest import has_ended, until
from fleet import Fleet
from gate import note, work
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
        assert log.read_text().split() == ["1", "2", "3"] * 3
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
        client.submit(int).result(20)
        began = time.monotonic()
        long = client.submit(time.sleep, 10)
        until(long.running)
        short = [client.submit(slow_square, number) for number in range(100)]
        assert [future.result(8) for future in short] == [number * number for number in range(100)]
        assert not long.done()
        assert time.monotonic() - began < 8
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
