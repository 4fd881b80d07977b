"""`zmqtasks submit`, `result`, `cancel`, `list`, `status`, `explain`: what they print and how they end."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from conftest import until
from gate import Gate, wait_at
from program import World
from terminal import COLUMNS, on_a_terminal

from zmqtasks import Client
from zmqtasks.cli import main
from zmqtasks.cli.output import size
from zmqtasks.keys import KeyStore
from zmqtasks.nodes.zap import keypair

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, _module_leaves_nothing: None) -> Iterator[World]:
    """Yield a machine with a broker and a worker for queues other than "nobody", for all tests of this module."""
    with World(tmp_path_factory.mktemp("world")) as world:
        _, address = world.broker()
        world.environment["ZMQTASKS_BROKER"] = address
        world.crew = psutil.Process(world.worker(address, "-c", "2", "--name", "lab7", "-X", "nobody").pid)
        until(lambda: is_complete(world), within_s=30)
        yield world


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    with Gate(tmp_path) as gate:
        yield gate


def is_complete(world: World) -> bool:
    """Whether the worker has its fork server and two children: one that was ended is replaced."""
    return len(world.crew.children(recursive=True)) >= 3


@pytest.fixture(autouse=True)
def _here(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Be a process in the folder of that machine."""
    for name in ("ZMQTASKS_KEYS", "ZMQTASKS_BROKER"):
        monkeypatch.setenv(name, world.environment[name])
    monkeypatch.chdir(world.folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("jobs", None)
    until(lambda: is_complete(world), within_s=30)


def said(capsys: Captured, *arguments: str, code: int = 0) -> str:
    """Run the program here, which ends with `code`; what it printed, or where it fails its one line of complaint."""
    ended = main(arguments)
    written = capsys.readouterr()
    assert ended == code, written.err
    if code:
        assert written.err.count("\n") == 1, written.err
        return written.err
    assert written.err == ""
    return written.out


def test_a_task_is_submitted_and_asked_for(capsys: Captured) -> None:
    task = said(capsys, "submit", "jobs:add", "40", "--kwargs", '{"y": 2}').strip()
    assert re.fullmatch(r"[0-9a-f]{8}-\d+", task)
    for _ in range(2):
        assert said(capsys, "result", task, "--wait") == "42\n"
    assert json.loads(said(capsys, "result", task, "--json")) == {
        "id": task,
        "state": "SUCCEEDED",
        "attempts": 1,
        "result": 42,
    }
    submitted = json.loads(said(capsys, "submit", "jobs:add", "1", "--json"))
    assert submitted.keys() == {"id"}
    assert said(capsys, "result", submitted["id"], "--wait") == "2\n"


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        (["jobs:add", "1"], "2"),
        (["jobs:add", '"a"', "b"], '"ab"'),
        (["jobs:add", "--", "-1", "-2"], "-3"),
        (["jobs:add", "[1]", "[null, {}]"], "[1, null, {}]"),
        (["builtins:tuple", "[1, 2]"], "[1, 2]"),
        (["builtins:print"], "null"),
        (["builtins:set", "[1]"], "{1}"),
        (["builtins:float", "nan"], "nan"),
        (["builtins:str", "漢\u0085"], '"漢\\x85"'),
        (["builtins:complex", "1"], "(1+0j)"),
        (["jobs:odd"], "Odd()"),
        (["jobs.py:add", "1"], "2"),
    ],
    ids=str,
)
def test_what_a_result_looks_like(capsys: Captured, arguments: list[str], printed: str) -> None:
    assert said(capsys, "submit", "--wait", *arguments) == printed + "\n"


def test_what_json_has_not_is_shown_as_python_does(capsys: Captured) -> None:
    found = json.loads(said(capsys, "submit", "jobs:odd", "--wait", "--json"))
    assert (found["state"], found["repr"]) == ("SUCCEEDED", "Odd()")
    assert "result" not in found


