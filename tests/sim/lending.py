"""A program that lends what its tasks need, over a connection that is lost at times, to a broker that forgets.

What a broker keeps is a matter of chance here: some of what is lent it has, and never asks for.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any

from zmqtasks.loans import Lacks, Told
from zmqtasks.messages import SUCCEEDED, Lent, Lost

from .links import Channel
from .program import CLIENT, Client
from .worlds import Wrong

if TYPE_CHECKING:
    from .system import Sim

LENDER = -1  # its peer number


class Lending:
    """The lender of one seed; in some worlds nothing is lent."""

    def __init__(self, sim: Sim) -> None:
        self.sim = sim
        rng = self.rng = Random(sim.seed * 2 + 1)
        self.happens = rng.random() < 0.3 and not isinstance(sim.program, Client)  # to one broker, so far
        self._kept = rng.choice((0.0, 0.5, 0.9))  # the odds that the broker has it
        self._way_s = rng.choice((1e-5, 1e-3, 0.02))
        self._cuts = rng.randint(1, 5) if rng.random() < 0.5 else 0
        self._goes = rng.random() < 0.4
        self._lender = sim.core.lender()
        self._sent = self._told = 0  # submits; those that were said to be taken in, on this connection
        self._is_connected = False
        self._asked: set[int] = set()  # on this connection, and not answered
        self.owed: set[int] = set()  # ever
        self.answered = self.cut = 0
        self.is_gone = False
        self._connect()

    def plan(self, ids: list[int]) -> None:
        """What needs some of `ids` once they have ended; when its connection is lost, and whether it goes for good."""
        if not self.happens:
            return
        for _ in range(self.rng.randint(1, 8)):
            self.sim.at(0.02 + self.rng.random() * 0.35, self._submit, ids)
        for _ in range(self._cuts):
            self.sim.at(self.rng.random() * 0.4, self._cut)

    def _submit(self, ids: list[int]) -> None:
        sim, truth = self.sim, self.sim.truth
        ended = [id_ for id_ in ids if id_ in truth.final and id_ not in sim.flows.quiet]
        if ended:
            needs = [tuple(self.rng.choices(ended, k=self.rng.choice((1, 1, 2)))) for _ in range(3)]
            specs = [replace(sim.work.spec([]), needs=each) for each in needs]
            sim.top.submit(CLIENT, [sim.work.new_task(spec) for spec in specs])
            if self._goes and self.rng.random() < 0.5:
                sim.at(self.rng.random() * self._way_s, self._go)

    def lend(self, known: dict[int, Any]) -> dict[int, Any]:
        """What the broker makes of a submit's `known`."""
        if not self.happens:
            return known
        self._sent += 1
        lent = {id_: each for id_, each in known.items() if each[0] == SUCCEEDED and self.rng.random() < 0.8}
        self._lender.lend(self._sent, lent)
        lacks = [id_ for id_ in lent if self.rng.random() >= self._kept]
        self.owed.update(lacks)
        return {**known, **dict.fromkeys(lacks, Lent(LENDER))}

    def hear(self, message: Lacks) -> None:
        """The broker says something."""
        if not self._is_connected:
            return
        if twice := self._asked.intersection(message.ids):
            raise Wrong(f"the values of {twice} are asked for again, and the answer is on its way")
        self._asked.update(message.ids)
        self._down.send(self._answer, message.ids)

    def _answer(self, ids: list[int]) -> None:
        values = {id_: self._lender.find(id_) for id_ in ids}
        if gone := [id_ for id_, value in values.items() if value is None]:
            raise Wrong(f"the values of {gone} are asked for, and their lender has let them go")
        self.answered += 1
        self._up.send(self._arrive, Told(values))

    def _arrive(self, message: Told) -> None:
        self._asked.difference_update(message.known)
        self.sim.top.receive(LENDER, message)

    def look(self) -> None:
        """After a turn of the broker: what may be said to be taken in is."""
        loans = self.sim.top.machine.ledger.loans
        taken = loans.taken(LENDER, self._sent, self._told)
        if self._is_connected and taken > self._told:
            self._told = taken
            self._down.send(self._lender.take_off, taken)

    def _connect(self) -> None:
        self._down, self._up = Channel(self.sim, self._way_s), Channel(self.sim, self._way_s)
        self._is_connected = True

    def _cut(self) -> None:
        """Whatever is under way is lost."""
        if self._is_connected:
            self.cut += 1
            self._down.cut = self._up.cut = True
            self._is_connected = False
            self._asked.clear()
            self.sim.at(self.rng.random() * 0.02, self._come_back)

    def _come_back(self) -> None:
        self._connect()
        self._told = 0  # it may not have heard
        if owed := self.sim.top.machine.ledger.loans.of(LENDER):
            self.hear(Lacks(owed))
        self.look()

    def _go(self) -> None:
        """For good, and what it was asked for it does not tell; another program submits the rest."""
        self.is_gone = True
        if self._is_connected:
            self._asked.clear()
            self._down.cut = self._up.cut = True
            self._told = 0
            self._connect()
        self.sim.top.receive(LENDER, Lost("gone"))

    def lapsed(self, id_: int) -> bool:
        """Whether that value may have been lost with its lender."""
        return self.is_gone and id_ in self.owed

    def verify(self) -> None:
        """Nothing is owed, and nothing is held for that."""
        loans = self.sim.top.machine.ledger.loans
        if len(loans) or self._lender:
            raise Wrong(f"{len(loans)} values are owed for ever, or held")
