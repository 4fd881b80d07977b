"""A worker's time with one ventilator: inputs come in by one pipe, outcomes go out by another.

What it reads out of the pipe it claims, and answers for. It reads as long as its children will soon be through with
what it has, so that what waits lies where every worker can get it; and when the ventilator calls back what has not
started, it reads all that is there, so that nothing lies in its pipe while others idle.
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import Any

import zmq

from zmqtasks import codec, wire
from zmqtasks.catalog import Function
from zmqtasks.core.node import ABOVE
from zmqtasks.core.pace import NODE_WINDOW_S, SHORT_S, Pace
from zmqtasks.core.stream import FN
from zmqtasks.messages import FAILED, Claim, Course, Done, Ended, Ends, Part, Recall, Running, Slots
from zmqtasks.nodes.crew import ChildLink
from zmqtasks.nodes.dealer import Dealer
from zmqtasks.nodes.household import AGAIN, Household, Plan
from zmqtasks.nodes.loop import Loop
from zmqtasks.nodes.mailbox import Mailbox, Monitor
from zmqtasks.visit import Admit

QUIET_S = 0.02  # when nothing has come out of the pipe for so long, nothing is in it
PIPE_HWM = 2  # batches; what lies in a pipe is out of everybody's reach
OUTCOMES_HWM = 64  # messages that the sink has not taken
CUT_S = 0.2  # after its pipe to the sink was cut, a worker may still hear that the pipeline has ended
LINGER_MS = 2000  # outcomes on their way to the sink, when this ends


class Shift(Household):
    """One admission's worth of work."""

    def __init__(self, admit: Admit, loop: Loop, dealer: Dealer, plan: Plan, now: float) -> None:
        super().__init__(loop, dealer, plan, "", 0, admit.beat_s, now)
        self.given.by_number[FN] = Function(FN, admit.name, admit.function)
        self._pipeline = admit.pipeline
        self._loop = loop
        self._tasks = self._open(zmq.PULL, admit.tasks, "")
        self._outcomes = self._open(zmq.PUSH, admit.sink, admit.sink_key)
        self._monitor = Monitor(self._outcomes.socket, zmq.EVENT_DISCONNECTED)
        loop.watch(self._monitor)
        self._cut_at: float | None = None  # the pipe to the sink was cut: then this ends
        self._unsent: deque[wire.Message] = deque()  # outcomes that the sink's pipe did not take
        self._claims: list[int] = []
        self._new = 0  # items that were read since the last turn
        self._pace = Pace()
        self._paces: list[tuple[int, int, float]] = []  # what the ventilator has not heard of it
        self._leaves = self._let_go = False  # it takes nothing more; it has closed its end of the pipe
        self._quiet_at: float | None = None  # all is read until then, and what has not started given back
        dealer.send(codec.simple(Slots(plan.slots)))

    def _open(self, kind: int, address: str, server: str) -> Mailbox:
        socket = self._dealer.open(kind, address, server, PIPE_HWM if kind == zmq.PULL else OUTCOMES_HWM)
        mailbox = Mailbox(socket)
        self._loop.watch(mailbox)
        return mailbox

    # ---- the pipes -----------------------------------------------------------------------------------------------

    def has_mail(self) -> bool:
        """Whether there is something to be read, and room for it; or outcomes can go out."""
        # Both are asked whatever comes of it: a socket that is not would signal the same thing again and again.
        has_come, can_go = not self._let_go and self._tasks.has_mail(), self._outcomes.takes_mail()
        return can_go if self._unsent else has_come and self._has_room()

    def _has_room(self) -> bool:
        if self._unsent or self._let_go:
            return False
        items = self.node.machine.ledger.pending + self._new
        if items < self.slots or self._quiet_at is not None:
            return True
        cost = self._pace.cost_s(FN)
        if cost is None:
            return False
        return items * cost < NODE_WINDOW_S * self.slots or (cost < SHORT_S and items < 2 * self.slots)

    def _read(self, now: float) -> None:
        while self._has_room() and (mail := self._tasks.receive()) is not None:
            if mail.message is None or type(mail.message.head) is not wire.Tasks:
                self.trouble = "what came out of the pipe is no batch of this version of zmqtasks"
                return
            run = codec.run_tasks(mail.message)
            for task in run.tasks:
                task.course = task.course or Course(inf)  # attempts are counted at the ventilator
                self._new += task.count
            self.node.receive(ABOVE, run, now)
            self._claims.append(run.first)
            if self._quiet_at is not None and not self._leaves:
                self._quiet_at = now + QUIET_S

    def turn(self, now: float) -> float:
        """Read, decide and tell; when the next turn is due even if nothing comes."""
        while self._unsent and self._outcomes.send(self._unsent[0]):
            self._unsent.popleft()
        self._read(now)
        if self._claims:
            self._dealer.send(codec.simple(Claim(self._claims, self._paces)))
            self._claims, self._paces = [], []
        if self._quiet_at is not None and now >= self._quiet_at:
            self._quiet_at = None
            if self._leaves:  # or what is given back might come by this way again
                self._let_go_of_pipe()
            self.node.receive(ABOVE, Recall(), now)
        if self._cut_at is not None and now >= self._cut_at:
            self.trouble = AGAIN
        deadline = super().turn(now)
        self._new = 0
        times = (deadline, self._quiet_at, self._cut_at)
        return min(time for time in times if time is not None)

    def hear_children(self, ready: list[int], now: float) -> None:
        """What these descriptors bring, as far as they are children's or the monitor's."""
        if (
            not self._let_go
            and self._monitor.fileno() in ready
            and self._monitor.events()
            and self._cut_at is None
        ):
            # What was in the pipe is lost, and nobody would ever miss it: the ventilator has to count this worker as
            # lost, and it comes as a new one.
            self._cut_at = now + CUT_S
        super().hear_children(ready, now)

    # ---- upwards -------------------------------------------------------------------------------------------------

    def tell_above(self, message: Any) -> None:
        """Outcomes go to the sink; all else, and what only the ventilator can make an outcome of, to the ventilator."""
        if type(message) is Running:  # whom the loss of this worker is blamed on: here on nobody
            return
        if type(message) is not Done:
            self._dealer.send(codec.simple(message))
            return
        for fn, items, seconds in message.pace:
            self._pace.note(fn, items, seconds)
        self._paces += message.pace
        asked = {ask.lease for ask in message.asks}
        again: list[Part] = []
        limited: list[Ended] = []
        parts: list[Part] = []
        for part in message.parts:
            if part.failed and (part.ordinal, part.offset) in asked:
                again.append(part)
            elif (
                type(part.payload) is str
            ):  # it was over its time limit: no child is left that could tell more
                limited.append(Ended(part.ordinal, part.offset, part.items, FAILED, part.payload))
            else:
                parts.append(part)
        if again:
            self._dealer.send(
                codec.done(
                    Done(message.first, [], parts=again, asks=message.asks, died=message.died), afar=True
                )
            )
        if limited:
            self._dealer.send(codec.simple(Ends(limited)))
        if parts:
            outcome = codec.yielded(self._pipeline, parts)
            if self._unsent or not self._outcomes.send(outcome):
                self._unsent.append(outcome)

    # ---- from above ----------------------------------------------------------------------------------------------

    def hear(self, message: wire.Arrived, now: float) -> None:
        """What the ventilator says."""
        if type(message.head) is wire.Signal and message.head.name == "recall":
            self._quiet_at = now + QUIET_S

    def leave(self, now: float) -> None:
        """Finish what runs, give back the rest, and let go of the pipe; the ventilator finds what is lost in it."""
        super().leave(now)
        self._leaves = True
        self._quiet_at = now + QUIET_S

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to be done here."""
        return super().is_over and not self._unsent and self._quiet_at is None

    def close(self) -> None:
        """End the children, whatever they run; what is finished still goes to the sink."""
        super().close()
        self._let_go_of_pipe()
        self._loop.unwatch(self._outcomes)
        self._outcomes.close(LINGER_MS)

    def _let_go_of_pipe(self) -> None:
        if not self._let_go:
            self._let_go = True
            for each in (self._monitor, self._tasks):
                self._loop.unwatch(each)
                each.close()

    # ---- children ------------------------------------------------------------------------------------------------

    def child_asks(self, child: ChildLink, message: wire.Arrived) -> None:
        """Nothing: a pipeline's task has nobody to ask."""

    def child_lost(self, peer: int) -> None:
        """Nothing was asked for."""
