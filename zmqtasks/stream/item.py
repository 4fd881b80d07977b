"""Items: values, and inputs that could not be read as any, which have their place among them and fail there."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

_BRIEF_MAX = 60

_encode = msgspec.json.Encoder().encode


class BadInput(NamedTuple):
    """What stands where an item should: `raw` is what was read, `line` the number of its first line from 1 on."""

    source: str
    line: int
    reason: str
    raw: bytes

    def __str__(self) -> str:
        return f"{self.source}, line {self.line}: {self.reason}"


def written(item: Any) -> bytes:
    """Return an item in JSON, as the lines of an output have it; of a `BadInput` what was read."""
    return _encode(readable(item.raw) if type(item) is BadInput else item)


def readable(text: bytes) -> str:
    r"""Return bytes as text: what is no UTF-8 in them is shown as \xNN, so that nothing of it is lost."""
    return text.decode("utf-8", "backslashreplace")


def brief(text: bytes) -> str:
    """Return what `written` gave in a few characters, for people."""
    shown = text.decode()
    return shown if len(shown) <= _BRIEF_MAX else f"{shown[:_BRIEF_MAX]}..."
