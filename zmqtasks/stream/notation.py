"""Notations: a result as the JSON value that stands in its line.

`json` takes what reading it back gives again, a tuple as a list: text, numbers, true and false, None, and lists and
dicts of them. All else has more than one form in JSON or none (bytes, sets, dates, NaN, NumPy's numbers): such a result
fails its input, and says where in it what is, rather than become something that the function did not return. Integers
are as long as they are. `repr` takes everything, as Python shows it; `pickle` what can be pickled, as base64.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from zmqtasks import payload
from zmqtasks.errors import NotJson, NotPicklable, text_of

Name = Literal["json", "repr", "pickle"]

_encode = msgspec.json.Encoder().encode
_EXACT = frozenset({str, int, bool, type(None)})  # what msgspec writes as it is, whatever its value
_TEXT = {str}
_DEPTH_MAX = 100
# Slower than msgspec by far, but it takes no more than JSON has; msgspec writes bytes, dates, sets and NaN too.
_strict = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def as_json(value: Any) -> bytes:
    """Return `value` in JSON, without spaces; a `NotJson` that names the culprit if it has no place there."""
    kind = type(value)
    try:
        if (
            kind in _EXACT
            or (kind is float and math.isfinite(value))
            or (kind is list and _EXACT.issuperset(map(type, value)))
            or (
                kind is dict
                and _TEXT.issuperset(map(type, value))
                and _EXACT.issuperset(map(type, value.values()))
            )
        ):
            return _encode(value)
        return _strict(value).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise NotJson(f"{_culprit(value)}: convert it, or have results as --result repr or pickle") from error


def as_repr(value: Any) -> bytes:
    """Return how Python shows `value`, as JSON text."""
    return _encode(repr(value).encode("utf-8", "backslashreplace").decode())


def as_pickle(value: Any) -> bytes:
    """Return `{"pickle": ...}` with base64 of what `pickle.loads` makes `value` of; a `NotPicklable` otherwise."""
    try:
        pickled = payload.dumps(value)
    except Exception as error:
        raise NotPicklable(f"the result cannot be pickled: {text_of(error)}") from error
    return b'{"pickle":"%b"}' % base64.b64encode(pickled)


NOTATIONS: dict[Name, Callable[[Any], bytes]] = {"json": as_json, "repr": as_repr, "pickle": as_pickle}


def _culprit(value: Any) -> str:
    """Say what in `value` JSON does not have, and where it is."""
    path = "the result"
    for _ in range(_DEPTH_MAX):
        inner = _bad_part(value)
        if inner is None:
            return f"{path} is {_described(value)}, which JSON does not have"
        value, step = inner
        path += step
    return "the result is nested too deeply, or holds itself"


def _bad_part(value: Any) -> tuple[Any, str] | None:
    """The first part of `value` that has no JSON, and how it is reached; None if it is `value` itself."""
    parts: list[tuple[Any, str]] = []
    if isinstance(value, dict):
        for key, part in value.items():
            parts += [(key, f" key {key!r:.60}"), (part, f"[{key!r:.60}]")]
            if not isinstance(key, str | int | float | None):
                return parts[-2]
    elif isinstance(value, list | tuple):
        parts = [(part, f"[{place}]") for place, part in enumerate(value)]
    for part, step in parts:
        try:
            _strict(part).encode()
        except (TypeError, ValueError, RecursionError):
            return part, step
    return None


def _described(value: Any) -> str:
    if isinstance(value, str):
        return "text with half a character (a lone surrogate)"
    if isinstance(value, float) and not math.isfinite(value):
        return f"the number {value}"
    if isinstance(value, int):
        return "a number of too many digits"
    kind = type(value)
    module = "" if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}."
    return f"of type {module}{kind.__qualname__}"
