"""What has happened to a task: one line of its history."""

from __future__ import annotations

from typing import Any, NamedTuple

from zmqtasks.errors import UnknownTask
from zmqtasks.host import Host
from zmqtasks.messages import State


class Event(NamedTuple):
    """The task `id` came into `state` at `time` (seconds since 1970), because of `reason`, in words.

    `place`: the worker that had it or was given it, None where none did. `attempt`: how often it had begun, this time
    included. `name`: the function's, or "group". `items`: so many neighbours of a map did so together, from `id` on.
    """

    time: float
    state: State
    place: str | None
    reason: str
    attempt: int
    id: str
    name: str
    items: int = 1


def events_of(host: Host, number: int) -> list[Event]:
    """What `host` remembers of a task or workflow; nothing, where it knows neither."""
    try:
        found: list[dict[str, Any]] = host.inquire("events", id=number)
    except UnknownTask:
        return []
    return [
        Event(
            each["time"],
            State(each["state"]),
            each["worker"],
            each["reason"],
            each["attempt"],
            f"{host.cluster_id}-{each['id']}",
            each["name"],
            each["count"],
        )
        for each in found
    ]
