"""A dispatcher under another: what a broker hands to a node, the node deals to its own workers.

Above it a node is one worker with many slots. What it is given stands in a ledger of its own, each task with the
ordinal of its lease as its face; what its workers say of it goes up in the terms of that lease. A recall from above is
passed on: what has not started comes back first from the node's own workers, then from the node. What the node's tasks
submit is not dealt here: it goes up, and only that somebody waits for it is known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from zmqtasks.core.attempts import is_suspect
from zmqtasks.core.dispatch import Dispatcher
from zmqtasks.core.effects import Answer, Effect, Record, Send, Settle
from zmqtasks.messages import (
    FAILED,
    LEASED,
    SUCCEEDED,
    Answered,
    Ask,
    Cancel,
    Deep,
    Done,
    Ended,
    Ends,
    Part,
    Recall,
    Returned,
    Run,
    Running,
    Slots,
    Submit,
    Waiting,
)

ABOVE = 0  # the peer that everything comes from
LONG_S = 0.005  # a task of less is not spoken of when it begins
RECALL_S = (
    0.05  # a worker that holds the interpreter does not answer: what the others gave back goes up after this
)


class Node:
    """The machine. `slots`: how many of its workers may be at work at a time, beside those that wait."""

    def __init__(self, slots: int) -> None:
        self.machine = Dispatcher(slots=slots, retries=False)
        self._slots = self._told = slots
        self._told_waiting: set[int] = set()  # functions that are known above to wait for others
        self._leaving = False
        self._recalled_until: float | None = None  # somebody above waits for what has not started
        self._answered = False  # and has had a first answer
        self._pace: dict[int, tuple[int, float]] = {}  # by function: tasks, seconds
        self._singles: list[tuple[int, Any, bool]] = []  # ordinal, payload, whether it is a failure
        self._parts: list[Part] = []
        self._asks: list[Ask] = []  # failures that are to be run again: that is decided above
        self._died: list[tuple[int, int, int]] = []  # as in `Done`
        self._ends: list[Ended] = []
        self._running: set[tuple[int, int]] = set()  # what the dispatcher above knows that it runs
        self._questions: list[Cancel] = []
        self._waits: dict[int, int] = {}  # by worker: the task that it waits for

    # ---- the contract of a machine ------------------------------------------------------------------------------

    def receive(self, peer: int, message: Any, now: float) -> None:
        """Note `message` of `peer`, 0 is the dispatcher above: the next turn decides."""
        if peer == ABOVE:
            self._reactions[type(message)](self, message, now)
            return
        if type(message) is Done:
            for fn, tasks, seconds in message.pace:
                before = self._pace.get(fn, (0, 0.0))
                self._pace[fn] = before[0] + tasks, before[1] + seconds
        elif type(message) is Waiting:
            self._waits[peer] = message.on
        self.machine.receive(peer, message, now)

    def turn(self, now: float) -> list[Effect]:
        """Decide for all that was noted and all that is due; what goes up is sent to peer 0."""
        machine = self.machine
        machine.holds = self._leaving or (self._recalled_until is not None and not self._answered)
        down: list[Effect] = []
        up: list[Any] = []
        for effect in machine.turn(now):
            kind = type(effect)
            if kind is Settle:
                self._settled(effect)  # type: ignore[arg-type]  # that is its type
            elif isinstance(effect, Answer):
                if effect.token is not None:
                    up.append(self._answer(effect))
            elif kind is not Record:
                down.append(effect)
                if kind is Send and type(effect.message) is Deep:  # type: ignore[union-attr]  # likewise
                    # A recursion that is refused ends here: what nobody may wait for would only carry it on.
                    up.append(Cancel(self._waits[effect.peer], terminate=False, token=None))  # type: ignore[union-attr]
        up[:0] = self._outcomes()
        if (self._leaving or self._recalled_until is not None) and (rest := self._give_back(now)) is not None:
            up.append(rest)
        slots = self._slots + machine.waits.count
        slots += sum(peer.slots for peer in machine.peers.values() if peer.awaits)
        waiting = machine.pace.waiting - self._told_waiting
        if slots != self._told or waiting:
            self._told = slots
            self._told_waiting |= waiting
            up.append(Slots(slots, sorted(waiting)))
        if begun := self._begun():
            down.insert(0, Send(ABOVE, begun))  # before the worker has it, which may take all of this down
        return down + [Send(ABOVE, message) for message in up]

    def next_deadline(self) -> float | None:
        """When `turn` is due even if nothing comes, or None."""
        times = [self.machine.next_deadline(), None if self._answered else self._recalled_until]
        known = [time for time in times if time is not None]
        return min(known) if known else None

    def check(self) -> None:
        """Assert the invariants."""
        self.machine.check()
        assert not (*self._singles, *self._parts, *self._ends), "outcomes were not sent up"
        leases: set[tuple[int, int]] = set()
        for task in self.machine.ledger.tasks.values():
            items = {(task.face, offset) for offset in range(task.offset, task.offset + task.count)}
            assert not items & leases, f"lease {task.face} is here twice"
            leases |= items

    # ---- for the host -------------------------------------------------------------------------------------------

    def submitted(self, ids: Iterable[int]) -> None:
        """Tasks of this node have submitted these: they are pending above."""
        self.machine.waits.elsewhere.update(ids)

    def runs_at(self, peer: int, ids: Iterable[int]) -> bool:
        """Whether `peer` runs all of these: only then what it submits for their place is for anybody above.

        Of a worker that is lost it may be heard too late, when another one runs them: above they have one place, here,
        and the word of the one would push out what the other has submitted.
        """
        tasks = map(self.machine.ledger.find, ids)
        return all(task is not None and task.state == LEASED and task.peer == peer for task in tasks)

    def settled(self, ids: Iterable[int]) -> None:
        """These, submitted here, are settled above; whoever waits for one goes on."""
        self.machine.waits.elsewhere.difference_update(ids)
        self.machine.waits.resume_settled()

    def leave(self, now: float) -> None:
        """Finish what runs, give back the rest, take nothing more."""
        if not self._leaving:
            self._leaving = True
            self.receive(ABOVE, Recall(), now)

    @property
    def idle(self) -> bool:
        """Whether nothing is left here."""
        return not self.machine.ledger.tasks

    # ---- from above ---------------------------------------------------------------------------------------------

    def _run(self, message: Run, now: float) -> None:
        for ordinal, task in enumerate(message.tasks, message.first):
            task.face = ordinal
            if task.options.countdown:  # it is over
                task.options = task.options.replace(countdown=0.0)
        # What its own tasks wait for goes ahead of the rest: a recursion runs depth first here too.
        awaited = self.machine.waits.elsewhere
        first = [task for task in message.tasks if task.id in awaited] if awaited else []
        others = [task for task in message.tasks if task.id not in awaited] if first else message.tasks
        if others:
            self.machine.receive(ABOVE, Submit(others), now)
        if first:
            self.machine.receive(ABOVE, Submit(first, first=True), now)
        if self._leaving:  # it has crossed the word
            self.receive(ABOVE, Recall(), now)

    def _recall(self, message: Recall, now: float) -> None:
        self._recalled_until = now + RECALL_S
        self._answered = False
        self.machine.receive(ABOVE, message, now)

    def _cancel(self, message: Cancel, now: float) -> None:
        if message.token is not None:
            self._questions.append(message)
        self.machine.receive(ABOVE, message, now)

    def _begun(self) -> Running | None:
        """What its workers run, where there is news of that."""
        cost_s, running = self.machine.pace.cost_s, set[tuple[int, int]]()
        for peer in self.machine.peers.values():
            for task in peer.hand.values():  # the first in a hand runs; of what awaits all
                if (cost_s(task.fn) or LONG_S) >= LONG_S or is_suspect(task):
                    running.add((task.face, task.offset))
                if not peer.awaits:
                    break
        if running <= self._running:
            return None
        self._running = running
        return Running(sorted(running))

    # ---- upwards ------------------------------------------------------------------------------------------------

    def _settled(self, effect: Settle) -> None:
        state = effect.state
        for task, payload in zip(effect.tasks, effect.payloads, strict=True):
            if state == FAILED and (ask := task.ask) is not None:
                item = task.offset if task.span else -1
                self._asks.append(Ask(task.face, item, ask.delay, ask.text, ask.instead))
            if state not in (SUCCEEDED, FAILED):
                self._ends.append(Ended(task.face, task.offset, task.count, state, payload, task.deliveries))
                continue
            if task.deliveries:
                self._died.append((task.face, task.offset, task.deliveries))
            if task.span:
                self._parts.append(Part(task.face, task.offset, task.count, state == FAILED, payload))
            else:
                self._singles.append((task.face, payload, state == FAILED))

    def _outcomes(self) -> list[Any]:
        """All of a turn: the single tasks by runs of consecutive ordinals."""
        messages: list[Any] = []
        done: Done | None = None
        expected = -1
        self._singles.sort(key=_ordinal)
        for ordinal, payload, failed in self._singles:
            if done is None or ordinal != expected:
                done = Done(ordinal, [])
                messages.append(done)
            if failed:
                done.failed.append(len(done.payloads))
            done.payloads.append(payload)
            expected = ordinal + 1
        if self._parts and done is None:
            done = Done(self._parts[0].ordinal, [])
            messages.append(done)
        if done is not None:
            done.parts = self._parts
            for each in messages:
                each.asks, each.died = self._asks, self._died
            messages[0].pace = [(fn, tasks, seconds) for fn, (tasks, seconds) in self._pace.items()]
            self._pace = {}
        if self._ends:
            messages.append(Ends(self._ends))
        self._singles, self._parts, self._asks, self._died, self._ends = [], [], [], [], []
        return messages

    def _answer(self, effect: Answer) -> Answered:
        question = next(asked for asked in self._questions if asked.token == effect.token)
        self._questions.remove(question)
        return Answered(question.id, question.token, effect.cancelled)

    def _give_back(self, now: float) -> Returned | None:
        """What has not started, as soon as all workers have said what they have not, or it is time for an answer.

        Who leaves gives back whatever is queued again after that, be it because a worker died.
        """
        until, complete = self._recalled_until, not self.machine.is_asking()
        first = until is not None and not self._answered
        if not complete and (now < until if first and until is not None else not self._leaving):
            return None
        tasks = self.machine.take_back()
        rest = [(task.face, task.offset, task.count) for task in tasks]
        died = [(task.face, task.offset, task.deliveries) for task in tasks if task.deliveries]
        self._answered = True
        if complete:
            self._recalled_until = None
        return Returned(rest, died) if first or rest else None

    _reactions: ClassVar[dict[type, Callable[..., None]]] = {Run: _run, Recall: _recall, Cancel: _cancel}


def _ordinal(single: tuple[int, Any, bool]) -> int:
    return single[0]
