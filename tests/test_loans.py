"""What tasks take as arguments stays in the cluster, also where it has ended before: what goes up is counted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import until
from fleet import Fleet
from gate import Gate, note, wait_at
from proxy import Proxy

from zmqtasks import Client, UpstreamFailed, current, group, signature

MB = 1 << 20
LARGE = 50 * MB
WAIT_S = 60.0


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    with Gate(tmp_path) as gate:
        yield gate


def large(nbytes: int) -> bytes:
    return b"v" * nbytes


def several(nbytes: int) -> list[Any]:
    return ["v" * nbytes, {"much": b"w" * nbytes}]


def size(*values: Any, **more: Any) -> int:
    return sum(map(_size, [*values, *more.values()]))


def _size(value: Any) -> int:
    if isinstance(value, dict):
        return sum(map(_size, value.values()))
    return sum(map(_size, value)) if isinstance(value, list) else len(value)


def spread(nbytes: int) -> int:
    """It reads the value of a task of its own, and passes it on to others."""
    client = current().client
    value = client.submit(large, nbytes)
    assert len(value.result()) == nbytes
    return sum(client.gather([client.submit(size, [value]) for _ in range(5)]))


def before(fleet: Fleet) -> Proxy:
    """What may be between the broker and others."""
    return Proxy(("127.0.0.1", int(fleet.address.rpartition(":")[2])))


@contextlib.contextmanager
def behind(fleet: Fleet, **options: Any) -> Iterator[tuple[Client, Proxy]]:
    """A client of the fleet's broker, and what is between them."""
    with before(fleet) as proxy:
        client = fleet.client(proxy.address, **options)
        fleet.wait_for(client, 1)
        yield client, proxy
        client._host.close(wait=True, cancel=True, kill=True)


def test_a_value_that_was_read_does_not_go_up_again() -> None:
    with Fleet(1) as fleet, behind(fleet) as (client, proxy):
        value = client.submit(large, LARGE)
        assert len(value.result(WAIT_S)) == LARGE
        mixed = client.submit(several, MB)
        mixed.result(WAIT_S)
        parts = client.submit_many(large, [MB, 2 * MB, 3 * MB])
        assert len(parts[1].result(WAIT_S)) == 2 * MB
        both = client.run(group([signature(large, MB), signature(large, MB)]))
        both.result(WAIT_S)
        client.flush()
        before = proxy.bytes_to_target
        futures = [
            client.submit(size, value),
            client.submit(size, [{"deep": [value]}]),
            client.submit(size, key=value),
            client.run(signature(size, value) | signature(size_of_it)),
            client.submit(size, value, parts[1], both, both.children[0], mixed),
        ]
        sizes = [future.result(WAIT_S) for future in futures]
        assert sizes == [LARGE, LARGE, LARGE, LARGE, LARGE + 2 * MB + 2 * MB + MB + 2 * MB]
        assert proxy.bytes_to_target - before < MB


def note_size(log: str, value: bytes) -> None:
    note(log, len(value))


def size_of_it(size: int) -> int:
    return size


def test_a_value_that_the_broker_has_not_kept_is_asked_for() -> None:
    with Fleet(1, result_bytes_max=MB) as fleet, behind(fleet) as (client, proxy):
        value = client.submit(large, LARGE)
        assert len(value.result(WAIT_S)) == LARGE
        client.flush()
        before = proxy.bytes_to_target
        futures = [client.submit(size, value, value) for _ in range(5)]
        assert client.gather(futures) == [2 * LARGE] * 5
        assert proxy.bytes_to_target - before > LARGE
        until(lambda: not client._host.line.outgoing.lender)


def test_what_it_was_told_it_keeps() -> None:
    with Fleet(1, result_bytes_max=30 * MB) as fleet, behind(fleet) as (client, proxy):
        value = client.submit(large, 10 * MB)
        value.result(WAIT_S)
        for _ in range(3):  # they push it out
            client.submit(large, 10 * MB).result(WAIT_S)
        client.flush()
        before = proxy.bytes_to_target
        for _ in range(5):
            assert client.submit(size, value).result(WAIT_S) == 10 * MB
        assert 10 * MB < proxy.bytes_to_target - before < 15 * MB


