"""A pipeline that other machines' workers can reach: keys and roles at each socket, strangers, versions, namespaces."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from pipes import Pipes, wait_for
from typing import Any

import pytest
import zmq
from conftest import python_environment, until
from namespaces import Machine

from zmqtasks import UnsafeConfiguration, Ventilator, codec, visit, wire
from zmqtasks.keys import Key, KeyStore, load
from zmqtasks.messages import Claim, Part, Slots
from zmqtasks.nodes.zap import keypair, secure_client

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture(scope="module")
def pipes(_module_leaves_nothing: None) -> Iterator[Pipes]:
    with Pipes() as pipes:
        yield pipes


@pytest.fixture(scope="module")
def pipeline(pipes: Pipes) -> Ventilator[Any, Any]:
    """One pipeline with one worker, for all tests that try to do harm to it."""
    pipeline = pipes.ventilator(lambda number: -number)
    pipes.worker(pipeline.address)
    wait_for(pipeline, "worker0")
    works(pipeline)
    return pipeline


def works(pipeline: Ventilator[Any, Any], count: int = 50) -> None:
    assert sorted(pipeline.run(range(count))) == [(number, -number) for number in range(count)]


def sockets_of(pipeline: Ventilator[Any, Any]) -> dict[str, str]:
    """The addresses of its three sockets."""
    node = pipeline._pipe.node
    tasks = node._pipe.socket.get(zmq.LAST_ENDPOINT).decode().rstrip("\0")
    return {"control": pipeline.address, "tasks": tasks, "outcomes": node._intake.address}


def key_for(pipes: Pipes, role: str) -> Key:
    store = KeyStore(pipes.keys)
    name = f"{role}-{len(store.entries())}"
    return load(str(store.add(role, name, keypair)), role, keypair)


@contextlib.contextmanager
def peer(address: str, key: Key | None, kind: int = zmq.DEALER) -> Iterator[zmq.Socket[bytes]]:
    """A socket of a test's own."""
    with zmq.Context() as context, context.socket(kind) as mine:
        mine.linger = 0
        mine.rcvtimeo = mine.sndtimeo = 10_000
        if key is not None:
            secure_client(mine, key)
        mine.connect(address)
        yield mine


def enter(role: str = "worker", python: str = PYTHON, protocol: int = visit.PROTOCOL) -> visit.Enter:
    return visit.Enter(role, "stranger", protocol, python, slots=1)


def say(dealer: zmq.Socket[bytes], head: Any) -> None:
    dealer.send_multipart(codec.simple(head).mail())


def hear(dealer: zmq.Socket[bytes]) -> Any:
    head, *frames = dealer.recv_multipart()
    return wire.Arrived(head, frames, [], {}).head


@contextlib.contextmanager
def answered(
    pipes: Pipes, address: str, role: str, about: visit.Enter
) -> Iterator[tuple[zmq.Socket[bytes], Any, Key]]:
    """A peer with a new key, what it hears, and the key: it takes a moment until it is seen that there is one."""
    key = key_for(pipes, role)
    with contextlib.ExitStack() as stack:

        def entered() -> zmq.Socket[bytes] | None:
            dealer = stack.enter_context(peer(address, key))
            say(dealer, about)
            return dealer if dealer.poll(500) else None

        dealer = until(entered)
        yield dealer, hear(dealer), key


# ---- what it is made with ----------------------------------------------------------------------------------------


def test_keys_for_this_machine_are_made_at_first_use(pipes: Pipes, pipeline: Ventilator) -> None:
    assert pipeline.address.startswith("tcp://127.0.0.1:")
    assert KeyStore(pipes.keys).entries()
    assert pipes.keys.stat().st_mode & 0o77 == 0
    assert len(set(sockets_of(pipeline).values())) == 3


@pytest.mark.parametrize("bind", ["tcp://0.0.0.0:*", "tcp://*:*"])
def test_nobody_else_is_let_near_it_without_keys_that_were_made_for_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bind: str
) -> None:
    monkeypatch.setenv("ZMQTASKS_KEYS", str(tmp_path / "keys"))
    with pytest.raises(UnsafeConfiguration, match="run zmqtasks keys init"):
        Ventilator(abs, bind=bind)
    KeyStore(tmp_path / "keys").init(keypair)
    with Ventilator(abs, bind=bind, workers=1) as pipeline:
        assert dict(pipeline.run([-1, -2])) == {0: 1, 1: 2}


