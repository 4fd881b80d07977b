"""What reaches a broker and should not: strangers, keys of the wrong role, and nonsense from those with a key."""

from __future__ import annotations

import contextlib
import os
import random
import socket
from time import monotonic
from typing import TYPE_CHECKING, Any

import msgspec
import psutil
import pytest
import zmq
from conftest import until
from fleet import Fleet
from gate import Gate, wait_at, work

from zmqtasks import codec, visit, wire
from zmqtasks.keys import Key, KeyStore, load
from zmqtasks.messages import Beat, Done, Ended, Part, Returned, Task
from zmqtasks.nodes.zap import keypair, secure_client
from zmqtasks.options import Options

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from zmqtasks import Client

NONSENSE = 3000


@pytest.fixture(scope="module")
def fleet(_module_leaves_nothing: None) -> Iterator[Fleet]:
    with Fleet(nodes=1) as fleet:
        client = fleet.client()
        fleet.wait_for(client, 1)
        until(lambda: len(set(client.map(my_pid, range(50)))) == 2)  # both children are up
        client.close()
        yield fleet


def my_pid(_: int) -> int:
    work(0.002)
    return os.getpid()


def key_for(fleet: Fleet, role: str) -> Key:
    store = KeyStore(fleet.keys)
    name = f"{role}-{len(store.entries())}"
    return load(str(store.add(role, name, keypair)), role, keypair)


