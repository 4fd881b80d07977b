"""Who comes to a broker and who leaves it: connections, the keys behind them, and clients that come back."""

from __future__ import annotations

import logging
from collections.abc import Collection

import zmq

from zmqtasks import codec, visit, wire
from zmqtasks.core.dispatch import Dispatcher
from zmqtasks.core.lanes import Lane, Lanes
from zmqtasks.loans import LAPSED, Lacks
from zmqtasks.messages import Joined, Lost, Task
from zmqtasks.nodes.crew import SESSIONS_MAX
from zmqtasks.nodes.ids import SESSION_MAX
from zmqtasks.nodes.mailbox import Mail, Mailbox
from zmqtasks.nodes.site import remember
from zmqtasks.nodes.visitor import Session, Visitor
from zmqtasks.nodes.zap import User
from zmqtasks.options import Options

_log = logging.getLogger("zmqtasks")


class Guests:
    """The visitors of a broker. What they say beside who they are is not heard here.

    `away_s`: how long a client may be away that has nothing pending, and still be known when it is back. `beat_s`: how
    often a node is to say that it is there.
    """

    def __init__(
        self, cluster_id: str, mailbox: Mailbox, dispatcher: Dispatcher, *, away_s: float, beat_s: float
    ) -> None:
        self.lanes = Lanes()
        self.by_route: dict[bytes, Visitor] = {}
        self.nodes: dict[int, Visitor] = {}  # by number
        self.names: dict[int, str] = {}  # what nodes are called, by number, gone ones too
        self.sessions: dict[int, Session] = {}  # by number
        self.registered: dict[
            str, Options
        ] = {}  # options of tasks, as the last node with it has registered them
        self.left: list[Visitor] = []  # who have left since somebody looked
        self.gone: list[int] = []  # sessions of clients that submit no more, since then
        self._away_s = away_s
        self._beat_s = beat_s
        self._cluster_id = cluster_id
        self._mailbox = mailbox
        self._dispatcher = dispatcher
        self._by_token: dict[str, Session] = {}
        self._by_descriptor: dict[int, Visitor] = {}
        self._old_news: dict[
            int, int
        ] = {}  # disconnections of descriptors that are another's now, still to be heard
        self._next_number = 1

    # ---- coming --------------------------------------------------------------------------------------------------

    def enter(self, mail: Mail, about: visit.Enter, user: User | None, now: float) -> list[Task]:
        """Somebody says who he is; what a client that is back has confirmed. `user`: None where all are one's own."""
        if (reason := objection(about, user)) is not None:
            self.refuse(mail.sender, reason, now)
            return []
        descriptor = int(mail.frame.get(zmq.SRCFD))
        for before in (self.by_route.get(mail.sender), self._by_descriptor.get(descriptor)):
            if before is not None:
                self.leave(before, "its connection was closed", now)
                if before.route != mail.sender:
                    self._old_news[descriptor] = self._old_news.get(descriptor, 0) + 1
        role = user.role if user is not None else about.role
        visitor = Visitor(mail.sender, role, ":".join(user) if user is not None else "", descriptor, about)
        confirmed: list[Task] = []
        taken = -1
        if about.role == "worker":
            visitor.number = self._number(SESSIONS_MAX)
            self.nodes[visitor.number] = visitor
            remember(self.names, visitor.number, visitor.name)
            self.registered.update(about.tasks)
            self._join(visitor, now)
            self._tell_slots()
            _log.info("worker %s has joined: slots %d, Python %s", visitor.name, about.slots, about.python)
        else:
            session = self._by_token.get(about.session)
            if session is not None and session.user == visitor.user:
                if session.visitor is not None:
                    self.leave(session.visitor, "it has come anew", now)
                taken = session.taken + len(session.backlog)
                confirmed = session.confirm(about.got)
                session.send_again()
                session.told_taken = -1 if session.taken else 0  # it may not have heard
            else:
                session = Session(self._number(1), about.session, visitor.user)
                self.sessions[session.number] = self._by_token[about.session] = session
            self._mailbox.give(mail.sender, session.blobs)
            session.gone_at = None
            session.visitor, session.python, session.patient = visitor, about.python, about.patient
            visitor.session, visitor.number = session, session.number
        self.by_route[mail.sender] = self._by_descriptor[descriptor] = visitor
        self.tell(visitor, visit.Welcome(self._cluster_id, visitor.number, taken, self.slots, self._beat_s))
        if owed := self._dispatcher.ledger.loans.of(visitor.number):
            self.tell(visitor, Lacks(owed))
        return confirmed

    @property
    def slots(self) -> int:
        """How many tasks all nodes together run at a time."""
        return sum(node.about.slots for node in self.nodes.values())

    def _number(self, count: int) -> int:
        first = self._next_number
        self._next_number += count
        if self._next_number > SESSION_MAX:
            raise OverflowError("this broker has had as many visitors as it can number: start it anew")
        return first

    def _join(self, node: Visitor, now: float) -> None:
        lanes = self.lanes.of(node.taker)
        self._dispatcher.receive(node.number, Joined(node.about.slots, node=True, lanes=lanes), now)

    def lane(self, lane: Lane, now: float) -> int:
        """The number of that lane; of a new one the nodes that take it are told to the dispatcher."""
        number, is_new = self.lanes.number(lane)
        if is_new:
            for node in self.nodes.values():
                self._join(node, now)
        return number

    # ---- leaving -------------------------------------------------------------------------------------------------

    def disconnected(self, descriptor: int, now: float) -> None:
        """A connection is gone."""
        if self._old_news.get(descriptor, 0):
            self._old_news[descriptor] -= 1
        elif (visitor := self._by_descriptor.get(descriptor)) is not None:
            self.leave(visitor, "its connection was closed", now)

    def refuse(self, route: bytes, reason: str, now: float, *, final: bool = True) -> None:
        """Say why nobody listens, and do not listen. Not `final`: it may come anew."""
        self._mailbox.send(codec.simple(visit.Refused(reason, final)), route)
        if (visitor := self.by_route.get(route)) is not None:
            self.leave(visitor, reason, now)
        else:
            self._mailbox.take(route)

    def turn_out(self, users: Collection[str], now: float) -> None:
        """Their keys were revoked."""
        for visitor in [visitor for visitor in self.by_route.values() if visitor.user in users]:
            self.refuse(visitor.route, "this key is not admitted any more", now)

    def leave(self, visitor: Visitor, reason: str, now: float) -> None:
        """`visitor` is gone, or taken for it."""
        if self.by_route.pop(visitor.route, None) is None:
            return
        if self._by_descriptor.get(visitor.descriptor) is visitor:
            del self._by_descriptor[visitor.descriptor]
        self.left.append(visitor)
        blobs = self._mailbox.take(visitor.route)
        if visitor.session is not None:
            if visitor.session.visitor is visitor:
                visitor.session.visitor = None
                visitor.session.blobs = blobs  # what it sent once it does not send again
                visitor.session.gone_at = now
        else:
            del self.nodes[visitor.number]
            self._tell_slots()
            self._dispatcher.receive(visitor.number, Lost(reason), now)
            _log.info("worker %s is gone: %s", visitor.name, reason)

    def expire(self, now: float) -> list[int]:
        """Forget sessions of clients that have left, or are away for long with nothing pending: their numbers.

        What they have not heard is still kept with the results, for whoever asks for it by its id.
        """
        numbers = []
        for session in [session for session in self.sessions.values() if session.is_away(now, self._away_s)]:
            self._dispatcher.receive(session.number, Lost(LAPSED), now)
            if session.backlog:
                continue
            self.gone.append(session.number)
            if not session.has_left and self._is_busy(session):
                session.gone_at = now  # to look through all tasks each time would cost too much
                continue
            del self.sessions[session.number]
            if self._by_token.get(session.token) is session:
                del self._by_token[session.token]
            numbers.append(session.number)
        return numbers

    def _is_busy(self, session: Session) -> bool:
        tasks = self._dispatcher.ledger.tasks.values()
        return any(getattr(task.face, "peer", -1) == session.number for task in tasks)

    # ---- telling -------------------------------------------------------------------------------------------------

    def tell(self, visitor: Visitor, head: object) -> None:
        """A message without payloads."""
        self.mail(visitor, codec.simple(head))

    def forget(self, digests: set[bytes]) -> None:
        """These buffers are not named any more; whoever still needs one gets it once more."""
        for visitor in self.by_route.values():
            if known := digests & visitor.known:
                visitor.known -= known
                self.tell(visitor, wire.Forget(list(known)))

    def _tell_slots(self) -> None:
        """Clients know how many tasks run at a time: they cut their maps by it."""
        for session in self.sessions.values():
            if session.visitor is not None:
                self.tell(session.visitor, wire.Room(self.slots))

    def mail(self, visitor: Visitor, message: wire.Message) -> None:
        """Any message; a visitor that cannot be reached is gone, and the monitor will say so."""
        if (
            self.by_route.get(visitor.route) is visitor
        ):  # else it was turned out: its connection may still stand
            # Tasks for a node go as they are: they are recalled if they take long, and joining parts takes longer.
            self._mailbox.send(message, visitor.route, whole=visitor.session is None)


def objection(about: visit.Enter, user: User | None) -> str | None:
    """Why somebody is not let in."""
    if about.protocol != visit.PROTOCOL:
        return (
            f"it speaks protocol {about.protocol}, the broker {visit.PROTOCOL}: versions of zmqtasks differ"
        )
    if about.role == "worker" and not 1 <= about.slots <= SESSIONS_MAX:
        return f"a worker runs 1 to {SESSIONS_MAX} tasks at a time, not {about.slots}"
    for options in about.tasks.values():
        options.check()
    if user is None or user.role == about.role or (user.role, about.role) == ("observer", "client"):
        return None
    return f"the key {user.name} is for a {user.role}, not for a {about.role}"
