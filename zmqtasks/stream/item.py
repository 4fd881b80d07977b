"""Inputs that could not be read as what they should be: they have their place among the items, and fail there."""

from __future__ import annotations

from typing import NamedTuple


class BadInput(NamedTuple):
    """What stands where an item should: `raw` is what was read, `line` the number of its first line from 1 on."""

    source: str
    line: int
    reason: str
    raw: bytes

    def __str__(self) -> str:
        return f"{self.source}, line {self.line}: {self.reason}"
