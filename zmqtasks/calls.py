"""Calls as tasks: what a submit makes of a function and its arguments."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from time import time
from typing import Any

from zmqtasks import payload as payloads
from zmqtasks.blobs import Packed, Shelf
from zmqtasks.culprit import culprit
from zmqtasks.errors import ForeignFuture, NotPicklable, TimeLimitExceeded
from zmqtasks.functions import Functions
from zmqtasks.future import Future
from zmqtasks.messages import Task
from zmqtasks.named import goes_on
from zmqtasks.options import Options, Retry, RetryRule

_SPAN_BYTES_MAX = 256 << 10  # a span's payload is sent again for each part of it that runs elsewhere
_SPAN_ITEMS_MAX = 1000
_SPANS_A_WORKER = 8  # how finely a map is cut: the last spans even out what the first got wrong
_FIRST = payloads.First()


class Calls:
    """Pickles calls for one client: thread-safe, with a pickler a thread."""

    def __init__(self, host: Any) -> None:
        self._host = host
        self._functions: Functions = host.functions
        self._shelf: Shelf = host.shelf
        self._local = threading.local()

    def task(
        self,
        fn: Callable[..., Any] | str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: Options,
        id_: int | None = None,
    ) -> Task:
        """One call of a function, or of a task by its name; futures among its arguments are its needs."""
        if id_ is None:
            id_ = self._host.ids.next()
        payload: payloads.Payload | None
        number, _, data = self._functions.find(fn)
        if data is not None and not kwargs:
            payload = payloads.dump_plain(args)
            if payload is not None:
                return Task(id_, number, payload, options)
            if args and isinstance(args[0], Future) and args[0].host is self._host:
                payload = payloads.dump_plain((_FIRST, *args[1:]))
                if payload is not None:
                    first = args[0]
                    return Task(id_, number, payload, options, needs=(first.number,), inputs=(first,))
        args = tuple([payloads.out_of_band(arg) for arg in args])
        call: Any = args
        if data is None:
            call = [args, kwargs, fn]
        elif kwargs:
            call = [args, kwargs]
        payload, needs = self._pack(call, fn)
        task = Task(id_, number, payload, options)
        if needs:
            task.needs = tuple(future.number for future in needs)
            task.inputs = tuple(needs)
        return task

    def spans(
        self,
        fn: Callable[..., Any] | str,
        items: list[Any],
        size: int,
        options: Options,
        *,
        star: bool,
        base: int | None = None,
        after: Any = None,
    ) -> list[Task]:
        """A call for each of `items` (with `star`, of its elements), as spans of at most `size`; ids are consecutive.

        They begin with `base`, if there is one. They run once `after` has succeeded. `NotASpan` where a future is among
        the arguments: each needs that for itself, and has a copy of its value; and of a function that awaits
        or yields: its calls are under way for long.
        """
        if goes_on(fn):
            raise NotASpan
        number, _, data = self._functions.find(fn)
        if base is None:
            base = self._host.ids.block(len(items))
        tasks = [
            Task(base + first, number, payload, options, count=count, span=True)
            for first, count, payload in self.batches(items, size, fn, star=star, inline=data is None)
        ]
        if after is not None:
            for task in tasks:
                task.needs, task.inputs = (after.number,), (after,)
        return tasks

    def batches(
        self,
        items: list[Any],
        size: int,
        fn: Callable[..., Any] | str,
        *,
        star: bool,
        inline: bool = False,
    ) -> Iterator[tuple[int, int, payloads.Payload]]:
        """The payloads of spans of at most `size` for `items`: (the first's index, how many, the payload).

        `fn` is what they are for; `inline`: it is in each payload.
        """
        work = [(at, min(at + size, len(items))) for at in range(0, len(items), size)][::-1]
        while work:
            first, end = work.pop()
            part = items[first:end]
            payload, needs = self._pack((star, part, fn) if inline else (star, part), fn)
            if needs:
                raise NotASpan
            if len(payload) > _SPAN_BYTES_MAX and end - first > 1:
                middle = (first + end) // 2
                work += [(middle, end), (first, middle)]
                continue
            yield first, end - first, payload

    def span_size(self, items: int) -> int:
        """How many of `items` go into a span, where the user does not say."""
        workers: int = self._host.workers
        return max(1, min(_SPAN_ITEMS_MAX, -(-items // (workers * _SPANS_A_WORKER))))

    def options(self, options: Options, given: Mapping[str, Any]) -> Options:
        """`options` with those that are `given` by their public names: a `Retry`, and an `eta` for the countdown."""
        changes = dict(given)
        if changes.get("retry") is not None:
            changes["retry"] = self.rule(changes["retry"])
        if (eta := changes.pop("eta", None)) is not None:
            changes["countdown"] = countdown_to(eta, changes)
        return options.replace(**changes)

    def rule(self, retry: Retry) -> RetryRule:
        """`retry` as it travels, its classes pickled."""
        return rule_of(retry, lambda classes: self._pack(classes, None)[0])

    def function(self, fn: Callable[..., Any]) -> bytes:
        """A function, whatever it captures, as bytes."""
        try:
            packed, _ = payloads.Pickler(None, None, by_value=self._host.by_value).pack(fn)
        except (ForeignFuture, MemoryError):
            raise
        except Exception as error:
            raise self._explain((False, []), fn, error) from error
        assert isinstance(packed, bytes), "in band"
        return packed

    def value(self, value: Any) -> Packed:
        """A value that many tasks will take: named by its hash, so that it travels once."""
        payload, needs = self._pack(payloads.out_of_band(value), None)
        if needs:
            raise ForeignFuture("a future cannot be scattered: pass it to the tasks as it is")
        data, buffers = (payload, []) if isinstance(payload, bytes) else (payload.data, payload.buffers)
        return Packed(self._shelf.hold_always(data), buffers)  # type: ignore[arg-type]  # only what arrived has a Buffer

    def _pack(
        self, value: Any, fn: Callable[..., Any] | str | None
    ) -> tuple[payloads.Payload, list[Future[Any]]]:
        pickler = getattr(self._local, "pickler", None)
        if pickler is None:
            pickler = self._local.pickler = payloads.Pickler(
                self._host, self._shelf.hold, by_value=self._host.by_value
            )
        try:
            return pickler.pack(value)
        except (ForeignFuture, MemoryError):
            raise
        except Exception as error:
            raise self._explain(value, fn, error) from error

    def _explain(self, value: Any, fn: Callable[..., Any] | str | None, error: Exception) -> NotPicklable:
        """Where in a call the thing is that cannot be pickled."""
        if fn is None:
            parts = [(value, "value")]
        elif isinstance(value[0], bool):  # a span
            parts = [(item, f"items[{index}]") for index, item in enumerate(value[1])]
        else:
            args, kwargs = (value, {}) if isinstance(value, tuple) else value[:2]
            parts = [(arg, f"args[{index}]") for index, arg in enumerate(args)]
            parts += [(arg, f"kwargs[{name!r}]") for name, arg in kwargs.items()]
        if fn is not None:
            parts.append((fn, "the function"))
        found = culprit(parts)
        if found is None:
            return NotPicklable(f"a call cannot be pickled: {error}")
        thing, path = found
        return NotPicklable(f"{path} cannot be pickled: {type(thing).__qualname__} ({error})")


class NotASpan(Exception):  # noqa: N818 - a fact
    """A future is among the arguments, or the function awaits or yields: each call is a task of its own."""


def countdown_to(eta: datetime, options: Mapping[str, Any]) -> float:
    """The seconds until then, 0 if it is over."""
    if not isinstance(eta, datetime):
        raise TypeError(f"eta is a datetime, not {eta!r}")
    if options.get("countdown"):
        raise ValueError("there are a countdown and an eta: it is one or the other")
    return max(0.0, eta.timestamp() - time())


def rows(iterables: Iterable[Iterable[Any]]) -> list[Any]:
    """The arguments of a `map`: of several iterables, tuples."""
    first, *others = iterables
    return list(zip(first, *others, strict=False)) if others else list(first)


def rule_of(retry: Retry, pack: Callable[[Any], payloads.Payload]) -> RetryRule:
    """`retry` as it travels, its classes pickled by `pack`."""
    if not isinstance(retry, Retry):
        raise TypeError(f"retry is a zmqtasks.Retry, not {retry!r}")
    on, not_on = retry.on, retry.not_on
    classes: payloads.Payload = b""
    if (on, not_on) != (Retry().on, Retry().not_on):
        classes = pack((on, not_on))
    if not isinstance(classes, bytes):
        raise NotPicklable("the classes of a Retry hold a large buffer")
    on_limit = issubclass(TimeLimitExceeded, on) and not issubclass(TimeLimitExceeded, not_on)
    seconds = (float(retry.delay), float(retry.factor), float(retry.max_delay))  # type: ignore[arg-type]  # made so in Retry
    deadline: Any = retry.deadline
    return RetryRule(retry.max, *seconds, retry.jitter, deadline, classes, on_limit)