def test_a_port_that_is_taken_is_one_clear_line(pipes: Pipes, pipeline: Ventilator) -> None:
    with pytest.raises(OSError, match="in use") as caught:
        pipes.ventilator(abs, bind=pipeline.address)
    assert pipeline.address in str(caught.value)
    assert "\n" not in str(caught.value)


# ---- who comes to the door ---------------------------------------------------------------------------------------


def test_another_python_is_refused_and_told_why(pipes: Pipes, pipeline: Ventilator) -> None:
    with answered(pipes, pipeline.address, "worker", enter(python="3.7")) as (dealer, heard, _):
        assert isinstance(heard, visit.Refused)
        assert heard.final
        assert heard.reason == f"the function was pickled by Python {PYTHON}, and this worker has 3.7"
        assert list(pipeline.workers) == ["worker0"]
        say(dealer, Slots(8))  # as if nothing had been said
        assert isinstance(hear(dealer), visit.Refused)
        works(pipeline)


def test_another_protocol_is_refused_and_told_why(pipes: Pipes, pipeline: Ventilator) -> None:
    about = enter(protocol=visit.PROTOCOL + 1)
    with answered(pipes, pipeline.address, "worker", about) as (_, heard, _):
        assert isinstance(heard, visit.Refused)
        assert f"protocol {visit.PROTOCOL + 1}" in heard.reason


@pytest.mark.parametrize(
    ("role", "enters_as"), [("client", "worker"), ("observer", "worker"), ("client", "client")]
)
def test_a_key_that_is_no_workers_gets_no_work(
    pipes: Pipes, pipeline: Ventilator, role: str, enters_as: str
) -> None:
    with answered(pipes, pipeline.address, role, enter(enters_as)) as (_, heard, _):
        assert isinstance(heard, visit.Refused)
        assert heard.final
        assert "\n" not in heard.reason
    works(pipeline)


@pytest.mark.parametrize("role", ["client", "observer"])
def test_a_key_that_is_no_workers_gets_no_inputs_at_the_pipe(
    pipes: Pipes, pipeline: Ventilator, role: str
) -> None:
    with (
        answered(pipes, pipeline.address, role, enter()) as (_, _, key),  # which is known by now
        peer(sockets_of(pipeline)["tasks"], key, zmq.PULL) as thief,
    ):
        works(pipeline, 2000)
        assert thief.poll(100) == 0


def test_a_worker_that_was_revoked_is_out() -> None:
    with (
        Pipes() as pipes,
        pipes.ventilator(lambda number: -number) as pipeline,
        answered(pipes, pipeline.address, "worker", enter()) as (dealer, heard, key),
    ):
        assert isinstance(heard, visit.Admit)
        say(dealer, Slots(1))
        wait_for(pipeline, "stranger")
        KeyStore(pipes.keys).revoke(key.name)
        refused = hear(dealer)
        assert isinstance(refused, visit.Refused)
        assert "not admitted any more" in refused.reason
        until(lambda: not pipeline.workers)
        say(dealer, enter())
        assert isinstance(hear(dealer), visit.Refused)
        assert not pipeline.workers


# ---- who comes to any socket -------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["control", "tasks", "outcomes"])
def test_strangers_change_nothing(pipes: Pipes, pipeline: Ventilator, which: str) -> None:
    address = sockets_of(pipeline)[which]
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    rng = random.Random(which)
    kind = {"control": zmq.DEALER, "tasks": zmq.PULL, "outcomes": zmq.PUSH}[which]
    with contextlib.ExitStack() as stack:
        for number in range(30):
            stranger = stack.enter_context(socket.create_connection((host, int(port)), timeout=10))
            if number % 3 == 0:
                stranger.sendall(b"GET / HTTP/1.1\r\nHost: ventilator\r\n\r\n")
            elif number % 3 == 1:
                stranger.sendall(rng.randbytes(1000))
        plain = stack.enter_context(peer(address, None, kind))
        foreign = stack.enter_context(peer(address, foreign_key(pipes), kind))
        for each in (plain, foreign):
            if kind != zmq.PULL:
                with contextlib.suppress(zmq.Again):
                    each.send_multipart(codec.simple(enter()).mail(), zmq.NOBLOCK)
        works(pipeline, 500)
        assert list(pipeline.workers) == ["worker0"]
        if kind != zmq.PUSH:
            assert plain.poll(50) == foreign.poll(50) == 0


