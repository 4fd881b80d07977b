"""What a join is told of its members, and what it makes of their outcomes."""

from __future__ import annotations

from typing import Any

import msgspec

from zmqtasks.messages import Value
from zmqtasks.weight import weight


class Lapse(msgspec.Struct, frozen=True, gc=False):
    """A member that has not succeeded, in its place among the others."""

    id: int
    state: int
    payload: Any


class Gathered:
    """A join's value, a payload like any other: outcomes side by side, as they came; opened it is a list.

    Each is a `Value`, whose payload may be another's `Gathered`, or a `Lapse`, which becomes its exception.
    """

    __slots__ = ("_weight", "depth", "nbytes", "values")

    def __init__(self, values: list[Value | Lapse]) -> None:
        self.values = values
        self._weight = -1
        self.depth = 1 + max(
            [_depth(value.payload) for value in values if type(value.payload) in _DEEP], default=0
        )
        self.nbytes = sum([len(value.payload) for value in values if type(value) is Value])

    def __len__(self) -> int:
        return self.nbytes

    @property
    def weight(self) -> int:
        """As that of any payload."""
        if self._weight < 0:
            self._weight = sum([weight(value.payload) for value in self.values if type(value) is Value])
        return self._weight

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Gathered) and self.values == other.values

    __hash__ = None  # type: ignore[assignment]  # it holds what cannot be hashed

    def __repr__(self) -> str:
        return f"Gathered({self.values})"


_DEEP = (Gathered, tuple)


def _depth(payload: Any) -> int:
    """How many lists are within lists; the failure upstream has that of its payload."""
    while type(payload) is tuple:
        payload = payload[-1]
    return payload.depth if type(payload) is Gathered else 0


class Members(msgspec.Struct, frozen=True, gc=False):
    """The payload of a join: how many members it has (None: it is open, `Closed` will say), what a failing one does.

    `failure`: "fail_fast", "wait", "collect", or "catch": then it waits for what it needs to fail.
    """

    count: int | None
    failure: str = "fail_fast"


class Closed(msgspec.Struct, frozen=True, gc=False):
    """The open join `id` has `count` members and no more.

    Where it has to come behind tasks, it travels as the payload of one with the `fn` JOIN, which is none itself.
    """

    id: int
    count: int


class Gone(msgspec.Struct, frozen=True, array_like=True, tag="gone"):
    """Whoever has the `count` ids from `first` on submits no more: joins among these get no further members."""

    first: int
    count: int