def test_a_task_that_fails(capsys: Captured, world: World) -> None:
    line = world.folder.joinpath("jobs.py").read_text().splitlines().index("    raise ValueError(text)") + 1
    complaint = rf"zmqtasks: task (\S+) failed: ValueError: a b \({world.folder}/jobs\.py:{line}\)\n"
    found = re.fullmatch(complaint, said(capsys, "submit", "jobs:fails", "a\nb", "--wait", code=1))
    assert found
    assert said(capsys, "result", found[1], code=1) == found[0]
    assert main(["result", found[1], "--json"]) == 1
    shown = json.loads(capsys.readouterr().out)
    assert (shown["id"], shown["state"], shown["attempts"]) == (found[1], "FAILED", 1)
    assert (shown["error"]["type"], shown["error"]["message"]) == ("ValueError", "a\nb")
    assert shown["error"]["traceback"].startswith("Traceback (most recent call last):")
    assert main(["result", found[1], "--debug"]) == 1
    assert re.search(r"^Traceback.*ValueError: a", capsys.readouterr().err, re.DOTALL | re.MULTILINE)


def test_why_a_task_has_failed_is_explained(capsys: Captured, world: World) -> None:
    task = said(capsys, "submit", "jobs:fails", "a b").strip()
    said(capsys, "result", task, "--wait", code=1)
    shown = said(capsys, "explain", task)
    assert re.search(r"^State: +FAILED$", shown, re.MULTILINE)
    assert re.search(rf"^Error: +ValueError: a b \({world.folder}/jobs\.py:\d+\)$", shown, re.MULTILINE)
    found = json.loads(said(capsys, "explain", task, "--json"))
    assert (found["error"]["type"], found["error"]["message"]) == ("ValueError", "a b")
    assert "raise ValueError(text)" in found["error"]["traceback"]


def test_why_a_task_has_never_run_is_explained(capsys: Captured) -> None:
    task = said(capsys, "submit", "jobs:add", "1", "--queue", "nobody").strip()
    assert "Error" not in said(capsys, "explain", task)
    assert said(capsys, "cancel", task)
    assert re.search(r"^Error: .*cancelled before it started$", said(capsys, "explain", task), re.MULTILINE)
    done = said(capsys, "submit", "jobs:add", "1").strip()
    said(capsys, "result", done, "--wait")
    assert "error" not in json.loads(said(capsys, "explain", done, "--json"))


@pytest.mark.parametrize("digits", [4300, 4301, 20_000])
def test_a_result_of_many_digits(capsys: Captured, digits: int) -> None:
    task = said(capsys, "submit", "builtins:pow", "10", str(digits - 1)).strip()
    limit = sys.get_int_max_str_digits()
    assert said(capsys, "result", task, "--wait") == f"1{'0' * (digits - 1)}\n"
    shown = said(capsys, "result", task, "--json")
    assert f'"result": 1{"0" * (digits - 1)}\n' in shown
    assert sys.get_int_max_str_digits() == limit


def test_options_of_a_task(capsys: Captured) -> None:
    options = ("--queue", "nobody", "--priority", "9", "--name", "nine", "--tag", "a=1", "--tag", "b=2=3")
    task = said(capsys, "submit", "jobs:add", "1", *options, "--max-deliveries", "1").strip()
    found = json.loads(said(capsys, "explain", task, "--json"))
    assert {name: found[name] for name in ("queue", "priority", "name", "tags", "state", "attempt")} == {
        "queue": "nobody",
        "priority": 9,
        "name": "nine",
        "tags": {"a": "1", "b": "2=3"},
        "state": "QUEUED",
        "attempt": 0,
    }
    shown = said(capsys, "explain", task)
    assert "Why:       waiting for a worker that takes the queue 'nobody'\n" in shown
    assert "Tags:      a=1, b=2=3\n" in shown
    assert "Tries" not in shown
    queues = said(capsys, "inspect", "queues")
    assert re.search(r"^nobody +- .* 1 +\S+ m?s ago +none takes it$", queues, re.MULTILINE)
    assert said(capsys, "cancel", task) == f"Cancelled {task}.\n"


