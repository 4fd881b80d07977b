"""How commands read the text of an option or argument: durations, sizes, JSON.

`timeout: Annotated[float, typer.Option(parser=duration, metavar="DURATION", help="...")] = 30.0`
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, TypeVar

import typer

from zmqtasks.units import bytes_of, seconds_of

__all__ = ["duration", "json_object", "json_or_text", "size"]

Value = TypeVar("Value", int, float, dict[str, Any])


def duration(value: str | float) -> float:
    """Read seconds out of "90", "1.5s" or "1h30m"."""
    return _read(seconds_of, value)


def size(value: str | int) -> int:
    """Read bytes out of "4096", "500M" or "1.5G"."""
    return _read(bytes_of, value)


def json_object(value: str | dict[str, Any]) -> dict[str, Any]:
    """Read keyword arguments out of a JSON object."""
    return _read(_object, value)


def json_or_text(texts: Iterable[str]) -> list[Any]:
    """Return each text as the value that it is in JSON, and where it is no JSON as itself: '1' is 1, 'one' 'one'."""
    return [_json_or_text(text) for text in texts]


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return text


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{text!r} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f'{text!r} is no JSON object, such as {{"name": 1}}')  # noqa: TRY004 - as all that is read here
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not in JSON")


def _read(parse: Callable[[str], Value], value: str | Value) -> Value:
    """Parse what was written; a default is a value already."""
    if not isinstance(value, str):
        return value
    try:
        return parse(value)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
