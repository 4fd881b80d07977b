"""What only a broker's client has: outcomes by id, questions, connections that break, forks, queues that are full."""

from __future__ import annotations

import contextlib
import importlib
import os
import secrets
import signal
import socket
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from conftest import RunPython, has_ended, until
from fleet import Fleet
from gate import Gate, note, wait_at
from proxy import Proxy

import zmqtasks.nodes.remote
from zmqtasks import (
    BrokerLost,
    Client,
    ClientClosed,
    ConnectionTimeout,
    ForkedClient,
    QueueFull,
    State,
    UnknownTask,
    UpstreamFailed,
    current,
)
from zmqtasks.errors import ZmqTasksError

if TYPE_CHECKING:
    from brokered import Cluster, Clusters

MB = 1 << 20


@pytest.fixture(scope="module")
def cluster(_clusters: Clusters, _module_leaves_nothing: None) -> Cluster:
    """A broker and a node with two children."""
    return _clusters.get(2)


@pytest.fixture
def client(cluster: Cluster, _leaves_nothing: None) -> Iterator[Client]:
    client = cluster.client()
    yield client
    client._host.close(wait=True, cancel=True, kill=True)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    with Gate(tmp_path) as gate:
        yield gate


# ---- outcomes by id, and questions -------------------------------------------------------------------------------


def test_another_client_gets_an_outcome_by_its_id(cluster: Cluster, client: Client, gate: Gate) -> None:
    future = client.submit(wait_at, gate.path, [1, 2])
    many = client.submit_many(lambda index: wait_at(gate.path, index), range(10))
    failing = client.submit(lambda path: wait_at(path) or 1 / 0, gate.path)
    client.flush()  # an id that has not arrived is unknown
    with cluster.client() as other:
        with pytest.raises(TimeoutError):
            other.result(future.id, timeout=0)
        with pytest.raises(TimeoutError):
            other.result(future.id, timeout=0.05)
        values: list[Any] = []

        def ask(id_: str) -> None:
            try:
                values.append(other.result(id_, 20))
            except ZeroDivisionError as error:
                values.append(type(error))

        waiting = [threading.Thread(target=ask, args=(each.id,)) for each in (future, many[3], failing)]
        for thread in waiting:
            thread.start()
        # Once who submitted has an outcome, the broker may forget it: the questions are there before.
        until(lambda: len(other._host.line.questions.unanswered()) == len(waiting))
        other.inspect.status()  # it is asked after them, and answered in that order
        gate.open()
        for thread in waiting:
            thread.join()
        assert sorted(values, key=str) == [3, ZeroDivisionError, [1, 2]]


def test_another_client_gets_the_outcome_of_what_a_task_has_submitted(
    cluster: Cluster, client: Client, gate: Gate
) -> None:
    def outer(path: str) -> Any:
        inner = current().client.submit(wait_at, path, 5)
        inner.accepted()
        note(f"{path}.log", inner.id)
        return inner.result()

    future = client.submit(outer, gate.path)
    id_ = until(lambda: [mark for mark in gate.arrived() if "-" in mark])[0]
    with cluster.client() as other:
        values: list[Any] = []
        thread = threading.Thread(target=lambda: values.append(other.result(id_, 20)))
        thread.start()
        until(other._host.line.questions.unanswered)
        other.inspect.status()  # which goes after it
        gate.open()
        thread.join()
    assert values == [5]
    assert future.result(20) == 5


def test_an_id_that_nobody_submitted_is_unknown(cluster: Cluster, client: Client) -> None:
    done = client.submit(abs, -1)
    assert done.result() == 1
    prefix, _, number = done.id.rpartition("-")
    for unknown in ("", "nothing", f"other-{number}", f"{prefix}-{int(number) + 10_000}", f"{prefix}-x"):
        with pytest.raises(UnknownTask):
            client.result(unknown, timeout=5)
        with pytest.raises(UnknownTask):
            client.inspect.explain(unknown)


