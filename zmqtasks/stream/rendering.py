"""Rendering: an item's result as the bytes that the output has of it, made in the child where it was computed.

What travels to the workers as the pipeline's function is a `Rendered`, so that ventilator and sink never look into a
result. In JSON a success and a failure are one line each::

    {"index": 0, "input": ..., "result": ..., "attempts": 1}
    {"index": 1, "input": ..., "error": {"type": ..., "message": ..., "traceback": ...}, "attempts": 3}

In text a result is itself with a newline, or its notation if it is no text; a failure is a line for standard error.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import msgspec

from zmqtasks.errors import CommandFailed, InputFailed, NotJson, NotPicklable, text_of, type_name
from zmqtasks.functions import name_of
from zmqtasks.stream import batch
from zmqtasks.stream.batch import Unit, Value
from zmqtasks.stream.command import Command
from zmqtasks.stream.item import BadInput, brief, readable, written
from zmqtasks.stream.notation import NOTATIONS, Name

_encode = msgspec.json.Encoder().encode  # of an item, which is plain, or of what is our own


class Rendered:
    """What travels to the workers: a function of an item's index and the item.

    `retries` is how often an item is tried again, which is the engine's affair: what befalls an item is raised while an
    attempt is left, and is its failure at the last. Whoever calls says in `attempt` which one it is, counted from 1.
    """

    attempt = 1
    __zmqtasks_pack__ = staticmethod(batch.pack)

    def __init__(self, *, text: bool, retries: int) -> None:
        self._text = text
        self._retries = retries

    def __call__(self, index: int, item: Any) -> Value:
        """Return what became of an item."""
        raise NotImplementedError

    def failed(self, index: int, item: Any, error: BaseException | BadInput, attempts: int) -> Unit:
        """Return the failure of an item that something befell elsewhere."""
        return self._failure(index, written(item), error, attempts)

    def _failure(self, index: int, given: bytes, error: BaseException | BadInput, attempts: int) -> Unit:
        if not self._text:
            return Unit(_line(index, given, b'"error": ', _encode(_fault(error)), attempts), b"", True)
        said = f"zmqtasks: input {index}, {brief(given)}: {_said(error)}\n".encode(
            "utf-8", "backslashreplace"
        )
        if isinstance(error, CommandFailed):  # what it had written by then is kept
            return Unit(error.stdout, error.stderr + said, True)
        return Unit(b"", said, True)


class Named:
    """What travels to the workers where results are joined: the function, whose failures name the input.

    The index is whoever's that hears of it: it is 0 in them.
    """

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.__qualname__ = name_of(function)
        self._function = function

    def __call__(self, item: Any) -> Any:
        """Call the function."""
        given = brief(_encode(item))  # before the function can change it
        try:
            return self._function(item)
        except BaseException as error:
            asked = getattr(error, "error", error)  # for another attempt: which is not the function's affair
            reason = error if isinstance(error, Exception) or not isinstance(asked, Exception) else asked
            raise InputFailed(0, f", {given}: {_said(reason)}") from error

    @staticmethod
    def failed(index: int, item: Any, error: BaseException) -> InputFailed:
        """What an item fails with that something befell elsewhere."""
        return InputFailed(index, f", {brief(written(item))}: {_said(error)}")


class RenderedFunction(Rendered):
    """A function of one argument; `notation` is how its results are written."""

    def __init__(
        self,
        function: Callable[[Any], Any],
        *,
        text: bool = False,
        notation: Name = "json",
        retries: int = 0,
    ) -> None:
        super().__init__(text=text, retries=retries)
        self.__qualname__ = name_of(function)  # what a task is called in front of what it prints
        self._function = function
        self._notation: Name = notation

    def __call__(self, index: int, item: Any) -> Value:
        """Call the function."""
        if type(item) is BadInput:
            return self.failed(index, item, item, 0)
        given = _encode(item)  # before the function can change it
        try:
            result = self._function(item)
        except BaseException as error:
            if self.attempt <= self._retries:
                raise
            return self._failure(index, given, error, self.attempt)
        try:
            if self._text and type(result) is str:
                return result.encode() + b"\n"
            shown = NOTATIONS[self._notation](result)
        except (NotJson, NotPicklable, UnicodeEncodeError) as error:  # as at any other attempt
            return self._failure(index, given, error, self.attempt)
        return shown + b"\n" if self._text else _line(index, given, b'"result": ', shown, self.attempt)


class RenderedCommand(Rendered):
    """A shell command. In text its output is the result as it is."""

    def __init__(self, template: str, *, text: bool = False, retries: int = 0) -> None:
        super().__init__(text=text, retries=retries)
        self._command = Command(template)

    def __call__(self, index: int, item: Any) -> Value:
        """Run the command."""
        if type(item) is BadInput:
            return self.failed(index, item, item, 0)
        try:
            stdout, stderr = self._command.run(index, item)
        except BaseException as error:
            if self.attempt <= self._retries:
                raise
            return self.failed(index, item, error, self.attempt)
        if self._text:
            return Unit(stdout, stderr, False) if stderr else stdout
        out, err = _encode(readable(stdout)), _encode(readable(stderr))
        result = b'{"exit":0,"stdout":%b,"stderr":%b}' % (out, err)
        return _line(index, _encode(item), b'"result": ', result, self.attempt)


def _line(index: int, given: bytes, key: bytes, value: bytes, attempts: int) -> bytes:
    number = str(index).encode()
    if attempts == 1:
        return b"".join(
            (b'{"index": ', number, b', "input": ', given, b", ", key, value, b', "attempts": 1}\n')
        )
    return b"".join(
        (b'{"index": ', number, b', "input": ', given, b", ", key, value, b', "attempts": %d}\n' % attempts)
    )


def _fault(error: BaseException | BadInput) -> dict[str, Any]:
    """Return the "error" of a failure. Its traceback begins in the function: what calls it is no news."""
    if type(error) is BadInput:
        return {"type": "BadInput", "message": str(error), "traceback": ""}
    assert isinstance(error, BaseException), "nothing else fails"
    fault = {
        "type": _plain(type_name(error)),
        "message": _plain(text_of(error)),
        "traceback": "",
    }
    if isinstance(error, CommandFailed):
        return {
            **fault,
            "exit": error.exit,
            "stdout": readable(error.stdout),
            "stderr": readable(error.stderr),
        }
    if not isinstance(error, NotJson | NotPicklable):
        frames = error.__traceback__ and error.__traceback__.tb_next
        fault["traceback"] = _plain("".join(traceback.format_exception(type(error), error, frames)))
    return fault


def _said(error: BaseException | BadInput) -> str:
    """What a failure says, in one line."""
    if type(error) is BadInput:
        return str(error)
    assert isinstance(error, BaseException), "nothing else fails"
    text = " ".join(text_of(error).split())
    if isinstance(error, CommandFailed):
        return text
    return f"{type_name(error)}: {text}" if text else type_name(error)


def _plain(text: str) -> str:
    """Text that JSON can hold: an exception may quote half a character."""
    return text.encode("utf-8", "backslashreplace").decode()
