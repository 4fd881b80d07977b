"""`zmqtasks worker`: how many tasks at a time, which ones, how it is stopped, and why it does not start."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import has_ended, until
from program import Program, World

from zmqtasks.cli import main
from zmqtasks.cli.exits import Exit
from zmqtasks.nodes.cpus import cpus

MANY = 64
PENDING = {"WAITING", "SCHEDULED", "QUEUED", "RUNNING"}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Yield a machine whose processes end with the test."""
    with World(tmp_path) as world:
        yield world


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, _module_leaves_nothing: None
) -> Iterator[tuple[World, str]]:
    """Yield a machine with a broker, and its address, for the tests of this module that leave it as it was."""
    with World(tmp_path_factory.mktemp("served")) as served:
        yield served, served.broker()[1]


@pytest.fixture
def address(world: World, served: tuple[World, str]) -> Iterator[str]:
    """Yield where that broker listens, which this machine has the keys of; after the test nothing is left there."""
    world.use_keys(served[0].keys)
    yield served[1]
    world.end()
    for task in world.seen("list", "--broker", served[1]):
        if task["state"] in PENDING:
            assert world.here("cancel", task["id"], "--terminate", "--broker", served[1])[0] == 0
    until(lambda: world.here("status", "--broker", served[1])[0] == Exit.NO_ANSWER)


def submitted(world: World, address: str, *arguments: str) -> str:
    """Submit a task and return its id."""
    code, out, err = world.here("submit", "--broker", address, *arguments)
    assert code == 0, err
    return out.strip()


def explained(world: World, address: str, task: str) -> dict[str, Any]:
    return dict(world.seen("explain", task, "--broker", address))


def workers(world: World, address: str) -> list[dict[str, Any]]:
    return list(world.seen("status", "--broker", address)["workers"])


# ---- CPUs -------------------------------------------------------------------------------------------------------


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a control group tree on a machine of many CPUs."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(MANY)), raising=False)
    (tmp_path / "mount").mkdir()
    return tmp_path / "mount"


def counted(groups: Path, process: str, **files: str) -> int:
    """Return what `cpus` makes of a process in the groups that `process` lists, and of files by their path."""
    for name, text in files.items():
        (groups / name).parent.mkdir(parents=True, exist_ok=True)
        (groups / name).write_text(text + "\n")
    listing = groups.parent / "cgroup"
    listing.write_text(process)
    return cpus(listing, groups)