def test_a_broker_says_what_it_has(client: Client, gate: Gate) -> None:
    running = [client.options(name="slow", tags={"a": "b"}).submit(wait_at, gate.path) for _ in range(2)]
    until(lambda: all(future.running() for future in running))
    waiting = client.submit(abs, running[0])
    late = client.options(countdown=3600).submit(abs, 1)
    behind = client.submit(abs, 1)
    client.flush()
    inspect = client.inspect
    # What was handed to the node behind tasks that turned out to be long comes back.
    status = until(lambda: (now := inspect.status())["tasks"]["RUNNING"] == 2 and now)
    assert status["submitted"] == sum(status["tasks"].values())
    assert [worker["name"] for worker in status["workers"]] == ["node"]
    assert {task["id"] for task in inspect.list("RUNNING")} == {future.id for future in running}
    about = inspect.explain(running[0].id)
    assert (about["name"], about["tags"], about["worker"]) == ("slow", {"a": "b"}, "node")
    until(lambda: "busy" in inspect.explain(behind.id)["why"])
    for future, state, why in (
        (waiting, "WAITING", "1 other task"),
        (late, "SCHEDULED", "its time"),
        (behind, "QUEUED", "busy"),
    ):
        assert inspect.explain(future.id)["state"] == state
        assert why in inspect.explain(future.id)["why"]
    assert late.cancel()
    assert behind.cancel()
    gate.open()


def test_a_client_of_another_python_waits_for_its_kind(cluster: Cluster, monkeypatch: Any) -> None:
    monkeypatch.setattr(zmqtasks.nodes.remote, "PYTHON", "3.99")
    with cluster.client() as client:
        future = client.submit(abs, -1)
        future.accepted()
        assert "waiting for a worker with Python 3.99" in client.inspect.explain(future.id)["why"]
        assert future.cancel()


def test_clients_do_not_mix(cluster: Cluster) -> None:
    clients = [cluster.client() for _ in range(3)]
    futures = [
        [each.submit(pow, index, number) for number in range(300)] for index, each in enumerate(clients)
    ]
    for index, (each, own) in enumerate(zip(clients, futures, strict=True)):
        assert each.gather(own) == [index**number for number in range(300)]
        each.close()


# ---- what travels by value ---------------------------------------------------------------------------------------


