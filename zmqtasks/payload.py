"""Pickling: what users send and get, as bytes and buffers. The only place that opens them.

A call is pickled as its tuple of arguments, or `[args, kwargs]`, or `[args, kwargs, function]` where the function
travels with it; a span as `(star, items)` or `(star, items, function)`.
"""

from __future__ import annotations

import concurrent.futures
import functools
import io
import pickle
import threading
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any, SupportsIndex, TypeVar

import cloudpickle

from zmqtasks import errors
from zmqtasks.blobs import FRAME_BYTES_MIN, Buffer, Packed, hold
from zmqtasks.errors import ForeignFuture, RemoteError, ZmqTasksError, text_of, type_name
from zmqtasks.installed import is_installed
from zmqtasks.members import Gathered, Lapse
from zmqtasks.messages import CANCELLED, DEAD, EXPIRED, FACE, FAILED, FULL, GONE, LATE, UPSTREAM_FAILED, Loss
from zmqtasks.named import Named


class First:
    """Among a call's arguments: its first input."""

    def __reduce__(self) -> Any:
        return _input, (0,)


ATOMS = frozenset({int, float, bool, str, bytes, complex, type(None)})
_SHORT = ATOMS - {bytes, str} | {First}  # whatever their value
_dumps = pickle.dumps
loads = pickle.loads  # of what is known to be plain bytes
# Beyond this even an atom goes the long way, which looks for what can travel out of band.
_PLAIN_BYTES_MAX = 32 << 10
Payload = bytes | Packed


class _Bytes:
    """Marks large `bytes` or `bytearray` to be pickled out of band, to come back as what they were."""

    __slots__ = ("value",)

    def __init__(self, value: bytes | bytearray) -> None:
        self.value = value

    def __reduce_ex__(self, _protocol: SupportsIndex) -> tuple[Any, ...]:
        return type(self.value), (pickle.PickleBuffer(self.value),)


def out_of_band(value: Any) -> Any:
    """`value`, marked if it is large bytes."""
    return _Bytes(value) if type(value) in (bytes, bytearray) and len(value) >= FRAME_BYTES_MIN else value


class Sealed:
    """A payload on its way through a task's arguments: it is opened where somebody calls `load` with its `payload`."""

    __slots__ = ("payload",)

    def __init__(self, payload: Payload) -> None:
        self.payload = payload

    def __reduce_ex__(self, _protocol: SupportsIndex) -> tuple[Any, ...]:
        if isinstance(self.payload, bytes):
            return Sealed, (out_of_band(self.payload),)
        data = self.payload.data
        stream = bytes(data.view()) if isinstance(data, Buffer) else bytes(data)
        views = [pickle.PickleBuffer(buffer.view()) for buffer in self.payload.buffers]
        return _sealed, (out_of_band(stream), views)


def _sealed(stream: bytes, views: list[Any]) -> Sealed:
    return Sealed(Packed(stream, [Buffer(memoryview(view).nbytes, memory=view) for view in views]))


# A class that is pickled by value exists once here and as a copy there. Its instances come home with the copy's bytes
# and its id, and the id is looked up first: they are of the very class that was sent.
_HOME: dict[str, type] = {}  # by id: the classes that this process sent away
_HOME_CLASSES: set[type] = set()
# By class: the ids of those that came, and of those that went.
_TRACKED = cloudpickle.cloudpickle._DYNAMIC_CLASS_TRACKER_BY_CLASS
_packed_classes: dict[type, bytes] = {}


def _class_from(id_: str, data: bytes) -> type:
    """The class of that id: the original, or a copy that came before, or a new copy."""
    cls = _HOME.get(id_) or cloudpickle.cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.get(id_)
    return cls if cls is not None else cloudpickle.loads(data)


def _packed_class(cls: type) -> bytes:
    data = _packed_classes.get(cls)
    if data is None:
        stream = io.BytesIO()
        _Pickler(stream, protocol=5).dump(cls)
        data = _packed_classes[cls] = stream.getvalue()
    return data


