"""Who gets through to a secured socket: real sockets on loopback, with strangers of every kind beside a good client."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import struct
from time import monotonic
from typing import TYPE_CHECKING

import pytest
import zmq
from conftest import until
from zmq.utils.monitor import recv_monitor_message

from zmqtasks import UnusableKey
from zmqtasks.keys import ROLES, Key, KeyStore, load, may
from zmqtasks.nodes import zap
from zmqtasks.nodes.loop import Loop
from zmqtasks.nodes.zap import (
    LOOK_S,
    Authenticator,
    User,
    keypair,
    role_and_name,
    secure_client,
    secure_server,
    user_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

FAILED = {
    zmq.Event.HANDSHAKE_FAILED_AUTH,
    zmq.Event.HANDSHAKE_FAILED_PROTOCOL,
    zmq.Event.HANDSHAKE_FAILED_NO_DETAIL,
}


class Server:
    """A secured ROUTER that sends back what it hears, and keeps who said it; its clock stands until it is moved."""

    def __init__(self, store: KeyStore, *, frame_bytes_max: int = 1 << 20) -> None:
        self.context = zmq.Context()
        self.now = 0.0
        self.store = store
        self.authenticator = Authenticator(self.context, store)
        self.router = self.context.socket(zmq.ROUTER)
        secure_server(self.router, *store.server(), frame_bytes_max=frame_bytes_max)
        self.monitor = self.router.get_monitor_socket()
        self.port = self.router.bind_to_random_port("tcp://127.0.0.1")
        self.heard: list[tuple[User | None, bytes]] = []
        self.events: list[int] = []
        self.dealers: list[zmq.Socket[bytes]] = []

    def close(self) -> None:
        self.authenticator.close()
        self.context.destroy(linger=0)

    def turn(self) -> None:
        """Answer and hear all that is pending."""
        self.authenticator.answer(self.now)
        while self.router.poll(0):
            peer, said = self.router.recv_multipart(copy=False)
            self.heard.append((user_of(said), said.bytes))
            self.router.send_multipart([peer.bytes, said.bytes])
        while self.monitor.poll(0):
            self.events.append(recv_monitor_message(self.monitor)["event"])

    def until(self, fact: Callable[[], object]) -> None:
        """Serve until it holds."""

        def served() -> object:
            self.turn()
            return fact()

        served.__doc__ = fact.__doc__
        until(served, within_s=20, every_s=0.001)

    def refusals(self) -> int:
        return sum(event in FAILED for event in self.events)

    def dealer(self, key: Key | None) -> zmq.Socket[bytes]:
        """Return a client with this key, or without any, that has something to say."""
        made = self.context.socket(zmq.DEALER)
        if key is not None:
            secure_client(made, key)
        made.connect(f"tcp://127.0.0.1:{self.port}")
        self.dealers.append(made)  # closed with the context
        return made

    def round_trip(self, dealer: zmq.Socket[bytes], said: bytes) -> None:
        dealer.send(said)
        self.until(lambda: dealer.poll(0))
        assert dealer.recv() == said


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    made = KeyStore(tmp_path / "keys")
    made.init(keypair)
    return made


@pytest.fixture
def server(store: KeyStore) -> Iterator[Server]:
    with contextlib.closing(Server(store)) as made:
        yield made


def key_of(store: KeyStore, role: str, name: str) -> Key:
    return load(str(store.add(role, name, keypair)), role, keypair)


def test_an_admitted_key_reaches_the_router_under_its_name(server: Server) -> None:
    key = server.store.own("client")
    server.round_trip(server.dealer(key), b"hello")
    assert server.heard == [(User("client", "client", key.public), b"hello")]
    assert server.refusals() == 0


def test_each_role_may_say_its_verbs_and_no_other(server: Server) -> None:
    verbs = ("submit", "cancel", "result", "inspect", "join", "done")
    for role in ROLES:
        dealer = server.dealer(key_of(server.store, role, f"some-{role}"))
        server.now += LOOK_S
        for verb in verbs:
            server.round_trip(dealer, verb.encode())
    heard = {
        (user.role, said.decode()) for user, said in server.heard if user and may(user.role, said.decode())
    }
    assert {user.name for user, _ in server.heard if user} == {"some-client", "some-worker", "some-observer"}
    assert len(server.heard) == len(ROLES) * len(verbs)
    assert heard == {
        *(("client", verb) for verb in ("submit", "cancel", "result", "inspect")),
        *(("worker", verb) for verb in ("submit", "cancel", "join", "done")),
        *(("observer", verb) for verb in ("result", "inspect")),
    }


def stranger(store: KeyStore) -> Key:
    """Return a key that nobody admitted, of one who knows the broker's public key and an admitted name."""
    public, secret = (part.decode() for part in keypair())
    return Key("client", "client", public, secret, store.server()[0])


