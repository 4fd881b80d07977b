"""A stream socket that carries messages, frames and descriptors, blocking or not."""

from __future__ import annotations

import array
import socket
from collections import deque
from typing import Any

import msgspec

from zmqtasks.blobs import Buffer
from zmqtasks.wire import PREFIX, Arrived, Message

_CHUNK = 256 << 10
_FILES = 253 * array.array("i").itemsize
_SOCKET_BYTES = 1 << 20  # what the kernel holds a direction: fewer wake-ups for large payloads
_IOV_MAX = 512
DONTWAIT, _CLOEXEC = (
    int(socket.MSG_DONTWAIT),
    int(socket.MSG_CMSG_CLOEXEC),
)  # two enums are joined in microseconds
_HEAD_BYTES_MAX = 256 << 20  # text and zeros are taken for longer ones, or for none


class Closed(Exception):  # noqa: N818 - a fact, not an error of ours
    """The other side is gone."""


class Malformed(Exception):  # noqa: N818 - a fact
    """What came is no message: something else has written to the socket."""


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected sockets."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    for end in ends:
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            end.setsockopt(socket.SOL_SOCKET, option, _SOCKET_BYTES)
    return ends


class Link:
    """Messages over `sock`. Not for use by several threads at once, but one may read while another writes."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.known: set[bytes] = set()  # hashes of the buffers that the other side has
        self.blobs: dict[bytes, Buffer] = {}  # those that the other side has sent
        self._in = bytearray(_CHUNK)
        self._view = memoryview(self._in)
        self._start = self._end = 0
        self._files: deque[int] = deque()
        self._broken = False
        # A message whose frames are not all here: its head, its frames, how much of the last is filled.
        self._head: tuple[bytes, int] | None = None
        self._sizes: list[int] = []
        self._frames: list[bytearray] = []
        self._filled = 0
        self._out: deque[tuple[memoryview, list[Buffer]]] = deque()

    @property
    def pending(self) -> bool:
        """Whether something is left to write."""
        return bool(self._out)

    def fileno(self) -> int:
        """Of the socket."""
        return self.sock.fileno()

    def close(self) -> None:
        """Close the socket; what was not sent is dropped."""
        self.sock.close()
        self._out.clear()
        for file in self._files:
            Buffer(0, file=file)  # closed as it goes

    # ---- reading -------------------------------------------------------------------------------------------------

    def read(self, flags: int = 0) -> list[Arrived]:
        """The complete messages among what one read brings; `Closed` at the end of the stream.

        A socket without data blocks, or raises `BlockingIOError`, as it is set and as `flags` say.
        """
        if self._broken:
            raise Malformed("nothing can be read behind what was no message")
        if self._head is not None:
            target = memoryview(self._frames[-1])[self._filled :]
        else:
            if self._start == self._end:
                self._start = self._end = 0
            elif self._end == len(self._in):
                self._make_room()
            target = self._view[self._end :]
        try:
            size, ancillary, _, _ = self.sock.recvmsg_into([target], _FILES, flags | _CLOEXEC)
        except ConnectionError:
            size, ancillary = 0, []
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                files = array.array("i")
                files.frombytes(data[: len(data) - len(data) % files.itemsize])
                self._files.extend(files)
        if not size:
            raise Closed
        try:
            return self._messages(size)
        except Malformed:
            self._broken = True
            raise

    def _messages(self, size: int) -> list[Arrived]:
        """What is complete, `size` bytes having come."""
        messages: list[Arrived] = []
        if self._head is not None:
            self._filled += size
            if not self._fill():
                return messages
            messages.append(self._finish())
        else:
            self._end += size
        while (message := self._parse()) is not None:
            messages.append(message)
        return messages

    def _make_room(self) -> None:
        """The buffer is full of one message: to its front, or a larger buffer."""
        rest = self._end - self._start
        if self._start:
            self._in[:rest] = self._in[self._start : self._end]
        else:
            self._view.release()
            self._in.extend(bytes(len(self._in)))
            self._view = memoryview(self._in)
        self._start, self._end = 0, rest

    def _parse(self) -> Arrived | None:
        at, end = self._start, self._end
        if end - at < PREFIX.size:
            return None
        length, frames, files = PREFIX.unpack_from(self._in, at)
        if length > _HEAD_BYTES_MAX:
            raise Malformed(f"a head of {length:,} bytes")
        at += PREFIX.size
        if end - at < length + 8 * frames:
            return None
        sizes = list(self._view[at : at + 8 * frames].cast("Q")) if frames else []
        at += 8 * frames
        head = bytes(self._view[at : at + length])
        self._start = at + length
        if not frames:
            return self._arrived(head, [], files)
        self._head = (head, files)
        self._sizes = sizes[::-1]
        self._frames = []
        self._filled = 0
        return self._finish() if self._fill() else None

    def _fill(self) -> bool:
        """Frames from the buffer, as far as they are there; True once all are whole."""
        while True:
            if self._frames and self._filled < len(self._frames[-1]):
                frame = self._frames[-1]
                size = min(self._end - self._start, len(frame) - self._filled)
                if not size:
                    return False
                frame[self._filled : self._filled + size] = self._view[self._start : self._start + size]
                self._filled += size
                self._start += size
            elif self._sizes:
                size = self._sizes.pop()
                try:
                    self._frames.append(bytearray(size))
                except (MemoryError, OverflowError):
                    raise Malformed(f"a frame of {size:,} bytes, which no memory holds") from None
                self._filled = 0
            else:
                return True

    def _finish(self) -> Arrived:
        assert self._head is not None
        (head, files), self._head = self._head, None
        return self._arrived(head, self._frames, files)

    def _arrived(self, head: bytes, frames: list[Any], files: int) -> Arrived:
        try:
            return Arrived(head, frames, self._take(files), self.blobs)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise Malformed(str(error)) from None

    def _take(self, files: int) -> list[int]:
        if files > len(self._files):
            raise Malformed(f"{files} descriptors were promised, {len(self._files)} came")
        return [self._files.popleft() for _ in range(files)] if files else []

    # ---- writing -------------------------------------------------------------------------------------------------

    def send(self, message: Message) -> None:
        """Write it whole, on a blocking socket; `Closed` if nobody reads any more."""
        parts = message.parts()
        if len(parts) == 1 and not message.files:
            try:
                self.sock.sendall(parts[0])
            except OSError:
                raise Closed from None
            return
        self._enqueue(message, parts)
        while not self.flush():
            continue

    def post(self, message: Message) -> bool:
        """Write what the socket takes; False if some is left for `flush`. `Closed` if nobody reads any more."""
        parts = message.parts()
        if not self._out and len(parts) == 1 and not message.files:
            data = parts[0]
            try:
                size = self.sock.send(data, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                size = 0
            except OSError:
                raise Closed from None
            if size == len(data):
                return True
            self._out.append((memoryview(data)[size:], []))
            return False
        self._enqueue(message, parts)
        return self.flush()

    def _enqueue(self, message: Message, parts: list[Any] | None = None) -> None:
        files = message.files
        for part in message.parts() if parts is None else parts:
            self._out.append((memoryview(part).cast("B"), files))
            files = []

    def flush(self) -> bool:
        """Write what is left; True if that was all."""
        out = self._out
        while out:
            files = out[0][1]
            views = [out[0][0]]
            for view, others in list(out)[1:_IOV_MAX] if len(out) > 1 else ():
                if others:  # descriptors go with the first byte of their message
                    break
                views.append(view)
            rights = array.array("i", [buffer.file for buffer in files])
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if files else []
            try:
                size = self.sock.sendmsg(views, ancillary, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return False
            except OSError:
                raise Closed from None
            if files:
                out[0] = (out[0][0], [])
            while size:
                view = out[0][0]
                if size < view.nbytes:
                    out[0] = (view[size:], [])
                    break
                size -= view.nbytes
                out.popleft()
            while out and not out[0][0].nbytes:
                out.popleft()
        return True