def test_policies_of_a_task(capsys: Captured) -> None:
    complaint = said(capsys, "submit", "jobs:begins", "/none", "--retry", "0", "--wait", code=1)
    assert "FileNotFoundError" in complaint
    arguments = ("submit", "jobs:begins", str(Path.cwd()), "--time-limit", "200ms", "--wait")
    (Path.cwd() / "end").unlink(missing_ok=True)
    complaint = said(capsys, *arguments, code=1)
    assert re.match(r"zmqtasks: task \S+ failed: ", complaint)
    complaint = said(
        capsys, "submit", "jobs:add", "1", "--queue", "nobody", "--expires", "100ms", "--wait", code=1
    )
    assert re.match(r"zmqtasks: task \S+ is EXPIRED: ", complaint)
    later = said(capsys, "submit", "jobs:add", "1", "--countdown", "1h").strip()
    assert json.loads(said(capsys, "explain", later, "--json"))["state"] == "SCHEDULED"
    assert said(capsys, "cancel", later) == f"Cancelled {later}.\n"


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        ("submit job:add", 3, "there is no module 'job', did you mean 'jobs'?"),
        ("submit jobs:ad", 3, "'jobs' has no 'ad', did you mean "),
        ("submit broken:f", 3, "importing 'broken' raised ZeroDivisionError: division by zero ("),
        ("submit jobs", 2 + 1, "a target is 'module:function' or 'file.py:function', not 'jobs'"),
        ("submit jobs:add", 2, "jobs:add(x, y=1): missing a required argument: 'x'"),
        ("submit jobs:add 1 2 3", 2, "jobs:add(x, y=1): too many positional arguments"),
        ("submit jobs:add 1 --kwargs [1]", 2, "'[1]' is no JSON object"),
        ("submit jobs:add 1 --tag x", 2, "'x' is not NAME=VALUE"),
        ("submit jobs:add 1 --timeout 1", 2, "is for --wait"),
        ("submit jobs:add 1 --expires 0", 2, "expires is seconds or a timedelta, more than 0"),
        ("list --state DONE", 2, "there is no state 'DONE' (there are: WAITING"),
        ("result 0-1", 6, "0-1 is no task of the broker at tcp://"),
        ("cancel nonsense", 6, "nonsense is no task of the broker at tcp://"),
        ("explain 0-1", 6, "0-1 is no task of this broker"),
    ],
)
def test_what_is_wrong_is_one_line(
    capsys: Captured, world: World, arguments: str, code: int, complaint: str
) -> None:
    (world.folder / "broken.py").write_text("1 / 0\n")
    written = said(capsys, *arguments.split(), code=code)
    assert written.startswith("zmqtasks: ")
    assert complaint in written


def test_ids_that_were_never_given(capsys: Captured) -> None:
    cluster = said(capsys, "submit", "jobs:add", "1", "--wait", "--json")
    unknown = json.loads(cluster)["id"].partition("-")[0] + "-5"
    assert "or its outcome is no longer kept" in said(capsys, "result", unknown, code=6)
    assert said(capsys, "explain", unknown, code=6)
    assert said(capsys, "cancel", unknown, code=6)


def test_a_task_that_has_not_ended(capsys: Captured) -> None:
    task = said(capsys, "submit", "jobs:add", "1", "--queue", "nobody").strip()
    assert f"task {task} has not ended, it is QUEUED (--wait)" in said(capsys, "result", task, code=5)
    assert f"task {task} has not ended within 0.1 s" in said(
        capsys, "result", task, "--timeout", "100ms", code=5
    )
    assert said(capsys, "cancel", task) == f"Cancelled {task}.\n"
    assert f"task {task} is CANCELLED: " in said(capsys, "result", task, code=1)
    assert said(capsys, "cancel", task) == f"Cancelled {task}.\n"  # as it was


def test_all_with_a_tag_are_cancelled(capsys: Captured, world: World, gate: Gate) -> None:
    with Client(world.environment["ZMQTASKS_BROKER"]) as client:
        tagged = client.options(tags={"customer": "7", "kind": "mail"})
        running = [tagged.submit(wait_at, gate.path, number) for number in range(2)]
        until(lambda: len(gate.arrived()) == 2, within_s=30)
        behind = [tagged.submit(abs, number) for number in range(20)]
        many = tagged.submit_many(abs, range(1000))
        other = client.options(tags={"customer": "8", "kind": "mail"}).submit(abs, -5)
        client.flush()
        assert said(capsys, "cancel", "--tag", "customer=9", code=6) == (
            "zmqtasks: no task with the tag customer=9 waits or runs\n"
        )
        assert main(["cancel", "--tag", "customer=7", "--tag", "kind=mail"]) == 1
        written = capsys.readouterr()
        assert written.out == "Cancelled 1020 tasks with customer=7,kind=mail.\n"
        assert written.err == (
            "zmqtasks: 2 of 1022 tasks with customer=7,kind=mail are not cancelled: they run: --terminate ends them\n"
        )
        assert all(future.cancelled() for future in [*behind, *many])
        assert [future.state for future in running] == ["RUNNING", "RUNNING"]
        found = json.loads(said(capsys, "cancel", "--tag", "customer=7", "--terminate", "--json"))
        assert found == {"tags": {"customer": "7"}, "cancelled": 2, "left": 0}
        until(lambda: all(future.cancelled() for future in running))
        assert other.result(30) == 5
        assert said(capsys, "cancel", "--tag", "customer=7", code=6)