def of_another_server(store: KeyStore) -> Key:
    """Return a key that another broker admits."""
    other = KeyStore(store.folder.parent / "other")
    other.init(keypair)
    return other.own("client")


def with_another_server(store: KeyStore) -> Key:
    """Return an admitted pair of one who takes another broker for ours."""
    key = store.own("client")
    return Key(key.name, key.role, key.public, key.secret, keypair()[0].decode())


def a_name_without_its_secret(store: KeyStore) -> Key:
    """Return the public half of an admitted key, with another secret."""
    key = store.own("client")
    return Key(key.name, key.role, key.public, keypair()[1].decode(), key.server)


def revoked(store: KeyStore) -> Key:
    key = key_of(store, "client", "gone")
    store.revoke("gone")
    return key


def no_key(store: KeyStore) -> None:
    """Return nothing: a NULL socket."""


STRANGERS = (stranger, of_another_server, with_another_server, a_name_without_its_secret, revoked, no_key)


@pytest.mark.parametrize("make", STRANGERS)
def test_a_stranger_reaches_nobody(server: Server, make: Callable[[KeyStore], Key | None]) -> None:
    good = server.dealer(server.store.own("client"))
    server.round_trip(good, b"before")
    bad = server.dealer(make(server.store))
    bad.send(b"let me in")
    server.until(server.refusals)
    server.round_trip(good, b"after")
    assert [said for _, said in server.heard] == [b"before", b"after"]
    assert not bad.poll(0)


GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"CURVE".ljust(20, b"\0") + bytes(32)
assert len(GREETING) == 64

NOISE = {
    "random": os.urandom(4096),
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "tls": bytes.fromhex("16030100c8010000c40303") + os.urandom(200),
    "zmtp 1": b"\x01\x00" + b"\x06\x00hello",
    "null greeting": GREETING.replace(b"CURVE", b"NULL\0") + b"\x04\x06\x05READY",
    "curve, then random": GREETING + os.urandom(4096),
    "curve, then an endless frame": GREETING + b"\x06" + struct.pack(">Q", 1 << 62) + bytes(64),
    "curve, then a frame over the limit": GREETING + b"\x06" + struct.pack(">Q", 1 << 21) + bytes(64),
    "curve, then a message": GREETING + b"\x00\x05hello",
}


@pytest.mark.parametrize("noise", NOISE.values(), ids=NOISE)
def test_noise_reaches_nobody_and_is_hung_up_on(server: Server, noise: bytes) -> None:
    good = server.dealer(server.store.own("client"))
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        raw.setblocking(False)
        raw.sendall(noise)
        server.round_trip(good, b"meanwhile")
        server.until(lambda: has_hung_up(raw))
    server.round_trip(good, b"after")
    assert [said for _, said in server.heard] == [b"meanwhile", b"after"]


def has_hung_up(raw: socket.socket) -> bool:
    """The server closes the connection."""
    try:
        while raw.recv(65536):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        pass
    return True


def test_three_hundred_who_say_nothing_keep_nobody_out(server: Server) -> None:
    with contextlib.ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port))) for _ in range(300)
        ]
        for number, raw in enumerate(silent):
            raw.setblocking(False)
            raw.sendall(GREETING[: number % 65])  # from nothing at all to a whole greeting
        good = server.dealer(server.store.own("client"))
        started = monotonic()
        while not any(has_hung_up(raw) for raw in silent):
            server.round_trip(good, b"meanwhile")
            assert monotonic() - started < 20, "libzmq itself waits for 30 s"
        assert server.heard
        server.until(lambda: all(has_hung_up(raw) for raw in silent))
        server.round_trip(good, b"after")
    assert {said for _, said in server.heard} == {b"meanwhile", b"after"}


