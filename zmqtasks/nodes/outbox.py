"""Outcomes on their way from the tasks of a child to its host, batched."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from zmqtasks import payload as payloads
from zmqtasks.messages import Ask, Done, Part
from zmqtasks.nodes.failure import failure, unpicklable


class Span:
    """The span that is running: what its items gave, and how far it is to go. `pack` makes a payload of values."""

    def __init__(self, ordinal: int, task: str, start: int, limit: int) -> None:
        self.pack: Callable[[list[Any]], payloads.Payload] = payloads.dump_result
        self.ordinal = ordinal
        self.task = task  # its name
        self.start = start  # of `values`, in the payload
        self.limit = limit  # where to stop: a recall lowers it
        self.values: list[Any] = []

    def begin(self, function: Any, attempt: int) -> None:
        """`function` is called now; if it packs its own values, for a sink that opens nothing, it is told how often."""
        if (pack := getattr(function, "__zmqtasks_pack__", None)) is not None:
            function.attempt, self.pack = attempt, pack


class Outbox:
    """What is finished and not sent. One thread puts in; `take` and what concerns the span need the caller's lock."""

    def __init__(self) -> None:
        self.singles: deque[tuple[int, Any, bool | Ask]] = deque()  # ordinal, payload, failed
        self.pace: deque[tuple[int, int, float]] = deque()  # function, tasks, seconds
        self.span: Span | None = None
        self._parts: deque[Part] = deque()
        self._asks: list[Ask] = []  # of parts

    def begin_span(self, span: Span) -> None:
        """From now on `span` is running."""
        self.span = span

    def end_span(self) -> None:
        """What is left of its values becomes a part."""
        self._cut_span()
        self.span = None

    def fail_item(self, index: int, payload: Any, ask: bool | Ask = True) -> None:
        """An item of the span has failed: a part of its own, between what came before and what comes."""
        if isinstance(ask, Ask):
            self._asks.append(ask)
        self._cut_span()
        if (span := self.span) is not None:
            self._parts.append(Part(span.ordinal, index, 1, failed=True, payload=payload))
            span.start = index + 1

    def _cut_span(self) -> None:
        """What the span gave so far becomes a part."""
        span = self.span
        values = span.values[:] if span is not None else []
        if span is None or not values:
            return
        del span.values[: len(values)]  # more may have come meanwhile
        start = span.start
        span.start += len(values)
        try:
            payload = span.pack(values)
            self._parts.append(Part(span.ordinal, start, len(values), failed=False, payload=payload))
        except Exception:  # noqa: BLE001 - one of them cannot be pickled: each on its own
            self._parts += [self._item(span, index, value) for index, value in enumerate(values, start)]

    @staticmethod
    def _item(span: Span, index: int, value: Any) -> Part:
        try:
            return Part(span.ordinal, index, 1, failed=False, payload=payloads.dump_result([value]))
        except Exception as error:  # noqa: BLE001 - whatever pickling raises
            payload = failure(unpicklable(value, error), span.task, ())
            return Part(span.ordinal, index, 1, failed=True, payload=payload)

    def take(self) -> list[Done]:
        """All of it, in messages: single tasks with consecutive ordinals share one."""
        self._cut_span()
        singles = self.singles
        pace = [self.pace.popleft() for _ in range(len(self.pace))]
        parts = [self._parts.popleft() for _ in range(len(self._parts))]
        messages: list[Done] = []
        if parts or (pace and not singles):
            messages.append(Done(0, [], [], parts, pace, self._asks))
            pace, self._asks = [], []
        while singles:
            done = Done(singles[0][0], [], [], [], pace, [])
            expected = done.first
            while singles and singles[0][0] == expected:
                _, payload, failed = singles.popleft()
                if failed:
                    done.failed.append(len(done.payloads))
                    if isinstance(failed, Ask):
                        done.asks.append(failed)
                done.payloads.append(payload)
                expected += 1
            messages.append(done)
            pace = []
        return messages
