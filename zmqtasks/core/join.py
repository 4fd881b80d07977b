"""Where outcomes go that others wait for.

An outcome has addresses besides its own future: slots. A slot is (join, index); a join counts its empty slots, and when
the last is filled its body is ready, with the values in their order. A failure is delivered to the same address, once,
and ends the join. Futures as arguments are slots of the task that takes them. The members of a group, of which there
may be a million, say themselves where they belong: to an `Assembly`, which is such a join too.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

from zmqtasks.core.assembly import Assembly
from zmqtasks.core.stand import Stand
from zmqtasks.messages import Task


class Join:
    """A body and the outcomes it waits for."""

    __slots__ = ("body", "missing", "values")

    def __init__(self, body: Task, slots: int) -> None:
        self.body = body
        self.missing = slots
        self.values: list[Any] = [None] * slots

    def fill(self, index: int, value: Any) -> bool:
        """Put `value` into a slot; True if it was the last: the body is released, once."""
        if self.missing <= 0:
            raise AssertionError(f"join of task {self.body.id} was filled after it was complete")
        self.values[index] = value
        self.missing -= 1
        return self.missing == 0

    def fork(self, body: Task) -> Join:
        """The same for another body: the values so far, and as many empty slots."""
        join = Join(body, len(self.values))
        join.missing, join.values = self.missing, list(self.values)
        return join


class Slot(NamedTuple):
    """The address of an outcome."""

    join: Join | Assembly | Stand
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls


Delivery = tuple[Slot, int, int, Any]  # slot, id of the task whose outcome it is, its state, value or reason
"""To an assembly what is delivered is its own end, made of those of its members."""


class Addresses:
    """The slots that wait, by the id of the task whose outcome they wait for."""

    def __init__(self) -> None:
        self._slots: dict[int, list[Slot]] = {}

    def __bool__(self) -> bool:
        return bool(self._slots)

    def add(self, id_: int, slot: Slot) -> None:
        """`slot` waits for task `id_`."""
        self._slots.setdefault(id_, []).append(slot)

    def fork(self, body: Task, parts: list[Task]) -> None:
        """`parts`, cut off `body`, wait for what it waits for."""
        joins: list[Join] = []
        for slots in self._slots.values():
            for join, index in list(slots):
                if join.body is body and isinstance(join, Join):
                    joins = joins or [join.fork(part) for part in parts]
                    slots += [Slot(fork, index) for fork in joins]

    def take(self, id_: int) -> list[Slot]:
        """The slots that wait for `id_`; they leave, so that an outcome is delivered once."""
        return self._slots.pop(id_, [])

    def take_span(self, id_: int, count: int) -> list[tuple[int, list[Slot]]]:
        """The same for ids `id_` to `id_ + count - 1`: (place in the span, slots)."""
        if count > len(self._slots):
            places = sorted(key - id_ for key in self._slots if id_ <= key < id_ + count)
        else:
            places = [place for place in range(count) if id_ + place in self._slots]
        return [(place, self._slots.pop(id_ + place)) for place in places]

    def waiting(self, id_: int) -> list[Slot]:
        """The slots that wait for `id_`."""
        return self._slots.get(id_, [])

    def ids(self) -> set[int]:
        """The ids that are waited for, for `check`."""
        return set(self._slots)

    def by_join(self) -> dict[int, int]:
        """How many slots wait of each join, by its body's id, for `check`."""
        return Counter(
            slot.join.body.id for slots in self._slots.values() for slot in slots if slot.join.body
        )
