"""The program that submits: in the dispatcher's own process, or a broker's client."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from zmqtasks.members import Closed, Gone
from zmqtasks.messages import Cancel, Task

from .links import Channel
from .points import CLIENT as KIND
from .truth import Question
from .worlds import Wrong

if TYPE_CHECKING:
    from .system import Sim
    from .top import Top

CLIENT = 0  # its number as a peer
AWAY_S = 0.05  # how long a broker knows a client that is gone


class Program:
    """In the dispatcher's own process: what it says is heard at once."""

    def __init__(self, sim: Sim) -> None:
        self.sim = sim

    def meet(self, broker: Top) -> None:
        """Another broker is there."""

    def verify(self) -> None:
        """It has heard of everything."""

    def submit(self, tasks: list[Task]) -> None:
        """These tasks."""
        self.sim.top.submit(CLIENT, tasks)

    def say(self, message: Closed | Gone) -> None:
        """An open join has so many members, or gets no more."""
        self.sim.top.receive(CLIENT, message)

    def ask(self, id_: int, *, terminate: bool) -> None:
        """To have a task cancelled."""
        questions = self.sim.truth.questions
        questions.append(Question(id_, terminate))
        self.sim.top.receive(CLIENT, Cancel(id_, terminate, len(questions) - 1))

    def drop(self, ids: range) -> None:
        """Nobody has a use for these any more."""
        self.sim.top.drop(CLIENT, ids)


class Client(Program):
    """A process of its own: after `nodes/line.py`.

    A broker that does not know it has lost what it had submitted: all of that fails whose outcome has not come.
    """

    def __init__(self, sim: Sim) -> None:
        super().__init__(sim)
        self.alive = True
        self.told: set[int] = set()  # whose outcome has come
        self._mine: set[int] = set()  # whose outcome is to come here
        self._asked: list[Question] = []
        self._meet(sim.top)

    def _meet(self, broker: Top) -> None:
        self._broker = broker
        self._up, self._down = (Channel(self.sim, self.sim.world.link_s) for _ in range(2))

    # ---- what it says

    def _say(self, act: Any, *args: Any) -> bool:
        """Whether it has: it may be gone, or be just going. To a broker that is gone it is said in vain."""
        if not self.alive:
            return False
        if self.sim.points.stops(KIND):
            self._die()
            return False
        self._up.send(act, *args)
        return True

    def submit(self, tasks: list[Task]) -> None:
        """These tasks. What is large goes in several messages, and here anything may be large."""
        parts = [[*tasks]]
        rng = self.sim.rng
        if rng.random() < self.sim.world.cuts_submits:
            cuts = [at for at in range(1, len(tasks)) if rng.random() < 0.5]
            parts = [tasks[begin:end] for begin, end in pairwise([0, *cuts, len(tasks)])]
        for part in parts:
            if self._say(self._broker.submit, CLIENT, part):
                self._mine.update(id_ for task in part for id_ in range(task.id, task.id + task.count))

    def say(self, message: Closed | Gone) -> None:
        """An open join has so many members, or gets no more."""
        self._say(self._broker.receive, CLIENT, message)

    def ask(self, id_: int, *, terminate: bool) -> None:
        """To have a task cancelled."""
        questions = self.sim.truth.questions
        question = Question(id_, terminate)
        token = len(questions)
        if self._say(self._broker.receive, CLIENT, Cancel(id_, terminate, token)):
            questions.append(question)
            self._asked.append(question)

    def drop(self, ids: range) -> None:
        """Nobody has a use for these any more."""
        self._say(self._broker.drop, CLIENT, ids)

    def has_submitted(self, id_: int) -> bool:
        """Whether it waits for that outcome."""
        return id_ in self._mine

    # ---- what it hears

    def tell(self, ids: list[int]) -> None:
        """Its broker says how these have ended."""
        if self.alive:
            self._down.send(self._hear, self._broker, ids)

    def _hear(self, broker: Top, ids: list[int]) -> None:
        if not self.alive or broker is not self._broker:
            return
        if strange := [id_ for id_ in ids if id_ not in self._mine or id_ in self.told]:
            raise Wrong(f"the client hears of {strange}, which are none of its own, or for the second time")
        self.told.update(ids)

    def meet(self, broker: Top) -> None:
        """Another broker is there, which has never heard of it: what is not settled here is lost."""
        for question in self._asked:
            question.lost = not question.answers
        self._asked.clear()
        if self.alive:
            self.sim.note("  the client comes to another broker")
            self._meet(broker)
            self.sim.truth.lose(self._mine - self.told)
            self._mine.clear()

    # ---- its end

    def _die(self) -> None:
        """What it has submitted goes on. The broker will not wait for the rest of what it had begun to."""
        self.sim.note("  the client dies")
        self.alive = False
        self._up.send(self.sim.at, AWAY_S, self._broker.receive, CLIENT, Gone(0, 1 << 62))

    def verify(self) -> None:
        """It has heard of everything."""
        if self.alive and (missing := self._mine - self.told):
            raise Wrong(f"the client has not heard of {missing}")