def foreign_key(pipes: Pipes) -> Key:
    """One that names this pipeline, and that nobody here has made."""
    public, secret = keypair()
    return Key("x", "worker", public.decode(), secret.decode(), KeyStore(pipes.keys).server()[0])


def test_outcomes_of_a_worker_that_makes_them_up_do_no_harm(pipes: Pipes, pipeline: Ventilator) -> None:
    with answered(pipes, pipeline.address, "worker", enter()) as (dealer, admit, key):
        assert isinstance(admit, visit.Admit)
        rng = random.Random(3)
        with peer(admit.sink, key, zmq.PUSH) as sink:
            good = codec.yielded("another pipeline", [Part(0, 0, 1, failed=False, payload=b"x")]).mail()
            for _ in range(300):
                head = bytearray(good[0])
                head[rng.randrange(len(head))] = rng.randrange(256)
                sink.send_multipart([bytes(head), *good[1:]])
            mine = codec.yielded(admit.pipeline, [Part(0, 0, 1, failed=False, payload=b"x")]).mail()
            sink.send_multipart([mine[0], *mine[1:-1]])  # a frame that it names is missing
            sink.send_multipart([b""])
            sink.send_multipart(codec.simple(enter()).mail())
            works(pipeline)
        say(dealer, Slots(1))
        say(dealer, Claim([5, 1 << 41, -3], []))
        dealer.send(b"nonsense")
        heard = hear(dealer)
        while not isinstance(heard, visit.Refused):
            heard = hear(dealer)
        works(pipeline)
        until(lambda: list(pipeline.workers) == ["worker0"])


# ---- the command line, and two machines --------------------------------------------------------------------------


def worker_command(address: str, *more: str) -> list[str]:
    return [sys.executable, "-m", "zmqtasks", "worker", "--ventilator", address, "-c", "1", *more]


def test_the_command_line_has_a_worker_for_it(pipes: Pipes, tmp_path: Path) -> None:
    pipeline = pipes.ventilator(lambda number: (number, os.getpid()))
    with subprocess.Popen(
        worker_command(pipeline.address, "--name", "nora"),
        env={**python_environment(), "ZMQTASKS_KEYS": str(pipes.keys)},
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    ) as process:
        try:
            wait_for(pipeline, "nora")
            assert [value[0] for _, value in pipeline.run(range(100), ordered=True)] == list(range(100))
            pipeline.close()  # and with it the worker
            _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0, errors
    assert "Traceback" not in errors


SERVES = """
import sys
from zmqtasks import Ventilator
with Ventilator(lambda number: number * number, bind=sys.argv[1]) as pipeline:
    print(pipeline.address, flush=True)
    print(sum(value for _, value in pipeline.run(range(2000))), flush=True)
    sys.stdin.readline()
    print(sum(value for _, value in pipeline.run(range(2000))), flush=True)
"""


def test_across_two_machines(machines: tuple[Machine, Machine], tmp_path: Path) -> None:
    one, two = machines
    here, there = tmp_path / "here", tmp_path / "there"
    KeyStore(here).init(keypair)
    KeyStore(there).init(keypair)  # of a broker of its own
    key = KeyStore(here).add("worker", "two", keypair)
    environment = {**python_environment(), "ZMQTASKS_KEYS": str(here)}
    with contextlib.ExitStack() as stack:

        def start(machine: Machine, command: list[str], **more: Any) -> subprocess.Popen[str]:
            process = stack.enter_context(
                subprocess.Popen(machine.command(*command), text=True, cwd=tmp_path, **more)
            )
            stack.callback(process.kill)
            return process

        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        serves = start(
            one, [sys.executable, "-c", SERVES, f"tcp://{one.address}:*"], env=environment, **pipes
        )
        assert serves.stdout is not None
        assert serves.stdin is not None
        address = serves.stdout.readline().strip()
        assert address.startswith(f"tcp://{one.address}:")
        elsewhere = {**environment, "ZMQTASKS_KEYS": str(there)}
        worker = start(two, worker_command(address, "--key", str(key)), env=elsewhere)
        expected = f"{sum(number * number for number in range(2000))}\n"
        assert serves.stdout.readline() == expected
        serves.stdin.write("\n")
        serves.stdin.flush()
        assert serves.stdout.readline() == expected
        assert serves.wait(20) == 0
        assert worker.wait(20) == 0
