"""What a generator task leaves: its items, each pickled by itself, and the value that it returned.

All of it is the task's outcome, and a copy of the items is on its way while the task runs. So nothing hangs on those
copies: what was lost on the way, or came from an attempt that failed, is found in the outcome. Who asks for the
outcome alone gets the value, and opens no item.
"""

from __future__ import annotations

import threading
from typing import Any

from zmqtasks import payload as payloads
from zmqtasks.blobs import Packed

STREAM_BYTES_MAX = 64 << 20  # pickled items of one task

_local = threading.local()
_MARK = b"zmqtasks.streamed"
_MARKED_BYTES = 100


class Streamed:
    """A generator's value and items; where it is unpickled, it is the value."""

    __slots__ = ("items", "value")

    def __init__(self, value: Any, items: tuple[bytes, ...]) -> None:
        self.value = value
        self.items = items

    def __reduce__(self) -> Any:
        return _returned, (self.value, self.items)


def _returned(value: Any, items: tuple[bytes, ...]) -> Any:
    if getattr(_local, "wanted", False):
        _local.items = items
    return value


def is_streamed(outcome: Any) -> bool:
    """Whether that payload may have items."""
    return isinstance(outcome, Packed) or (isinstance(outcome, bytes) and _MARK in outcome[:_MARKED_BYTES])


def items_of(outcome: Any) -> tuple[bytes, ...] | None:
    """The items in a payload; None if it is no generator's."""
    _local.wanted, _local.items = True, None
    try:
        payloads.load(outcome)
        found: tuple[bytes, ...] | None = _local.items
        return found
    finally:
        _local.wanted, _local.items = False, None


def pack(value: Any) -> bytes:
    """An item."""
    if payloads.is_plain(value) and isinstance(plain := payloads.dump_result(value), bytes):
        return plain
    packed, _ = payloads.Pickler(None, None).pack(value)
    assert isinstance(packed, bytes), "in band"
    return packed
