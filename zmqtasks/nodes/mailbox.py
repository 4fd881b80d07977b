"""A ZeroMQ socket that carries messages: a broker's ROUTER, or the DEALER of a client or a node.

A socket's descriptor is edge-triggered, and so a loop may only sleep on it when `has_mail` has just said no; each send
may eat the edge of what has come, so it is asked after sending too.

A large message travels in parts, each a message to ZeroMQ: whoever sends one over a slow network is heard of all the
while, and what both sides say in between is not held up. Else it would count as silent, come anew, and begin again.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

import msgspec
import zmq

from zmqtasks.blobs import Buffer
from zmqtasks.wire import Arrived, Message, Signal

# As ints: the enums of pyzmq cost a microsecond each time.
_EVENTS, _POLLIN, _POLLOUT = int(zmq.EVENTS), int(zmq.POLLIN), int(zmq.POLLOUT)
_NOBLOCK, _NOBLOCK_MORE = int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE)
_COPY_BYTES_MAX = 64 << 10  # a smaller frame is copied: that is cheaper than to track who still reads it
_WHOLE_BYTES_MAX = 2 << 20  # what is larger travels in parts
_PART_BYTES_MAX = 1 << 20
_FRAME_BYTES_MAX = 1 << 30
_MESSAGE_BYTES_MAX = 16 << 30  # only as much of it is memory as has come
_PART = b"\xc1"  # no msgpack begins with it

_Sizes = list[Annotated[int, msgspec.Meta(ge=0, le=_FRAME_BYTES_MAX)]]

PART = Arrived(msgspec.msgpack.encode(Signal("part")), [], [], {})
"""What a `Mail` has in place of a message of which a part has come, and not the last."""


class Mail(NamedTuple):
    """A message from `sender` (of a DEALER: b""); `frame` knows whose key it came with. No `message`: malformed."""

    sender: bytes
    frame: zmq.Frame
    message: Arrived | None


class _Whole:
    """A message of which not all parts have come: its frames, filled one after the other."""

    def __init__(self, sizes: list[int]) -> None:
        if sum(sizes) > _MESSAGE_BYTES_MAX:
            raise ValueError("a message is longer than any")
        self._frames = [_memory(size) for size in sizes]
        self._at = self._filled = 0
        self._step()

    def add(self, pieces: list[Any]) -> list[Any]:
        """Take these in; all frames once they are full, else none. ValueError, IndexError: they do not fit."""
        for piece in pieces:
            end = self._filled + piece.nbytes
            self._frames[self._at][self._filled : end] = piece
            self._filled = end
            self._step()
        return self._frames if self._at == len(self._frames) else []

    def _step(self) -> None:
        while self._at < len(self._frames) and self._filled == self._frames[self._at].nbytes:
            self._at, self._filled = self._at + 1, 0


def _memory(nbytes: int) -> memoryview:
    """Zeros to be written over: of many, only what was written to is memory, for who announces them may send none."""
    return memoryview(mmap.mmap(-1, nbytes) if nbytes > _PART_BYTES_MAX else bytearray(nbytes))


def _parts(frames: list[Any]) -> Iterator[list[Any]]:
    """Yield the parts of a message: of the first the head names the sizes of its frames."""
    views = [memoryview(frame).cast("B") for frame in frames]
    part: list[Any] = [_PART + msgspec.msgpack.encode([view.nbytes for view in views])]
    room = _PART_BYTES_MAX
    for view in views:
        while view.nbytes:
            part.append(view[:room])
            room, view = room - part[-1].nbytes, view[room:]  # noqa: PLW2901 - what is left of it
            if not room:
                yield part
                part, room = [_PART], _PART_BYTES_MAX
    if len(part) > 1:
        yield part


class Mailbox:
    """Sends and receives without blocking."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self.socket = socket
        self._routes = socket.type == zmq.ROUTER
        self._splits = self._routes or socket.type == zmq.DEALER  # what others send may come in between
        self._wholes: dict[bytes, _Whole] = {}  # by sender
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
        while True:
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
            data: Any = head.bytes
            try:
                if data[:1] == _PART and self._splits:
                    if not (whole := self._join(sender, data, frames)):
                        if self._routes:
                            return Mail(sender, head, PART)
                        continue  # the one who is there is heard of by itself
                    data, *frames = whole
                message = Arrived(data, frames, [], self._of(sender))
            except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, IndexError, MemoryError):
                return Mail(sender, head, None)
            return Mail(sender, head, message)

    def _join(self, sender: bytes, head: bytes, pieces: list[Any]) -> list[Any]:
        """The frames of the message that a part is the last of; none if it is not, or the first has not come."""
        if len(head) > 1:
            self._wholes[sender] = _Whole(msgspec.msgpack.decode(head[1:], type=_Sizes))
        if (whole := self._wholes.get(sender)) is None:
            return []
        frames = whole.add(pieces)
        if frames:
            del self._wholes[sender]
        return frames

    def send(self, message: Message, to: bytes = b"", *, whole: bool = False) -> bool:
        """Send `message`, if it has to be as a `whole`; False if the peer is gone, or takes no more."""
        frames = message.mail()
        splits = self._splits and not whole
        if splits and sum(memoryview(frame).nbytes for frame in frames) > _WHOLE_BYTES_MAX:
            return all(self._send(part, to) for part in _parts(frames))
        return self._send(frames, to)

    def _send(self, frames: list[Any], to: bytes) -> bool:
        send = self.socket.send
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
        self._wholes.pop(sender, None)
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
