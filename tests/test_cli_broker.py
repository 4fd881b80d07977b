"""`zmqtasks broker`: what it says, how it is stopped, and why it does not start."""

from __future__ import annotations

import re
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import until
from program import LISTENS, World

from zmqtasks import Client
from zmqtasks.cli import main
from zmqtasks.cli.options import bind_address


def jobs_begins(folder: str) -> int:
    import jobs

    jobs.begins(folder)
    return 1


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Yield a machine whose processes end with the test."""
    with World(tmp_path) as world:
        yield world


def test_what_it_says_is_what_to_type_next(world: World) -> None:
    broker, address = world.broker()
    worker_line = broker.says(r"INFO worker: zmqtasks (.*)")[1].replace("'", "").split()
    client_line = broker.says(r"INFO client: (.*)")[1]
    world.start(*worker_line).says(rf"at {address}, \d+ at a time")
    ended = world.run(
        sys.executable, "-c", f"from zmqtasks import Client; print({client_line}.submit(int, '7').result())"
    )
    assert (ended.wait(), ended.out, ended.err) == (0, "7\n", "")
    broker.says(r"worker \S+ has joined")


def test_nobody_has_to_name_the_keys_that_are_looked_for_anyway(world: World, tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": ""}
    world.environment.pop("ZMQTASKS_KEYS")
    broker = world.start("broker", "--bind", "tcp://127.0.0.1:*", **home)
    address = broker.says(LISTENS)[1]
    broker.says(rf"worker: zmqtasks worker {address}\n")
    broker.says(rf'client: Client\("{address}"\)\n')
    world.start("worker", address, **home).says("at a time")
    assert (tmp_path / ".config" / "zmqtasks" / "keys").is_dir()


def test_keys_that_lie_elsewhere(world: World, tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": ""}
    assert world.here("keys", "init")[0] == 0
    world.environment.pop("ZMQTASKS_KEYS")
    server, worker = str(world.keys / "server.key"), str(world.keys / "worker.key")
    broker = world.start("broker", "--bind", "tcp://127.0.0.1:*", "--key", server, **home)
    address = broker.says(LISTENS)[1]
    broker.says(re.escape(f"worker: zmqtasks worker {address} --key {worker}\n"))
    world.start("worker", address, "--key", worker, **home).says("at a time")
    assert not (tmp_path / ".config").exists()
    for command in ("broker", "sink"):
        code, _, err = world.here(command, "--key", worker)
        assert (code, err) == (
            2,
            f"zmqtasks: {worker} is no server's key: zmqtasks keys init makes a server.key\n",
        )
        code, _, err = world.here(command, "--key", str(tmp_path / "server.key"))
        assert (code, f"cannot read {tmp_path}/server.key: " in err) == (2, True)


def test_a_public_address_is_shown_as_others_can_type_it(world: World) -> None:
    assert world.here("keys", "init")[0] == 0
    broker = world.start("broker", "--bind", "tcp://0.0.0.0:*")
    port = broker.says(r"listens at tcp://0\.0\.0\.0:(\d+);")[1]
    line = broker.says(r"INFO worker, on another machine with the key file copied there: (.*)")[1]
    assert re.fullmatch(rf"zmqtasks worker tcp://(?!0\.0\.0\.0)\S+:{port} --key worker\.key", line)
    broker.says(rf':{port}", key="client\.key"\)')


def test_several_addresses(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZMQTASKS_KEYS", str(world.keys))
    broker = world.start("broker", "--bind", "tcp://127.0.0.1:*", "--bind", "tcp://127.0.0.1:*")
    first, second = broker.says(LISTENS)[1].split(", ")
    world.worker(first)
    with Client(second) as client:
        assert client.submit(int, "7").result(30) == 7
    with Client(first) as client:
        assert len(client.inspect.status()["workers"]) == 1


def test_what_bounds_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZMQTASKS_KEYS", str(world.keys))
    _, address = world.broker("--memory", "--queue-max", "2", "--result-ttl", "1h", "--result-max", "1M")
    with Client(address, on_full="raise") as client:
        futures = [client.submit(int) for _ in range(3)]
        assert "full" in str(futures[2].exception(30))
        assert [future.cancel() for future in futures[:2]] == [True, True]


def has_ipv6() -> bool:
    """Whether this machine has ::1."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")