def test_a_frame_over_the_limit_ends_the_connection(store: KeyStore) -> None:
    with contextlib.closing(Server(store, frame_bytes_max=10_000)) as server:
        large, small = (server.dealer(store.own("client")) for _ in range(2))
        server.round_trip(large, bytes(9_000))
        large.send(bytes(20_000))
        server.until(lambda: zmq.Event.DISCONNECTED in server.events)
        server.round_trip(small, b"x")
        assert [len(said) for _, said in server.heard] == [9_000, 1]


def test_a_revoked_key_is_out_at_the_next_look_though_its_connection_stands(server: Server) -> None:
    key = key_of(server.store, "worker", "lab")
    user_id = f"worker:lab:{key.public}"
    dealer = server.dealer(key)
    server.round_trip(dealer, b"in")
    assert server.authenticator.is_authorized(user_id)
    server.store.revoke("lab")
    server.now += 0.9 * LOOK_S
    assert server.authenticator.refresh(server.now) == frozenset()
    assert server.authenticator.is_authorized(user_id), "between two looks it is not known"
    server.now += 0.1 * LOOK_S
    assert server.authenticator.refresh(server.now) == {user_id}
    assert not server.authenticator.is_authorized(user_id)
    server.now += LOOK_S
    assert server.authenticator.refresh(server.now) == frozenset(), "said once"
    server.round_trip(dealer, b"still connected, so the broker asks at each message")
    again = key_of(server.store, "worker", "lab")
    server.now += LOOK_S
    server.round_trip(server.dealer(again), b"its successor")
    assert server.authenticator.is_authorized(f"worker:lab:{again.public}")
    assert not server.authenticator.is_authorized(user_id), "the name is not the key"


def test_a_new_key_is_admitted_at_the_next_look(server: Server) -> None:
    server.turn()
    key = key_of(server.store, "client", "new")
    dealer = server.dealer(key)
    dealer.send(b"hello")
    server.until(server.refusals)
    server.now += LOOK_S
    server.round_trip(server.dealer(key), b"again")
    assert [said for _, said in server.heard] == [b"again"]
    assert not dealer.poll(0), "who was refused does not try again by itself"


def test_with_nobody_to_ask_nobody_is_let_in(server: Server) -> None:
    server.authenticator.close()
    bad = server.dealer(server.store.own("client"))
    bad.send(b"hello")

    def refused() -> bool:
        while server.monitor.poll(0):
            server.events.append(recv_monitor_message(server.monitor)["event"])
        return server.refusals() > 0 or zmq.Event.DISCONNECTED in server.events

    until(refused)
    assert not server.router.poll(0)


