"""What threads have asked a broker, and wait for."""

from __future__ import annotations

import threading
from itertools import count
from typing import Any

from zmqtasks.errors import ZmqTasksError


class Question:
    """One of them."""

    __slots__ = ("answer", "done", "error")

    def __init__(self) -> None:
        self.done = threading.Event()
        self.answer: Any = None
        self.error: ZmqTasksError | None = None

    def settle(self, answer: Any, error: ZmqTasksError | None = None) -> None:
        """The answer is here, or the error that is raised in its place."""
        self.answer, self.error = answer, error
        self.done.set()


class Questions:
    """Questions by their tokens."""

    def __init__(self) -> None:
        self._tokens = count(1)
        self._by_token: dict[int, Question] = {}
        self._until: dict[int, list[Question]] = {}  # by task: answered yes, and its outcome is on its way

    def new(self) -> tuple[int, Question]:
        """Another one."""
        token, question = next(self._tokens), Question()
        self._by_token[token] = question
        return token, question

    def take(self, token: int) -> Question | None:
        """It is answered now; None if nobody waits for that any more."""
        return self._by_token.pop(token, None)

    def hold(self, id_: int, question: Question) -> None:
        """It is answered when the outcome of that task is here."""
        self._until.setdefault(id_, []).append(question)

    def outcome(self, id_: int, *, cancelled: bool) -> None:
        """The outcome of that task is here."""
        for question in self._until.pop(id_, ()) if self._until else ():
            question.settle(cancelled)

    def fail(self, error: ZmqTasksError) -> None:
        """Nobody will answer."""
        waiting = [*self._by_token.values(), *[each for some in self._until.values() for each in some]]
        self._by_token.clear()
        self._until.clear()
        for question in waiting:
            question.settle(None, error)