def test_addresses_of_ipv6(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZMQTASKS_KEYS", str(world.keys))
    broker = world.start("broker", "--bind", "tcp://[::1]:*", "--bind", "tcp://127.0.0.1:*")
    six, four = broker.says(LISTENS)[1].split(", ")
    assert re.fullmatch(r"tcp://\[::1\]:\d+", six)
    assert re.fullmatch(r"tcp://127\.0\.0\.1:\d+", four)
    world.worker(six)
    for address in (six, four):
        with Client(address) as client:
            assert client.submit(int, "7").result(30) == 7
    assert world.here("status", "--broker", six)[0] == 0
    code, _, err = world.here("broker", "--bind", six)
    assert (code, f"{six} is in use by process {broker.pid}" in err) == (4, True)


# ---- stopping ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_with_nothing_to_do_it_ends_at_once(world: World, number: int, code: int) -> None:
    broker, _ = world.broker()
    broker.signal(number)
    assert broker.wait() == code
    assert "the broker ends when no task is left" in broker.err
    assert "the broker waits for nothing\n" in broker.err
    assert "Traceback" not in broker.err


def test_it_waits_for_tasks_and_not_when_told_twice(world: World) -> None:
    broker, address = world.broker()
    assert world.here("submit", "jobs:add", "1", ZMQTASKS_BROKER=address)[0] == 0
    broker.signal(signal.SIGTERM)
    broker.says("SIGTERM: the broker ends when no task is left, in 30 s at the latest; a second one")
    broker.says("the broker waits for tasks \\(1 QUEUED\\)\n")
    assert world.here("list", "--json", "--broker", address)[0] == 0, "it is still there"
    broker.signal(signal.SIGTERM)
    assert broker.wait() == 143


def test_it_says_once_what_it_waits_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZMQTASKS_KEYS", str(world.keys))
    broker, address = world.broker()
    world.worker(address, "-c", "1")
    with Client(address) as client:
        running = client.submit(jobs_begins, str(world.folder))
        world.begun()
        client.submit(abs, running)
        late = client.options(countdown=3600).submit(abs, 1)
        client.flush()
        broker.signal(signal.SIGTERM)
        broker.says("the broker waits for tasks \\(1 RUNNING, 1 WAITING, 1 SCHEDULED\\)\n")
        (world.folder / "end").touch()
        assert late.cancel()
        assert broker.wait() == 143
    assert broker.err.count("the broker waits for") == 1


def test_it_waits_for_tasks_until_they_are_done(world: World) -> None:
    broker, address = world.broker()
    assert world.here("submit", "jobs:add", "1", "--broker", address)[0] == 0
    broker.signal(signal.SIGINT)
    broker.says("SIGINT")
    worker = world.worker(address)
    assert broker.wait() == 130
    worker.says("is lost: trying again")


def test_it_does_not_wait_for_ever(world: World) -> None:
    broker, address = world.broker("--shutdown-timeout", "100ms")
    assert world.here("submit", "jobs:add", "1", "--broker", address)[0] == 0
    broker.signal(signal.SIGTERM)
    assert broker.wait() == 143


def test_it_prints_its_stacks_and_goes_on(world: World) -> None:
    broker, address = world.broker()
    assert world.here("status", "--broker", address)[0] == 69  # it serves, and no longer only says so
    broker.signal(signal.SIGUSR1)
    broker.says(r'File ".*broker\.py", line \d+ in run')
    assert world.here("status", "--broker", address)[0] == 69


# ---- what stops it from starting --------------------------------------------------------------------------------


def test_an_address_that_another_broker_has(world: World) -> None:
    broker, address = world.broker()
    code, out, err = world.ended("broker", "--bind", address)
    assert (code, out) == (4, "")
    assert re.fullmatch(
        rf"zmqtasks: {address} is in use by process {broker.pid}: \S*python\S* -m zmqtasks .*\n", err
    )


def test_an_address_that_another_program_has(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        code, _, err = world.here("broker", "--bind", address)
    assert code == 4
    assert re.fullmatch(rf"zmqtasks: {address} is in use by process \d+: .*\n", err)


def test_a_socket_file_that_another_broker_has(world: World) -> None:
    broker, address = world.broker(bind=f"ipc://{world.folder}/s")
    assert broker.says(r"INFO worker: (.*)")[1] == f"zmqtasks worker {address}"
    code, _, err = world.ended("broker", "--bind", address)
    assert code == 4
    assert err.startswith(f"zmqtasks: {address} is in use by process {broker.pid}: ")
    world.worker(address)
    assert world.ended("submit", "jobs:add", "1", "--wait", "--broker", address)[:2] == (0, "2\n")
    broker.signal(signal.SIGKILL)
    broker.wait()
    world.broker(bind=address)  # what a killed one leaves is in nobody's way


def test_an_address_of_another_machine(world: World) -> None:
    assert world.here("keys", "init")[0] == 0
    code, _, err = world.here("broker", "--bind", "tcp://192.0.2.1:5555")
    assert (code, err) == (
        4,
        "zmqtasks: cannot listen at tcp://192.0.2.1:5555: Cannot assign requested address\n",
    )


@pytest.mark.parametrize("address", ["tcp://0.0.0.0:*", "tcp://*:*"])
def test_a_public_address_without_keys_for_it(world: World, address: str) -> None:
    code, out, err = world.ended("broker", "--bind", address)
    assert (code, out) == (78, "")
    assert err == (
        f"zmqtasks: other machines can reach {address}, and no keys were made for them: run zmqtasks keys init\n"
    )


@pytest.mark.parametrize(
    ("address", "hint"),
    [
        ("localhost", ", did you mean 'tcp://localhost:5555'?"),
        ("10.0.0.1:7000", ", did you mean 'tcp://10.0.0.1:7000'?"),
        ("http://here:80", ", such as tcp://host:5555"),
        ("tcp://a b:5555", ", such as tcp://host:5555"),
        ("ipc://", ", such as tcp://host:5555"),
        ("tcp://::1:5555", ": IPv6 stands in brackets, as in tcp://[::1]:5555"),
        ("fe80::2", ": IPv6 stands in brackets, as in tcp://[::1]:5555"),
    ],
)
def test_no_address(capsys: pytest.CaptureFixture[str], address: str, hint: str) -> None:
    for arguments in (["broker", "--bind", address], ["worker", address], ["status", "--broker", address]):
        assert main(arguments) == 2
        written = capsys.readouterr()
        assert f"{address!r} is no address{hint}" in written.err
        assert written.err.count("\n") == 1


@pytest.mark.parametrize("port", ["", "0", "65536", "http", "*"])
def test_no_port(capsys: pytest.CaptureFixture[str], port: str) -> None:
    assert main(["status", "--broker", f"tcp://host:{port}"]) == 2
    assert "has no port from 1 to 65535, as tcp://host:5555 has" in capsys.readouterr().err


@pytest.mark.parametrize(
    "address", ["tcp://*:5555", "tcp://[::1]:1", "tcp://eth0:*", "ipc:///tmp/x", "tcp://h-1.x:0"]
)
def test_where_to_listen(address: str) -> None:
    assert bind_address(address) == address


def test_a_fact_is_waited_for(world: World) -> None:
    """The tests' own helper: a program that ends without saying what was waited for is no hang."""
    program = world.start("--version")
    until(lambda: program.wait() == 0)
    with pytest.raises(pytest.fail.Exception, match="ended with 0 without saying"):
        program.says("never")
