"""Cancelling and expiring: what has not started is taken out, what may have started is asked for first."""

from __future__ import annotations

from zmqtasks.core.effects import Answer, Effect, End, Send
from zmqtasks.core.joins import UNHEARD
from zmqtasks.core.ledger import Ledger
from zmqtasks.core.pace import STEAL_S
from zmqtasks.core.peer import Peer, is_within
from zmqtasks.messages import (
    CANCELLED,
    EXPIRED,
    FAILED,
    LEASED,
    QUEUED,
    Answered,
    Cancel,
    Recall,
    Task,
    Unwanted,
)

EARLY = "cancelled before it started"


class Cancels:
    """Answers `Cancel`, at once or when the peer that may be running the task has said what it has not started."""

    def __init__(self, ledger: Ledger, peers: dict[int, Peer], sends: list[Effect]) -> None:
        self._ledger = ledger
        self._peers = peers
        self._sends = sends

    def ask(self, message: Cancel, now: float) -> None:
        """A question has come, or comes up again."""
        if message.count > 1:
            self._ask_range(message, now)
            return
        ledger = self._ledger
        task = ledger.find(message.id)
        if task is None:
            self._answer(message, cancelled=False)
        elif task.state != LEASED:
            task = ledger.single(task, message.id)
            if message.terminate:
                ledger.joins.ended_hard.add(task.id)
            ledger.deliver(ledger.settle(CANCELLED, [task], [EARLY]), now)
            self._answer(message, cancelled=True)
        else:
            self._ask_peer(self._peers[task.peer], message, now)

    def ask_again(self, peer: Peer, now: float) -> None:
        """Something has come from `peer`: the questions that waited for it may have their answer."""
        questions, peer.questions = peer.questions, []
        for question in questions:
            self.ask(question, now)

    def ask_about(self, peer: Peer, back: list[Task], now: float) -> None:
        """A node has given back these: a question about any is answered here, before it is dealt again."""
        ledger = self._ledger
        for asked in list(peer.questions):
            if asked.count > 1:
                if gone := [task for task in back if task.state == QUEUED and is_within(task, asked)]:
                    ledger.deliver(ledger.settle(CANCELLED, gone, [EARLY] * len(gone)), now)
            else:
                task = ledger.find(asked.id)
                if task is not None and task.state != LEASED:
                    peer.questions.remove(asked)
                    self.ask(asked, now)
        peer.forget_ranges()

    def answer_ended(self, peer: Peer, id_: int) -> None:
        """`peer` was ended for the task `id_`: whoever asked for that hears so."""
        for asked in peer.questions:
            if (asked.id, asked.count) == (id_, 1):
                self._answer(asked, cancelled=True)
        peer.questions = [asked for asked in peer.questions if (asked.id, asked.count) != (id_, 1)]

    def hear(self, peer: Peer, message: Answered) -> None:
        """A node has answered. What it had given back before is no question any more."""
        for asked in [
            asked for asked in peer.questions if (asked.id, asked.token) == (message.id, message.token)
        ]:
            peer.questions.remove(asked)
            self._answer(asked, cancelled=message.cancelled)

    def recall(self, peer: Peer) -> None:
        """Ask for what `peer` has not started."""
        peer.asked = True
        peer.due = None
        self._sends.append(Send(peer.id, Recall()))

    def _answer(self, message: Cancel, *, cancelled: bool) -> None:
        if message.token is not None:
            self._sends.append(Answer(message.token, cancelled))

    def expire(self, now: float) -> None:
        """What had to start by now and has not is taken out; what is in a hand behind another is asked for first.

        What is alone in a hand starts at once: it is left.
        """
        ledger, expired, failed = self._ledger, list[Task](), list[Task]()
        for task in ledger.starts.due(now):
            if task.state == LEASED:
                peer = self._peers[task.peer]
                if peer.items > peer.slots and not (peer.asked or peer.barren or peer.ending >= 0):
                    self.recall(peer)
            elif task.course is not None and task.course.retries:
                failed.append(task)
            else:
                expired.append(task)
        if expired:
            reasons = [f"it had not started {task.options.expires:g} s after its submit" for task in expired]
            ledger.deliver(ledger.settle(EXPIRED, expired, reasons), now)
        if failed:
            errors = [task.course.last if task.course is not None else None for task in failed]
            ledger.deliver(ledger.settle(FAILED, failed, errors), now)

    def _ask_range(self, message: Cancel, now: float) -> None:
        ledger = self._ledger
        tasks = ledger.within(message.id, message.count)
        if gone := [task for task in tasks if task.state != LEASED]:
            ledger.deliver(ledger.settle(CANCELLED, gone, [EARLY] * len(gone)), now)
        out = [task for task in tasks if task.state == LEASED]
        for index in {task.peer for task in out}:
            peer = self._peers[index]
            if peer.is_node:
                self._sends.append(Send(peer.id, message))
                # What it gives back before it hears that, or is lost with, must not be dealt again.
                if message not in peer.questions and any(
                    task.peer == index and task.root != UNHEARD for task in out
                ):
                    peer.forget_ranges()
                    peer.questions.append(message)
            elif (peer.asked or not peer.barren) and message not in peer.questions:
                peer.questions.append(message)
                if not peer.asked:
                    self.recall(peer)

    def _ask_peer(self, peer: Peer, message: Cancel, now: float) -> None:
        """It may have started: what has not comes back when asked for, and then the answer is certain."""
        if peer.is_node:
            if message.token is not None:
                peer.questions.append(message)
            self._sends.append(Send(peer.id, message))  # it asks its own workers
        elif peer.asked:
            peer.questions.append(message)
        elif not peer.barren:
            peer.questions.append(message)
            self.recall(peer)
        elif not message.terminate:
            self._sends.append(Send(peer.id, Unwanted(message.id)))
            self._answer(message, cancelled=False)
        elif peer.awaits:
            peer.questions.append(message)  # it ends that one among many, and says so
            self._sends.append(Send(peer.id, Cancel(message.id, terminate=True, token=None)))
        elif peer.items > 1:
            # Outcomes of what ran before are on their way: of this task, or of others.
            peer.questions.append(message)
            peer.due = now + STEAL_S
        else:
            # It is all there is in hand, and nothing more is dealt to a peer that is ending: whatever the kill hits,
            # it is this task or none.
            peer.ending = message.id
            peer.questions.append(message)
            self._sends.append(End(peer.id))
