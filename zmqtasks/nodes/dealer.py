"""The way to a broker: one DEALER socket after the other, each a connection of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import zmq
from msgspec.structs import replace

from zmqtasks import wire
from zmqtasks.keys import Key, is_ipv6, load
from zmqtasks.nodes.loop import Loop
from zmqtasks.nodes.mailbox import Mailbox, Monitor
from zmqtasks.nodes.zap import keypair, secure_client

HEARTBEAT_S = 1.0
SILENCE_S = 5.0  # after which the broker counts as gone
_RECONNECT_MS = 50
_LINGER_MS = 1000

_GONE = zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
_EVENTS = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | _GONE


class Dealer:
    """Connects to `address` and says what has become of that. For one thread."""

    def __init__(self, loop: Loop, address: str, key: Key | None) -> None:
        self.address = address
        self.refused = ""  # why the broker would not have this peer
        self.is_up = False  # a connection stands
        self._loop = loop
        self._key = key
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._mailbox: Mailbox | None = None
        self._monitor: Monitor | None = None

    @property
    def mailbox(self) -> Mailbox:
        """That of the connection."""
        assert self._mailbox is not None, "not connected"
        return self._mailbox

    def connect(self) -> None:
        """Begin anew: nothing of an earlier connection arrives any more, in either direction."""
        self.disconnect()
        socket = self._context.socket(zmq.DEALER)
        try:
            socket.set(zmq.IPV6, is_ipv6(self.address))
            socket.set(zmq.SNDHWM, 0)
            socket.set(zmq.RCVHWM, 0)
            _keep_alive(socket)
            if self._key is not None:
                secure_client(socket, self._key)
            self._monitor = Monitor(socket, _EVENTS)
            socket.connect(self.address)
        except BaseException:
            if self._monitor is not None:
                self._monitor.close()
                self._monitor = None
            socket.close(0)
            raise
        self._mailbox = Mailbox(socket)
        self._loop.watch(self._mailbox)
        self._loop.watch(self._monitor)

    def open(self, kind: int, address: str, server: str, hwm: int) -> zmq.Socket[bytes]:
        """Another socket to whoever is there, connected to `address`, as the same user; closed by the caller.

        Where the address names no machine, it is the one that this is connected to. `server` is the public key of
        whoever listens there, "" for the same as here. At most `hwm` messages wait in it.
        """
        socket = self._context.socket(kind)
        try:
            socket.set(zmq.IPV6, is_ipv6(self.address) or is_ipv6(address))
            for option in (zmq.SNDHWM, zmq.RCVHWM):
                socket.set(option, hwm)
            _keep_alive(socket)
            key = self._key
            if key is None and address.startswith("tcp:"):  # here there is no network between, but there
                key = load(None, "worker", keypair, address=address)
            if key is not None:
                secure_client(socket, replace(key, server=server) if server else key)
            socket.connect(reachable(address, self.address))
        except BaseException:
            socket.close(0)
            raise
        return socket

    def disconnect(self, linger_ms: int = 0) -> None:
        """Close the connection; what is still to be sent may take so long."""
        self.is_up = False
        if self._monitor is not None:
            with contextlib.suppress(OSError, zmq.ZMQError):
                self._loop.unwatch(self._monitor)
            self._monitor.close()
            self._monitor = None
        if self._mailbox is not None:
            with contextlib.suppress(OSError, zmq.ZMQError):
                self._loop.unwatch(self._mailbox)
            self._mailbox.close(linger_ms)
            self._mailbox = None

    def has_mail(self) -> bool:
        """Whether something has come; asked before each sleep."""
        return self._mailbox is not None and self._mailbox.has_mail()

    def send(self, message: wire.Message) -> None:
        """Send it, if there is anybody; whoever is not reached is gone, and `look` says so."""
        if self._mailbox is not None:
            self._mailbox.send(message)

    def look(self, ready: Sequence[int] | None = None) -> str:
        """What has happened to the connection: "" (nothing), "up", "down"; `refused` says why it can never be.

        `ready`: the descriptors that a loop has found to be; without them it looks in any case.
        """
        if self._monitor is None or (ready is not None and self._monitor.fileno() not in ready):
            return ""
        news = ""
        for event, _ in self._monitor.events():
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self.is_up, news = True, news or "up"  # a loss stays one
            elif event == zmq.EVENT_DISCONNECTED:
                news = "down" if self.is_up or news else news
                self.is_up = False
            elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                self.refused = "the broker does not know this key (on its machine, see zmqtasks keys list)"
            elif event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
                self.refused = (
                    "the broker has another key than this key file says, or none, or it is no broker"
                )
        return news

    def close(self, linger_ms: int = _LINGER_MS) -> None:
        """No more connections."""
        self.disconnect(linger_ms)
        self._context.term()


def _keep_alive(socket: zmq.Socket[bytes]) -> None:
    """Try again when the connection is lost, and notice that it is."""
    socket.set(zmq.RECONNECT_IVL, _RECONNECT_MS)
    socket.set(zmq.RECONNECT_IVL_MAX, 20 * _RECONNECT_MS)
    socket.set(zmq.HEARTBEAT_IVL, int(HEARTBEAT_S * 1000))
    socket.set(zmq.HEARTBEAT_TIMEOUT, int(SILENCE_S * 1000))


def reachable(address: str, here: str) -> str:
    """`address`, as whoever has bound it says it, from where `here` is the same machine's."""
    scheme, _, rest = address.partition("://")
    host, _, port = rest.rpartition(":")
    if scheme != "tcp" or host not in ("*", "0.0.0.0", "[::]"):  # noqa: S104 - nothing is bound here
        return address
    return f"tcp://{here.removeprefix('tcp://').rpartition(':')[0]}:{port}"