def test_modules_of_the_caller_travel_by_value(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"only_here_{secrets.token_hex(4)}"
    (tmp_path / f"{name}.py").write_text(
        "import enum, functools, typing\n"
        "T = typing.TypeVar('T')\n"
        "class Base(typing.Generic[T]):\n"
        "    def __init__(self, x): self.x = x\n"
        "class Derived(Base[int]):\n"
        "    def double(self): return helper(self.x)\n"
        "class Colour(enum.Enum):\n    RED = 1\n"
        "class Wrong(Exception): pass\n"
        "def helper(x): return 2 * x\n"
        "@functools.lru_cache\n"
        "def cached(x): return helper(x)\n"
        "def fail(): raise Wrong('so')\n"
        "def make(x): return Derived(x)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module(name)
    assert client.submit(module.helper, 4).result() == 8
    assert client.submit(module.cached, 4).result() == 8
    assert client.submit(module.Derived(4).double).result() == 8
    made = client.submit(module.make, 3).result()
    assert type(made) is module.Derived
    assert made.double() == 6
    assert client.submit(lambda x: x, module.Colour.RED).result() is module.Colour.RED
    with pytest.raises(module.Wrong, match="so"):
        client.submit(module.fail).result()
    with Client(workers=1) as embedded:  # started with a path on which it lies
        assert embedded.submit(module.helper, 4).result() == 8
        assert type(embedded.submit(module.make, 3).result()) is module.Derived


def test_a_broker_and_a_node_open_nothing(cluster: Cluster, client: Client) -> None:
    assert client.submit(lambda: 1).result() == 1
    for pid in cluster.pids:
        maps = Path(f"/proc/{pid}/maps").read_text()
        assert "zmq" in maps  # the libraries that a process has loaded
    script = (
        "import sys, zmqtasks.nodes.broker, zmqtasks.nodes.worker\n"
        "print(sorted({'cloudpickle', 'zmqtasks.payload', 'zmqtasks.functions'} & set(sys.modules)))\n"
    )
    import subprocess
    import sys

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# ---- clients in tasks, in forks, at the end ----------------------------------------------------------------------


def test_a_task_opens_an_embedded_client(client: Client) -> None:
    def work() -> list[int]:
        with Client() as own:
            return [own.workers, own.submit(abs, -1).result(), *own.map(abs, [-2, -3])]

    assert client.submit(work).result(30) == [1, 1, 2, 3]


def test_a_task_opens_a_client_of_the_broker(cluster: Cluster, client: Client) -> None:
    def work(address: str) -> int:
        with Client(address) as own:
            return own.submit(abs, -5).result()

    assert client.submit(work, cluster.address).result(30) == 5


def test_a_forked_process_comes_back_as_a_new_client(client: Client) -> None:
    done = client.submit(abs, -1)
    assert done.result() == 1
    pending = client.options(countdown=3600).submit(abs, 1)
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork of a process with threads
        pid = os.fork()
    if pid == 0:
        said: list[Any] = []
        try:
            signal.alarm(20)
            for use in (
                lambda: client.submit(abs, -7).result(10),
                lambda: list(client.map(abs, [-1, -2])),
                done.result,
                lambda: client.submit(abs, done).result(10),
                pending.result,
                pending.cancel,
                client.close,
                lambda: client.submit(abs, 1),
            ):
                try:
                    said.append(use())
                except ZmqTasksError as error:
                    said.append(type(error).__name__)
        except BaseException as error:  # noqa: BLE001 - the parent looks at it
            said.append(repr(error))
        os.write(writer, repr(said).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        said = eval(stream.read())
    assert said == [7, [1, 2], 1, 1, "ForkedClient", "ForkedClient", None, "ClientClosed"]
    assert issubclass(ForkedClient, RuntimeError)
    assert issubclass(ClientClosed, RuntimeError)
    assert client.submit(abs, -2).result() == 2, "the parent goes on"
    assert pending.cancel()


def test_the_end_of_the_interpreter_hands_over(
    cluster: Cluster, client: Client, run_python: RunPython
) -> None:
    began = monotonic()
    done = run_python(
        "-c",
        "import sys\nfrom zmqtasks import Client\n"
        "client = Client(sys.argv[1])\n"
        "late = client.options(countdown=1.0).submit(abs, -41)\n"
        "print(late.id)\n",
        cluster.address,
        env={"ZMQTASKS_KEYS": cluster.keys},
    )
    assert done.stderr == ""
    assert monotonic() - began < 10
    assert client.result(done.stdout.strip(), timeout=10) == 41


def test_ctrl_c_ends_the_wait(cluster: Cluster, client: Client, tmp_path: Path) -> None:
    import subprocess
    import sys

    from conftest import python_environment

    script = (
        "import sys, threading, os, signal\nfrom zmqtasks import Client\n"
        "with Client(sys.argv[1]) as client:\n"
        "    late = client.options(countdown=3600).submit(abs, -41)\n"
        "    late.accepted()\n"
        "    print(late.id, flush=True)\n"
        "    late.result()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, cluster.address],
        env={**python_environment(), "ZMQTASKS_KEYS": cluster.keys},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        id_ = process.stdout.readline().strip()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=10)
    assert "KeyboardInterrupt" in errors
    assert process.returncode != 0
    until(lambda: client.inspect.status()["tasks"]["SCHEDULED"] == 0)
    with pytest.raises((UnknownTask, ZmqTasksError)):
        client.result(id_, timeout=5)


def test_the_last_words_of_who_is_gone_count() -> None:
    with Fleet() as fleet:
        client, other = fleet.client(), fleet.client()
        for _ in range(5):
            late = client.options(countdown=3600).submit(abs, -41)
            assert late.accepted(20)
            fleet.broker.signal(signal.SIGSTOP)  # it finds what was said and the end of who said it together
            client._host.close(wait=True, cancel=True, kill=True)
            fleet.broker.signal(signal.SIGCONT)
            until(lambda: other.inspect.status()["tasks"]["SCHEDULED"] == 0)
            client = fleet.client()


# ---- connections -------------------------------------------------------------------------------------------------


def test_where_no_broker_answers_there_is_an_error_in_time(tmp_path: Path) -> None:
    with socket.socket() as silent:  # it takes connections and says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        with Fleet() as fleet:
            began = monotonic()
            with pytest.raises(
                ConnectionTimeout, match=f"no broker answers at tcp://127.0.0.1:{port} within 0.5 s"
            ):
                fleet.client(f"tcp://127.0.0.1:{port}", connect_timeout=0.5)
            assert monotonic() - began < 3
    assert issubclass(ConnectionTimeout, TimeoutError)


def test_a_cut_loses_and_doubles_nothing() -> None:
    def slowly(number: int) -> int:
        from time import perf_counter

        end = perf_counter() + 0.0005
        while perf_counter() < end:
            pass
        return number

    with Fleet(nodes=1) as fleet, Proxy(("127.0.0.1", int(fleet.address.rpartition(":")[2]))) as proxy:
        client = fleet.client(proxy.address)
        fleet.wait_for(client, 1)
        blob = bytes(3 * MB)
        futures: list[Any] = []
        for round_ in range(4):
            futures += [client.submit(slowly, number) for number in range(round_ * 500, round_ * 500 + 500)]
            futures.append(client.submit(lambda blob, round_: (len(blob), round_)[1] and 0, blob, round_))
            futures[-400].result(20)
            proxy.cut()
            futures += [client.submit(slowly, -1)]
            proxy.heal()
        values = [future.result(30) for future in futures]
        expected: list[int] = []
        for round_ in range(4):
            expected += [*range(round_ * 500, round_ * 500 + 500), 0, -1]
        assert values == expected
        assert client.inspect.status()["submitted"] == len(futures)
        assert list(client.map(slowly, range(300))) == list(range(300))


def test_a_value_goes_from_task_to_task_and_not_through_the_client(gate: Gate) -> None:
    with Fleet(nodes=1) as fleet, Proxy(("127.0.0.1", int(fleet.address.rpartition(":")[2]))) as proxy:
        client = fleet.client(proxy.address)
        value = client.submit(lambda path: wait_at(path) or bytes(20 * MB), gate.path)
        lengths = [client.submit(len, value), client.submit(lambda values: len(values[0]), [value])]
        client.flush()
        gate.open()
        assert client.gather(lengths) == [20 * MB] * 2
        assert proxy.bytes_to_target < MB


def test_a_client_may_be_there_before_its_broker() -> None:
    with Fleet() as fleet, Proxy(("127.0.0.1", int(fleet.address.rpartition(":")[2]))) as proxy:
        fleet.broker.signal(signal.SIGKILL)
        fleet.broker.wait()
        with ThreadPoolExecutor(1) as thread:
            early = thread.submit(fleet.client, proxy.address, connect_timeout=20)
            until(lambda: proxy.connections)
            assert not early.done()
            fleet.start_broker(fleet.address)
            fleet.start_node()
            assert early.result(20).submit(abs, -1).result(20) == 1


def test_a_frozen_connection_goes_on_when_it_thaws(gate: Gate) -> None:
    with Fleet(nodes=1) as fleet, Proxy(("127.0.0.1", int(fleet.address.rpartition(":")[2]))) as proxy:
        client = fleet.client(proxy.address)
        assert client.submit(abs, -1).result(20) == 1
        proxy.freeze()
        futures = [client.submit(abs, -number) for number in range(100)]
        assert not client.flush(0.1)
        assert not futures[0].accepted(0)
        began = monotonic()
        with pytest.raises(TimeoutError):
            futures[0].result(0.1)
        assert monotonic() - began < 5  # the error's text asks the broker, and does not wait for it
        proxy.thaw()
        assert client.gather(futures) == list(range(100))
        assert client.flush(10)


def test_a_broker_that_was_started_anew_has_lost_what_it_had() -> None:
    with Fleet(nodes=1) as fleet:
        client = fleet.client()
        assert client.submit(abs, -1).result(20) == 1
        late = client.options(countdown=3600).submit(abs, -1)
        above = client.submit(abs, late)
        many = client.options(countdown=3600).submit_many(abs, range(10))
        client.flush()
        fleet.broker.signal(signal.SIGKILL)
        fleet.broker.wait()
        between = client.submit(abs, -2)
        fleet.broker = fleet.start_broker(fleet.address)
        for future in (late, above, many[3], between):
            with pytest.raises(BrokerLost, match="started anew"):
                future.result(20)
            assert isinstance(future.exception(), BrokerLost)
            assert future.state is State.FAILED
            assert not future.cancelled()
        with pytest.raises(UpstreamFailed) as caught:
            client.submit(abs, late).result(20)
        assert type(caught.value.__cause__) is BrokerLost
        fleet.wait_for(client, 1)
        assert client.submit(abs, -3).result(20) == 3
        assert list(client.map(lambda x: x + 1, range(100))) == list(range(1, 101))


def test_closing_takes_no_time_where_the_broker_is_gone() -> None:
    with Fleet() as fleet:
        idle, busy = fleet.client(), fleet.client()
        busy.submit(abs, -1)
        busy.flush()
        fleet.broker.signal(signal.SIGKILL)
        fleet.broker.wait()
        began = monotonic()
        idle.close()
        assert monotonic() - began < 3
        with pytest.raises(KeyboardInterrupt), busy:
            raise KeyboardInterrupt
        assert monotonic() - began < 6


def admitted(fleet: Fleet, key: Path) -> Client | None:
    """Return a client with a new key, once the broker has looked at its keys."""
    try:
        return fleet.client(key=key)
    except BrokerLost:
        return None


def test_a_revoked_key_is_refused_within_a_second() -> None:
    from zmqtasks.keys import KeyStore
    from zmqtasks.nodes.zap import keypair

    with Fleet(nodes=1) as fleet:
        store = KeyStore(fleet.keys)
        key = store.add("client", "guest", keypair)
        client = until(lambda: admitted(fleet, key))
        assert client.submit(abs, -1).result(20) == 1
        store.revoke("guest")
        began = monotonic()

        def refused() -> bool:
            try:
                client.submit(abs, -1).result(5)
            except BrokerLost:
                return True
            return False

        until(refused)
        assert monotonic() - began < 5  # a second, where nothing else is done
        with pytest.raises(BrokerLost, match=r"not admitted|does not know this key"):
            client.submit(abs, 1)
        with pytest.raises(ZmqTasksError):
            fleet.client(key=key, connect_timeout=2)


# ---- bounds ------------------------------------------------------------------------------------------------------


def test_a_full_queue_refuses_who_wants_to_hear_of_it(gate: Gate) -> None:
    with Fleet(nodes=1, queue_max=5) as fleet:
        client = fleet.client(on_full="raise")
        taken = [client.submit(wait_at, gate.path, index) for index in range(5)]
        client.flush()
        refused = client.submit(abs, -1)
        with pytest.raises(QueueFull):
            refused.result(20)
        assert isinstance(refused.exception(), QueueFull)
        assert not refused.cancelled()
        gate.open()
        assert client.gather(taken) == list(range(5))
        assert client.submit(abs, -1).result(20) == 1


def test_a_full_queue_makes_who_submits_wait(gate: Gate) -> None:
    with Fleet(nodes=1, queue_max=1000) as fleet:
        client = fleet.client()
        first = [client.submit(wait_at, gate.path, index) for index in range(2)]
        until(lambda: len(gate.arrived()) == 2, 20)
        payload = "x" * 1000
        submitted: list[Any] = []

        def flood() -> None:
            with contextlib.suppress(ZmqTasksError):
                for number in range(20_000):
                    submitted.append(client.submit(lambda text, number: number, payload, number))
                    if number % 100 == 99:
                        client.flush(0.2)

        broker = psutil.Process(fleet.broker.pid)
        before = broker.memory_info().rss
        thread = threading.Thread(target=flood)
        thread.start()
        until(lambda: client.inspect.status()["submitted"] >= 1000, 20)
        assert client.inspect.status()["submitted"] < 1500
        assert broker.memory_info().rss - before < 100 * MB
        gate.open()
        thread.join(50)
        assert not thread.is_alive()
        assert client.gather(first) == [0, 1]
        assert client.gather(submitted[:5000]) == list(range(5000))
        client.shutdown(wait=False, cancel_futures=True)


def test_what_waits_for_room_is_cancelled_and_asked_for_like_the_rest(gate: Gate) -> None:
    with Fleet(nodes=1, slots=1, queue_max=10) as fleet:
        client = fleet.client()
        futures = []
        for number in range(30):  # a message each
            futures.append(client.submit(wait_at, gate.path, number))
            client.flush(0.01)
        assert not client.flush(0.05), "there is no room for all"
        assert futures[-1].cancel()
        assert futures[-1].cancelled()
        with fleet.client() as other, pytest.raises(TimeoutError):
            other.result(futures[-2].id, timeout=0)  # known, and not ended
        until(gate.arrived)
        client.shutdown(wait=False, cancel_futures=True)
        until(lambda: sum(future.cancelled() for future in futures) == 29)
        gate.open()
        assert futures[0].result(20) == 0


def test_a_buffer_is_let_go_of_while_its_tasks_wait_for_room(gate: Gate) -> None:
    with Fleet(nodes=1, slots=1, queue_max=2) as fleet:
        client = fleet.client()
        first = [client.submit(wait_at, gate.path, number) for number in range(2)]
        client.flush()
        table = client.scatter(bytes(3 * MB))
        futures = []
        for _ in range(3):  # the first brings the buffer, the others name it
            futures.append(client.submit(len, table))
            assert not client.flush(0.02)
        del table
        client._host.shelf.clear()
        client._host.shelf.gone.extend(client._host.line._known)  # as if nothing here held it any more
        late = client.submit(abs, -1)  # along with it goes what is gone
        until(lambda: not client._host.line._known)
        gate.open()
        assert [future.result(20) for future in futures] == [3 * MB] * 3
        assert client.gather([*first, late]) == [0, 1, 1]


def test_blobs_are_let_go_of_everywhere() -> None:
    with Fleet(nodes=1) as fleet:
        client = fleet.client()
        fleet.wait_for(client, 1)
        processes = [psutil.Process(fleet.broker.pid), psutil.Process(fleet.nodes[0].pid)]
        pid = client.submit(os.getpid).result(20)

        def held() -> list[int]:
            node = psutil.Process(fleet.nodes[0].pid)
            children = {pid, *(child.pid for child in node.children(recursive=True))}
            return [process.memory_info().rss // MB for process in processes] + [
                memory_files(each) for each in sorted(children)
            ]

        before = held()
        for number in range(12):
            table = client.scatter(bytes([number]) * (8 * MB))
            assert client.gather([client.submit(len, table) for _ in range(8)]) == [8 * MB] * 8
            del table
            client._host.shelf.clear()
        client.submit(abs, 1).result()
        until(lambda: all(now - then < 64 for now, then in zip(held(), before, strict=True)))
        assert not has_ended(pid)


def memory_files(pid: int) -> int:
    """Return how many memory files with buffers a process has open."""
    found = 0
    with contextlib.suppress(FileNotFoundError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found += entry.readlink().name.startswith("memfd:zmqtasks (")
    return found


def test_a_result_may_be_larger_than_what_is_kept() -> None:
    def big() -> bytes:
        assert current().id
        return bytes(27 * MB)

    with Fleet(nodes=1, slots=1, result_bytes_max=25 * MB) as fleet:
        assert len(fleet.client().submit(big).result(60)) == 27 * MB