_CACHED: Any = functools._lru_cache_wrapper
_NAMED = frozenset({FunctionType, TypeVar})  # pickled by their names, as classes are


def _cached(fn: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    return functools.lru_cache(**parameters)(fn)


def _place(obj: Any) -> Any:
    """The module in which `obj` is found, and under which name; None if it is in none but the main one."""
    name = obj.__name__ if isinstance(obj, TypeVar) else None  # it has no other
    return cloudpickle.cloudpickle._lookup_module_and_qualname(obj, name=name)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle ships no types
    """cloudpickle's, with what it leaves out: the slots of a class, and `functools.cache` around what goes by value."""

    _by_value = False

    def _is_at_home(self, obj: Any) -> bool:
        """Whether the other side finds `obj` in its module."""
        return _place(obj) is not None

    def reducer_override(self, obj: Any) -> Any:
        """Called for everything that is not of a built-in type."""
        kind = type(obj)
        if isinstance(obj, Named):
            return obj.__qualname__ if self._is_at_home(obj) else obj.parts()
        if kind is _CACHED and not self._is_at_home(obj):
            return _cached, (obj.__wrapped__, obj.cache_parameters())
        reduced = super().reducer_override(obj)
        if reduced is NotImplemented and self._by_value and (kind in _NAMED or isinstance(obj, type)):
            reduced = self._away(obj)
        if isinstance(obj, type) and type(reduced) is tuple and obj.__dict__.get("__slots__"):
            make, arguments = reduced[:2]
            if make is cloudpickle.cloudpickle._make_skeleton_class:  # an instance's state depends on them
                arguments[3]["__slots__"] = obj.__dict__["__slots__"]
        return reduced

    def _away(self, obj: Any) -> Any:
        """By value what the other side does not find, though it is found here."""
        if self._is_at_home(obj):
            return NotImplemented
        if isinstance(obj, FunctionType):
            return self._dynamic_function_reduce(obj)
        if isinstance(obj, TypeVar):
            return cloudpickle.cloudpickle._make_typevar, cloudpickle.cloudpickle._decompose_typevar(obj)
        return cloudpickle.cloudpickle._dynamic_class_reduce(obj)


class _Out:
    """Where a pickler writes; apart from it, so that no cycle keeps what was pickled."""

    __slots__ = ("buffers", "chunks", "hold")

    def __init__(self, hold: Callable[[memoryview], Buffer] | None) -> None:
        self.hold = hold
        self.chunks: list[bytes] = []
        self.buffers: list[Buffer] = []

    def write(self, chunk: bytes) -> None:
        self.chunks.append(chunk)

    def take(self, pickled: pickle.PickleBuffer) -> bool:
        view = pickled.raw()
        if self.hold is None or view.nbytes < FRAME_BYTES_MIN:
            return True  # in band
        self.buffers.append(self.hold(view))
        return False


class Pickler(_Pickler):
    """cloudpickle's, with buffers out of band, futures as inputs, and classes that know their way home.

    `host` is what the futures that may travel belong to (None: no future may); `hold(view)` keeps a large buffer (None:
    all are in band).
    `by_value`: functions and classes of modules that are not installed travel as those of the main module do.
    """

    def __init__(
        self, host: object, hold: Callable[[memoryview], Buffer] | None, *, by_value: bool = False
    ) -> None:
        self._host = host
        self._by_value = by_value
        self._needs: list[Any] = []
        self._out = _Out(hold)
        super().__init__(self._out, protocol=5, buffer_callback=self._out.take)

    def pack(self, value: Any) -> tuple[Payload, list[Any]]:
        """Pickle `value`: its payload, and the futures in it, which stand as inputs there."""
        out, needs = self._out, self._needs
        try:
            self.dump(value)
            chunks = out.chunks
            data = bytes(chunks[0]) if len(chunks) == 1 else b"".join(chunks)
            return (Packed(data, out.buffers) if out.buffers else data), needs
        finally:
            # Nothing of what was pickled is kept until the next call.
            self.clear_memo()
            self.globals_ref: dict[Any, Any] = {}
            out.chunks, out.buffers, self._needs = [], [], []

    def reducer_override(self, obj: Any) -> Any:
        """Called for everything that is not of a built-in type."""
        if isinstance(obj, type):
            if obj not in _HOME_CLASSES and (id_ := _TRACKED.get(obj)) is not None:
                return _class_from, (id_, _packed_class(obj))
            reduced = super().reducer_override(obj)
            if type(reduced) is tuple and len(reduced) > 2 and obj not in _HOME_CLASSES:
                _HOME[cloudpickle.cloudpickle._get_or_create_tracker_id(obj)] = obj
                _HOME_CLASSES.add(obj)
            return reduced
        if isinstance(obj, concurrent.futures.Future):
            return _input, (self._need(obj),)
        return super().reducer_override(obj)

    def _is_at_home(self, obj: Any) -> bool:
        if not self._by_value:
            return super()._is_at_home(obj)
        found = _place(obj)
        return found is not None and is_installed(found[0].__name__)

    def _need(self, future: Any) -> int:
        if self._host is None:
            raise ForeignFuture("a future cannot travel here: its result can")
        if getattr(future, "host", None) is not self._host:
            raise ForeignFuture(
                f"{future!r} among the arguments is of another client: pass its result instead"
            )
        if future not in self._needs:
            self._needs.append(future)
        return self._needs.index(future)


_local = threading.local()


def dump_plain(args: tuple[Any, ...]) -> bytes | None:
    """Arguments that are all plain; None if there are others, or if they are large together."""
    for arg in args:
        if type(arg) not in _SHORT and not is_plain(arg):
            return None
    payload = _dumps(args, 5)
    return payload if len(payload) < _PLAIN_BYTES_MAX else None


def is_plain(value: Any) -> bool:
    """Whether `value` is an atom too short to travel out of band."""
    kind = type(value)
    return kind in _SHORT or (kind in (bytes, str) and len(value) < _PLAIN_BYTES_MAX)


def dump_result(value: Any) -> Payload:
    """A task's value as its payload."""
    if is_plain(value):
        return _dumps(value, 5)
    pickler = getattr(_local, "pickler", None)
    if pickler is None:
        pickler = _local.pickler = Pickler(None, hold)
    return pickler.pack(out_of_band(value))[0]


def dumps(value: Any) -> bytes:
    """`value` in one piece, which `pickle.loads` takes in any program that has cloudpickle."""
    return bytes(cloudpickle.dumps(value))


# ---- loading ----------------------------------------------------------------------------------------------------


def _input(index: int) -> Any:
    return _local.inputs[index]


def load(payload: Payload | Gathered, inputs: list[Any] | None = None, cluster_id: str = "") -> Any:
    """What was pickled; `inputs` stand where futures stood. `cluster_id`: where a join's members have their ids."""
    if inputs is not None:
        _local.inputs = inputs
    try:
        if isinstance(payload, bytes):
            return pickle.loads(payload)
        if isinstance(payload, Gathered):
            return list(_gathered(payload, cluster_id))
        data = payload.data
        stream: Any = data.map() if isinstance(data, Buffer) else data
        return pickle.loads(stream, buffers=[buffer.map() for buffer in payload.buffers])
    finally:
        if inputs is not None:
            _local.inputs = None


def _gathered(payload: Gathered, cluster_id: str) -> Iterator[Any]:
    for value in payload.values:
        if isinstance(value, Lapse):
            yield error_of(value.state, value.payload, f"{cluster_id}-{value.id}", cluster_id)
        elif value.index < 0:
            yield load(value.payload, cluster_id=cluster_id)
        else:
            yield from load(value.payload, cluster_id=cluster_id)[value.index : value.index + value.count]


_NOTE = "In the worker, task"


# ---- exceptions -------------------------------------------------------------------------------------------------


def dump_error(error: BaseException, traceback: str, task: str) -> bytes:
    """An exception as the payload of a failed task: itself if it can be rebuilt, and its type and text in any case."""
    packed: Payload | None = None
    if isinstance(error, Exception):  # SystemExit and its like must not be raised elsewhere
        try:
            packed = bytes(cloudpickle.dumps(error))
            if type(pickle.loads(packed)) is not type(error):
                packed = None
            elif type(error) in _TRACKED:
                packed, _ = Pickler(None, hold).pack(error)  # of a class that knows its way home
        except BaseException:  # noqa: BLE001 - whatever its class does while it is pickled or rebuilt
            packed = None
    return pickle.dumps(
        (task, type_name(error), text_of(error), traceback, packed if type(packed) is bytes else None)
    )


def load_error(payload: Payload) -> BaseException:
    """The exception of a failed task, with the worker's traceback in its notes."""
    task, name, message, traceback, packed = load(payload)
    error: BaseException | None = None
    if packed is not None:
        try:
            error = pickle.loads(packed)
        except Exception:  # noqa: BLE001 - a class that only the worker can rebuild
            error = None
    if not isinstance(error, BaseException):
        error = RemoteError(name, message, traceback)
    error.add_note(f"{_NOTE} {task}:\n{traceback.rstrip()}")
    return error


def take_notes(error: BaseException) -> list[str]:
    """Take off the notes that `load_error` put on: an error that goes through many tasks has each one's note once."""
    notes = getattr(error, "__notes__", None)
    if not isinstance(notes, list):
        return []
    taken = [note for note in notes if isinstance(note, str) and note.startswith(_NOTE)]
    notes[:] = [note for note in notes if note not in taken]
    return taken


REFUSED: dict[str, type[ZmqTasksError]] = {
    FULL: errors.QueueFull,
    LATE: errors.ResultExpired,
    str(GONE): errors.BrokerLost,
}
"""Reasons of tasks that the dispatcher has ended though nobody cancelled them: to their futures they failed."""


def is_refusal(outcome: Any) -> bool:
    """Whether a task with this outcome was ended by whoever had it, and not by anybody's wish."""
    return type(outcome) is Loss or (type(outcome) is str and outcome in REFUSED)


def error_of(state: int, outcome: Any, id_: str, cluster_id: str) -> BaseException:
    """The exception of a task that ended in `state`."""
    if is_refusal(outcome):
        kind = errors.BrokerLost if type(outcome) is Loss else REFUSED[outcome]
        return kind(f"task {id_}: {outcome}")
    if state == FAILED and isinstance(outcome, str):  # nobody was left to raise anything
        reason, *log = outcome.split("\n")
        exceeded = errors.TimeLimitExceeded(f"task {id_}: {reason}")
        for line in log:
            exceeded.add_note(line)
        return exceeded
    if isinstance(outcome, Gathered):
        lapses = load(outcome, cluster_id=cluster_id)
        return BaseExceptionGroup(f"task {id_}: {len(lapses)} of its members failed", lapses)
    if state == FAILED:
        return load_error(outcome)
    if state == EXPIRED:
        return errors.TaskExpired(f"task {id_}: {outcome}")
    if state == DEAD:
        return errors.WorkerLost(
            f"task {id_} was running when its worker process ended, too often: {outcome}"
        )
    if state == CANCELLED:
        return errors.TaskCancelled(f"task {id_}: {outcome}")
    of, of_state, of_outcome = outcome
    of_id = f"{cluster_id}-{of}"
    is_lost = of_state == UPSTREAM_FAILED and isinstance(of_outcome, str)
    how = f": {of_outcome}" if is_lost else f", which ended {FACE[of_state]}"
    error = errors.UpstreamFailed(f"task {id_} never ran: it waited for task {of_id}{how}")
    if not is_lost:
        error.__cause__ = error_of(of_state, of_outcome, of_id, cluster_id)
    return error
