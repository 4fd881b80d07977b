"""Messages as bytes: what clients, brokers, nodes and children send each other.

A message is a head in msgpack and frames, which are large buffers as they lie in memory. ZeroMQ sends it as such. On a
stream socket it has a prefix (length of the head, number of frames, number of descriptors) and the lengths of the
frames before it, and descriptors of memory files come beside the first byte. Payloads are not opened here: in a head
one is its bytes, or its stream with a list of buffers, each by the place of its frame or descriptor in this message, or
by the hash of one that was announced before. What a join has gathered is a map with one entry, the list of its parts.
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec

from zmqtasks.blobs import FRAME_BYTES_MIN, Buffer, Packed, received
from zmqtasks.members import Gathered, Gone, Lapse
from zmqtasks.messages import FAILED, SUCCEEDED, UPSTREAM_FAILED, Accepted, Ask, Claim, Ended, Part, Value
from zmqtasks.options import Options
from zmqtasks.visit import Visit

PREFIX = struct.Struct("<IHH")
FILES_MAX = 200  # descriptors a message; the kernel takes 253
_FRAME, _FILE, _SHARED = range(3)
_LAPSE_FIELDS = 4

Functions = list[tuple[int, str, bytes | None]]  # number, name, bytes


class Group(msgspec.Struct, array_like=True, tag=1):
    """Single tasks of one function, first attempt, no options, with consecutive ids from `id` on."""

    fn: int
    id: int
    payloads: list[Any]


class Single(msgspec.Struct, array_like=True, tag=2):
    """Any other task, or a span: `count` items of its payload from `offset` on (0: no span)."""

    fn: int
    id: int
    payload: Any
    count: int
    offset: int
    attempt: int
    inputs: list[Any]
    options: Options | None


class Again(Single, array_like=True, tag=3):
    """A task that has failed before, `log` says how, or was running `deliveries` times when its worker was lost."""

    log: list[str]
    deliveries: int


class Joint(msgspec.Struct, array_like=True, tag=4):
    """A join, by its id: how many members, and what a failing one does; "closed" where it is `Closed`."""

    id: int
    count: int | None
    failure: str


class Blob(msgspec.Struct, array_like=True):
    """A buffer that later messages name by its hash."""

    digest: bytes
    buffer: Any


class Tasks(msgspec.Struct, array_like=True, tag="run"):
    """`Run` on the wire, numbered from `first` on; `functions` and `blobs` are new to the peer."""

    first: int
    entries: list[Group | Single | Again]
    functions: Functions
    blobs: list[Blob]


class Outcomes(msgspec.Struct, array_like=True, tag="done"):
    """`Done` on the wire."""

    first: int
    payloads: list[Any]
    failed: list[int]
    parts: list[Part]
    pace: list[tuple[int, int, float]]
    asks: list[Ask] = []
    died: list[tuple[int, int, int]] = []


class Yield(msgspec.Struct, array_like=True, tag="yield"):
    """Outcomes of a pipeline's worker for its sink."""

    pipeline: str
    parts: list[Part]


class Rest(msgspec.Struct, array_like=True, tag="returned"):
    """`Returned` on the wire."""

    rest: list[tuple[int, int, int]]
    died: list[tuple[int, int, int]] = []


class Stops(msgspec.Struct, array_like=True, tag="ends"):
    """`Ends` on the wire."""

    ends: list[Ended]


class Begun(msgspec.Struct, array_like=True, tag="running"):
    """`Running` on the wire."""

    leases: list[tuple[int, int]]


class Room(msgspec.Struct, array_like=True, tag="slots"):
    """`Slots` on the wire."""

    slots: int
    waiting: list[int] = []
    awaiting: list[int] = []


class Hello(msgspec.Struct, array_like=True, tag="hello"):
    """A child is ready."""

    pid: int


class Forget(msgspec.Struct, array_like=True, tag="forget"):
    """Blobs that will not be named again."""

    digests: list[bytes]


class Progress(msgspec.Struct, array_like=True, tag="progress"):
    """How far the running task is."""

    id: int
    done: float
    total: float | None
    message: str
    meta: dict[str, Any]


