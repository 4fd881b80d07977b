"""What the options of several commands have in common: the options themselves, and how their text is read.

`timeout: Annotated[float, typer.Option(parser=duration, metavar="DURATION", help="...")] = 30.0`
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer

from zmqtasks.errors import UnusableKey
from zmqtasks.units import bytes_of, seconds_of

if TYPE_CHECKING:
    from zmqtasks.keys import KeyStore

__all__ = [
    "BROKER",
    "AsJson",
    "Broker",
    "Debug",
    "KeyFile",
    "Level",
    "LogLevel",
    "ServerKey",
    "ShutdownTimeout",
    "TaskId",
    "address",
    "bind_address",
    "duration",
    "json_object",
    "json_or_text",
    "names",
    "pairs",
    "size",
    "store_of",
]

BROKER = "tcp://127.0.0.1:5555"
"""Where a broker listens, and is looked for, unless somebody says otherwise."""

PORT_MAX = 65535
SERVER_KEY = "server.key"

Value = TypeVar("Value", int, float, str, dict[str, Any])


# ---- how text is read -------------------------------------------------------------------------------------------


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


def address(value: str) -> str:
    """Read where a broker is: "tcp://host:5555" or "ipc://path"."""
    return _read(_address, value)


def bind_address(value: str) -> str:
    """Read where to listen: as `address`, with '*' for any host or any free port."""
    return _read(lambda text: _address(text, free=True), value)


def names(texts: Iterable[str] | None) -> list[str]:
    """Return the names in texts such as "a,b", in their order."""
    return [name for text in texts or () for part in text.split(",") if (name := part.strip())]


def pairs(texts: Iterable[str] | None) -> dict[str, str]:
    """Return the values by name of texts such as "name=value"."""
    found = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise typer.BadParameter(f"{text!r} is not NAME=VALUE")
        found[name] = value
    return found


def _address(text: str, *, free: bool = False) -> str:
    scheme, _, rest = text.partition("://")
    if scheme == "ipc" and rest:
        return text
    host, _, port = rest.rpartition(":")
    known = re.fullmatch(r"[\w.%-]+|\[[0-9A-Fa-f:.%\w]+\]", host) or (free and host == "*")
    if scheme == "tcp" and known:
        if (port.isascii() and port.isdecimal() and 0 < int(port) <= PORT_MAX) or (
            free and port in ("*", "0")
        ):
            return text
        raise ValueError(f"{text!r} has no port from 1 to {PORT_MAX}, as tcp://{host}:5555 has")
    meant = re.fullmatch(r"([\w.-]+)(:\d+)?", text)
    six = re.fullmatch(r"(?:tcp://)?([0-9A-Fa-f]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f.]*)", text)
    if meant:
        hint = f", did you mean 'tcp://{meant[1]}{meant[2] or ':5555'}'?"
    elif six:
        hint = ": IPv6 stands in brackets, as in tcp://[::1]:5555"
    else:
        hint = ", such as tcp://host:5555"
    raise ValueError(f"{text!r} is no address{hint}")


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


def store_of(server_key: Path | None) -> KeyStore:
    """The keys that a server with this key file admits; this user's own without one."""
    from zmqtasks.keys import KeyStore

    if server_key is None:
        return KeyStore()
    if server_key.name != SERVER_KEY:
        raise UnusableKey(f"{server_key} is no server's key: zmqtasks keys init makes a {SERVER_KEY}")
    store = KeyStore(server_key.absolute().parent)
    store.server()  # or it is said at once that there is none
    return store


# ---- the options ------------------------------------------------------------------------------------------------


class Level(StrEnum):
    """From where on what is logged is shown."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


AsJson = Annotated[bool, typer.Option("--json", envvar="ZMQTASKS_JSON", help="Print JSON.")]
Broker = Annotated[
    str,
    typer.Option(
        "--broker", parser=address, metavar="ADDRESS", envvar="ZMQTASKS_BROKER", help="Where the broker is."
    ),
]
Debug = Annotated[
    bool, typer.Option("--debug", envvar="ZMQTASKS_DEBUG", help="Show the traceback of an error.")
]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--key",
        metavar="FILE",
        envvar="ZMQTASKS_KEY",
        help="A key file that the broker knows; by default this user's own.",
        show_default=False,
    ),
]
ServerKey = Annotated[
    Path | None,
    typer.Option(
        "--key",
        metavar="FILE",
        help="The server.key of other keys than this user's own: those beside it are admitted.",
        show_default=False,
    ),
]
LogLevel = Annotated[
    Level,
    typer.Option(
        "--log-level", metavar="LEVEL", help="What is said: debug, info, warning or error and above."
    ),
]
ShutdownTimeout = Annotated[
    float,
    typer.Option(
        "--shutdown-timeout",
        parser=duration,
        metavar="DURATION",
        help="How long to wait after TERM or Ctrl-C: a worker for what runs, a broker for what is queued too.",
        show_default="30s",
    ),
]
TaskId = Annotated[str, typer.Argument(metavar="ID", help="As `zmqtasks submit` printed it.")]
