"""What a broker makes sure of before it believes a peer with a key: beyond the types, which the wire has looked at.

A dispatcher trusts what it hears. Whatever is wrong here raises, and its sender is refused; nobody else notices.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite
from typing import Any

from zmqtasks.blobs import Packed
from zmqtasks.loans import Told
from zmqtasks.members import Closed, Gathered, Lapse, Members
from zmqtasks.messages import FINAL_FROM, JOIN, SUCCEEDED, Done, Ends, Lent, Returned, Slots, Submit, Task
from zmqtasks.nodes.ids import session_of
from zmqtasks.options import DEFAULT_OPTIONS

_PAYLOADS = {bytes, Packed}
_FAILURES = {"fail_fast", "wait", "collect", "catch"}


def tasks(submit: Submit, first: int, sessions: int) -> None:
    """New tasks: of these sessions, so that nobody takes another's ids, and of what tasks are made of."""
    for task in submit.tasks:
        last = task.id + task.count - 1
        if (
            task.count < 1
            or task.offset
            or not first <= session_of(task.id) <= session_of(last) < first + sessions
        ):
            raise ValueError(f"task {task.id} is none of this peer's")
        if task.parent is not None and not first <= session_of(task.parent[0]) < first + sessions:
            raise ValueError(f"join {task.parent[0]} is none of this peer's")
        if task.fn == JOIN:
            _require_join(task)
        if task.options is not DEFAULT_OPTIONS:
            task.options.check()
    _require_payloads([task.payload for task in submit.tasks if task.fn != JOIN])
    for id_, outcome in submit.known.items():
        if type(outcome) is not Lent:
            _require_outcomes([outcome])
        elif not first <= session_of(id_) < first + sessions:
            raise ValueError(f"the value of {id_} is none of this peer's")


def _require_join(task: Task) -> None:
    payload = task.payload
    if type(payload) is Closed:
        return
    if type(payload) is not Members or payload.failure not in _FAILURES or (payload.count or 0) < 0:
        raise ValueError("that is no join")
    if payload.failure == "catch" and len(task.needs) != 1:
        raise ValueError("that waits for the failure of nothing")


def word(said: Any) -> None:
    """What a node says to the dispatcher."""
    kind = type(said)
    if kind is Done:
        texts = {index for index, payload in enumerate(said.payloads) if type(payload) is str}
        if not texts <= set(said.failed):  # a text is why a limit has ended it
            raise ValueError("that is no value")
        _require_payloads([payload for payload in said.payloads if type(payload) is not str])
        _require_payloads(
            [part.payload for part in said.parts if not (part.failed and type(part.payload) is str)]
        )
        if not all(tasks > 0 and isfinite(seconds) and seconds >= 0 for _, tasks, seconds in said.pace):
            raise ValueError("that is no pace")
        _require_deaths([deliveries for _, _, deliveries in said.died])
    elif kind is Ends:
        if not all(end.state >= FINAL_FROM and end.state != SUCCEEDED for end in said.ends):
            raise ValueError("that is no end")
        _require_deaths([end.deliveries for end in said.ends])
    elif kind is Slots:
        if said.slots < 1:
            raise ValueError("a node has slots")
    elif kind is Returned:
        _require_deaths([deliveries for _, _, deliveries in said.died])
    elif said is None:
        raise ValueError("that is no word of a node")


def _require_deaths(deliveries: list[int]) -> None:
    if min(deliveries, default=0) < 0:
        raise ValueError("nothing dies less than not at all")


def told(message: Told) -> None:
    """Values that somebody has lent."""
    _require_outcomes(message.known.values())


def _require_outcomes(outcomes: Iterable[Any]) -> None:
    for state, value in outcomes:
        if state == SUCCEEDED:
            _require_outcome(value.payload)


def _require_outcome(payload: Any) -> None:
    if type(payload) is not Gathered:
        _require_payloads([payload])
        return
    for value in payload.values:
        if type(value) is not Lapse:
            _require_outcome(value.payload)


def _require_payloads(payloads: list[Any]) -> None:
    if not {type(payload) for payload in payloads} <= _PAYLOADS:
        raise ValueError("that is no payload")
