"""Values that were pickled together, where one of them cannot be rebuilt: the others, and why that one cannot.

Python's own unpickler in C ends at the first error. Here the one in Python goes on: what an operation fails to make is
`Lost`, so is all that is made of that, and in the end some of the values are. It is slow, and used only after an error.

Not found is a value that holds a part of a lost one which was whole at that time, as two values may that share a list.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from zmqtasks.blobs import Buffer, Packed
from zmqtasks.payload import load


class Lost(NamedTuple):
    """What stands where a value should: why it cannot be had."""

    error: Exception


_Operation = Callable[[Any], None]

# By operation: how many it takes off the stack, or, of those that take all down to a mark, how many below that.
_TAKES = {
    **dict.fromkeys((pickle.TUPLE1,), 1),
    **dict.fromkeys((pickle.TUPLE2, pickle.REDUCE, pickle.NEWOBJ, pickle.BUILD), 2),
    **dict.fromkeys((pickle.APPEND, pickle.STACK_GLOBAL), 2),
    **dict.fromkeys((pickle.TUPLE3, pickle.NEWOBJ_EX, pickle.SETITEM), 3),
}
_TAKES_MARKED = {
    **dict.fromkeys((pickle.TUPLE, pickle.LIST, pickle.DICT, pickle.FROZENSET, pickle.OBJ), 0),
    **dict.fromkeys((pickle.APPENDS, pickle.SETITEMS, pickle.ADDITEMS), 1),
}
_FILLS = (pickle.BUILD, pickle.APPEND, pickle.APPENDS, pickle.SETITEM, pickle.SETITEMS, pickle.ADDITEMS)

_InPython: Any = vars(pickle)["_Unpickler"]  # Python's own tests rely on it too


class _Unpickler(_InPython):  # type: ignore[misc]  # it has no types
    """Puts a `Lost` where an operation fails, or is given one; but a list at the bottom takes all there is."""


def _tried(operation: _Operation, takes: int, *, marked: bool, fills: bool) -> _Operation:
    """The operation, which takes so many; `fills`: the first of them is what it makes, and may be known already."""

    def attempt(unpickler: Any) -> None:
        level = unpickler.metastack[-1] if marked else unpickler.stack
        depth = len(unpickler.metastack) - marked
        base = len(level) - takes
        given = [*level[base:], *(unpickler.stack if marked else ())]
        error = next((one.error for one in given if type(one) is Lost), None)
        if error is None or (depth == 0 and base == 0):
            try:
                operation(unpickler)
            except Exception as failure:  # noqa: BLE001 - whatever the user's classes do
                error = failure
            else:
                return
        del unpickler.metastack[depth:], level[base:]
        unpickler.stack, unpickler.append = level, level.append
        lost = Lost(error)
        for place, known in list(unpickler.memo.items()) if fills else ():
            if known is given[0]:
                unpickler.memo[place] = lost
        level.append(lost)

    return attempt


_Unpickler.dispatch = {
    **_InPython.dispatch,
    **{
        code[0]: _tried(_InPython.dispatch[code[0]], count, marked=marked, fills=code in _FILLS)
        for takes, marked in ((_TAKES, False), (_TAKES_MARKED, True))
        for code, count in takes.items()
    },
}


def load_each(payload: bytes | Packed) -> list[Any]:
    """The values of a list that was pickled; in the place of one that cannot be rebuilt a `Lost`, with the reason."""
    try:
        found: list[Any] = load(payload)
    except Exception:  # noqa: BLE001 - whatever the user's classes do
        if isinstance(payload, bytes):
            return values(payload, None)
        data = payload.data
        return values(
            data.map() if isinstance(data, Buffer) else data, [buffer.map() for buffer in payload.buffers]
        )
    return found


def values(stream: bytes | bytearray | memoryview, buffers: Iterable[Any] | None) -> list[Any]:
    """The values of a list that was pickled, a `Lost` in the place of each that cannot be had."""
    found: list[Any] = _Unpickler(io.BytesIO(stream), buffers=buffers).load()
    return found
