"""A ZeroMQ socket that carries messages: a broker's ROUTER, or the DEALER of a client or a node.

A socket's descriptor is edge-triggered, and so a loop may only sleep on it when `has_mail` has just said no; each send
may eat the edge of what has come, so it is asked after sending too.
"""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import msgspec
import zmq

from zmqtasks.blobs import Buffer
from zmqtasks.wire import Arrived, Message

# As ints: the enums of pyzmq cost a microsecond each time.
_EVENTS, _POLLIN, _POLLOUT = int(zmq.EVENTS), int(zmq.POLLIN), int(zmq.POLLOUT)
_NOBLOCK, _NOBLOCK_MORE = int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE)
_COPY_BYTES_MAX = 64 << 10  # a smaller frame is copied: that is cheaper than to track who still reads it


class Mail(NamedTuple):
    """A message from `sender` (of a DEALER: b""); `frame` knows whose key it came with. No `message`: malformed."""

    sender: bytes
    frame: zmq.Frame
    message: Arrived | None


class Mailbox:
    """Sends and receives without blocking."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self.socket = socket
        self._routes = socket.type == zmq.ROUTER
        self._blobs: dict[bytes, dict[bytes, Buffer]] = {}  # by sender: buffers that came once, by hash

    def fileno(self) -> int:
        """What a loop watches, with `has_mail` asked before each sleep."""
        return int(self.socket.fileno())

    def has_mail(self) -> bool:
        """Whether something can be received."""
        return bool(int(self.socket.get(_EVENTS)) & _POLLIN)

    def takes_mail(self) -> bool:
        """Whether something can be sent."""
        return bool(int(self.socket.get(_EVENTS)) & _POLLOUT)

    def receive(self) -> Mail | None:
        """The next message; None if there is none, which `has_mail` says at a third of the cost."""
        receive = self.socket.recv
        sender = b""
        try:
            if self._routes:
                sender = receive(_NOBLOCK)  # at least one frame follows
            frame = head = receive(_NOBLOCK, copy=False)
        except zmq.Again:
            return None
        frames: list[Any] = []
        while frame.more:
            frame = receive(copy=False)
            frames.append(frame.buffer)
        try:
            message = Arrived(head.bytes, frames, [], self._of(sender))
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return Mail(sender, head, None)
        return Mail(sender, head, message)

    def send(self, message: Message, to: bytes = b"") -> bool:
        """Send `message`; False if the peer is gone, or takes no more."""
        send, frames = self.socket.send, message.mail()
        last = len(frames) - 1
        try:
            if self._routes:
                send(to, _NOBLOCK_MORE)
            for index, frame in enumerate(frames):
                send(
                    frame,
                    _NOBLOCK_MORE if index < last else _NOBLOCK,
                    copy=index == 0 or memoryview(frame).nbytes < _COPY_BYTES_MAX,
                )
        except zmq.ZMQError:  # EAGAIN, or EHOSTUNREACH, both at the first frame
            return False
        return True

    def keep(self, sender: bytes, digest: bytes, buffer: Buffer) -> None:
        """`buffer` of `sender` will be named by its hash from now on."""
        self._of(sender)[digest] = buffer

    def drop(self, sender: bytes, digests: list[bytes]) -> None:
        """These will not be named any more."""
        known = self._of(sender)
        for digest in digests:
            known.pop(digest, None)

    def take(self, sender: bytes) -> dict[bytes, Buffer]:
        """`sender` is gone: what was kept of it."""
        return self._blobs.pop(sender, {})

    def give(self, sender: bytes, blobs: dict[bytes, Buffer]) -> None:
        """`sender` is somebody who was here under another name, of whom these were kept."""
        self._blobs[sender] = blobs

    def _of(self, sender: bytes) -> dict[bytes, Buffer]:
        blobs = self._blobs.get(sender)
        if blobs is None:
            blobs = self._blobs[sender] = {}
        return blobs

    def close(self, linger_ms: int = 0) -> None:
        """Close the socket; what it still has to send it may take so long for."""
        with contextlib.suppress(zmq.ZMQError):
            self.socket.close(linger_ms)


class Monitor:
    """What happens to the connections of a socket."""

    def __init__(self, socket: zmq.Socket[bytes], events: int) -> None:
        self._watched = socket
        self._socket = socket.get_monitor_socket(events)
        self._file = int(self._socket.fileno())
        self._early: list[tuple[int, int]] = []
        self._early = self.events()  # only a socket that was found empty signals that something has come

    def fileno(self) -> int:
        """What a loop watches, as of any socket."""
        return self._file

    def events(self) -> list[tuple[int, int]]:
        """What has happened: (event, value), where the value of a disconnection is its descriptor."""
        happened, self._early = self._early, []
        while True:
            try:
                event = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return happened
            self._socket.recv()  # the endpoint
            happened.append(
                (int.from_bytes(event[:2], "little"), int.from_bytes(event[2:6], "little", signed=True))
            )

    def close(self) -> None:
        """Stop looking."""
        self._watched.disable_monitor()
        self._socket.close(0)
