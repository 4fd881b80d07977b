"""The dispatcher's words as messages on the wire, and back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from zmqtasks.blobs import FRAME_BYTES_MIN
from zmqtasks.messages import (
    SUCCEEDED,
    Deep,
    Done,
    Recall,
    Resumed,
    Returned,
    Run,
    Task,
    Unwanted,
    Value,
    Waiting,
)
from zmqtasks.options import DEFAULT_OPTIONS
from zmqtasks.wire import (
    Again,
    Arrived,
    Asked,
    Dropped,
    Functions,
    Group,
    Message,
    Outcomes,
    Rest,
    Settled,
    Signal,
    Single,
    Tasks,
    Waits,
)

_NAMES: dict[type, str] = {Recall: "recall", Deep: "deep", Resumed: "resumed"}
_SIGNALS = {name: kind for kind, name in _NAMES.items()}


def run(message: Run, known: set[bytes], functions: Functions) -> Message:
    """`Run` for a child that has `known`; `functions` are new to it."""
    out = Message(known)
    entries: list[Group | Single | Again] = []
    group: Group | None = None
    expected = fn = -1
    for task in message.tasks:
        payload = task.payload
        plain = type(payload) is bytes and len(payload) < FRAME_BYTES_MIN and _is_plain(task)
        if plain and group is not None and task.id == expected and task.fn == fn:
            group.payloads.append(payload)
            expected += 1
        elif plain:
            fn = task.fn
            expected = task.id + 1
            group = Group(fn, task.id, [payload])
            entries.append(group)
        else:
            expected = -1
            entries.append(single(task, out))
    out.head = Tasks(message.first, entries, functions, out.new)
    return out


def _is_plain(task: Task) -> bool:
    return task.options is DEFAULT_OPTIONS and task.attempt == 1 and not task.span and not task.inputs


def single(task: Task, out: Message) -> Single:
    """One task on its own."""
    inputs = [[out.payload(value.payload), value.index] for value in task.inputs]
    count = task.count if task.span else 0
    options = None if task.options is DEFAULT_OPTIONS else task.options
    payload, offset, course = out.payload(task.payload), task.offset, task.course
    if course is None:
        return Single(task.fn, task.id, payload, count, offset, task.attempt, inputs, options)
    attempt = 1 + course.retries + task.deliveries  # what was handed out and has not started is none
    if not course.log:
        return Single(task.fn, task.id, payload, count, offset, attempt, inputs, options)
    return Again(task.fn, task.id, payload, count, offset, attempt, inputs, options, list(course.log))


def tasks(message: Arrived) -> Iterator[tuple[int, int, int, Any, Single | None]]:
    """The tasks of a `Tasks` message: (ordinal, function, id, payload, more about it)."""
    ordinal = message.head.first
    for entry in message.head.entries:
        if type(entry) is Group:
            fn = entry.fn
            for id_, payload in enumerate(entry.payloads, entry.id):
                yield ordinal, fn, id_, payload, None
                ordinal += 1
        else:
            entry.inputs = [Value(message.payload(payload), index) for payload, index in entry.inputs]
            yield ordinal, entry.fn, entry.id, message.payload(entry.payload), entry
            ordinal += 1


def asked(tasks: list[Task], known: dict[int, tuple[int, Any]], functions: Functions) -> Message:
    """What a task asks for."""
    out = Message()
    entries = [single(task, out) for task in tasks]
    outcomes = [
        (
            id_,
            state,
            out.outcome(state, value.payload if state == SUCCEEDED else value),
            getattr(value, "index", -1),
        )
        for id_, (state, value) in known.items()
    ]
    out.head = Asked(entries, [task.needs for task in tasks], functions, outcomes)
    return out


def asked_tasks(message: Arrived) -> tuple[list[Task], dict[int, tuple[int, Any]]]:
    """The tasks that a task asks for, under its own function numbers, and the outcomes that it knows."""
    head = message.head
    tasks = [
        Task(
            id=entry.id,
            fn=entry.fn,
            payload=message.payload(entry.payload),
            options=entry.options or DEFAULT_OPTIONS,
            count=entry.count or 1,
            span=entry.count > 0,
            needs=needs,
        )
        for entry, needs in zip(head.tasks, head.needs, strict=True)
    ]
    known = {
        id_: (
            state,
            Value(message.payload(value), index) if state == SUCCEEDED else message.outcome(state, value),
        )
        for id_, state, value, index in head.known
    }
    return tasks, known


def settled(outcomes: list[tuple[Task, int, Any]]) -> Message:
    """Outcomes for the peer that asked for these tasks."""
    out = Message()
    out.head = Settled(
        [
            (task.id, task.count, state, task.attempt, out.outcome(state, payload))
            for task, state, payload in outcomes
        ]
    )
    return out


def done(message: Done) -> Message:
    """`Done` of a child."""
    out = Message()
    payloads = message.payloads
    for index, payload in enumerate(payloads):
        if type(payload) is not bytes or len(payload) >= FRAME_BYTES_MIN:
            payloads[index] = out.payload(payload)
    for part in message.parts:
        part.payload = out.payload(part.payload)
    out.head = Outcomes(message.first, payloads, message.failed, message.parts, message.pace, message.asks)
    return out


def simple(head: Any) -> Message:
    """A message without payloads."""
    out = Message()
    if type(head) is Unwanted:
        head = Dropped(head.id)
    elif type(head) is Waiting:
        head = Waits(head.on)
    out.head = Signal(_NAMES[type(head)]) if type(head) in _NAMES else head
    return out


def core_message(message: Arrived) -> Any:
    """What a dispatcher hears of a child, in its own words; None if it is not for the dispatcher."""
    head = message.head
    if type(head) is Outcomes:
        for index, payload in enumerate(head.payloads):
            if type(payload) is list:
                head.payloads[index] = message.payload(payload)
        for part in head.parts:
            part.payload = message.payload(part.payload)
        return Done(head.first, head.payloads, head.failed, head.parts, head.pace, head.asks)
    if type(head) is Rest:
        return Returned(head.rest)
    if type(head) is Waits:
        return Waiting(head.on)
    if type(head) is Signal and head.name in _SIGNALS:
        return _SIGNALS[head.name]()
    return None
