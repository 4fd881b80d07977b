"""Workflows through a broker: what is kept of them, what is sent in parts, and who goes away in the midst of one."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import until
from fleet import Fleet
from gate import Gate, wait_at
from test_policies_brokered import wait_for_both
from test_workflow_runs import is_idle

from zmqtasks import Client, TaskCancelled, chord, current, group, signature
from zmqtasks.blobs import FILE_BYTES_MIN
from zmqtasks.core.assembly import ABANDONED, NESTED_MAX, TOO_DEEP
from zmqtasks.future import Future
from zmqtasks.members import Members
from zmqtasks.messages import JOIN, Task
from zmqtasks.nodes import outgoing
from zmqtasks.wire import FILES_MAX

s = signature


@pytest.fixture(scope="module")
def fleet(_module_leaves_nothing: None) -> Iterator[Fleet]:
    """A broker that waits half a second for clients that are away, and a node of two children."""
    with Fleet(nodes=1, away_s=0.5) as fleet:
        wait_for_both(fleet.client())
        yield fleet


@pytest.fixture
def brokered(fleet: Fleet) -> Client:
    return fleet._clients[0]


def kept(client: Client) -> int:
    """How many outcomes the broker keeps."""
    return int(client.inspect.status()["results"]["kept"])


def one_more(number: int) -> int:
    return number + 1


def chains(count: int) -> Any:
    """So many of three steps each, and a body: its value is the sum of 2, 3, ..."""
    return chord([s(abs, -at) | s(one_more) | s(one_more) for at in range(count)], s(sum))


def open_join(host: Any) -> Future[Any]:
    """A join that is never closed, and the future of a body behind it."""
    join, body = host.ids.next(), host.ids.next()
    future: Future[Any] = Future(host, join)
    host.submit_all([Task(join, JOIN, Members(None), root=body, face=future)])
    return future


def leaves(how: str) -> None:
    """The task: open a join, and go."""
    open_join(current().client._host)
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)


# ---- what is kept ---------------------------------------------------------------------------------------------------


def test_of_a_workflow_only_what_is_heard_is_kept(brokered: Client, fleet: Fleet, tmp_path: Path) -> None:
    until(lambda: kept(brokered) == 0)
    with Gate(tmp_path) as gate:
        other = fleet.client()
        future = other.run(chord([*[s(abs, -at) for at in range(30)], s(wait_at, gate.path, 5)], s(sum)))
        assert other.flush(20)
        until(gate.arrived)
        other._host.depart()  # as where a program ends: nobody hears of it
        gate.open()
        assert brokered.result(future.id) == sum(range(30)) + 5
    assert kept(brokered) == 1


def test_a_workflow_that_goes_in_parts_needs_what_has_ended_meanwhile(
    brokered: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = kept(brokered)
    monkeypatch.setattr(outgoing, "BATCH", 7)
    monkeypatch.setattr(
        outgoing, "UNTAKEN_MAX", 1
    )  # each waits for the word that the one before was taken in
    futures = [brokered.run(chains(100)) for _ in range(3)]
    expected = sum(range(2, 102))
    assert [future.result(30) for future in futures] == [expected] * 3
    nested = group(chains(5), group(chains(3), s(abs, -1))) | s(str)
    assert brokered.run(nested).result(30) == str([sum(range(2, 7)), [sum(range(2, 5)), 1]])
    until(lambda: kept(brokered) == before)


# ---- large values ---------------------------------------------------------------------------------------------------


def test_a_body_takes_more_buffers_than_a_message_has_descriptors(client: Client) -> None:
    count = FILES_MAX + 40

    def large(at: int) -> bytes:
        return bytes([at % 251]) * FILE_BYTES_MIN

    def total(values: list[bytes]) -> list[int]:
        return [value[0] for value in values if len(value) == FILE_BYTES_MIN]

    expected = [at % 251 for at in range(count)]
    header = [s(large, at) for at in range(count)]
    assert client.run(chord(header, s(total))).result(50) == expected
    values = client.run(group(header)).result(50)
    assert total(values) == expected


def test_lists_within_lists_travel_as_deep_as_they_may(client: Client) -> None:
    nested: Any = s(abs, -1)
    for _ in range(NESTED_MAX):
        nested = group(nested)
    found = client.run(nested | s(list)).result(30)
    assert str(found) == "[" * NESTED_MAX + "1" + "]" * NESTED_MAX
    error = client.run(group(nested) | s(list)).exception(30)
    assert TOO_DEEP in str(error.__cause__)
    failing: Any = s(int, "no number")
    for _ in range(NESTED_MAX):
        failing = group(failing, failure="wait")
    caught = client.run(failing).exception(30)
    while isinstance(caught, BaseExceptionGroup):
        (caught,) = caught.exceptions
    assert isinstance(caught, ValueError)


# ---- who goes away --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("topology", ["embedded", "brokered"])
def test_a_client_that_is_closed_does_not_wait_for_what_cannot_come(fleet: Fleet, topology: str) -> None:
    client = Client(workers=1) if topology == "embedded" else fleet.client()
    whole = client.run(chains(20))
    future = open_join(client._host)
    client.close()
    with pytest.raises(TaskCancelled, match=ABANDONED):
        future.result(0)
    assert whole.result(0) == sum(range(2, 22))


def test_a_client_that_leaves_takes_its_open_joins_along(brokered: Client, fleet: Fleet) -> None:
    other = fleet.client()
    open_join(other._host)
    assert other.flush(20)
    assert not is_idle(brokered)
    other._host.depart()
    until(lambda: is_idle(brokered))


def test_a_client_that_is_killed_takes_its_open_joins_along(
    brokered: Client, fleet: Fleet, run_python: Any
) -> None:
    code = """
