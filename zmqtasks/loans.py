"""Words about values that a submit names and does not bring: `core/loans.py` has what is said about them, and when."""

from __future__ import annotations

from typing import Any

import msgspec

from zmqtasks.messages import SUCCEEDED
from zmqtasks.weight import weight

LIGHT_BYTES_MAX = 1024
"""A value up to here goes along with the submit that needs it.

What a submit says of a task takes some hundred bytes, so this much beside it is hardly felt on any wire; a value that
was to be asked for would cost a round trip, and kept for that it takes 300 bytes of the broker beside its own. What is
longer costs more each time it goes up than it costs to be named, and it is seldom not there.
"""

LAPSED = "its value is gone with the one who had it"


class Lacks(msgspec.Struct, array_like=True, tag="lacks"):
    """To a lender: tasks wait for the values of these."""

    ids: list[int]


class Told(msgspec.Struct):
    """The answer to `Lacks`: outcomes as in a submit's `known`."""

    known: dict[int, tuple[int, Any]]


def is_light(outcome: tuple[int, Any]) -> bool:
    """Whether an outcome goes along with the submit that needs it: a failure does, and a small value."""
    state, value = outcome
    return state != SUCCEEDED or weight(value.payload) <= LIGHT_BYTES_MAX
