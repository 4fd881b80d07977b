"""Tasks on their way to a broker: kept until it says that it has taken them in, and sent again if the way was cut."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from zmqtasks import wire
from zmqtasks.core.loans import Lender
from zmqtasks.messages import Task

UNTAKEN_MAX = 32  # messages that are not taken in: beyond it, who submits waits
BATCH = 10_000  # tasks a message


class Outgoing:
    """Any thread puts tasks in and may wait; one thread makes messages of them and sends those."""

    def __init__(self) -> None:
        self.inbox: deque[Task] = deque()
        self.untaken: deque[wire.Message] = deque()
        self.sent = self.taken = 0  # messages of this session
        self.lender = (
            Lender()
        )  # what the broker may ask for, until it says that it has taken in what needs that
        self.changed = threading.Condition()

    @property
    def has_room(self) -> bool:
        """Whether one more message may be sent."""
        return self.sent - self.taken < UNTAKEN_MAX

    @property
    def is_empty(self) -> bool:
        """Whether everything was taken in."""
        return not (self.inbox or self.sent > self.taken or self.lender)

    def wait(self, fact: Callable[[], object], timeout: float | None = None) -> bool:
        """Wait until `fact()`, which is asked again whenever something has changed."""
        with self.changed:
            return bool(self.changed.wait_for(fact, timeout))

    def notify(self) -> None:
        """Something has changed."""
        with self.changed:
            self.changed.notify_all()

    def batch(self) -> list[Task]:
        """What goes into the next message; it counts as sent from now on."""
        inbox = self.inbox
        self.sent += 1  # first: at no moment it looks as if all were taken in
        return [inbox.popleft() for _ in range(min(len(inbox), BATCH))]

    @property
    def cuts_a_workflow(self) -> bool:
        """Whether what goes into the next message may need what went into the last one."""
        task = next(iter(self.inbox), None)
        return task is not None and (task.root >= 0 or bool(task.needs))

    def add(self, message: wire.Message) -> None:
        """The message of the last batch."""
        self.untaken.append(message)

    def take_off(self, count: int) -> None:
        """The broker has taken in so many messages of this session, with all that they need."""
        self.lender.take_off(count)
        self.arrived(count)

    def arrived(self, count: int) -> None:
        """The broker has so many messages of this session; some may still wait there until there is room."""
        with self.changed:
            while self.taken < count:
                self.untaken.popleft()
                self.taken += 1
            self.changed.notify_all()

    def begin_anew(self) -> None:
        """Another session."""
        self.untaken.clear()
        self.lender.clear()
        self.sent = self.taken = 0
        self.notify()
