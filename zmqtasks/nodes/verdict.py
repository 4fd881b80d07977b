"""What becomes of an attempt that failed: its payload, and whether it asks for another one.

Here is the exception, so here it is decided whether its `Retry` holds for it; when and how often is the dispatcher's.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from zmqtasks import payload as payloads
from zmqtasks.errors import NotPicklable, ZmqTasksError
from zmqtasks.messages import Ask
from zmqtasks.nodes.failure import failure
from zmqtasks.options import RetryRule

if TYPE_CHECKING:
    from zmqtasks import wire

_TEXT_MAX = 200  # of an exception in the log of attempts

Item = tuple[int, int, int, Any, "wire.Single | None"]  # ordinal, function, id, payload, more about it
CURRENT: ContextVar[Item | None] = ContextVar(
    "zmqtasks_task", default=None
)  # in what a coroutine of a task does


class Again(BaseException):
    """What `current().retry()` raises: past every `except Exception` of the task, up to the child.

    `error` is what the task fails with where it has no attempt left.
    """

    def __init__(self, delay: float | None, error: BaseException) -> None:
        super().__init__("the task asks for another attempt")
        self.delay = delay
        self.error = error


class Instead(BaseException):
    """What `current().replace()` raises, as `Again` is raised: the outcome of `id` is to be this task's."""

    def __init__(self, id_: int) -> None:
        super().__init__("the task has another one take its place")
        self.id = id_


class Verdicts:
    """Judges the failures of one child's tasks. `runners`: globals of what calls them, left out of tracebacks."""

    def __init__(self, *runners: dict[str, Any]) -> None:
        self._runners = runners
        self._classes: dict[bytes, tuple[Any, Any]] = {}  # (on, not_on) by their pickle

    def of(
        self, error: BaseException, item: Item, name: str, at: int, *, wanted: bool
    ) -> tuple[payloads.Payload, bool | Ask]:
        """The payload of the failure of `item`, called `name`, and its `Ask`, or True if it asks for nothing.

        `at`: the item of the span that failed. What nobody wants any more is not asked for again.
        """
        more = item[4]
        span = more is not None and more.count > 0
        if isinstance(error, Instead):
            return b"", Ask(item[0], at if span else -1, instead=error.id)
        rule = more.options.retry if more is not None and more.options is not None else None
        delay, asks, trouble = None, False, ""
        if isinstance(error, Again):
            delay, asks, error = error.delay, True, error.error
        elif rule is not None and not isinstance(error, NotPicklable):
            try:
                on, not_on = self._of_rule(rule)
                asks = isinstance(error, on) and not isinstance(error, not_on)
            except Exception as broken:  # noqa: BLE001 - whatever the user's classes do
                trouble = f"its Retry could not be applied: {type(broken).__qualname__}: {broken}"
        log = [*getattr(more, "log", ()), *([trouble] if trouble else [])]
        payload = failure(error, name, self._runners, log)
        if not (asks and wanted):
            return payload, True
        return payload, Ask(item[0], at if span else -1, delay, _line(error))

    def _of_rule(self, rule: RetryRule) -> tuple[Any, Any]:
        if not rule.classes:
            return Exception, ()
        if (known := self._classes.get(rule.classes)) is None:
            known = self._classes[rule.classes] = payloads.load(rule.classes)
        return known


def again(delay: float | None, error: BaseException | None, current: BaseException | None) -> Again:
    """What to raise for `current().retry(delay, error)` while `current` is being handled."""
    last = error or current
    if last is None or isinstance(last, Again):
        last = ZmqTasksError("the task asked for another attempt, and there is none left")
    return Again(delay, last)


def _line(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - the user's
        text = "..."
    first = text.strip().split("\n", 1)[0]
    return f"{type(error).__qualname__}: {first}"[:_TEXT_MAX]
