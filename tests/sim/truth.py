"""What is true whatever the machines say: what started, what ended and how, and what that has to look like."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from zmqtasks.journal.memory import MemoryJournal
from zmqtasks.loans import LAPSED
from zmqtasks.messages import CANCELLED, DEAD, EXPIRED, FAILED, GONE, SUCCEEDED, UPSTREAM_FAILED, Value

from .worlds import Wrong

if TYPE_CHECKING:
    from .child import Child, Entry
    from .system import Sim

UNWANTED_S = 0.01  # how long after a cancel something may start, beside the way that messages take


@dataclass(slots=True)
class Final:
    """How a task ended."""

    state: int
    payload: Any
    index: int  # of the item in the payload, where it is a list of values; else -1
    deaths: int

    @property
    def value(self) -> Any:
        """What it is worth."""
        return self.payload[self.index] if self.index >= 0 else self.payload

    def known(self) -> tuple[int, Any]:
        """As a submit tells it."""
        return self.state, Value(self.payload, self.index) if self.state == SUCCEEDED else self.payload


@dataclass(slots=True)
class Question:
    """A cancel and what became of it."""

    id: int
    terminate: bool
    answers: list[bool] = field(default_factory=list)
    lost: bool = False  # with the broker: whoever asked hears that


class Truth:
    """Every task's life, as it was."""

    def __init__(self, sim: Sim) -> None:
        self.sim = sim
        self.submitted: set[int] = set()
        self.unsettled: set[int] = set()
        self.journal = MemoryJournal()
        self.final: dict[int, Final] = {}
        self.refused: set[int] = set()
        self.gone: set[int] = set()  # with a broker
        self.questions: list[Question] = []
        self.dropped: set[int] = set()  # ids of the cancels that are no questions
        self.eta: dict[int, float] = {}
        self.deaths: Counter[int] = Counter()
        self.begun: set[int] = set()  # started anywhere, be it where nobody listens any more
        self.starts: Counter[int] = Counter()  # where somebody does
        self.excuses: Counter[int] = Counter()
        self.running: set[int] = set()
        self.where: dict[int, Child] = {}
        self.unwanted: dict[int, float] = {}  # by id, since when
        self.listeners: dict[int, Child] = {}
        self.given_up = 0
        self.losses = 0  # of children, for whatever reason: what they had in hand is handed out anew

    def excuse(self, child: Child) -> None:
        """What it has started may start again elsewhere: it was lost."""
        self.excuses.update(child.started)
        child.excused = True

    def started(self, child: Child, entry: Entry, id_: int) -> None:
        """A child starts an item."""
        sim = self.sim
        sim.note(f"  {child.name} starts {id_} ({entry.ordinal})")
        self.begun.add(id_)
        if child.lost:
            return
        child.started.add(id_)
        if id_ in self.running and self.where[id_] is not child:
            raise Wrong(f"task {id_} runs in two places")
        if id_ in self.final:
            raise Wrong(f"task {id_} starts after it was settled")
        self.starts[id_] += 1
        if self.starts[id_] > 1 + self.excuses[id_]:
            raise Wrong(
                f"task {id_} was started {self.starts[id_]} times, {self.excuses[id_]} of its peers were lost"
            )
        if sim.top.clock() < self.eta[id_] - 1e-9:
            raise Wrong(f"task {id_} starts before its time")
        sim.policies.started(id_)
        needs = entry.spec.needs
        if bad := [n for n in needs if n not in self.final or self.final[n].state != SUCCEEDED]:
            raise Wrong(f"task {id_} starts without {bad}")
        world = sim.world  # there and back, to a node and to a child
        way_s = 4 * world.link_s + 8 * world.control_s + 6 * world.loop_s + UNWANTED_S
        if sim.now - self.unwanted.get(id_, sim.now) > way_s:
            raise Wrong(f"task {id_} starts, and was cancelled {sim.now - self.unwanted[id_]:.3f} s ago")
        self.running.add(id_)
        self.where[id_] = child
        child.host.has_started()

    def drop(self, ids: range) -> None:
        """Nobody wants these any more: none of them starts, but those that are in part of others."""
        self.dropped.update(ids)
        world = self.sim.world
        if world.stops or world.late or world.pauses or world.overtaking or world.twice:
            return
        for id_ in self.unsettled.intersection(ids) - self.begun:
            spec, item = self.sim.work.spec_of[id_]
            if id_ - item in ids and id_ - item + spec.count - 1 in ids:
                self.unwanted[id_] = self.sim.now

    def settled(self, id_: int, final: Final) -> None:
        """The dispatcher says how it ended."""
        if id_ in self.final:
            raise Wrong(f"task {id_} is settled twice")
        if id_ not in self.submitted:
            raise Wrong(f"task {id_} is settled and unknown")
        if id_ in self.journal:
            raise Wrong(f"task {id_} is settled without a record")
        self.sim.policies.settled(id_, final)
        self.final[id_] = final
        self.unsettled.discard(id_)
        self.running.discard(id_)
        if (child := self.listeners.get(id_)) is not None:
            child.host.outcome(child, id_, final.state)

    def lose(self, ids: set[int]) -> None:
        """With a broker: whatever became of them there, that is how they have ended for who submitted them."""
        self.gone |= ids
        self.unsettled -= ids
        self.running -= ids
        self.final.update((id_, Final(CANCELLED, GONE, -1, 0)) for id_ in sorted(ids))

    def begin_anew(self) -> None:
        """A broker is gone, and its journal with it."""
        self.lose(self.submitted - self.final.keys())
        self.journal = MemoryJournal()
        self.unwanted.clear()

    def answered(self, token: int, *, cancelled: bool) -> None:
        """The dispatcher says whether it has cancelled."""
        question, world = self.questions[token], self.sim.world
        question.answers.append(cancelled)
        ended = self.final.get(question.id)
        if cancelled and (ended is None or ended.state != CANCELLED):
            raise Wrong(f"task {question.id} is said to be cancelled and is not")
        if cancelled or ended is not None or question.id <= 0:
            return
        # Surely: a recall's answer is the recall's answer.
        surely = not (world.overtaking or world.twice or world.subs)
        if surely and question.id not in self.begun:
            raise Wrong(f"task {question.id} has not started and is not cancelled")

    def verify(self) -> None:
        """Everything has settled, as the oracle says."""
        if missing := self.submitted - self.final.keys():
            raise Wrong(f"never settled: {missing}")
        for question in self.questions:
            if len(question.answers) != 1 and not question.lost:
                raise Wrong(f"the cancel of {question.id} has {len(question.answers)} answers")
        # Where the node is lost that has cancelled it, its answer may be, and not what it has done.
        lost = self.sim.top.nodes_lost > 0
        cancelled = {question.id for question in self.questions if lost or True in question.answers}
        told = cancelled | self.refused | self.dropped | self.gone
        for id_, final in self.final.items():
            if not self.sim.flows.verify(id_, final, told):
                self._verify_end(id_, final, told=id_ in told)

    def _verify_end(self, id_: int, final: Final, *, told: bool) -> None:
        work = self.sim.work
        spec, item = work.spec_of[id_]
        lapsed = {need for need in spec.needs if self.sim.lending.lapsed(need)}
        upstream = [need for need in spec.needs if self.final[need].state != SUCCEEDED]
        if final.state == UPSTREAM_FAILED and final.payload[2] == LAPSED:
            upstream = upstream or [*lapsed]
        if (final.state == UPSTREAM_FAILED) != bool(upstream) and final.state not in (
            CANCELLED,
            EXPIRED,
        ):
            raise Wrong(f"task {id_} ended {final.state}, its needs failed: {upstream}")
        if final.state == UPSTREAM_FAILED:
            by, state, _ = final.payload
            first = {
                self.final[need].payload[0] if self.final[need].state == UPSTREAM_FAILED else need
                for need in upstream
            }
            told = self.final[by].state if final.payload[2] not in ("no such task", LAPSED) else state
            if by not in first | lapsed or state != told:
                raise Wrong(f"task {id_} blames {final.payload}")
            if final.payload[2] == "no such task" and by not in self.refused:
                raise Wrong(f"task {id_} is told that {by} never was")
        too_deep = final.payload == "the recursion is too deep"  # its parent was told: it may not wait
        if final.state == CANCELLED and not too_deep and not told:
            raise Wrong(f"task {id_} ended CANCELLED, and nobody was told")
        if final.state == SUCCEEDED and (
            final.value != work.value(id_) or item in spec.fails or item in spec.poison
        ):
            raise Wrong(f"task {id_} has the value {final.value}, not {work.value(id_)}")
        if final.state == FAILED:
            self.sim.policies.verify_failure(id_, final.value, spec, item)
        if final.state == SUCCEEDED and self.sim.policies.runs[id_] <= spec.flaky.get(item, 0):
            raise Wrong(f"task {id_} succeeded, and none of its runs did")
        if final.state == DEAD and item not in spec.poison and not self.sim.top.lost_under(id_):
            raise Wrong(f"task {id_} is DEAD and innocent")
        if final.state == DEAD and self.sim.world.nodes:
            self.look_at_deaths(id_)
        elif final.state == DEAD:
            enough = final.deaths == spec.options.max_deliveries
            if not enough or not self.sim.policies.delivered(id_, final.deaths):
                raise Wrong(f"task {id_} is DEAD after {final.deaths} deliveries, not {self.deaths[id_]}")

    def look_at_deaths(self, id_: int) -> None:
        """It is said to be DEAD: as many have died of it as it allows, be they nodes that it ran on.

        Or more: what a node knew is lost with it.
        """
        most, deaths = self.sim.work.spec_of[id_][0].options.max_deliveries, self.deaths[id_]
        if not most - self.sim.top.lost_under(id_) <= deaths <= most * (1 + self.sim.top.nodes_lost):
            raise Wrong(f"task {id_} is DEAD after {deaths} deaths, not {most}")