def test_a_value_of_a_broker_that_is_gone_is_told_to_the_next() -> None:
    with Fleet(1) as fleet, behind(fleet) as (client, _):
        values = [client.submit(large, nbytes) for nbytes in (MB, 2 * MB)]
        assert [len(value.result(WAIT_S)) for value in values] == [MB, 2 * MB]
        fleet.broker.end()
        fleet.broker = fleet.start_broker(fleet.address)
        fleet.wait_for(fleet.client(), 1)
        until(lambda: client._host.line.is_in and client.inspect.status()["workers"])
        others = [client.submit(large, 3 * MB) for _ in range(4)]  # none of them takes the id of one before
        assert [client.submit(size, value).result(WAIT_S) for value in values] == [MB, 2 * MB]
        assert client.gather([client.submit(size, value) for value in values + others]) == [
            MB, 2 * MB, *[3 * MB] * 4
        ]  # fmt: skip


def test_a_value_that_was_on_its_way_when_the_connection_was_lost_is_asked_for_again() -> None:
    with Fleet(1, result_bytes_max=MB) as fleet, behind(fleet) as (client, proxy):
        value = client.submit(large, LARGE)
        value.result(WAIT_S)
        for share in (0, LARGE // 3, LARGE // 2):
            enough = proxy.bytes_to_target + share
            futures = [client.submit(size, value) for _ in range(2)]
            wait_for_bytes(proxy, enough)
            proxy.cut()
            proxy.heal()
            assert client.gather(futures) == [LARGE, LARGE]
        until(lambda: not client._host.line.outgoing.lender)


def wait_for_bytes(proxy: Proxy, count: int) -> None:
    until(lambda: proxy.bytes_to_target > count, WAIT_S)


def test_what_is_accepted_needs_its_client_no_more(gate: Gate, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    with Fleet(1, result_bytes_max=MB) as fleet, behind(fleet) as (client, _):
        value = client.submit(large, LARGE)
        value.result(WAIT_S)
        other = fleet.client()
        busy = [other.submit(wait_at, gate.path, n) for n in range(2)]
        until(lambda: len(gate.arrived()) == 2)
        client.submit(note_size, str(log), value)
        assert client.flush(WAIT_S)
        client._host.line.stop(0)
        gate.open()
        assert other.gather(busy) == [0, 1]
        until(lambda: log.read_text() == f"{LARGE}\n")


def test_a_task_whose_value_is_asked_for_can_be_cancelled() -> None:
    with Fleet(1, result_bytes_max=MB) as fleet, behind(fleet) as (client, proxy):
        value = client.submit(large, MB)
        value.result(WAIT_S)
        client.flush()
        line = client._host.line
        tell, line._tell = line._tell, lambda _ids: None  # it does not get to it
        future, other = client.submit(size, value), client.submit(size, value)
        until(lambda: client.inspect.status()["tasks"].get("WAITING") == 2)
        assert future.cancel()
        assert "asked for" in client.inspect.explain(other.id)["why"]
        line._tell = tell
        proxy.cut()
        proxy.heal()
        assert other.result(WAIT_S) == MB
        assert future.cancelled()
        assert client.flush(WAIT_S)


def test_what_waits_for_a_client_that_never_comes_back_fails() -> None:
    with Fleet(1, result_bytes_max=MB, away_s=1.0, queue_max=3) as fleet, behind(fleet) as (client, proxy):
        value = client.submit(large, MB)
        value.result(WAIT_S)
        client._host.line._tell = lambda _ids: None
        futures = [client.submit(size, value) for _ in range(3)]  # there is no more room
        other = fleet.client()
        until(lambda: other.inspect.status()["tasks"].get("WAITING") == 3)
        proxy.cut()
        assert other.submit(size, b"1").result(WAIT_S) == 1
        with pytest.raises(UpstreamFailed, match="gone with the one who had it"):
            other.result(futures[0].id)


def test_a_queue_that_is_full_of_what_waits_for_values_gets_them() -> None:
    with Fleet(1, result_bytes_max=MB, queue_max=2) as fleet, behind(fleet) as (client, _):
        values = [client.submit(large, MB + n) for n in range(4)]
        for value in values:
            value.result(WAIT_S)
        futures = [client.submit(size, value) for _ in range(10) for value in values]
        assert client.gather(futures) == [MB, MB + 1, MB + 2, MB + 3] * 10


@pytest.mark.parametrize("kept", [MB, 256 * MB])
def test_what_a_task_has_read_its_node_does_not_send_again(kept: int) -> None:
    with Fleet(0, result_bytes_max=kept) as fleet, before(fleet) as proxy:
        fleet.start_node(2, proxy.address)
        client = fleet.client()
        fleet.wait_for(client, 1)
        sent = proxy.bytes_to_target
        assert client.submit(spread, 10 * MB).result(WAIT_S) == 50 * MB
        sent = proxy.bytes_to_target - sent
        assert sent > 18 * MB if kept == MB else sent < 15 * MB