import os, sys
from zmqtasks import Client
from zmqtasks.members import Members
from zmqtasks.messages import JOIN, Task
client = Client(sys.argv[1])
host = client._host
id_ = host.ids.next()
host.submit_all([Task(id_, JOIN, Members(None), root=id_), Task(id_ + 1, JOIN, Members(2), root=id_)])
client.flush()
print(client.inspect.status()["tasks"]["WAITING"], flush=True)
os._exit(0)
"""
    done = run_python("-c", code, fleet.address, env={"ZMQTASKS_KEYS": str(fleet.keys)})
    assert done.stdout.strip() == "2", done.stderr
    until(lambda: is_idle(brokered))


@pytest.mark.parametrize("topology", ["embedded", "brokered"])
def test_a_worker_that_is_killed_takes_its_open_joins_along(fleet: Fleet, topology: str) -> None:
    with Client(workers=1) if topology == "embedded" else fleet.client() as client:
        client.options(max_deliveries=1).submit(leaves, "killed").exception(30)
        until(lambda: is_idle(client))


def test_a_node_that_is_killed_takes_the_open_joins_of_its_tasks_along() -> None:
    with Fleet(nodes=1, slots=1) as fleet:
        client = fleet.client()
        client.submit(leaves, "and lives on").result(20)
        assert not is_idle(client)
        fleet.nodes[0].signal(signal.SIGKILL)
        until(lambda: is_idle(client))


# ---- in the place of a task -----------------------------------------------------------------------------------------


def test_what_a_killed_run_had_put_in_its_place_does_not_count(brokered: Client) -> None:
    def once_killed() -> Any:
        me = current()
        host, calls = me.client._host, me.client._calls
        number = int(me.id.rpartition("-")[2])
        task = calls.task(abs, (-me.attempt,), {}, me.client._options)
        task.root = task.id
        host.submit_all([task], instead={task.id: number})
        if me.attempt == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return me.replace(s(abs, -10 * me.attempt))

    assert brokered.submit(once_killed).result(30) == 20
    assert brokered.run(group(s(once_killed), s(abs, -1))).result(30) == [20, 1]
    until(lambda: is_idle(brokered))