def test_a_store_that_is_unsafe_damaged_or_gone_admits_nobody(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    known = server.store.folder / "authorized"
    user_id = f"client:client:{server.store.own('client').public}"
    text = known.read_bytes()

    def look() -> bool:
        server.now += LOOK_S
        server.authenticator.refresh(server.now)
        return server.authenticator.is_authorized(user_id)

    def damage() -> None:
        known.write_bytes(b"{")

    def repair() -> None:
        known.touch(0o600)
        known.write_bytes(text)

    assert look()
    for harm, mend in (
        (lambda: known.chmod(0o666), lambda: known.chmod(0o600)),
        (lambda: server.store.folder.chmod(0o777), lambda: server.store.folder.chmod(0o700)),
        (damage, repair),
        (known.unlink, repair),
    ):
        harm()
        known.exists() and os.utime(known)  # a folder's mode is read with the file
        with caplog.at_level(logging.ERROR, "zmqtasks"):
            caplog.clear()
            assert not look()
            assert not look()
            assert len(caplog.records) <= 1, "said once"
        mend()
        assert look()


def test_what_cannot_be_read_at_the_moment_changes_nothing(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    user_id = f"client:client:{server.store.own('client').public}"
    server.authenticator.refresh(server.now)
    key_of(server.store, "worker", "new")

    def none_left() -> None:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(server.store, "authorized", none_left)
        server.now += LOOK_S
        assert server.authenticator.refresh(server.now) == frozenset()
        assert server.authenticator.is_authorized(user_id)
        assert "Too many open files" in caplog.text
    server.store.revoke("client")
    server.now += LOOK_S
    assert server.authenticator.refresh(server.now) == {user_id}


@pytest.mark.parametrize(
    "asked",
    [
        [b"2.0", b"7", b"zmqtasks", b"", b"", b"CURVE", b"KEY"],
        [b"1.0", b"7", b"other", b"", b"", b"CURVE", b"KEY"],
        [b"1.0", b"7", b"", b"", b"", b"CURVE", b"KEY"],
        [b"1.0", b"7", b"zmqtasks", b"", b"", b"NULL"],
        [b"1.0", b"7", b"zmqtasks", b"", b"", b"PLAIN", b"client", b"password"],
        [b"1.0", b"7", b"zmqtasks", b"", b"", b"CURVE", b"short"],
        [b"1.0", b"7", b"zmqtasks", b"", b"", b"CURVE", bytes(32)],
        [b"1.0", b"7", b"zmqtasks", b"", b"", b"CURVE", b"KEY", b"more"],
        [b"1.0", b"7"],
        [b""],
    ],
    ids=lambda asked: b" ".join(asked).decode("latin-1"),
)
def test_an_odd_question_is_answered_no(server: Server, asked: list[bytes]) -> None:
    public = zap.z85.decode(server.store.own("client").public)
    with server.context.socket(zmq.REQ) as asking:
        asking.connect(zap.ENDPOINT)
        for question, answer in (
            ([public if part == b"KEY" else part for part in asked], b"400"),
            ([b"1.0", b"8", b"zmqtasks", b"", b"", b"CURVE", public], b"200"),
        ):
            asking.send_multipart(question)
            server.until(lambda: asking.poll(0))
            version, number, status, _, user_id, metadata = asking.recv_multipart()
            assert (version, status, metadata) == (b"1.0", answer, b"")
            assert number == (question[1] if len(question) > 1 else b"")
            assert bool(user_id) is (answer == b"200")


def test_a_context_has_one_authenticator(server: Server) -> None:
    with pytest.raises(zmq.ZMQError, match="in use"):
        Authenticator(server.context, server.store)


def test_a_loop_can_watch_it(server: Server) -> None:
    loop = Loop()
    try:
        loop.watch(server.authenticator)
        loop.watch(server.router)
        dealers = [server.dealer(server.store.own(role)) for role in ("client", "worker") * 10]
        for dealer in dealers:
            dealer.send(b"hello")
        server.turn()  # its descriptor says what is new, not what was there
        deadline = monotonic() + 20
        while len(server.heard) < len(dealers):
            assert loop.wait(deadline), "nothing for 20 s"
            server.turn()
    finally:
        loop.close()


def test_an_unsecured_socket_has_no_users(server: Server) -> None:
    with server.context.socket(zmq.PAIR) as one, server.context.socket(zmq.PAIR) as other:
        one.bind("inproc://plain")
        other.connect("inproc://plain")
        other.send(b"x")
        frame = one.recv(copy=False)
        assert user_of(frame) is None
        assert role_and_name(frame) == ("", "")


def test_the_role_and_name_of_a_message(server: Server) -> None:
    dealer = server.dealer(server.store.own("worker"))
    dealer.send(b"x")
    server.until(lambda: server.heard)
    dealer.send(b"y")
    until(lambda: server.router.poll(0))
    peer, said = server.router.recv_multipart(copy=False)
    assert role_and_name(peer) == role_and_name(said) == ("worker", "worker")


def test_what_looks_like_a_key_and_is_none(server: Server) -> None:
    key = server.store.own("client")
    broken = Key(key.name, key.role, "#" * 40, key.secret, key.server)
    with server.context.socket(zmq.DEALER) as made, pytest.raises(UnusableKey, match="no CURVE key"):
        secure_client(made, broken)
