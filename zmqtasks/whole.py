"""What picklers that know nothing of this package take in one piece: tasks and apps of the main module."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, SupportsIndex

from zmqtasks import payload as payloads
from zmqtasks.named import Named

# Whether cloudpickle is at it, which knows functions.
_packing: ContextVar[bool] = ContextVar("zmqtasks_packing", default=False)


class Whole(Named):
    """In another module than the main one it goes by its name; there a task hides its function from `pickle`."""

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[Any, ...]:
        reduced = super().__reduce_ex__(protocol)
        if isinstance(reduced, str) or _packing.get():
            return reduced
        token = _packing.set(True)
        try:
            return payloads.loads, (payloads.dumps(self),)
        finally:
            _packing.reset(token)