@contextlib.contextmanager
def peer(fleet: Fleet, key: Key | None) -> Iterator[zmq.Socket[bytes]]:
    """A DEALER of a test's own, connected to the broker."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        dealer.rcvtimeo = 10_000
        if key is not None:
            secure_client(dealer, key)
        dealer.connect(fleet.address)
        yield dealer


@contextlib.contextmanager
def admitted(
    fleet: Fleet, role: str, about: visit.Enter, *, anew: bool = True
) -> Iterator[tuple[zmq.Socket[bytes], Any]]:
    """A peer and the answer to what it says first. With a key made `anew`: a broker needs a moment to see that."""
    key = key_for(fleet, role) if anew else load(str(fleet.keys / f"{role}.key"), role, keypair)
    with contextlib.ExitStack() as stack:

        def entered() -> zmq.Socket[bytes] | None:
            dealer = stack.enter_context(peer(fleet, key))
            say(dealer, about)
            return dealer if dealer.poll(500) else None

        dealer = until(entered)
        yield dealer, hear(dealer)


def enter(role: str, **about: Any) -> visit.Enter:
    return visit.Enter(role, "test", visit.PROTOCOL, "3.11", **about)


def say(dealer: zmq.Socket[bytes], head: Any) -> None:
    dealer.send_multipart(codec.simple(head).mail())


def hear(dealer: zmq.Socket[bytes]) -> Any:
    head, *frames = dealer.recv_multipart()
    return wire.Arrived(head, frames, [], {}).head


@pytest.fixture
def good(fleet: Fleet, _leaves_nothing: None) -> Iterator[Client]:
    with fleet.client() as client:
        yield client


def test_strangers_reach_nothing_and_slow_nobody(fleet: Fleet, good: Client) -> None:
    host, _, port = fleet.address.removeprefix("tcp://").rpartition(":")
    rng = random.Random(5)
    with contextlib.ExitStack() as stack:
        for number in range(200):
            stranger = stack.enter_context(socket.create_connection((host, int(port)), timeout=10))
            if number % 3 == 0:
                stranger.sendall(b"GET / HTTP/1.1\r\nHost: broker\r\n\r\n")
            elif number % 3 == 1:
                stranger.sendall(rng.randbytes(1000))
        plain = stack.enter_context(peer(fleet, None))
        say(plain, enter("client"))
        assert [good.submit(abs, -number).result(20) for number in range(100)] == list(range(100))
        assert plain.poll(0) == 0  # nobody has heard it
        assert good.inspect.status()["clients"] == 1


def test_a_key_of_another_broker_reaches_nothing(fleet: Fleet, good: Client, tmp_path_factory: Any) -> None:
    other = KeyStore(tmp_path_factory.mktemp("other"))
    other.init(keypair)
    mine = KeyStore(fleet.keys).server()[0]
    for key in (other.own("client"), Key("x", "client", *_pair(), mine)):
        with peer(fleet, key) as dealer:
            say(dealer, enter("client"))
            assert good.submit(abs, -1).result(20) == 1
            assert dealer.poll(0) == 0


def _pair() -> tuple[str, str]:
    public, secret = keypair()
    return public.decode(), secret.decode()


@pytest.mark.parametrize(
    ("role", "enters_as", "welcome"),
    [
        ("client", "client", True),
        ("client", "worker", False),
        ("worker", "worker", True),
        ("worker", "client", False),
        ("observer", "client", True),
        ("observer", "worker", False),
    ],
)
def test_a_key_admits_to_its_role_alone(fleet: Fleet, role: str, enters_as: str, *, welcome: bool) -> None:
    with admitted(fleet, role, enter(enters_as, session="s", slots=1)) as (_, heard):
        assert isinstance(heard, visit.Welcome if welcome else visit.Refused)
        if not welcome:
            assert role in heard.reason
            assert heard.final


@pytest.mark.parametrize(
    "head",
    [
        wire.Asked([], {}, [], [], []),
        wire.CancelAsked(1, terminate=True, token=1, count=1),
    ],
    ids=["submit", "cancel"],
)
def test_an_observer_only_looks(fleet: Fleet, head: Any) -> None:
    with admitted(fleet, "observer", enter("client", session="o")) as (dealer, welcome):
        assert isinstance(welcome, visit.Welcome)
        say(dealer, visit.Inquiry(7, "status", {}))
        assert hear(dealer).answer["journal"] == "memory"
        say(dealer, head)
        assert isinstance(hear(dealer), visit.Refused)


def test_a_revoked_key_hears_nothing_more_not_even_what_it_has_asked_for(
    fleet: Fleet, good: Client, tmp_path: Path
) -> None:
    store = KeyStore(fleet.keys)
    names = {entry.name for entry in store.entries()}
    with (
        Gate(tmp_path) as gate,
        admitted(fleet, "observer", enter("client", session="r")) as (dealer, _),
    ):
        future = good.submit(wait_at, gate.path, 5)
        until(gate.arrived)
        say(dealer, visit.Fetch(1, future.number, wait=True))
        (name,) = {entry.name for entry in store.entries()} - names
        store.revoke(name)
        assert isinstance(hear(dealer), visit.Refused)
        gate.open()
        assert future.result(20) == 5
        assert good.submit(abs, -1).result(20) == 1  # what the broker had to say to anybody, it has said
        assert dealer.poll(200) == 0


def test_another_protocol_is_refused(fleet: Fleet) -> None:
    about = visit.Enter("client", "test", visit.PROTOCOL + 1, "3.11", session="p")
    with admitted(fleet, "client", about, anew=False) as (_, heard):
        assert isinstance(heard, visit.Refused)
        assert f"protocol {visit.PROTOCOL + 1}" in heard.reason


def messages() -> list[bytes]:
    """A head of every kind that a node or a client may say."""
    task = Task(1 << 40, 1, b"payload")
    done = Done(0, [b"v"], parts=[Part(3, 0, 1, failed=False, payload=b"v")], pace=[(1, 1, 0.1)])
    heads = [
        codec.done(done, afar=True),
        codec.simple(Returned([(0, 0, 1)])),
        codec.simple(Beat()),
        codec.asked([task], {}, [(1, "f", b"code")], set(), afar=True),
        codec.simple(wire.CancelAsked(1, terminate=True, token=1, count=1)),
        codec.simple(wire.CancelAnswer(1, 99, cancelled=True)),
        codec.simple(wire.Progress(5, 1.0, None, "m", {})),
        codec.simple(visit.Got(10**6)),
        codec.simple(visit.Fetch(1, 5, wait=False)),
        codec.simple(visit.Inquiry(1, "explain", {"id": "no number"})),
        codec.simple(visit.Report(1, 5)),
        codec.simple(wire.Signal("leaving")),
        codec.simple(enter("worker", slots=-5)),
        codec.simple(enter("client", session="again")),
    ]
    return [message.mail()[0] for message in heads]


def asked(id_: int, fn: int = 1, payload: Any = b"x", options: Options | None = None) -> wire.Asked:
    return wire.Asked([wire.Single(fn, id_, payload, 0, 0, 0, [], options)], {}, [(1, "f", b"c")], [], [])


OWN = -1  # the first id of whoever says it

WRONG: dict[str, tuple[str, Any]] = {
    "an unknown function": ("client", asked(OWN, fn=7)),
    "no payload": ("client", asked(OWN, payload=None)),
    "a priority out of range": ("client", asked(OWN, options=Options(priority=99))),
    "a buffer that never came": ("client", asked(OWN, payload=[b"s", [[2, 5, b"nope", False, 0]]])),
    "another's id": ("client", asked(1)),
    "no slots": ("worker", wire.Room(0)),
    "an end that is none": ("worker", wire.Stops([Ended(0, 0, 1, 1, "x")])),
    "no tasks in some time": ("worker", wire.Outcomes(0, [], [], [], [(1, 0, 1.0)])),
    "endless time": ("worker", wire.Outcomes(0, [], [], [], [(1, 1, float("inf"))])),
    "a value that is text": ("worker", wire.Outcomes(0, ["x"], [], [], [])),
    "fewer deaths than none": ("worker", wire.Rest([], [(0, 0, -1)])),
    "an outcome of a client's": ("client", wire.Outcomes(0, [b"x"], [], [], [])),
    "progress of a client's": ("client", wire.Progress(1, 1.0, None, "", {})),
    "a client's answer to a cancel": ("client", wire.CancelAnswer(1, 1, cancelled=True)),
    "a client's report": ("client", visit.Report(1, 5)),
    "a worker's confirmation": ("worker", visit.Got(1)),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_is_refused_and_stops_nobody(fleet: Fleet, good: Client, what: str) -> None:
    role, head = WRONG[what]
    with admitted(fleet, role, enter(role, session="w", slots=int(role == "worker")), anew=False) as (
        dealer,
        welcome,
    ):
        assert isinstance(welcome, visit.Welcome)
        if isinstance(head, wire.Asked) and head.tasks[0].id == OWN:
            head.tasks[0].id = (welcome.first << 36) + 5
        say(dealer, head)
        while not isinstance(heard := hear(dealer), visit.Refused):
            assert isinstance(heard, wire.Room)
        assert not heard.reason.startswith("this key")
        assert good.submit(abs, -1).result(20) == 1


def sizes(*numbers: int) -> bytes:
    """What the first part of a message begins with."""
    return b"\xc1" + msgspec.msgpack.encode(numbers)


PARTS = {
    "more than was announced": [sizes(10), b"x" * 20],
    "a piece of nothing that was announced": [sizes(), b"x"],
    "sizes that are none": [b"\xc1nonsense"],
    "a size below nothing": [sizes(-1)],
    "more than any message": [sizes(*[1 << 30] * 17)],
    "a message that is none": [sizes(5), b"\xff" * 5],
    "an empty message": [sizes(0), b""],
}


@pytest.mark.parametrize("what", PARTS)
def test_parts_that_make_no_message_are_refused(fleet: Fleet, good: Client, what: str) -> None:
    with admitted(fleet, "client", enter("client", session="p"), anew=False) as (dealer, _):
        dealer.send_multipart([b"\xc1", b"the first has not come"])
        dealer.send_multipart([sizes(1 << 30), b"the last will not come"])
        dealer.send_multipart(PARTS[what])
        while not isinstance(heard := hear(dealer), visit.Refused):
            assert isinstance(heard, wire.Room)
        assert heard.reason == "that is no message of this version of zmqtasks"
        assert good.submit(abs, -1).result(20) == 1


def test_memory_for_what_is_announced_is_taken_as_it_comes(fleet: Fleet, good: Client) -> None:
    broker = psutil.Process(fleet.broker.pid)
    with admitted(fleet, "client", enter("client", session="m"), anew=False) as (dealer, _):
        before = broker.memory_info().rss
        dealer.send_multipart([sizes(*[1 << 30] * 2), b"the last will not come"])
        say(dealer, wire.CancelAsked(1, terminate=False, token=5, count=1))
        while not isinstance(hear(dealer), wire.CancelAnswer):
            pass
        assert broker.memory_info().rss - before < 100 << 20
    assert good.submit(abs, -1).result(20) == 1


def test_who_is_to_be_heard_often_is_told_so() -> None:
    with Fleet(silence_s=0.5) as fleet:
        about = enter("worker", slots=1)
        with admitted(fleet, "worker", about, anew=False) as (_, welcome):
            assert welcome.beat_s <= 0.5 / 3


def test_two_keys_with_one_word_for_their_sessions(fleet: Fleet, good: Client) -> None:
    about = enter("client", session="same")
    with admitted(fleet, "client", about) as (one, first), admitted(fleet, "client", about) as (two, second):
        assert first.first != second.first
        say(one, wire.Signal("bye"))
        say(two, wire.Signal("bye"))
        until(lambda: good.inspect.status()["clients"] == 1)
        end = monotonic() + 1.5  # the broker looks each second which sessions are over
        while monotonic() < end:
            assert good.submit(abs, -1).result(20) == 1
            work(0.01)


@pytest.mark.parametrize("role", ["client", "worker"])
def test_nonsense_of_someone_with_a_key_harms_nobody(fleet: Fleet, good: Client, role: str) -> None:
    rng = random.Random(role)
    with admitted(fleet, role, enter(role, session="n", slots=1), anew=False) as (dealer, _):
        heads = messages()
        for number in range(NONSENSE):
            if number % 20 == 0:
                say(dealer, enter(role, session="n", slots=1 if role == "worker" else 0))
            head = bytearray(rng.choice(heads))
            for _ in range(rng.choice((0, 0, 1, 3))):
                head[rng.randrange(len(head))] = rng.randrange(256)
            frames = [bytes(head[: rng.choice((len(head), len(head), rng.randrange(len(head) + 1)))])]
            frames += [rng.randbytes(rng.randrange(50)) for _ in range(rng.choice((0, 0, 0, 1, 3)))]
            dealer.send_multipart(frames)
    assert [good.submit(abs, -number).result(20) for number in range(20)] == list(range(20))