@pytest.mark.parametrize(
    ("files", "number"),
    [
        ({}, MANY),
        ({"a/b/cpu.max": "max 100000"}, MANY),
        ({"a/b/cpu.max": "200000 100000"}, 2),
        ({"a/b/cpu.max": "150000 100000"}, 2),
        ({"a/b/cpu.max": "1000 100000"}, 1),
        ({"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, 3),
        ({"a/b/cpu.max": "500000 100000", "a/cpu.max": "300000 100000"}, 3),
        ({"a/b/cpu.max": "9900000 100000"}, MANY),
        ({"cpu.max": "400000 100000"}, 4),
        ({"a/b/cpu.max": "nonsense"}, MANY),
        ({"a/b/cpu.max": "1 0"}, MANY),
        ({"unified/a/b/cpu.max": "500000 100000"}, 5),
    ],
    ids=str,
)
def test_the_quota_of_a_control_group(groups: Path, files: dict[str, str], number: int) -> None:
    assert counted(groups, "0::/a/b\n", **files) == number


@pytest.mark.parametrize("folder", ["cpu,cpuacct", "cpu"])
@pytest.mark.parametrize(("quota", "number"), [("-1", MANY), ("250000", 3), ("50000", 1)])
@pytest.mark.parametrize("seen", ["docker/1f/", ""], ids=["the machine's path", "the container's own"])
def test_the_quota_of_a_control_group_of_old(
    groups: Path, folder: str, quota: str, number: int, seen: str
) -> None:
    files = {f"{folder}/{seen}cpu.cfs_quota_us": quota, f"{folder}/{seen}cpu.cfs_period_us": "100000"}
    process = "5:memory:/docker/1f\n4:cpu,cpuacct:/docker/1f\n1:name=systemd:/x\n0::/x\n"
    assert counted(groups, process, **files) == number


def test_without_control_groups_it_is_the_affinity(groups: Path) -> None:
    assert cpus(groups / "none", groups) == MANY
    assert counted(groups, "nonsense\n\n") == MANY
    assert 1 <= cpus() <= MANY


# ---- what it is told --------------------------------------------------------------------------------------------


def test_what_it_is_told(world: World, address: str) -> None:
    world.worker(address, "-c", "3", "--name", "lab7", "-Q", "gpu*, mail", "-Q", "slow", "-X", "gpu9")
    world.worker(address, "-c", "auto")
    one, two = workers(world, address)
    assert (one["name"], one["slots"], one["queues"]) == ("lab7", 3, ["gpu*", "mail", "slow"])
    assert (two["slots"], two["queues"]) == (cpus(), ["*"])
    assert two["name"].endswith(f":{two['pid']}")


def test_it_takes_only_its_queues(world: World, address: str) -> None:
    world.worker(address, "-c", "1", "-Q", "gpu*", "-X", "gpu9")
    task = submitted(world, address, "jobs:add", "1")  # no other queue is known yet
    assert explained(world, address, task)["why"] == "waiting for a worker that takes the queue 'default'"
    assert world.here("submit", "jobs:add", "1", "--queue", "gpu1", "--wait", "--broker", address)[1] == "2\n"
    for queue in ("gpu9", "mail"):
        task = submitted(world, address, "jobs:add", "1", "--queue", queue)
        assert (
            explained(world, address, task)["why"] == f"waiting for a worker that takes the queue {queue!r}"
        )


@pytest.mark.parametrize("number", ["0", "-1", "many", "1.5", ""])
def test_no_number_of_tasks(capsys: pytest.CaptureFixture[str], number: str) -> None:
    assert main(["worker", "tcp://127.0.0.1:1", f"--concurrency={number}"]) == 2
    assert "is neither a number from 1 on nor auto" in capsys.readouterr().err


def test_tasks_find_the_modules_where_it_was_started(world: World, address: str) -> None:
    world.worker(address, "-c", "1")
    (world.folder / "uses.py").write_text("def uses():\n    import jobs\n    return jobs.add(2)\n")
    assert world.here("submit", "uses:uses", "--wait", "--broker", address)[1] == "3\n"


def test_a_function_of_a_module_that_is_not_there_travels(world: World, address: str) -> None:
    world.worker(address, "-c", "1")
    (world.folder / "deep").mkdir()
    (world.folder / "deep" / "mine.py").write_text(
        "def twice(x):\n    return half(x) * 4\n\ndef half(x):\n    return x / 2\n"
    )
    assert world.here("submit", "deep/mine.py:twice", "4", "--wait", "--broker", address)[:2] == (0, "8.0\n")


def test_what_tasks_print_is_here(world: World, address: str) -> None:
    worker = world.worker(address, "-c", "1")
    assert world.here("submit", "builtins:print", "hello there", "--wait", "--broker", address)[:2] == (
        0,
        "null\n",
    )
    assert until(lambda: worker.out) == "[print] hello there\n"


# ---- how it is stopped ------------------------------------------------------------------------------------------


def busy(world: World, address: str, *arguments: str) -> tuple[Program, str, str]:
    """Return a worker of one task, which runs; the task's id, and that of one behind it."""
    worker = world.worker(address, "-c", "1", *arguments)
    task = submitted(world, address, "jobs:begins", str(world.folder))
    world.begun()
    return worker, task, submitted(world, address, "jobs:add", "1")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_first_signal_lets_it_finish_and_give_back(
    world: World, address: str, number: int, code: int
) -> None:
    worker, task, behind = busy(world, address)
    worker.signal(number)
    worker.says("the worker finishes what runs, in 30 s at the latest, and gives back the rest; a second one")
    until(lambda: explained(world, address, behind)["state"] == "QUEUED")
    (world.folder / "end").touch()
    assert worker.wait() == code
    assert world.here("result", task, "--wait", "--broker", address)[1] == '"ended"\n'
    until(lambda: "none is connected" in explained(world, address, behind)["why"])
    assert "Traceback" not in worker.err


@pytest.mark.parametrize(
    ("numbers", "code"),
    [
        ((signal.SIGINT, signal.SIGINT), 130),
        ((signal.SIGTERM, signal.SIGTERM), 143),
        ((signal.SIGQUIT,), 131),
    ],
    ids=str,
)
def test_the_second_signal_gives_back_all(
    world: World, address: str, numbers: tuple[int, ...], code: int
) -> None:
    worker, task, behind = busy(world, address)
    for number in numbers:
        worker.signal(number)
        if len(numbers) > 1:
            worker.says("a second one ends it now")
    assert worker.wait() == code
    assert has_ended(world.begun())
    until(lambda: all(explained(world, address, one)["state"] == "QUEUED" for one in (task, behind)))
    (world.folder / "end").touch()
    world.worker(address)
    assert world.here("result", task, "--wait", "--broker", address)[1] == '"ended"\n'


def test_what_a_stopped_worker_gives_back_it_was_not_lost_with(world: World, address: str) -> None:
    task = submitted(world, address, "jobs:begins", str(world.folder), "--max-deliveries", "1")
    for _ in range(2):
        worker = world.worker(address, "-c", "1")
        world.begun()
        worker.signal(signal.SIGQUIT)
        assert worker.wait() == 131
        (world.folder / "begun").unlink()
    assert explained(world, address, task)["state"] == "QUEUED"


def test_a_warm_stop_takes_no_longer_than_it_may(world: World, address: str) -> None:
    worker, task, _ = busy(world, address, "--shutdown-timeout", "200ms")
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 143
    until(lambda: explained(world, address, task)["state"] == "QUEUED")


def test_a_warm_stop_finishes_all_that_runs_and_gives_back_all_that_waits(world: World, address: str) -> None:
    worker = world.worker(address, "-c", "2")
    running = [submitted(world, address, "jobs:begins", str(world.folder)) for _ in range(2)]
    until(lambda: all(explained(world, address, task)["state"] == "RUNNING" for task in running))
    waiting = [submitted(world, address, "jobs:add", str(number)) for number in range(3)]
    worker.signal(signal.SIGTERM)
    worker.says("finishes what runs")
    world.worker(address, "-c", "1")
    for number, task in enumerate(waiting):  # elsewhere, while what runs goes on
        assert world.here("result", task, "--wait", "--broker", address)[1] == f"{number + 1}\n"
    assert [explained(world, address, task)["state"] for task in running] == ["RUNNING", "RUNNING"]
    (world.folder / "end").touch()
    assert worker.wait() == 143
    for task in running:
        ended = world.here("result", task, "--wait", "--json", "--broker", address)[1]
        assert (json.loads(ended)["result"], json.loads(ended)["attempts"]) == ("ended", 1)


def test_killed_it_leaves_nothing(world: World, address: str) -> None:
    worker, task, _ = busy(world, address)
    worker.signal(signal.SIGKILL)
    worker.wait()
    until(lambda: has_ended(world.begun()))
    until(lambda: explained(world, address, task)["state"] == "QUEUED")


def test_it_prints_its_stacks_and_goes_on(world: World, address: str) -> None:
    worker = world.worker(address, "-c", "1")
    worker.signal(signal.SIGUSR1)
    worker.says(r'File ".*worker\.py", line \d+ in run')
    assert world.here("submit", "jobs:add", "1", "--wait", "--broker", address)[1] == "2\n"


def test_no_alarm_is_left_when_it_ends(world: World, address: str) -> None:
    """One that rings while the interpreter ends would be its end, and its exit code."""
    run = f"main(['worker', {address!r}, '--burst', '-c', '1'])"
    script = (
        f"import signal; from zmqtasks.cli import main; {run}; print(signal.getitimer(signal.ITIMER_REAL))"
    )
    ended = world.run(sys.executable, "-c", script)
    assert (ended.wait(), ended.out) == (0, "(0.0, 0.0)\n")


# ---- with no broker, or one that will not have it ---------------------------------------------------------------


def test_it_waits_for_its_broker_and_says_so_once(world: World) -> None:
    broker, address = world.broker()
    broker.signal(signal.SIGKILL)
    broker.wait()
    worker = world.start("worker", address, "-c", "1")
    worker.says(f"no broker answers at {address} yet: waiting for it")
    world.broker(bind=address)
    worker.says("at a time")
    assert world.here("submit", "jobs:add", "1", "--wait", "--broker", address)[1] == "2\n"
    assert worker.err.count("waiting for it") == 1


def test_it_outlives_its_broker(world: World) -> None:
    broker, address = world.broker()
    worker = world.worker(address, "-c", "1")
    broker.signal(signal.SIGTERM)
    broker.wait()
    worker.says(r"is lost: trying again|was stopped")
    world.broker(bind=address)
    assert world.here("submit", "jobs:add", "1", "--wait", "--broker", address)[1] == "2\n"


def test_a_burst(world: World, address: str) -> None:
    tasks = [submitted(world, address, "jobs:add", str(number)) for number in range(3)]
    assert world.ended("worker", address, "-c", "2", "--burst")[0] == 0
    assert world.ended("result", tasks[0], "--broker", address)[1] == "1\n"
    for number, task in enumerate(tasks):
        assert world.here("result", task, "--wait", "--broker", address)[1] == f"{number + 1}\n"


def test_a_burst_does_not_leave_what_runs(world: World, address: str) -> None:
    task = submitted(world, address, "jobs:begins", str(world.folder))
    worker = world.start("worker", address, "-c", "1", "--burst")
    world.begun()
    later = submitted(world, address, "jobs:add", "1")
    for _ in range(3):  # each of these takes longer than a worker in a burst waits for work
        assert explained(world, address, task)["state"] == "RUNNING"
    (world.folder / "end").touch()
    assert worker.wait() == 0
    assert world.here("result", task, "--wait", "--broker", address)[1] == '"ended"\n'
    assert world.here("result", later, "--wait", "--broker", address)[1] == "2\n"


def test_a_burst_whose_broker_ends(world: World) -> None:
    broker, address = world.broker()
    worker = world.start("worker", address, "-c", "1", "--burst")
    submitted(world, address, "jobs:begins", str(world.folder))
    world.begun()
    broker.signal(signal.SIGKILL)
    broker.wait()
    assert worker.wait() == 4
    assert f"zmqtasks: no broker answers at {address} within 3 s\n" in worker.err


def test_a_burst_without_a_broker(world: World) -> None:
    code, out, err = world.ended("worker", "tcp://127.0.0.1:1", "--burst")
    assert (code, out) == (4, "")
    assert err == "zmqtasks: no broker answers at tcp://127.0.0.1:1 within 3 s\n"


def test_a_key_that_the_broker_does_not_know(world: World, address: str) -> None:
    other = str(world.folder / "others")
    key = json.loads((world.keys / "worker.key").read_text())
    assert world.here("keys", "init", ZMQTASKS_KEYS=other)[0] == 0
    known = json.loads((Path(other) / "worker.key").read_text())
    file = world.folder / "stranger.key"
    file.touch(0o600)
    file.write_text(json.dumps({**known, "server": key["server"]}))
    code, out, err = world.ended("worker", address, "--key", str(file))
    assert (code, out) == (4, "")
    assert re.fullmatch(rf"zmqtasks: {address}: the broker does not know this key \(.*\)\n", err)
    strange = Path(other) / "worker.key"
    complaint = (
        f"{address} answers, but not to the key in {strange}: it is another broker's, or that is no broker"
    )
    patient = world.start("worker", address, "--key", str(strange))
    code, _, err = world.ended("worker", address, "--key", str(strange), "--burst")
    assert (code, err) == (4, f"zmqtasks: {complaint}\n")
    patient.says(re.escape(f"INFO {complaint}: trying on"))


def test_a_key_that_is_revoked(world: World) -> None:
    _, address = world.broker()
    worker = world.worker(address, "-c", "1")
    assert world.here("keys", "revoke", "worker")[0] == 0
    assert worker.wait() == 4
    assert re.search(rf"^zmqtasks: {address}: .*key.*\n\Z", worker.err, re.MULTILINE)


def test_a_key_of_another_role(world: World, address: str) -> None:
    code, _, err = world.here("worker", address, "--key", str(world.keys / "client.key"))
    assert (code, err) == (2, f"zmqtasks: {world.keys}/client.key is a key for the role client, not worker\n")
    code, _, err = world.here("worker", address, "--key", "nowhere.key")
    assert (code, err) == (2, "zmqtasks: cannot read nowhere.key: No such file or directory\n")
    code, _, err = world.here("worker", "tcp://192.0.2.1:5555")
    assert code == 2
    assert "no key for tcp://192.0.2.1:5555: copy worker.key from the broker's machine" in err
