"""Large buffers: out of the pickled stream, in shared memory where the system has it, named by their hash.

A buffer of 64 KiB or more leaves the stream and travels as a frame of its own. One over 1 MiB lies in an anonymous
shared memory file (memfd): it is copied once, when it is submitted (what a task gets is what was there at that
moment), and every process maps that copy privately, so that a task may write to its arrays and nobody else sees it.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import resource
import threading
import weakref
from collections import OrderedDict, deque
from typing import Any

import msgspec

from zmqtasks import files

FRAME_BYTES_MIN = 64 << 10  # a smaller buffer stays in the stream: a copy is cheaper than a frame
FILE_BYTES_MIN = 256 << 10  # from here on memory is shared: fewer copies than through a socket
BLOB_BYTES_MIN = (1 << 20) + 1  # a larger one is named by its hash
_READ_BYTES_MAX = 1 << 30  # what one read gives
_UNCOUNTED = 1 << 30  # readers: it is mapped, and nobody says when that is over
# Open memory files and mappings of them; beyond so many, buffers travel through the socket and are copied.
FILES_MAX = min(256, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)
RECENT_BYTES_MAX = 256 << 20  # what a client keeps of the blobs it sent last, in case they come again


class Buffer:
    """Bytes out of band. `memory` is None while they lie in the memory file `file`; `digest` names a shared one.

    `fixed`: they were read-only, and may come back as `bytes`. `made`: the file is of this process.
    """

    __slots__ = ("__weakref__", "_age", "digest", "file", "fixed", "made", "memory", "nbytes", "readers")

    files_open = 0  # of this process

    def __init__(
        self,
        nbytes: int,
        *,
        memory: Any = None,
        file: int = -1,
        digest: bytes = b"",
        fixed: bool = False,
        made: bool = False,
    ) -> None:
        self.nbytes = nbytes
        self.fixed = fixed
        self.memory = memory
        self.file = file
        self.digest = digest
        self.made = made
        self.readers = 0  # of its file: how many it was sent to
        if file >= 0:
            self._age = files.age
            Buffer.files_open += 1

    def __del__(self, *, close: Any = os.close) -> None:
        if self.file < 0:
            return
        type(self).files_open -= 1
        if self.fixed and not self.digest and self._age == files.age:
            if self.made and self.readers <= 1:
                files.keep(self.file, self.nbytes, sent=self.readers > 0)
                return
            if not (self.made or self.readers):
                files.let_go(self.file, self.nbytes)
        close(self.file)

    def view(self) -> Any:
        """Its bytes, to be read."""
        if self.file < 0:
            return self.memory
        self.readers = _UNCOUNTED
        return mmap.mmap(self.file, self.nbytes, prot=mmap.PROT_READ)

    def map(self) -> Any:
        """Its bytes, writable and the caller's own: a shared buffer is copied, by the page where it is written to."""
        if self.file < 0:
            return bytearray(self.memory) if self.digest else self.memory
        if self.fixed and self.nbytes < _READ_BYTES_MAX:
            return os.pread(self.file, self.nbytes, 0)  # as `bytes`, in one copy
        # A mapping holds a descriptor of its own for as long as the value lives.
        if Buffer.files_open >= FILES_MAX:
            return _read(self.file, self.nbytes)
        self.readers = _UNCOUNTED
        mapped = mmap.mmap(self.file, self.nbytes, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
        Buffer.files_open += 1
        weakref.finalize(mapped, _unmapped).atexit = False
        return mapped


def _unmapped() -> None:
    Buffer.files_open -= 1


def _read(file: int, nbytes: int) -> bytearray:
    """The bytes of a memory file; its offset is shared with its writer, and stands at the end."""
    memory = bytearray(nbytes)
    view, done = memoryview(memory), 0
    while done < nbytes and (size := os.preadv(file, [view[done:]], done)):
        done += size
    if done < nbytes:
        raise EOFError(f"a memory file of {nbytes:,} bytes ends after {done:,}")
    return memory


def received(file: int, nbytes: int, digest: bytes, *, fixed: bool) -> Buffer:
    """A buffer that another process sent as a memory file; copied into memory where too many are open already."""
    buffer = Buffer(nbytes, file=file, digest=digest, fixed=fixed)
    if Buffer.files_open <= FILES_MAX:
        return buffer
    return Buffer(nbytes, memory=_read(file, nbytes), digest=digest, fixed=fixed)


def hold(view: memoryview, digest: bytes = b"") -> Buffer:
    """Keep the bytes of `view` as they are now: those of a `bytes` by reference, others copied."""
    file = -1
    if view.nbytes >= FILE_BYTES_MIN and Buffer.files_open < FILES_MAX:
        file = files.another(used=view.readonly and not digest)
    if file < 0:
        return Buffer(
            view.nbytes, memory=view if isinstance(view.obj, bytes) else bytearray(view), digest=digest
        )
    try:
        files.fill(file, view)
    except OSError as error:
        os.close(file)
        raise MemoryError(f"no shared memory for {view.nbytes:,} bytes: {error}") from error
    return Buffer(view.nbytes, file=file, digest=digest, fixed=view.readonly, made=True)


class Packed(msgspec.Struct):
    """A pickled stream with its out-of-band buffers; `len()` is all of its bytes."""

    data: bytes | bytearray | Buffer
    buffers: list[Buffer]

    def __len__(self) -> int:
        size = self.data.nbytes if isinstance(self.data, Buffer) else len(self.data)
        return size + sum(buffer.nbytes for buffer in self.buffers)

    @property
    def weight(self) -> int:
        """The bytes that are sent each time: not those of buffers that are named by their hash."""
        size = (
            len(self.data)
            if not isinstance(self.data, Buffer)
            else 0
            if self.data.digest
            else self.data.nbytes
        )
        return size + sum([buffer.nbytes for buffer in self.buffers if not buffer.digest])


def stream_of(payload: bytes | Packed) -> bytes | bytearray | memoryview:
    """The stream of a payload, without the buffers."""
    if isinstance(payload, bytes):
        return payload
    return payload.data.view() if isinstance(payload.data, Buffer) else payload.data


class Shelf:
    """The buffers of a client that travel once: by hash, the last ones kept for the next submit."""

    def __init__(self) -> None:
        self._by_digest: weakref.WeakValueDictionary[bytes, Buffer] = weakref.WeakValueDictionary()
        self._recent: OrderedDict[bytes, Buffer] = OrderedDict()
        self.gone: deque[bytes] = deque()  # hashes of what is held no more
        self._bytes = 0
        self._lock = threading.Lock()

    def hold(self, view: memoryview) -> Buffer:
        """The buffer of these bytes, the same object as long as one with the same bytes is about."""
        return hold(view) if view.nbytes < BLOB_BYTES_MIN else self.hold_always(view)

    def hold_always(self, data: bytes | bytearray | memoryview) -> Buffer:
        """The same, for bytes of any size."""
        view = memoryview(data).cast("B")
        digest = hashlib.sha256(view).digest()
        with self._lock:
            buffer = self._by_digest.get(digest)
            if buffer is None:
                buffer = hold(view, digest)
                self._by_digest[digest] = buffer
                weakref.finalize(buffer, self.gone.append, digest).atexit = False
            self._keep(buffer)
        return buffer

    def reset_lock(self) -> None:
        """After a fork: whoever held it is not here."""
        self._lock = threading.Lock()

    def take_gone(self) -> set[bytes]:
        """The hashes of what has gone since the last call."""
        return {self.gone.popleft() for _ in range(len(self.gone))} if self.gone else set()

    def clear(self) -> None:
        """Keep nothing in case it comes again."""
        with self._lock:
            self._recent.clear()
            self._bytes = 0

    def _keep(self, buffer: Buffer) -> None:
        recent = self._recent
        if buffer.digest in recent:
            recent.move_to_end(buffer.digest)
            return
        recent[buffer.digest] = buffer
        self._bytes += buffer.nbytes
        while self._bytes > RECENT_BYTES_MAX:
            _, old = recent.popitem(last=False)
            self._bytes -= old.nbytes
