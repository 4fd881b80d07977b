"""The dispatcher's words as messages on the wire, and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import inf
from typing import Any

from zmqtasks import places
from zmqtasks.blobs import FRAME_BYTES_MIN
from zmqtasks.loans import Told
from zmqtasks.messages import (
    JOIN,
    SUCCEEDED,
    Accepted,
    Answered,
    Beat,
    Cancel,
    Claim,
    Course,
    Deep,
    Done,
    Ends,
    Items,
    Leaving,
    Part,
    Recall,
    Report,
    Resumed,
    Returned,
    Run,
    Running,
    Slots,
    Submit,
    Task,
    Unwanted,
    Value,
    Waiting,
)
from zmqtasks.options import DEFAULT_OPTIONS
from zmqtasks.visit import Yielded
from zmqtasks.wire import (
    Again,
    Arrived,
    Asked,
    Begun,
    CancelAnswer,
    CancelAsked,
    Dropped,
    Functions,
    Group,
    Joint,
    Message,
    Outcomes,
    Progress,
    Rest,
    Room,
    Settled,
    Signal,
    Single,
    Stops,
    Tasks,
    Values,
    Waits,
    Yield,
)

_NAMES: dict[type, str] = {
    Recall: "recall",
    Deep: "deep",
    Resumed: "resumed",
    Beat: "beat",
    Leaving: "leaving",
}
_SIGNALS = {name: kind for kind, name in _NAMES.items()}


def run(message: Run, known: set[bytes] | None, functions: Functions, *, afar: bool = False) -> Message:
    """`Run` for a worker that has `known` (None: nobody knows which); `functions` are new to it."""
    out = Message(known, afar=afar)
    entries = _entries(message.tasks, out, attempt=1)
    out.head = Tasks(message.first, entries, functions, out.new)
    return out


def _entries(tasks: list[Task], out: Message, *, attempt: int) -> list[Any]:
    """Tasks by groups, where they have nothing of their own but their payload."""
    entries: list[Group | Single | Joint] = []
    group: Group | None = None
    expected = fn = -1
    for task in tasks:
        payload = task.payload
        plain = (
            type(payload) is bytes
            and len(payload) < FRAME_BYTES_MIN
            and task.options is DEFAULT_OPTIONS
            and task.attempt == attempt
            and not (task.span or task.inputs)
        )
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
            entries.append(single(task, out) if task.fn != JOIN else places.joint(task))
    return entries


def single(task: Task, out: Message) -> Single:
    """One task on its own."""
    inputs = [[out.payload(value.payload), value.index] for value in task.inputs]
    count = task.count if task.span else 0
    options = None if task.options is DEFAULT_OPTIONS else task.options
    payload, offset, attempt = out.payload(task.payload), task.offset, task.attempt
    log = list(task.course.log) if task.course is not None else []
    if not log and not (task.deliveries and out.afar):
        return Single(task.fn, task.id, payload, count, offset, attempt, inputs, options)
    return Again(task.fn, task.id, payload, count, offset, attempt, inputs, options, log, task.deliveries)


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


def asked(
    tasks: list[Task],
    outcomes: dict[int, tuple[int, Any]],
    functions: Functions,
    known: set[bytes] | None = None,
    *,
    afar: bool = False,
    instead: dict[int, int] | None = None,
    more: bool = False,
    lent: Iterable[int] = (),
) -> Message:
    """What a task or a client asks for; `outcomes` are those that it knows among what its tasks need.

    Of a task without a face nobody is to hear. `instead`, `more`: as in `Submit`. `lent`: what it knows and keeps.
    """
    out = Message(known, afar=afar)
    entries = _entries(tasks, out, attempt=0)
    told = _told(outcomes, out)
    others = [task for task in tasks if task.needs or task.root >= 0 or task.face is None]
    needs = {task.id: task.needs for task in others if task.needs}
    out.head = head = Asked(entries, needs, functions, told, out.new)
    if instead:
        head.instead = instead
    head.more = more
    if others:
        places.put(tasks, head)
    head.lent = list(lent)
    return out


def told(message: Told, known: set[bytes]) -> Message:
    """Values that the peer lacks; `known` are the hashes it has."""
    out = Message(known, afar=True)
    out.head = Values(_told(message.known, out), out.new)
    return out


def told_values(message: Arrived) -> Told:
    """What a lender tells."""
    return Told(_known(message))


def _told(outcomes: dict[int, tuple[int, Any]], out: Message) -> list[Any]:
    return [
        (
            id_,
            state,
            out.outcome(state, value.payload if state == SUCCEEDED else value),
            value.index if state == SUCCEEDED else -1,
        )
        for id_, (state, value) in outcomes.items()
    ]


def _known(message: Arrived) -> dict[int, tuple[int, Any]]:
    return {
        id_: (
            state,
            Value(message.payload(value), index) if state == SUCCEEDED else message.outcome(state, value),
        )
        for id_, state, value, index in message.head.known
    }


def asked_tasks(message: Arrived) -> Submit:
    """The tasks that a peer asks for, under its own function numbers, and the outcomes that it knows.

    They have no faces yet; `places.hush` takes them off those of which nobody is to hear.
    """
    head = message.head
    tasks = []
    for entry in head.tasks:
        if type(entry) is Group:
            fn = entry.fn
            tasks += [Task(id_, fn, payload) for id_, payload in enumerate(entry.payloads, entry.id)]
        elif type(entry) is Joint:
            tasks.append(places.join(entry))
        else:
            tasks.append(task(message, entry))
    if head.needs:
        for each in tasks:
            each.needs = head.needs.get(each.id, ())
    places.take(tasks, head)
    return Submit(tasks, {**_known(message)}, instead=head.instead, more=head.more)


def run_tasks(message: Arrived) -> Run:
    """What a broker hands to a node."""
    head = message.head
    tasks = []
    for entry in head.entries:
        if type(entry) is Group:
            fn = entry.fn
            tasks += [Task(id_, fn, payload) for id_, payload in enumerate(entry.payloads, entry.id)]
        else:
            tasks.append(task(message, entry))
    return Run(head.first, tasks)


def task(message: Arrived, entry: Single) -> Task:
    """The task that an entry stands for; this attempt is counted where it goes next."""
    course, deliveries = None, 0
    if isinstance(entry, Again):
        deliveries = entry.deliveries
        if entry.log:
            course = Course(inf, len(entry.log), tuple(entry.log))
    return Task(
        id=entry.id,
        fn=entry.fn,
        payload=message.payload(entry.payload),
        options=entry.options or DEFAULT_OPTIONS,
        count=entry.count or 1,
        offset=entry.offset,
        span=entry.count > 0,
        inputs=tuple([Value(message.payload(payload), index) for payload, index in entry.inputs]),
        attempt=max(0, entry.attempt - 1),
        deliveries=deliveries,
        course=course,
    )


def settled(
    tasks: list[Task], known: set[bytes] | None = None, *, afar: bool = False, taken: int = -1
) -> Message:
    """Outcomes for the peer that asked for these tasks, which have ended (`core.results.end`)."""
    out = Message(known, afar=afar)
    runs: list[tuple[int, list[Any]]] = []
    others = []
    values: list[Any] = []
    expected = -1
    for task in tasks:
        payload, state = task.payload, task.state
        plain = type(payload) is bytes and len(payload) < FRAME_BYTES_MIN
        if plain and state == SUCCEEDED and task.attempt == 1 and not task.span:
            if task.id != expected:
                values = []
                runs.append((task.id, values))
            values.append(payload)
            expected = task.id + 1
        else:
            others.append((task.id, task.count, state, task.attempt, out.outcome(state, payload)))
    out.head = Settled(runs, others, out.new, taken)
    return out


def settled_outcomes(message: Arrived) -> Iterator[tuple[int, int, int, int, Any]]:
    """The outcomes of a `Settled`: (id, count, state, attempt, payload)."""
    for first, payloads in message.head.runs:
        for id_, payload in enumerate(payloads, first):
            yield id_, 1, SUCCEEDED, 1, payload
    for id_, count, state, attempt, value in message.head.outcomes:
        yield id_, count, state, attempt, message.outcome(state, value)


def done(message: Done, *, afar: bool = False) -> Message:
    """`Done` of a worker."""
    out = Message(afar=afar)
    payloads = message.payloads
    for index, payload in enumerate(payloads):
        if type(payload) is not bytes or len(payload) >= FRAME_BYTES_MIN:
            payloads[index] = out.payload(payload)
    for part in message.parts:
        part.payload = out.payload(part.payload)
    out.head = Outcomes(
        message.first, payloads, message.failed, message.parts, message.pace, message.asks, message.died
    )
    return out


def yielded(pipeline: str, parts: list[Part]) -> Message:
    """Outcomes for a sink."""
    out = Message(afar=True)
    for part in parts:
        part.payload = out.payload(part.payload)
    out.head = Yield(pipeline, parts)
    return out


def yielded_parts(message: Arrived) -> list[Part]:
    """The outcomes that have come to a sink."""
    parts: list[Part] = message.head.parts
    for part in parts:
        part.payload = message.payload(part.payload)
    return parts


def simple(head: Any) -> Message:
    """A message without payloads."""
    out = Message()
    kind = type(head)
    if kind is Unwanted:
        head = Dropped(head.id)
    elif kind is Waiting:
        head = Waits(head.on)
    elif kind is Returned:
        head = Rest(head.rest, head.died)
    elif kind is Ends:
        head = Stops(head.ends)
    elif kind is Slots:
        head = Room(head.slots, head.waiting, head.awaiting)
    elif kind is Running:
        head = Begun(head.leases)
    elif kind is Cancel:
        head = CancelAsked(head.id, head.terminate, head.token, head.count)
    elif kind is Answered:
        head = CancelAnswer(head.id, head.token, head.cancelled)
    out.head = Signal(_NAMES[type(head)]) if type(head) in _NAMES else head
    return out


def report(head: Progress | Yielded) -> Report | Items:
    """What a running task says to whoever asked for it."""
    if isinstance(head, Yielded):
        return Items(head.first, head.items)
    return Report(head.done, head.total, head.message, head.meta)


def core_message(message: Arrived) -> Any:
    """What a dispatcher hears of a worker, in its own words; None if it is not for the dispatcher."""
    head = message.head
    if type(head) is Outcomes:
        for index, payload in enumerate(head.payloads):
            if type(payload) is list:
                head.payloads[index] = message.payload(payload)
        for part in head.parts:
            part.payload = message.payload(part.payload)
        return Done(head.first, head.payloads, head.failed, head.parts, head.pace, head.asks, head.died)
    if type(head) is Rest:
        return Returned(head.rest, head.died)
    if type(head) is Waits:
        return Waiting(head.on)
    if type(head) is Stops:
        return Ends(head.ends)
    if type(head) is Room:
        return Slots(head.slots, head.waiting, head.awaiting)
    if type(head) in (Claim, Accepted):
        return head
    if type(head) is Begun:
        return Running(head.leases)
    if type(head) is Signal and head.name in _SIGNALS:
        return _SIGNALS[head.name]()
    return None
