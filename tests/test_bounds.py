"""What a broker holds of clients, nodes and questions that are gone: nothing, be they many."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from conftest import until
from gate import Gate, wait_at

from zmqtasks import Client, ClientClosed
from zmqtasks.keys import KeyStore, load
from zmqtasks.nodes.broker import Broker
from zmqtasks.nodes.requests import FUNCTIONS_MIN
from zmqtasks.nodes.stay import Plan
from zmqtasks.nodes.worker import Worker
from zmqtasks.nodes.zap import keypair

if TYPE_CHECKING:
    from pathlib import Path

CLIENTS, FUNCTIONS = 6, 60


@pytest.fixture
def broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, _leaves_nothing: None) -> Iterator[Broker]:
    """A broker in this process."""
    monkeypatch.setenv("ZMQTASKS_KEYS", str(tmp_path / "keys"))
    broker = Broker(["tcp://127.0.0.1:*"], KeyStore())
    thread = threading.Thread(target=broker.run)
    thread.start()
    yield broker
    broker.stop()
    broker.stop()
    thread.join()


@contextmanager
def worker(broker: Broker) -> Iterator[None]:
    """A worker of it, in this process too."""
    node = Worker(broker.address, load(None, "worker", keypair), Plan(2, 2))
    thread = threading.Thread(target=node.run)
    thread.start()
    try:
        until(lambda: broker._guests.nodes)
        yield
    finally:
        node.stop(cold=True)
        thread.join()


def functions(number: int) -> list[Any]:
    """Each of code of its own."""
    scope: dict[str, Any] = {}
    exec("\n".join(f"def f{n}(): return {number}, {n}" for n in range(FUNCTIONS)), scope)
    return [scope[f"f{n}"] for n in range(FUNCTIONS)]


def test_functions_go_with_those_who_named_them(broker: Broker) -> None:
    with worker(broker), Client(broker.address) as stays:
        for number in range(CLIENTS):
            with Client(broker.address) as client:
                futures = [client.submit(function) for function in functions(number)]
                assert client.gather(futures) == [(number, n) for n in range(FUNCTIONS)]
        assert stays.submit(abs, -1).result(20) == 1
        known = broker._catalog.by_number
        until(lambda: len(known) <= FUNCTIONS_MIN + 2)
        assert len(broker._catalog._by_digest) + len(broker._catalog._inline) == len(known)
        assert len(broker._dispatcher.pace._cost) <= len(known)
        until(lambda: len(broker._requests.asks._numbers) == 1)
        until(lambda: len(broker._guests.sessions) == 1)
        assert broker._guests.sessions.keys() == {stays._host.line.session}
        assert stays.submit(abs, -2).result(20) == 2
        assert stays.gather([stays.submit(function) for function in functions(0)])[-1] == (0, FUNCTIONS - 1)


def ask(client: Client, task_id: str) -> None:
    with pytest.raises(ClientClosed):
        client.result(task_id)


def test_who_no_longer_waits_for_an_outcome_is_forgotten(broker: Broker, tmp_path: Path) -> None:
    with (
        Gate(tmp_path) as gate,
        worker(broker),
        Client(broker.address) as client,
        Client(broker.address) as asks,
    ):
        future = client.submit(wait_at, gate.path, 5)
        until(gate.arrived)
        for _ in range(100):
            with pytest.raises(TimeoutError):
                asks.result(future.id, timeout=0.001)
        asks.inspect.status()  # which goes after them
        assert broker._requests._fetches == {}
        other = Client(broker.address)
        thread = threading.Thread(target=ask, args=(other, future.id))
        thread.start()
        until(lambda: broker._requests._fetches)
        other._host.close(wait=True, cancel=True, kill=True)
        thread.join()
        until(lambda: not broker._requests._fetches)
        gate.open()
        assert future.result(timeout=20) == 5


def test_nothing_is_left_of_a_node_that_was_asked_and_left(broker: Broker, tmp_path: Path) -> None:
    with Gate(tmp_path) as gate, Client(broker.address) as client:
        with worker(broker):
            future = client.submit(wait_at, gate.path, 5)
            until(gate.arrived)
            assert not future.cancel()
            assert client.submit(lambda: current_client().submit(abs, -3).result()).result(20) == 3
        until(lambda: not broker._guests.nodes)
        until(lambda: broker._requests.asks._numbers.keys() == {client._host.line.session})
        assert broker._requests._questions == {}
        assert broker._requests._relayed == {}
        gate.open()
        with worker(broker):
            assert future.result(20) == 5


def current_client() -> Any:
    from zmqtasks import current

    return current().client
