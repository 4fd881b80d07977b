"""CURVE for sockets, and who is admitted through it: libzmq asks over ZAP (rfc.zeromq.org/spec/27), we answer.

CURVE alone admits whoever knows the broker's public key. A socket that went through `secure_server` asks, for each
connection, whether the peer's own key is in the store; and it lets nobody in while nobody answers.

libzmq asks once a connection and never again, so a key that is revoked keeps the connections that it has. Therefore
every message names its sender's key (`user_of`), and the broker asks of each whether `is_authorized` still holds. And a
client that was refused does not try again: its socket stays silent, and a HANDSHAKE_FAILED_AUTH of its monitor says so.

A peer chooses its routing id, and no key is bound to it here: libzmq admits a peer before it has heard the id. The
broker does that: what comes under a known id from another user is another peer.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

import zmq
from zmq.utils import z85

from zmqtasks.errors import UnsafeConfiguration, UnusableKey
from zmqtasks.keys import Key, KeyStore

__all__ = ["Authenticator", "User", "keypair", "role_and_name", "secure_client", "secure_server", "user_of"]

DOMAIN = b"zmqtasks"
WORKERS = b"zmqtasks.workers"  # the domain of sockets that are for workers alone
ENDPOINT = "inproc://zeromq.zap.01"  # where libzmq asks
LOOK_S = 0.5  # how often the store is looked at, at most: a revoked key is cut off within a second
HANDSHAKE_MS_MAX = 3000
FRAME_BYTES_MAX = 1 << 30

_log = logging.getLogger("zmqtasks")


class User(NamedTuple):
    """Whose message it is. The key is part of it: a name that was revoked may be given again, to another key."""

    role: str
    name: str
    public: str


class Authenticator:
    """Answers the questions of all secured sockets of a context, which can have one: in the thread that calls.

    Watch it as you watch a socket, and call `answer` whenever it is ready, and once before the first sleep. Call
    `refresh` before acting on messages. `now` is monotonic, in seconds.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], store: KeyStore) -> None:
        self._store = store
        self._users: dict[str, str] = {}  # their ids, by public key
        self._ids: frozenset[str] = frozenset()
        self._stamp: tuple[int, int, int] | None = None
        self._looked: float | None = None
        self._complaint = ""
        self.socket = context.socket(zmq.REP)
        try:
            self.socket.bind(ENDPOINT)
        except BaseException:
            self.socket.close(linger=0)
            raise

    def fileno(self) -> int:
        """The descriptor that a loop watches; edge-triggered, as with all sockets of ZeroMQ."""
        return int(self.socket.fileno())

    def answer(self, now: float) -> frozenset[str]:
        """Answer all that is asked, never waiting; looks before as `refresh` does, and gives back the same."""
        out = self.refresh(now)
        try:
            while True:
                asked = self.socket.recv_multipart(zmq.NOBLOCK)
                self.socket.send_multipart(self._reply(asked), zmq.NOBLOCK)
        except zmq.Again:
            return out

    def refresh(self, now: float) -> frozenset[str]:
        """Look whether the store has changed, if the last look is `LOOK_S` old; the ids of users who are out now."""
        if self._looked is not None and now - self._looked < LOOK_S:
            return frozenset()
        self._looked = now
        try:
            stamp: tuple[int, int, int] | None = self._store.stamp()
            if stamp == self._stamp:
                return frozenset()
            users = {
                public: f"{role}:{name}:{public}" for public, (name, role) in self._store.authorized().items()
            }
        except OSError as error:  # no descriptor is left, say: what held holds on
            self._complain(f"cannot read the keys in {self._store.folder}: {error.strerror}")
            return frozenset()
        except (UnusableKey, UnsafeConfiguration) as error:  # what is written there admits nobody
            self._complain(f"nobody is admitted: {error}")
            users, stamp = {}, None  # and every look tries again: a chmod leaves no stamp
        else:
            self._complaint = ""
        before = self._ids
        self._users, self._ids, self._stamp = users, frozenset(users.values()), stamp
        return before - self._ids

    def is_authorized(self, user_id: str) -> bool:
        """Whether the key behind a message's User-Id is still admitted."""
        return user_id in self._ids

    def close(self) -> None:
        """Admit nobody any more."""
        self.socket.close(linger=0)

    def _complain(self, text: str) -> None:
        if text != self._complaint:  # once, not at every look
            _log.error("%s", text)
        self._complaint = text

    def _reply(self, asked: list[bytes]) -> list[bytes]:
        """The answer to version, number, domain, address, routing id, mechanism, credentials."""
        number, user = (asked[1] if len(asked) > 1 else b""), None
        match asked:
            case [b"1.0", _, domain, _, _, b"CURVE", public] if len(public) == 32:
                user = self._users.get(z85.encode(public).decode())
                if domain != DOMAIN and not (domain == WORKERS and (user or "").startswith("worker:")):
                    user = None
        if user is None:
            return [b"1.0", number, b"400", b"not admitted", b"", b""]
        return [b"1.0", number, b"200", b"OK", user.encode(), b""]


