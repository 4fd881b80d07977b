"""Connections that are cut: between messages, in the middle of one, while tasks run and while nothing does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from conftest import until
from fleet import Fleet
from gate import Gate, wait_at, work
from proxy import Proxy

from zmqtasks import BrokerLost
from zmqtasks.messages import Task
from zmqtasks.nodes.ids import session_of
from zmqtasks.nodes.questions import Question
from zmqtasks.visit import Welcome

MB = 1 << 20
LONG_S = 1.5  # all that may come of a cut has come: each side tries again after half a second at most


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    with Gate(tmp_path) as gate:
        yield gate


@pytest.fixture
def fleet(_leaves_nothing: None) -> Iterator[Fleet]:
    with Fleet() as fleet:
        yield fleet


@pytest.fixture
def proxy(fleet: Fleet) -> Iterator[Proxy]:
    with Proxy(("127.0.0.1", int(fleet.address.rpartition(":")[2]))) as proxy:
        yield proxy


def short(number: int) -> int:
    work(0.002)
    return number


def rounds(client: Any) -> None:
    """Tasks one after the other, for a while."""
    end = monotonic() + LONG_S
    while monotonic() < end:
        assert client.submit(short, 7).result(20) == 7
        work(0.01)


def rounds_without(client: Any) -> None:
    """Questions one after the other, for a while."""
    end = monotonic() + LONG_S
    while monotonic() < end:
        client.inspect.status()
        work(0.01)


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_a_client_comes_back_once(fleet: Fleet, proxy: Proxy, busy: bool) -> None:
    fleet.start_node()
    client = fleet.client(proxy.address)
    fleet.wait_for(client, 1)
    over = threading.Event()
    futures: list[Any] = []

    def stream() -> None:
        while not over.is_set():
            futures.append(client.submit(abs, -1))
            client.flush(0.001)

    streams = [threading.Thread(target=stream)] * busy
    for thread in streams:
        thread.start()
    try:
        until(lambda: not busy or len(futures) > 100)
        proxy.cut()
        proxy.heal()
        rounds(client)
    finally:
        over.set()
        for thread in streams:
            thread.join()
    assert client.gather(futures) == [1] * len(futures)
    assert proxy.connections_to_target == 2
    assert client.inspect.status()["clients"] == 1


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_a_worker_comes_back_once(fleet: Fleet, proxy: Proxy, busy: bool) -> None:
    fleet.start_node(1, proxy.address)
    client = fleet.client()
    fleet.wait_for(client, 1)
    futures = [client.submit(short, number) for number in range(300)] if busy else []
    until(lambda: not busy or futures[20].done())
    proxy.cut()
    proxy.heal()
    assert [future.result(20) for future in futures] == list(range(len(futures)))
    rounds(client)
    assert proxy.connections_to_target == 2
    assert [worker["name"] for worker in client.inspect.status()["workers"]] == ["node0"]


@pytest.mark.parametrize("whose", ["client", "worker"])
@pytest.mark.parametrize("way", ["there", "back"])
def test_a_cut_in_the_middle_of_a_message(fleet: Fleet, proxy: Proxy, whose: str, way: str) -> None:
    """Half of a message is none: nobody hears it, nobody falls over it, and it comes again."""
    fleet.start_node(1, proxy.address if whose == "worker" else None)
    client = fleet.client(proxy.address if whose == "client" else None)
    fleet.wait_for(client, 1)
    assert client.submit(abs, -1).result(20) == 1
    size = 64 * MB
    proxy.breaks_after = 4 * MB
    future = client.submit(len, bytes(size)) if way == "there" else client.submit(bytes, size)
    value = future.result(40)
    assert (value if way == "there" else len(value)) == size
    assert proxy.connections_to_target >= 2
    assert client.submit(abs, -2).result(20) == 2


@pytest.mark.parametrize(("whose", "way"), [("client", "there"), ("client", "back"), ("worker", "back")])
def test_what_takes_longer_than_anybody_may_be_silent_arrives(
    monkeypatch: pytest.MonkeyPatch, whose: str, way: str
) -> None:
    monkeypatch.setattr("zmqtasks.nodes.dealer.HEARTBEAT_S", 0.2)
    monkeypatch.setattr("zmqtasks.nodes.dealer.SILENCE_S", 2.0)
    with (
        Fleet(silence_s=2.0) as fleet,
        Proxy(("127.0.0.1", int(fleet.address.rpartition(":")[2])), bytes_per_s=6 * MB) as proxy,
    ):
        fleet.start_node(1, proxy.address if whose == "worker" else None)
        client = fleet.client(proxy.address if whose == "client" else None)
        fleet.wait_for(client, 1)
        size = 24 * MB
        if way == "there":
            assert client.submit(len, bytes(size)).result(40) == size
        else:
            assert len(client.submit(bytes, size).result(40)) == size
        assert proxy.connections_to_target == 1


def test_a_client_is_back_with_a_task_that_ran_all_the_while(fleet: Fleet, proxy: Proxy, gate: Gate) -> None:
    fleet.start_node(1)
    client = fleet.client(proxy.address)
    future = client.submit(wait_at, gate.path, 5)
    until(gate.arrived)
    proxy.cut()
    gate.open()
    with fleet.client() as other:
        until(lambda: other.inspect.status()["tasks"]["SUCCEEDED"] == 1)
    proxy.heal()
    assert future.result(20) == 5
    assert future.attempts == 1
    assert gate.arrived() == ["5"]


def test_who_hears_of_a_loss_may_ask_at_once(fleet: Fleet) -> None:
    """And submit: what comes after the loss is not lost with the rest."""
    client = fleet.client()
    line = client._host.line
    client.close()  # its thread is gone: this one does its work
    asked = Question(lambda token: token)

    class Face:
        def settle(self, task: Task, state: int, outcome: Any) -> None:
            line.questions.put(asked)
            line.outgoing.inbox.append(Task(line.ids.next(), 0, b""))

    line.faces.add([Task(5, 0, b"", face=Face())])
    before = Question(lambda token: token)
    line.questions.put(before)
    line._welcome(Welcome("another", 77, -1, 1, 1.0))
    assert isinstance(before.error, BrokerLost)
    assert line.questions.has(asked)
    assert [session_of(task.id) for task in line.outgoing.inbox] == [77]


def test_a_client_that_was_away_for_too_long_is_told_so_and_its_outcomes_are_kept(gate: Gate) -> None:
    with (
        Fleet(nodes=1, slots=1, away_s=0.1) as fleet,
        Proxy(("127.0.0.1", int(fleet.address.rpartition(":")[2]))) as proxy,
    ):
        client, other = fleet.client(proxy.address), fleet.client()
        heard = client.submit(abs, -3)
        assert heard.result(20) == 3
        future = client.submit(wait_at, gate.path, 5)
        failing = client.submit(lambda path: wait_at(path) or 1 / 0, gate.path)
        many = client.submit_many(lambda index: index, range(10))
        client.flush()
        until(gate.arrived)
        proxy.cut()
        rounds_without(other)
        assert other.inspect.status()["away"] == 1, "something of it is pending"
        gate.open()
        until(lambda: other.inspect.status()["away"] == 0)
        proxy.heal()
        for lost in (future, failing, many[7]):
            with pytest.raises(BrokerLost, match="away for too long"):
                lost.result(20)
        for who in (client, other):  # by id they are there for their day
            assert who.result(future.id, 20) == 5
            assert who.result(many[7].id, 20) == 7
            with pytest.raises(ZeroDivisionError):
                who.result(failing.id, 20)
        assert heard.result() == 3
        assert client.submit(abs, -1).result(20) == 1
