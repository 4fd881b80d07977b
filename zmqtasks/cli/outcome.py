"""How a task ended, for people and for programs: its value, or in one line why there is none."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from zmqtasks import payload as payloads
from zmqtasks.cli.exits import CommandError
from zmqtasks.cli.output import json_document, printable
from zmqtasks.messages import FACE, FAILED, SUCCEEDED
from zmqtasks.outcome import load
from zmqtasks.payload import error_of

__all__ = ["Outcome", "line_of"]

_FRAME = re.compile(r'^  File "(.*)", line (\d+)', re.MULTILINE)


class Outcome(NamedTuple):
    """What the broker says of a task that has ended; entry `index` of the list in `payload`, or (-1) all of it."""

    task_id: str
    cluster_id: str
    state: int
    attempts: int
    payload: Any
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls

    def show(self, *, as_json: bool) -> None:
        """Print the value, as JSON if it is of what JSON has, else as Python shows it; `CommandError` on failure.

        `as_json`: one object with the value, or with the error and its whole traceback.
        """
        about = {"id": self.task_id, "state": FACE[self.state].value, "attempts": self.attempts}
        if self.state != SUCCEEDED:
            error = self.error()
            if as_json:
                json_document({**about, "error": error})
            raise CommandError(f"task {self.task_id} {self._ended()}{line_of(error)}") from self._exception()
        value = self._value()
        with _every_digit():
            text = _json(value)
            if as_json:
                json_document({**about, **({"repr": repr(value)} if text is None else {"result": value})})
            else:
                print(printable(repr(value)) if text is None else text)

    def _value(self) -> Any:
        opened = load(self.payload, self.task_id)
        if opened.error is not None:
            name = type(opened.error).__name__
            raise CommandError(
                f"task {self.task_id} succeeded, but its result cannot be rebuilt here: {name}: {opened.error}"
            ) from opened.error
        return opened.value if self.index < 0 else opened.value[self.index]

    def _ended(self) -> str:
        return "failed: " if self.state == FAILED else f"is {FACE[self.state]}: "

    def _exception(self) -> BaseException:
        return error_of(self.state, self.payload, self.task_id, self.cluster_id)

    def error(self) -> dict[str, str]:
        """What kept a task from succeeding. Of what was raised, or of what stands for it: type, message, traceback."""
        if self.state == FAILED and not isinstance(
            self.payload, str
        ):  # as text: its class may be workers' only
            _, name, message, traceback, _ = payloads.load(self.payload)
            return {"type": name, "message": message, "traceback": traceback}
        error = self._exception()
        return {"type": type(error).__name__, "message": str(error), "traceback": ""}


def line_of(error: dict[str, str]) -> str:
    """What a traceback ends with, and where that was raised."""
    if not error["traceback"]:
        return error["message"]
    text = f"{error['type']}: {error['message']}" if error["message"] else error["type"]
    places = _FRAME.findall(error["traceback"])
    return f"{text} ({places[-1][0]}:{places[-1][1]})" if places else text


@contextmanager
def _every_digit() -> Iterator[None]:
    """Show integers of more than 4300 digits too: Python refuses to, lest a stranger keep it busy."""
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        yield
    finally:
        sys.set_int_max_str_digits(limit)


def _json(value: Any) -> str | None:
    """`value` in JSON, if that says what it is."""
    if not _is_json(value):
        return None
    try:
        return printable(json.dumps(value, ensure_ascii=False, allow_nan=False))
    except ValueError:  # NaN, an infinity, a cycle
        return None


def _is_json(value: Any) -> bool:
    try:
        match value:
            case dict():
                return all(type(key) is str for key in value) and all(map(_is_json, value.values()))
            case list() | tuple():
                return type(value) in (list, tuple) and all(map(_is_json, value))
            case _:
                return value is None or type(value) in (bool, int, float, str)
    except RecursionError:
        return False