def keypair() -> tuple[bytes, bytes]:
    """Make a CURVE key pair, public and secret."""
    return zmq.curve_keypair()


def secure_server(
    socket: zmq.Socket[bytes],
    public: str,
    secret: str,
    *,
    frame_bytes_max: int = FRAME_BYTES_MAX,
    domain: bytes = DOMAIN,
) -> None:
    """Let only those in whom the context's `Authenticator` admits; before `bind`.

    `domain`: `WORKERS` if only those. The keys are `KeyStore.server()`'s. A peer is cut off if its frame is larger than
    `frame_bytes_max`.
    """
    socket.set(zmq.CURVE_SERVER, 1)
    _set_keys(socket, public, secret)
    socket.set(zmq.ZAP_DOMAIN, domain)
    socket.set(zmq.ZAP_ENFORCE_DOMAIN, 1)  # with nobody to ask: refuse
    _set_limits(socket, frame_bytes_max)


def secure_client(socket: zmq.Socket[bytes], key: Key, *, frame_bytes_max: int = FRAME_BYTES_MAX) -> None:
    """Be `key`, and talk to nobody but the broker that it names; before `connect`."""
    _set_keys(socket, key.public, key.secret)
    _set_key(socket, zmq.CURVE_SERVERKEY, key.server)
    _set_limits(socket, frame_bytes_max)


def user_of(frame: zmq.Frame) -> User | None:
    """Who sent this frame of a message; None if nobody was asked about the connection it came over.

    For sockets that went through `secure_server`: on any other a peer may name itself as it likes.
    """
    try:
        found = frame.get("User-Id")
    except zmq.ZMQError:  # there is none
        return None
    role, _, rest = str(found).partition(":")
    name, _, public = rest.partition(":")
    return User(role, name, public)


def role_and_name(frame: zmq.Frame) -> tuple[str, str]:
    """As `user_of`, without the key; ("", "") for None, a role that may say nothing."""
    user = user_of(frame)
    return (user.role, user.name) if user else ("", "")


def _set_keys(socket: zmq.Socket[bytes], public: str, secret: str) -> None:
    _set_key(socket, zmq.CURVE_PUBLICKEY, public)
    _set_key(socket, zmq.CURVE_SECRETKEY, secret)


def _set_key(socket: zmq.Socket[bytes], option: int, key: str) -> None:
    try:
        socket.set(option, key.encode())
    except zmq.ZMQError as error:  # not all 40 letters of z85 are 32 bytes
        raise UnusableKey(f"no CURVE key: {error.strerror}") from None


def _set_limits(socket: zmq.Socket[bytes], frame_bytes_max: int) -> None:
    socket.set(zmq.HANDSHAKE_IVL, HANDSHAKE_MS_MAX)
    socket.set(zmq.MAXMSGSIZE, frame_bytes_max)