def test_those_of_a_map_that_run_are_ended_with_the_rest(capsys: Captured, world: World, gate: Gate) -> None:
    with Client(world.environment["ZMQTASKS_BROKER"]) as client:
        path = gate.path
        many = client.options(tags={"map": "1"}).submit_many(lambda number: wait_at(path, number), range(50))
        until(lambda: len(gate.arrived()) == 2, within_s=30)
        assert said(capsys, "cancel", "--tag", "map=1", "--terminate") == "Cancelled 50 tasks with map=1.\n"
        until(lambda: all(future.cancelled() for future in many))
        assert client.submit(abs, -1).result(30) == 1
    assert len(gate.arrived()) == 2


def test_what_to_cancel_is_said_once(capsys: Captured) -> None:
    for arguments in (["cancel"], ["cancel", "0-1", "--tag", "a=b"]):
        assert "an ID or a --tag" in said(capsys, *arguments, code=2)
    assert "is not NAME=VALUE" in said(capsys, "cancel", "--tag", "a", code=2)


def test_who_waits_no_longer_is_told_how_to_ask_again(capsys: Captured) -> None:
    assert main(["submit", "jobs:add", "1", "--queue", "nobody", "--wait", "--timeout", "100ms"]) == 5
    goes_on, complaint = capsys.readouterr().err.splitlines()
    task = re.fullmatch(r"zmqtasks: the task goes on: zmqtasks result (\S+) --wait", goes_on)
    assert task
    assert complaint == f"zmqtasks: task {task[1]} has not ended within 0.1 s"
    assert json.loads(said(capsys, "cancel", task[1], "--json")) == {
        "id": task[1],
        "cancelled": True,
        "state": "CANCELLED",
    }


def test_a_task_that_runs_is_cancelled_only_if_told_so(
    capsys: Captured, world: World, tmp_path: Path
) -> None:
    task = said(capsys, "submit", "jobs:begins", str(tmp_path)).strip()
    until((tmp_path / "begun").exists, within_s=30)
    assert f"task {task} is not cancelled: it runs: --terminate ends it" in said(
        capsys, "cancel", task, code=1
    )
    assert "RUNNING" in said(capsys, "list", "--state", "running")
    assert json.loads(said(capsys, "explain", task, "--json"))["worker"] == "lab7"
    assert said(capsys, "cancel", task, "--terminate") == f"Cancelled {task}.\n"


def test_ctrl_c_while_waiting(world: World) -> None:
    waiting = world.start("submit", "jobs:add", "1", "--queue", "nobody", "--wait")
    found = until(lambda: world.seen("list", "--state", "QUEUED"))
    waiting.signal(signal.SIGINT)
    assert waiting.wait() == 130
    assert waiting.err == f"zmqtasks: the task goes on: zmqtasks result {found[-1]['id']} --wait\n"
    assert world.ended("cancel", found[-1]["id"])[0] == 0


def test_the_list(capsys: Captured) -> None:
    tasks = [said(capsys, "submit", "jobs:add", "1", "--queue", "nobody").strip() for _ in range(3)]
    header, *lines = said(capsys, "list", "--state", "QUEUED").splitlines()
    assert header.split() == ["ID", "NAME", "STATE", "QUEUE", "WORKER", "TRIES", "ITEMS"]
    assert [line.split()[:4] for line in lines] == [[task, "add", "QUEUED", "nobody"] for task in tasks]
    assert main(["list", "--state", "QUEUED", "--limit", "2"]) == 0
    written = capsys.readouterr()
    assert len(written.out.splitlines()) == 3
    assert written.err == "There are more than 2 (see --limit).\n"
    for task in tasks:
        said(capsys, "cancel", task)
    assert main(["list", "--state", "QUEUED"]) == 0
    assert capsys.readouterr() == ("", "no tasks are QUEUED\n")


def test_the_status(capsys: Captured) -> None:
    assert said(capsys, "submit", "jobs:add", "1", "--wait") == "2\n"
    found = json.loads(said(capsys, "status", "--json"))
    assert found["submitted"] == sum(found["tasks"].values()) > 0
    shown = said(capsys, "status")
    assert "its queue is in memory only\n" in shown
    assert "Clients:    0 beside this command\n" in shown
    assert "Workers:    1, for 2 tasks at a time\n" in shown
    header, line = shown.splitlines()[-2:]
    assert header.split() == ["WORKER", "HOST", "PID", "PYTHON", "SLOTS", "TASKS", "QUEUES", "HEARD"]
    assert line.split()[0] == "lab7"


