"""What the tasks of children ask for: tasks of their own, whose outcomes go back to the child."""

from __future__ import annotations

from zmqtasks import codec, places, wire
from zmqtasks.catalog import Catalog
from zmqtasks.messages import JOIN, Lent, Submit, Task


class Asker:
    """The address of the outcomes: a peer."""

    __slots__ = ("peer",)

    def __init__(self, peer: int) -> None:
        self.peer = peer


class Asks:
    """Submits of children in the dispatcher's words, and outcomes in the children's."""

    def __init__(self, functions: Catalog) -> None:
        self._functions = functions
        self._numbers: dict[int, dict[int, int]] = {}  # by peer: its function numbers as ours
        self._outcomes: dict[int, list[Task]] = {}  # by peer: not yet told

    def submit(self, peer: int, message: wire.Arrived) -> Submit:
        """The tasks that `peer` asks for; their functions get numbers here."""
        numbers = self._numbers.setdefault(peer, {JOIN: JOIN})
        for number, name, data in message.head.functions:
            numbers[number] = self._functions.adopt(name, data).number
        submit = codec.asked_tasks(message)
        submit.known.update(dict.fromkeys(message.head.lent, Lent(peer)))
        asker = Asker(peer)
        for task in submit.tasks:
            task.fn = numbers[task.fn]
            task.face = asker
        places.hush(submit.tasks, message.head)
        return submit

    def settle(self, asker: Asker, tasks: list[Task]) -> None:
        """Outcomes for a child."""
        self._outcomes.setdefault(asker.peer, []).extend(tasks)

    def outcomes(self) -> dict[int, list[Task]]:
        """What is to be told, by peer: tasks that have ended."""
        outcomes = self._outcomes
        if outcomes:
            self._outcomes = {}
        return outcomes

    def functions(self) -> set[int]:
        """Those that somebody may name."""
        return {ours for numbers in self._numbers.values() for ours in numbers.values()}

    def forget(self, peer: int) -> None:
        """`peer` is gone."""
        self._numbers.pop(peer, None)
