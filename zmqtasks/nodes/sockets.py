"""The sockets that a broker, a ventilator or a sink binds; those of a pipeline's are of one context, under one lock."""

from __future__ import annotations

import logging
import re

import zmq

from zmqtasks.keys import KeyStore, is_ipv6, is_on_this_machine, require_safe_bind
from zmqtasks.nodes.zap import DOMAIN, WORKERS, Authenticator, keypair, secure_server, user_of

SILENCE_S = 5.0  # after which a connection counts as gone
BEATS = 5  # how often, within the time after which its silence counts, a worker says that it is there
LINGER_MS = 500

_ADDRESS = re.compile(r"ipc://.+|tcp://(\[[^\[\]]+\]|[^\[\]:/\s]+):(\d{1,5}|\*)")

_log = logging.getLogger("zmqtasks")


class Sockets:
    """A ROUTER for control at `address`, and others beside it. tcp is CURVE, with the keys of `store`."""

    def __init__(self, address: str, store: KeyStore) -> None:
        if not _ADDRESS.fullmatch(address):
            raise ValueError(f"{address!r} is no address to listen at, such as tcp://127.0.0.1:5557")
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.authenticator: Authenticator | None = None
        self._store = store
        self._all: list[zmq.Socket[bytes]] = []
        self._is_secure = not address.startswith("ipc:")
        try:
            if self._is_secure:
                require_safe_bind(address, store)
                if is_on_this_machine(address):
                    store.ensure_local(keypair)
                self.authenticator = Authenticator(self.context, store)
            self.control = self.bind(zmq.ROUTER, address)
            self.address = endpoint(self.control)
        except BaseException:
            self.close(0)
            raise

    def bind(self, kind: int, address: str, *, hwm: int = 0, buffer_bytes: int = 0) -> zmq.Socket[bytes]:
        """One more; at most `hwm` messages wait in it for a peer (0: any number)."""
        socket = self.context.socket(kind)
        self._all.append(socket)
        attend(socket, hwm=hwm)
        if buffer_bytes:
            for option in (zmq.SNDBUF, zmq.RCVBUF):
                socket.set(option, buffer_bytes)
        if self._is_secure:
            domain = DOMAIN if kind == zmq.ROUTER else WORKERS
            secure_server(socket, *self._store.server(), domain=domain)
        listen(socket, address)
        return socket

    def admits(self, frame: zmq.Frame) -> bool:
        """Whether the key that this came with has not been revoked meanwhile."""
        if self.authenticator is None:
            return True
        user = user_of(frame)
        return user is not None and self.authenticator.is_authorized(":".join(user))

    def beside(self, name: str) -> str:
        """An address for one more socket, on the interface or in the folder of the first."""
        if self._is_secure:
            return f"{self.address.rpartition(':')[0]}:*"
        return f"{self.address}.{name}"

    def close(self, linger_ms: int = LINGER_MS) -> None:
        """Close all of them; what they still have to send they may take so long for."""
        if self.authenticator is not None:
            self.authenticator.close()
        for socket in self._all:
            socket.close(linger_ms)
        self.context.term()


def attend(socket: zmq.Socket[bytes], *, silence_s: float = SILENCE_S, hwm: int = 0) -> None:
    """Have it notice who is silent for so long; what it cannot send is an error, and `hwm` messages wait for a peer."""
    if socket.type == zmq.ROUTER:
        socket.set(zmq.ROUTER_MANDATORY, 1)
    for option in (zmq.SNDHWM, zmq.RCVHWM):
        socket.set(option, hwm)
    socket.set(zmq.HEARTBEAT_IVL, int(silence_s * 200))
    socket.set(zmq.HEARTBEAT_TIMEOUT, int(silence_s * 1000))
    socket.set(zmq.BACKLOG, 1024)


def listen(socket: zmq.Socket[bytes], address: str) -> str:
    """Bind it; where it listens now. An `OSError` with the address as its `filename` if it cannot."""
    socket.set(zmq.IPV6, is_ipv6(address))
    try:
        socket.bind(address)
    except zmq.ZMQError as error:
        raise OSError(error.errno, zmq.strerror(error.errno or 0), address) from None
    return endpoint(socket)


def endpoint(socket: zmq.Socket[bytes]) -> str:
    """Where it listens."""
    return bytes(socket.get(zmq.LAST_ENDPOINT)).decode().rstrip("\0")