class Asked(msgspec.Struct, array_like=True, tag="asked"):
    """New tasks, with the ids that some need, and the outcomes among those that the sender knows already.

    `needs` are by the task's id. `functions` are new: (the peer's own number, name, bytes). `known` are (id, state,
    payload, index or -1). The others speak of so many neighbours from a place among `tasks` on: `members`
    (place, how many, join, index of the first), `roots` (place, how many, root), `quiet` (place, how many), of which
    nobody hears. `instead` and `more` are as in `Submit`; the values of the ids in `lent` are kept by the sender.
    """

    tasks: list[Group | Single | Joint]
    needs: dict[int, tuple[int, ...]]
    functions: Functions
    known: list[tuple[int, int, Any, int]]
    blobs: list[Blob]
    members: list[tuple[int, int, int, int]] = []
    roots: list[tuple[int, int, int]] = []
    quiet: list[tuple[int, int]] = []
    instead: dict[int, int] = {}
    more: bool = False
    lent: list[int] = []


class Values(msgspec.Struct, array_like=True, tag="told"):
    """`Told` on the wire; `known` as in `Asked`."""

    known: list[tuple[int, int, Any, int]]
    blobs: list[Blob]


class CancelAsked(msgspec.Struct, array_like=True, tag="cancel"):
    """A task's question: cancel one of its own; the answer is `CancelAnswer` with the same token."""

    id: int
    terminate: bool
    token: int | None
    count: int


class CancelAnswer(msgspec.Struct, array_like=True, tag="answer"):
    """The answer to `CancelAsked`."""

    id: int
    token: int
    cancelled: bool


class Settled(msgspec.Struct, array_like=True, tag="settled"):
    """Outcomes of tasks that this peer asked for.

    `runs` are values of single tasks at their first attempt, with consecutive ids: (first id, payloads). `outcomes` are
    all others: (id, count, state, attempt, payload). `taken` is as in `Taken`, -1 if there is no news of that.
    """

    runs: list[tuple[int, list[Any]]]
    outcomes: list[tuple[int, int, int, int, Any]]
    blobs: list[Blob]
    taken: int


class Fetched(msgspec.Struct, array_like=True, tag="fetched"):
    """The answer to `Fetch`: a span's outcome comes with the place of `id` in it. State 0: not settled, -1: unknown."""

    token: int
    state: int
    attempt: int
    payload: Any
    index: int
    blobs: list[Blob]


class Dropped(msgspec.Struct, array_like=True, tag="unwanted"):
    """`Unwanted` on the wire."""

    id: int


class Waits(msgspec.Struct, array_like=True, tag="waiting"):
    """`Waiting` on the wire."""

    on: int


class Signal(msgspec.Struct, array_like=True, tag="signal"):
    """A message without content, by its name."""

    name: str


Wire = (
    Tasks
    | Outcomes
    | Yield
    | Claim
    | Accepted
    | Rest
    | Stops
    | Room
    | Begun
    | Fetched
    | Visit
    | Hello
    | Forget
    | Progress
    | Asked
    | Values
    | Gone
    | CancelAsked
    | CancelAnswer
    | Settled
    | Dropped
    | Waits
    | Signal
)


_encode = msgspec.msgpack.Encoder().encode
_decode: Any = msgspec.msgpack.Decoder(Wire).decode