def test_what_is_seen_on_a_terminal(capsys: Captured) -> None:
    task = said(capsys, "submit", "jobs:add", "1", "--name", "a long name " * 9, "--wait", "--json")
    assert task
    assert "a long name" in said(capsys, "explain", json.loads(task)["id"])
    for arguments in (["status"], ["list"], ["explain", json.loads(task)["id"]]):
        code, written = on_a_terminal("-m", "zmqtasks", *arguments)
        assert code == 0, written
        if arguments != ["explain", json.loads(task)["id"]]:
            assert max(map(len, written.splitlines())) <= COLUMNS, written


@pytest.mark.parametrize(
    "command",
    [
        "broker",
        "worker",
        "submit",
        "result",
        "cancel",
        "list",
        "status",
        "explain",
        "inspect queues",
        "inspect active",
    ],
)
def test_help_teaches_by_example(capsys: Captured, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    for columns in ("80", "110"):
        monkeypatch.setenv("COLUMNS", columns)
        shown = said(capsys, *command.split(), "--help")
        assert f"zmqtasks {command} " in shown.partition("Usage")[2].partition("\n")[2]
        assert "…" not in shown, "nothing is cut"


# ---- no broker, no key, no worker -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    ["submit jobs:add 1", "result 0-1", "cancel 0-1", "list", "status", "explain 0-1", "inspect active"],
)
def test_without_a_broker(capsys: Captured, monkeypatch: pytest.MonkeyPatch, arguments: str) -> None:
    monkeypatch.setattr("zmqtasks.cli.connection.CONNECT_S", 0.2)
    monkeypatch.setenv("ZMQTASKS_BROKER", "tcp://127.0.0.1:1")
    assert said(capsys, *arguments.split(), code=4) == (
        "zmqtasks: no broker answers at tcp://127.0.0.1:1 within 0.2 s: zmqtasks broker starts one\n"
    )


def test_without_a_worker(tmp_path: Path) -> None:
    with World(tmp_path) as alone:
        _, address = alone.broker()
        code, out, err = alone.ended("status", "--broker", address)
    assert code == 69
    assert "Workers:    none\n" in out
    assert err == f"zmqtasks: no worker is connected: zmqtasks worker {address} starts one\n"


def test_a_key_that_is_refused(
    capsys: Captured, tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zmqtasks.cli.connection.CONNECT_S", 3.0)
    store = KeyStore(tmp_path / "others")
    store.init(keypair)
    complaint = said(capsys, "status", "--key", str(store.path("client")), code=4)
    assert complaint == (
        f"zmqtasks: {world.environment['ZMQTASKS_BROKER']} answers, but not to the key in {store.path('client')}: "
        "it is another broker's, or that is no broker\n"
    )
    known = json.loads((world.keys / "client.key").read_text())
    stranger = tmp_path / "stranger.key"
    stranger.touch(0o600)
    stranger.write_text(
        json.dumps({**json.loads(store.path("client").read_text()), "server": known["server"]})
    )
    complaint = said(capsys, "status", "--key", str(stranger), code=4)
    assert "the broker does not know this key" in complaint


def test_an_observer_looks_and_no_more(capsys: Captured, world: World) -> None:
    store = KeyStore()
    store.add("observer", f"eye{os.getpid()}", keypair)
    key = ("--key", str(store.path(f"eye{os.getpid()}")))
    task = said(capsys, "submit", "jobs:add", "1", "--wait", "--json")
    for arguments in (["status"], ["list"], ["result", json.loads(task)["id"]]):
        assert until(lambda arguments=arguments: main([*arguments, *key]) == 0)
    capsys.readouterr()
    for arguments in (["submit", "jobs:add", "1"], ["cancel", json.loads(task)["id"]]):
        complaint = said(capsys, *arguments, *key, code=2)
        assert f"is for the role observer, which may not {arguments[0]}" in complaint


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (9949, "9.9 kB"),
        (9951, "10 kB"),
        (999_600, "1.0 MB"),
        (5 * 10**15, "5000 TB"),
    ],
)
def test_sizes_for_people(nbytes: int, text: str) -> None:
    assert size(nbytes) == text
