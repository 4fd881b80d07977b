"""Two machines in one: a plain TCP connection across, its silence without the cable, and what is left afterwards."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import namespaces
import pytest
from conftest import until
from namespaces import Machine, Unavailable, two_machines

SERVER = """
import socket, sys
with socket.create_server((sys.argv[1], 0)) as server:
    print(server.getsockname()[1], flush=True)
    with server.accept()[0] as connection:
        while chunk := connection.recv(100):
            print(chunk.decode(), flush=True)
            connection.sendall(chunk.upper())
"""
ASK = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 10) as connection:
    connection.sendall(b"from " + connection.getsockname()[0].encode())
    print(connection.recv(100).decode())
"""
TALK = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 10) as connection:
    for line in sys.stdin:
        connection.sendall(line.strip().encode())
        try:
            print(connection.recv(100).decode(), flush=True)
        except TimeoutError:
            print("silence", flush=True)
        connection.settimeout(float(sys.argv[3]))
"""


@contextmanager
def python(machine: Machine, program: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a program on a machine, with pipes to it and from it, and kill it at the end."""
    with subprocess.Popen(
        machine.command(sys.executable, "-c", program, *arguments),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_tcp_connection_across(machines) -> None:
    one, two = machines
    with python(one, SERVER, one.address) as server:
        port = server.stdout.readline().strip()
        assert two.run(sys.executable, "-c", ASK, one.address, port) == f"FROM {two.address}\n"
        assert server.stdout.readline() == f"from {two.address}\n"
        assert server.wait(10) == 0


def test_each_has_a_loopback_of_its_own_and_nothing_else(machines) -> None:
    one, two = machines
    with python(one, SERVER, "127.0.0.1") as server:
        port = server.stdout.readline().strip()
        with pytest.raises(subprocess.CalledProcessError) as refused:
            two.run(sys.executable, "-c", ASK, "127.0.0.1", port)
        assert "ConnectionRefusedError" in refused.value.stderr
        assert one.run(sys.executable, "-c", ASK, "127.0.0.1", port) == "FROM 127.0.0.1\n"
    assert one.run(sys.executable, "-c", "import socket; print(len(socket.if_nameindex()))") == "2\n"


def test_a_pulled_cable_is_silence_and_what_was_sent_comes_once_it_is_back(machines) -> None:
    one, two = machines
    with (
        python(one, SERVER, one.address) as server,
        python(two, TALK, one.address, server.stdout.readline().strip(), "0.2") as client,
    ):

        def say(word: str) -> str:
            client.stdin.write(f"{word}\n")
            client.stdin.flush()
            return client.stdout.readline().strip()

        assert say("hello") == "HELLO"
        assert server.stdout.readline() == "hello\n"
        two.unplug()
        assert say("anybody") == "silence"
        assert (server.poll(), client.poll()) == (None, None)
        two.plug_in()
        assert server.stdout.readline() == "anybody\n", "sent again by the system"


def test_the_id_of_a_process_is_its_own(machines) -> None:
    with subprocess.Popen(
        machines[0].command(sys.executable, "-c", "import os; print(os.getpid())"),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.read() == f"{process.pid}\n"


def test_without_root_too(monkeypatch, machines) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    try:
        with two_machines() as (one, _):
            assert one.enter.count("--user") == 1
            assert one.run(sys.executable, "-c", "import os; print(os.getuid())") == "0\n"
    except Unavailable as reason:
        pytest.skip(str(reason))


def test_nothing_is_left(machines) -> None:
    pair = list(machines)
    with two_machines() as others:
        pair += others
        assert all(machine.run("true") == "" for machine in pair)
    for machine in pair[2:]:
        with pytest.raises(subprocess.CalledProcessError):
            machine.run("true")


def test_they_end_with_the_process_that_made_them_even_if_it_is_killed(machines, run_python) -> None:
    program = (
        f"import sys, os, signal; sys.path.insert(0, {str(Path(namespaces.__file__).parent)!r})\n"
        "from namespaces import two_machines\n"
        "with two_machines() as pair:\n"
        "    print(*(machine.enter[2] for machine in pair), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    holders = run_python("-c", program).stdout.split()
    assert len(holders) == 2

    def gone() -> bool:
        """The holders have ended."""
        return not any(Path(f"/proc/{pid}/ns/net").exists() for pid in holders)

    until(gone)


@pytest.mark.parametrize("missing", namespaces.PROGRAMS)
def test_a_missing_program_is_named(monkeypatch, missing) -> None:
    which = shutil.which
    monkeypatch.setattr(
        shutil, "which", lambda name, **rest: None if name == missing else which(name, **rest)
    )
    monkeypatch.setattr(namespaces, "PROGRAMS", (missing,))
    with pytest.raises(Unavailable, match=f"no program {missing}"), two_machines():
        pass


def test_what_the_system_refuses_is_said(monkeypatch, tmp_path) -> None:
    refuses = tmp_path / "unshare"
    refuses.write_text("#!/bin/sh\necho unshare: not for you >&2\nexit 1\n")
    refuses.chmod(0o700)
    program = namespaces._program
    try:
        program("nsenter"), program("ip")
    except Unavailable as reason:
        pytest.skip(str(reason))
    monkeypatch.setattr(
        namespaces, "_program", lambda name: str(refuses) if name == "unshare" else program(name)
    )
    with pytest.raises(Unavailable, match="not for you"), two_machines():
        pass
