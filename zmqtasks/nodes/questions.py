"""What threads have asked a broker, and wait for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import count
from typing import Any

from zmqtasks.errors import ZmqTasksError

_tokens = count(1)


class Question:
    """One of them; `word(token)` is the message that asks it."""

    __slots__ = ("answer", "done", "error", "token", "word")

    def __init__(self, word: Callable[[int], Any]) -> None:
        self.token = next(_tokens)
        self.word = word(self.token)
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
        self._by_token: dict[int, Question] = {}
        self._until: dict[int, list[Question]] = {}  # by task: answered yes, and its outcome is on its way

    def put(self, question: Question) -> None:
        """Another one."""
        self._by_token[question.token] = question

    def has(self, question: Question) -> bool:
        """Whether it is still to be answered."""
        return question.token in self._by_token

    def unanswered(self) -> list[Question]:
        """All of those, in their order."""
        return list(self._by_token.values())

    def take(self, token: int) -> Question | None:
        """It is answered now; None if nobody waits for that any more."""
        return self._by_token.pop(token, None)

    def hold(self, id_: int, question: Question) -> None:
        """It is answered when the outcome of that task is here."""
        self._until.setdefault(id_, []).append(question)

    @property
    def held(self) -> bool:
        """Whether one waits for an outcome."""
        return bool(self._until)

    def outcome(self, id_: int, count: int, *, cancelled: bool) -> None:
        """The outcome of these tasks is here."""
        for each in [each for each in self._until if id_ <= each < id_ + count]:
            for question in self._until.pop(each):
                question.settle(cancelled)

    def take_all(self) -> list[Question]:
        """Whatever is left, to be settled by the caller."""
        waiting = [*self._by_token.values(), *[each for some in self._until.values() for each in some]]
        self._by_token.clear()
        self._until.clear()
        return waiting

    def fail(self, error: ZmqTasksError) -> None:
        """Nobody will answer."""
        for question in self.take_all():
            question.settle(None, error)
