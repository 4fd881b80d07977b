"""What a task raised, as the payload of its outcome."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from zmqtasks import payload as payloads
from zmqtasks.culprit import culprit
from zmqtasks.errors import NotPicklable


def failure(
    error: BaseException, task: str, runners: Sequence[dict[str, Any]], log: Sequence[str] = ()
) -> payloads.Payload:
    """`error` as a payload, with its traceback from the first frame that is of no module with globals among `runners`.

    `log`: a line for each attempt that failed before.
    """
    frames = error.__traceback__
    while frames is not None and any(frames.tb_frame.f_globals is globals_ for globals_ in runners):
        frames = frames.tb_next
    notes = payloads.take_notes(error)
    text = "\n".join([_text(error, frames).rstrip("\n"), *log, ""])
    error.__traceback__ = None  # the frames hold the task's values
    for note in notes:
        error.add_note(note)
    return payloads.dump_error(error, text, task)


def _text(error: BaseException, frames: TracebackType | None) -> str:
    try:
        return "".join(traceback.format_exception(type(error), error, frames))
    except Exception:  # noqa: BLE001 - a broken __str__ or __repr__
        return "".join(traceback.format_tb(frames)) + f"{type(error).__qualname__}\n"


def unpicklable(value: Any, error: BaseException) -> NotPicklable:
    """The error that says why `value`, a result, cannot travel: where in it the culprit is."""
    thing, path = culprit([(value, "result")]) or (value, "result")
    return NotPicklable(f"the result cannot be pickled: {path} is {_describe(thing)} ({error})")


def _describe(thing: Any) -> str:
    try:
        text = repr(thing)
    except Exception:  # noqa: BLE001 - the user's
        text = "..."
    return f"{type(thing).__qualname__} {text:.80}"
