"""What futures and clients say of what has happened and of what is running: embedded, and with a broker."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any

import pytest
from conftest import until
from gate import Gate, wait_at

from zmqtasks import Client, Event, Retry, State, UnknownTask, ZmqTasksError, chain, current, group, signature
from zmqtasks.cli import main
from zmqtasks.nodes.story import FORGOTTEN

if TYPE_CHECKING:
    from brokered import Cluster, Clusters


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    with Gate(tmp_path) as gate:
        yield gate


def states(events: list[Event]) -> list[str]:
    """Without what was given back before it began, and dealt again."""
    found = [event for event in events if event.reason != "given back before it began"]
    pairs = zip(found, [None, *found], strict=False)
    return [event.state.value for event, before in pairs if before is None or event.state is not before.state]


def test_events_of_a_task(shared_client: Client) -> None:
    before = time()
    future = shared_client.submit(abs, -1)
    assert future.result() == 1
    events = future.events()
    assert states(events) == ["QUEUED", "RUNNING", "SUCCEEDED"]
    assert [event.attempt for event in events] == [0, 1, 1]
    assert events[0].reason == "accepted"
    times = [event.time for event in events]
    assert before - 0.1 <= times[0] <= times[1] <= times[2] <= time() + 0.1
    workers = {worker["name"] for worker in shared_client.inspect.workers()}
    assert events[0].place is None
    assert events[1].place == events[2].place in workers
    assert {event.id for event in events} == {future.id}


def test_events_of_a_task_that_is_retried_and_fails(shared_client: Client) -> None:
    future = shared_client.options(retry=Retry(1, on=ValueError, delay=0.01)).submit(int, "much")
    assert isinstance(future.exception(), ValueError)
    events = future.events()
    assert states(events) == ["QUEUED", "RUNNING", "RETRYING", "QUEUED", "RUNNING", "FAILED"]
    assert [event.attempt for event in events] == [0, 1, 1, 1, 2, 2]
    assert events[2].reason == "attempt 1: ValueError: invalid literal for int() with base 10: 'much'"
    assert events[-1].reason == events[2].reason.removeprefix("attempt 1: ")


def test_events_of_a_task_that_kills_its_worker(shared_client: Client) -> None:
    doomed = shared_client.options(max_deliveries=2).submit(lambda: os.kill(os.getpid(), signal.SIGKILL))
    assert doomed.exception() is not None
    events = doomed.events()
    assert (events[-1].state, events[-1].attempt) == (State.DEAD, 2)
    assert "SIGKILL" in events[-1].reason
    if shared_client.inspect.status()["journal"] == "none":  # of a node's children a broker hears at the end
        lost = events[2]
        assert (lost.state, lost.attempt) == (State.QUEUED, 1)
        assert lost.reason.startswith("its worker was lost: it was ended by SIGKILL")
        assert lost.place == events[1].place
        until(lambda: len(shared_client.inspect.workers()) == 2)


def test_events_of_a_workflow_are_those_of_all_its_nodes(shared_client: Client) -> None:
    members = group(signature(abs, -1), signature(abs, -2), signature(pow, 2, 3))
    future = shared_client.run(chain(members, signature(sum), signature(abs)))
    assert future.result() == 11
    events = future.events()
    by_id: dict[str, list[Event]] = {}
    for event in events:
        by_id.setdefault(event.id, []).append(event)
    named = sorted((each[0].name, *states(each)) for each in by_id.values() if each[0].items == 1)
    waited = ("WAITING", "QUEUED", "RUNNING", "SUCCEEDED")
    assert ("abs", *waited) in named
    assert ("sum", *waited) in named
    assert ("group", "WAITING", "SUCCEEDED") in named
    assert ("pow", "QUEUED", "RUNNING", "SUCCEEDED") in named
    assert sum(each[-1].items for each in by_id.values() if each[0].name == "abs") >= 2
    assert events[-1].id == future.id
    assert [event.time for event in events] == sorted(event.time for event in events)
    assert events == future.events()


def test_a_workflow_says_what_it_waits_for(shared_client: Client, gate: Gate) -> None:
    members = group(signature(abs, -1), signature(wait_at, gate.path, 2))
    future = shared_client.run(chain(members, signature(sum)))
    until(gate.arrived)
    found = until(lambda: (now := shared_client.inspect.explain(future.id))["nodes"]["ended"] == 1 and now)
    assert found["nodes"] == {
        "total": 4,
        "ended": 1,
        "states": {"RUNNING": 1, "WAITING": 2},
        "failed": [],
    }
    waits, join = found["waits_for"]
    assert (waits["name"], waits["state"]) == ("wait_at", "RUNNING")
    assert waits["worker"] is not None
    assert (join["name"], join["state"]) == ("group", "WAITING")
    about = shared_client.inspect.explain(join["id"])
    assert about["why"] == "it waits for its 2 members: 1 has ended"
    assert about["workflow"] == future.id
    assert [each["id"] for each in about["waits_for"]] == [waits["id"]]
    gate.open()
    assert future.result() == 3
    assert shared_client.inspect.explain(join["id"])["state"] == "SUCCEEDED"


def test_a_workflow_names_what_has_failed(shared_client: Client) -> None:
    future = shared_client.run(chain(signature(abs, -1), signature(len), signature(abs)))
    assert future.exception() is not None
    found = shared_client.inspect.explain(future.id)
    (failed,) = found["nodes"]["failed"]
    assert (failed["name"], failed["state"]) == ("len", "FAILED")
    assert found["events"][-1]["reason"] == f"task {failed['id']} is FAILED"
    assert found["nodes"]["ended"] == found["nodes"]["total"] == 3


def test_what_is_running_and_what_is_queued(shared_client: Client, gate: Gate) -> None:
    client = shared_client
    running = [client.options(tags={"a": "b"}).submit(wait_at, gate.path, number) for number in range(2)]
    until(lambda: len(gate.arrived()) == 2)
    behind = [client.submit(abs, number) for number in range(3)]
    behind[-1].accepted()
    active = until(lambda: len(now := client.inspect.active()) == 2 and now)
    assert {row["id"] for row in active} == {future.id for future in running}
    for row in active:
        assert (row["name"], row["queue"], row["attempt"], row["tags"]) == (
            "wait_at",
            "default",
            1,
            {"a": "b"},
        )
        assert row["worker"] in {worker["name"] for worker in client.inspect.workers()}
        assert str(os.getpid()) in row["client"]
        assert time() - 30 < row["since"] <= time()
        assert 0 <= row["seconds"] < 30
    (queue,) = until(
        lambda: (
            (now := [row for row in client.inspect.queues() if row["queue"] == "default"])
            and now[0]["tasks"] == 3
            and now
        )
    )
    assert 0 <= queue["oldest_s"] < 30
    assert queue["workers"] == [worker["name"] for worker in client.inspect.workers()]
    gate.open()
    assert [future.result() for future in behind] == [0, 1, 2]
    until(lambda: not client.inspect.active())
    stats = client.inspect.stats()
    assert stats["submitted"] == sum(stats["tasks"].values())
    assert {"abs"} <= {row["name"] for row in stats["functions"]}


def test_who_asks_for_what_nobody_submitted(shared_client: Client) -> None:
    prefix = shared_client.submit(abs, 1).id.partition("-")[0]
    for ask in (shared_client.inspect.events, shared_client.inspect.explain):
        with pytest.raises(UnknownTask):
            ask(f"{prefix}-{1 << 30}")
        with pytest.raises(UnknownTask):
            ask("nothing")


def test_a_task_cannot_ask(shared_client: Client) -> None:
    def asks() -> str:
        try:
            return str(current().client.submit(abs, 1).events())
        except ZmqTasksError as error:
            return str(error)

    assert "ask where it was submitted" in shared_client.submit(asks).result()


# ---- embedded ---------------------------------------------------------------------------------------------------


def test_what_is_forgotten_is_said_to_be_and_a_closed_client_still_tells() -> None:
    with Client(workers=1) as client:
        client._host._history._nbytes_max = 450  # two entries
        first = client.submit(abs, -1)
        first.result()
        late, *events = first.events()
        assert (late.reason, late.state, late.place, late.attempt) == (FORGOTTEN, State.QUEUED, None, 0)
        assert late.time <= events[0].time
        assert states(events) == ["RUNNING", "SUCCEEDED"]
        second = client.submit(abs, -2)
    assert first.events() == []
    assert states(second.events()[1:]) == ["RUNNING", "SUCCEEDED"]


# ---- the command line -------------------------------------------------------------------------------------------


@pytest.fixture(name="broker")
def with_two(_clusters: Clusters) -> Cluster:
    """Return a broker with a node of two."""
    return _clusters.get(2)


@pytest.fixture
def asked(broker: Cluster, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that runs the program here, for that broker, and returns what it prints."""
    monkeypatch.setenv("ZMQTASKS_KEYS", broker.keys)
    monkeypatch.setenv("ZMQTASKS_BROKER", broker.address)

    def ask(*arguments: str) -> str:
        assert main(arguments) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    return ask


