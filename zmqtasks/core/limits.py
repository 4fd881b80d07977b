"""Time limits: the peer whose task has run for too long is ended, for that task and for no other.

When a task began is known to its peer alone, and a peer that runs one may be unable to say anything. So the dispatcher
remembers, for each peer, the earliest moment at which a limit can be over, has the host look then at what runs
(`Look`, `Claimed`), and looks again in time or ends the peer. What ends it makes sure once more that it is that task.
"""

from __future__ import annotations

from zmqtasks.core.effects import Effect, End, Look
from zmqtasks.core.peer import Peer
from zmqtasks.messages import Ask, Claimed, Task

AGAIN_S = 0.1  # after an end was ordered it is looked whether it has come

NOBODY = (-1, 0)


class Limits:
    """Watches over `peers`. `here`: they are what runs the tasks; else nothing is watched."""

    def __init__(self, peers: dict[int, Peer], sends: list[Effect], *, here: bool) -> None:
        self.fns: set[int] = set()  # functions of which there were tasks with a limit
        self.looks: dict[int, float] = {}  # by peer: when to look
        self._peers = peers
        self._sends = sends
        self._here = here

    def submitted(self, task: Task) -> None:
        """A task that may have a limit."""
        if self._here and task.options.time_limit:
            self.fns.add(task.fn)

    def dealt(self, peer: Peer, tasks: list[Task], now: float) -> None:
        """`peer` was handed `tasks`: each may begin at once."""
        if (shortest := self._shortest(tasks)) is not None:
            self.looks[peer.id] = min(self.looks.get(peer.id, now + shortest), now + shortest)

    def look(self, now: float) -> None:
        """Have it looked where a limit may be over."""
        for id_ in [id_ for id_, when in self.looks.items() if when <= now]:
            del self.looks[id_]
            peer = self._peers.get(id_)
            if peer is not None and self._shortest(list(peer.hand.values())) is not None:
                self._sends.append(Look(id_))

    def claimed(self, message: Claimed, now: float) -> None:
        """What a peer runs, and since when."""
        peer = self._peers.get(message.peer)
        if peer is None or (shortest := self._shortest(list(peer.hand.values()))) is None:
            return
        task = peer.find(message.ordinal, message.item)
        when = now + shortest  # what follows may begin at once
        if task is not None and task.options.time_limit:
            over = message.since + task.options.time_limit
            if over <= now:
                peer.doomed = message.ordinal, message.item
                self._sends.append(End(peer.id, message.ordinal, message.item))
                over = now + AGAIN_S
            when = min(when, over)
        self.looks[peer.id] = when

    def relieve(self, peer: Peer) -> None:
        """Outcomes have come: the one that `peer` was to be ended for may be among them, and then it is not ended."""
        if peer.find(*peer.doomed) is None:
            peer.doomed = NOBODY

    def _shortest(self, tasks: list[Task]) -> float | None:
        fns = self.fns
        limits = [task.options.time_limit for task in tasks if task.fn in fns and task.options.time_limit]
        return min(limits, default=None)


def ask_of(task: Task) -> Ask | None:
    """What stands for the exception of a task that was ended: whether it is retried was decided at its submit."""
    rule = task.options.retry
    if rule is None or not rule.on_limit:
        return None
    return Ask(task.ordinal, task.offset if task.span else -1, None, f"TimeLimitExceeded: {text_of(task)}")


def text_of(task: Task) -> str:
    """The payload of a task that was ended; its first line is the reason."""
    log = task.course.log if task.course is not None else ()
    return "\n".join([f"it ran for longer than {task.options.time_limit:g} s", *log])
