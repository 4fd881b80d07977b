"""A workflow here and now, in this thread, one call after the other: the same values and errors as from workers."""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import itertools
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from zmqtasks.errors import UnknownTask, UpstreamFailed
from zmqtasks.messages import FAILED, SUCCEEDED, UPSTREAM_FAILED
from zmqtasks.names import found, is_task
from zmqtasks.options import Retry
from zmqtasks.outcome import failure_of

if TYPE_CHECKING:
    from zmqtasks.flow import Workflow
    from zmqtasks.workflow import Signature

_NOTHING = object()  # there is no step before
_ids = itertools.count(1)


class _End(NamedTuple):
    """How a part has ended: its value, or its exception. `cause`: what failed first, where the part never ran."""

    id: str
    state: int
    value: Any


def value_of(workflow: Workflow) -> Any:
    """The value of a workflow; raises what its future would."""
    end = _run(workflow, _NOTHING, {})
    if end.state != SUCCEEDED:
        raise end.value
    return end.value


def _run(node: Any, before: Any, outer: Mapping[str, Any]) -> _End:
    """Run a part, and then what hangs on it. `before`: the value of the step before; `outer`: options around it."""
    end: _End = _KINDS[node.kind](node, before, {**outer, **dict(node.options)})
    _run_links(node, end)
    return end


def _run_links(node: Any, end: _End) -> None:
    if end.state == SUCCEEDED:
        for link in node.links:
            _run(link, end.value, {})
    else:
        for link in node.errors:
            _run(link, failure_of(end.id, [end.value]), {})


def _skip(node: Any, because: _End) -> _End:
    """A part that never runs, since a step before it has failed."""
    cause = because.value.__cause__ if because.state == UPSTREAM_FAILED else because.value
    id_ = f"local-{next(_ids)}"
    error = UpstreamFailed(f"task {id_} never ran: task {because.id} before it failed")
    error.__cause__ = cause
    for part in node.parts():
        _skip(part, because)
    end = _End(id_, UPSTREAM_FAILED, error)
    _run_links(node, end)
    return end


def _task(node: Signature, before: Any, options: dict[str, Any]) -> _End:
    args = node.args if before is _NOTHING or node.immutable else (before, *node.args)
    return _item(node.task, args, options, node.kwargs)


def _item(task: Any, args: Any, options: Mapping[str, Any], kwargs: Mapping[str, Any] | None = None) -> _End:
    task = found(task)
    if isinstance(task, str):
        raise UnknownTask(f"no task {task!r} is known here")
    given = {**task.given, **options} if is_task(task) else options
    return _call(task.function if is_task(task) else task, args, kwargs or {}, given.get("retry"))


def _call(fn: Any, args: Any, kwargs: Mapping[str, Any], retry: Retry | None) -> _End:
    id_ = f"local-{next(_ids)}"
    for attempt in itertools.count():
        try:
            return _End(id_, SUCCEEDED, _through(fn(*_settled(args), **_settled(dict(kwargs)))))
        except Exception as error:  # noqa: BLE001 - a task's: it is what is asked for
            again = retry is not None and attempt < retry.max
            if not (retry and again and isinstance(error, retry.on) and not isinstance(error, retry.not_on)):
                return _End(id_, FAILED, error)
    raise AssertionError("it counts for ever")


def _through(value: Any) -> Any:
    """What a task gave, once it is through with what it awaits or yields."""
    if inspect.iscoroutine(value):
        return asyncio.run(value)
    if inspect.isasyncgen(value):
        return asyncio.run(_exhausted(value))
    if not inspect.isgenerator(value):
        return value
    while True:
        try:
            next(value)
        except StopIteration as end:
            return end.value


async def _exhausted(items: AsyncIterator[Any]) -> None:
    async for _ in items:
        pass


def _settled(value: Any) -> Any:
    """With values in the places of futures."""
    if isinstance(value, concurrent.futures.Future):
        return value.result()
    if type(value) in (list, tuple):
        return type(value)(map(_settled, value))
    if type(value) is dict:
        return {key: _settled(each) for key, each in value.items()}
    return value


def _map(node: Any, _before: Any, options: dict[str, Any]) -> _End:
    items = iter(node.items) if isinstance(node.items, tuple) else node.items.take()
    ends = (_item(node.task, tuple(item) if node.star else (item,), options) for item in items)
    if node.size is None:
        return _joined(ends, node.failure)
    lists = []
    while chunk := list(itertools.islice(ends, node.size)):
        lists.append(_joined(iter(chunk), node.failure))
    return _joined(iter(lists), node.failure)


def _group(node: Any, before: Any, options: dict[str, Any]) -> _End:
    members = iter(node.members) if isinstance(node.members, tuple) else node.members.take()
    return _joined((_run(member, before, options) for member in members), node.failure)


def _joined(coming: Iterator[_End], failure: str) -> _End:
    id_ = f"local-{next(_ids)}"
    ends = []
    for end in coming:
        if end.state != SUCCEEDED and failure == "fail_fast":
            return _End(end.id, end.state, end.value)
        ends.append(end)
    failed = [end.value for end in ends if end.state != SUCCEEDED]
    if failed and failure == "wait":
        return _End(
            id_, FAILED, BaseExceptionGroup(f"task {id_}: {len(failed)} of its members failed", failed)
        )
    return _End(id_, SUCCEEDED, [end.value for end in ends])


def _chain(node: Any, before: Any, options: dict[str, Any]) -> _End:
    end: _End | None = None
    for step in node.steps:
        if end is not None and end.state != SUCCEEDED:
            end = _skip(step, end)
        else:
            end = _run(step, before if end is None else end.value, options)
    assert end is not None, "a chain has a step"
    return end


def _chord(node: Any, before: Any, options: dict[str, Any]) -> _End:
    end = _run(node.header, before, options)
    return _run(node.body, end.value, options) if end.state == SUCCEEDED else _skip(node.body, end)


_KINDS: dict[str, Any] = {"task": _task, "map": _map, "group": _group, "chain": _chain, "chord": _chord}