def test_inspect_and_explain_on_the_command_line(broker: Cluster, asked: Any, gate: Gate) -> None:
    with broker.client(name="shop") as client:
        future = client.run(chain(group(signature(wait_at, gate.path, 2)), signature(sum)))
        try:
            until(gate.arrived)
            until(client.inspect.active)
            assert_shown(asked, future.id)
        finally:
            gate.open()
        assert future.result() == 2


def assert_shown(asked: Any, root: str) -> None:
    """The program shows a workflow of which one task runs."""
    (row,) = json.loads(asked("inspect", "active", "--json"))
    assert (row["name"], row["worker"], row["client"]) == ("wait_at", "node", "shop")
    header, line = asked("inspect", "active").splitlines()
    assert header.split() == ["ID", "NAME", "WORKER", "SINCE", "CLIENT", "QUEUE", "TRIES", "ITEMS"]
    assert line.split()[:3] == [row["id"], "wait_at", "node"]
    rows = {row["queue"]: row for row in json.loads(asked("inspect", "queues", "--json"))}
    assert (rows["default"]["tasks"], rows["default"]["workers"]) == (0, ["node"])
    assert re.search(r"^default .* 0 +- +node$", asked("inspect", "queues"), re.MULTILINE)
    assert "node" in asked("inspect", "workers")
    assert json.loads(asked("inspect", "workers", "--json"))[0]["slots"] == 2
    assert json.loads(asked("inspect", "registered", "--json")) == {}
    assert json.loads(asked("inspect", "stats", "--json"))["tasks"]["RUNNING"] == 1
    assert "Submitted:" in asked("inspect", "stats")
    shown = asked("explain", root)
    assert re.search(r"^Nodes: +3 in all, 1 running, 2 waiting$", shown, re.MULTILINE)
    assert re.search(rf"^{row['id']} +wait_at +RUNNING +default +node$", shown, re.MULTILINE)
    assert "accepted: it waits for others" in shown