class Message:
    """A message on its way out: its head's object, and what goes beside it. `known` are the hashes the peer has.

    `afar`: the peer is on the other side of a network, and no descriptor can be sent there.
    """

    __slots__ = ("afar", "files", "frames", "head", "known", "new")

    def __init__(self, known: set[bytes] | None = None, *, afar: bool = False) -> None:
        self.afar = afar
        self.head: Any = None
        self.frames: list[Any] = []
        self.files: list[Buffer] = []
        self.known = known
        self.new: list[Blob] = []

    def payload(self, payload: Any) -> Any:
        """`payload` as it stands in the head."""
        if type(payload) is Packed:
            return [self._stream(payload.data), [self._buffer(buffer) for buffer in payload.buffers]]
        if type(payload) is Gathered:
            return {"": [self._member(value) for value in payload.values]}
        return payload if len(payload) < FRAME_BYTES_MIN else [self._stream(payload), []]

    def _member(self, value: Value | Lapse) -> Any:
        """A small value as its bytes; any other as (payload, index, how many); a lapse as (id, state, outcome, 0)."""
        if isinstance(value, Lapse):
            return value.id, value.state, self.outcome(value.state, value.payload), 0
        payload = self.payload(value.payload)
        return payload if value.index < 0 and type(payload) is bytes else (payload, value.index, value.count)

    def outcome(self, state: int, outcome: Any) -> Any:
        """An outcome as it stands in the head: a payload, a text, or the failure upstream, which nest."""
        if state in (SUCCEEDED, FAILED):
            return self.payload(outcome)
        if state == UPSTREAM_FAILED and isinstance(outcome, tuple):
            id_, of_state, of_outcome = outcome
            return id_, of_state, self.outcome(of_state, of_outcome)
        return outcome

    def _stream(self, data: bytes | bytearray | Buffer) -> Any:
        if isinstance(data, Buffer):
            return self._buffer(data)
        if len(data) < FRAME_BYTES_MIN:
            return data
        self.frames.append(data)
        return [_FRAME, len(data), b"", False, len(self.frames) - 1]

    def _buffer(self, buffer: Buffer) -> list[Any]:
        if buffer.digest and self.known is not None:
            if buffer.digest not in self.known:
                self.known.add(buffer.digest)
                self.new.append(Blob(buffer.digest, self._beside(buffer)))
            return [_SHARED, buffer.nbytes, buffer.digest, buffer.fixed, 0]
        return self._beside(buffer)

    def _beside(self, buffer: Buffer) -> list[Any]:
        if buffer.file >= 0 and len(self.files) < FILES_MAX and not self.afar:
            self.files.append(buffer)
            buffer.readers += 1
            return [_FILE, buffer.nbytes, b"", buffer.fixed, len(self.files) - 1]
        self.frames.append(buffer.view())
        return [_FRAME, buffer.nbytes, b"", buffer.fixed, len(self.frames) - 1]

    def mail(self) -> list[Any]:
        """What ZeroMQ sends, a frame each."""
        return [_encode(self.head), *self.frames]

    def parts(self) -> list[Any]:
        """What to write to a stream, in this order."""
        head = _encode(self.head)
        sizes = [memoryview(frame).nbytes for frame in self.frames]
        prefix = PREFIX.pack(len(head), len(sizes), len(self.files))
        if not sizes:
            return [prefix + head]
        return [prefix + struct.pack(f"<{len(sizes)}Q", *sizes) + head, *self.frames]


class Arrived:
    """A message as it came: `head` decoded, its payloads to be opened with `payload`."""

    __slots__ = ("_blobs", "_files", "_frames", "head")

    def __init__(
        self, head: bytes | memoryview, frames: list[Any], files: list[int], blobs: dict[bytes, Buffer]
    ) -> None:
        self.head = _decode(head)
        self._frames = frames
        self._files = files
        self._blobs = blobs

    def payload(self, value: Any) -> Any:
        """The payload that `value` in the head stands for."""
        if type(value) is list:
            stream, buffers = value
            data: Any = stream if type(stream) is bytes else self.buffer(stream)
            if isinstance(data, Buffer) and data.file < 0 and not data.digest:
                data = data.memory
            return Packed(data, [self.buffer(buffer) for buffer in buffers])
        if type(value) is dict:
            return Gathered([self._member(member) for member in value[""]])
        return value

    def _member(self, value: Any) -> Value | Lapse:
        if type(value) is bytes:
            return Value(value)
        if len(value) == _LAPSE_FIELDS:
            return Lapse(value[0], value[1], self.outcome(value[1], value[2]))
        payload, index, count = value
        return Value(self.payload(payload), index, count)

    def outcome(self, state: int, value: Any) -> Any:
        """The outcome that `value` in the head stands for."""
        if state in (SUCCEEDED, FAILED):
            return self.payload(value)
        if state == UPSTREAM_FAILED and isinstance(value, list):
            id_, of_state, of_value = value
            return id_, of_state, self.outcome(of_state, of_value)
        return value

    def buffer(self, value: list[Any], digest: bytes = b"") -> Buffer:
        """The buffer that `value` in the head stands for."""
        kind, nbytes, shared, fixed, place = value
        if kind == _SHARED:
            return self._blobs[shared]
        if kind == _FILE:
            file, self._files[place] = self._files[place], -1
            if file < 0:
                raise ValueError("a descriptor is named twice")
            return received(file, nbytes, digest, fixed=fixed)
        return Buffer(nbytes, memory=self._frames[place], digest=digest)
