"""Tasks that have another one's outcome for their own: what they have submitted takes their place."""

from __future__ import annotations

from typing import Any

from zmqtasks.members import Gathered
from zmqtasks.messages import SUCCEEDED, Task


class Stand:
    """`by` was submitted by the running task `id`, to end in its place.

    Until that task has said so itself, `body` is None, and if `by` has ended before, its `outcome` is kept here.
    """

    __slots__ = ("body", "by", "id", "outcome")

    def __init__(self, by: int, id_: int) -> None:
        self.by = by
        self.id = id_
        self.body: Task | None = None
        self.outcome: tuple[int, Any] | None = None  # as a need's: a value, or why there is none

    def payload(self, state: int, value: Any) -> Any:
        """What `body` ends with, where `by` has ended with `value`."""
        if state != SUCCEEDED:
            return value
        if value.index >= 0 or (self.body is not None and self.body.span):  # the values of a span are a list
            return Gathered([value])
        return value.payload
