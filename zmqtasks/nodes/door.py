"""The door of a ventilator or a sink: one ROUTER socket, who has come through it, and who has left."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic
from typing import NamedTuple

import zmq

from zmqtasks import codec, visit, wire
from zmqtasks.nodes.guests import objection
from zmqtasks.nodes.loop import Loop
from zmqtasks.nodes.mailbox import PART, Mail, Mailbox, Monitor
from zmqtasks.nodes.sockets import Sockets
from zmqtasks.nodes.zap import LOOK_S, user_of

MAIL_MAX = 512  # messages a turn

_log = logging.getLogger("zmqtasks")


class Member(NamedTuple):
    """Somebody who was let in: `number` names him here, `route` to the socket."""

    number: int
    route: bytes
    user: str
    descriptor: int
    about: visit.Enter

    @property
    def name(self) -> str:
        """What he calls himself."""
        return self.about.name or f"{self.about.host}:{self.about.pid}"


class Door:
    """Lets in, listens, and says who is gone. `came`, `said` and `left` are called from `look`."""

    def __init__(
        self,
        sockets: Sockets,
        loop: Loop,
        came: Callable[[Member, float], None],
        said: Callable[[Member, wire.Arrived, float], None],
        left: Callable[[Member, str, float], None],
    ) -> None:
        self.members: dict[int, Member] = {}
        self._by_route: dict[bytes, Member] = {}
        self._sockets = sockets
        self._came, self._said, self._left = came, said, left
        self._next = 1
        self._gone: list[int] = []  # descriptors of connections that are gone
        self._mailbox = Mailbox(sockets.control)
        self._monitor = Monitor(sockets.control, zmq.EVENT_DISCONNECTED)
        loop.watch(self._mailbox)
        loop.watch(self._monitor)
        if sockets.authenticator is not None:  # a socket signals only after it was found empty
            loop.watch(sockets.authenticator)
            sockets.authenticator.answer(monotonic())

    def has_mail(self) -> bool:
        """Whether something has come; asked before each sleep."""
        return bool(self._gone) or self._mailbox.has_mail()

    def look(self, ready: list[int], now: float) -> float:
        """Hear everybody; when to look again even if nothing comes."""
        if self._monitor.fileno() in ready:
            self._look_who_left()
        if (authenticator := self._sockets.authenticator) is not None:
            look = authenticator.answer if authenticator.fileno() in ready else authenticator.refresh
            out = look(now)
            for member in [member for member in self.members.values() if member.user in out]:
                self.turn_out(member, "this key is not admitted any more", now)
        for _ in range(MAIL_MAX):
            if (mail := self._mailbox.receive()) is None:
                self._let_go(now)  # after the last words of whoever has left
                break
            self._hear(mail, now)
        return now + LOOK_S

    def _look_who_left(self) -> None:
        self._gone += [descriptor for _, descriptor in self._monitor.events()]

    def _let_go(self, now: float, only: int | None = None) -> None:
        """Connections are gone, and all that came by them was read. `only` those so numbered."""
        gone = {descriptor for descriptor in self._gone if only in (None, descriptor)}
        self._gone = [descriptor for descriptor in self._gone if descriptor not in gone]
        for member in [member for member in self.members.values() if member.descriptor in gone]:
            self._leave(member, "its connection was closed", now)

    def _hear(self, mail: Mail, now: float) -> None:
        user = ""
        if (authenticator := self._sockets.authenticator) is not None:
            found = user_of(mail.frame)
            user = ":".join(found) if found is not None else ""
            if not authenticator.is_authorized(user):
                self._refuse(mail.sender, "this key is not admitted any more")
                return
        if mail.message is None:
            self._refuse(mail.sender, "that is no message of this version of zmqtasks")
            return
        head, member = mail.message.head, self._by_route.get(mail.sender)
        try:
            if type(head) is visit.Enter:
                if reason := objection(head, user_of(mail.frame) if user else None):
                    self._refuse(mail.sender, reason)
                    return
                self._look_who_left()
                self._let_go(now, int(mail.frame.get(zmq.SRCFD)))  # whoever had this descriptor before
                if member is not None:
                    self._leave(member, "it has come anew", now)
                self._enter(mail, head, user, now)
            elif member is None:
                self._refuse(mail.sender, "who are you?", final=False)
            elif mail.message is not PART:
                self._said(member, mail.message, now)
        except PermissionError as error:
            self._refuse(mail.sender, str(error))
        except Exception:  # noqa: BLE001 - whatever somebody with a key makes up
            _log.exception("a message makes no sense: its sender is refused")
            self._refuse(mail.sender, "that makes no sense here")
            if member is not None:
                self._leave(member, "what it said made no sense", now)

    def _enter(self, mail: Mail, about: visit.Enter, user: str, now: float) -> None:
        member = Member(self._next, mail.sender, user, int(mail.frame.get(zmq.SRCFD)), about)
        self._next += 1
        self.members[member.number] = self._by_route[member.route] = member
        try:
            self._came(member, now)
        except BaseException:
            del self.members[member.number], self._by_route[member.route]  # nobody has come
            raise

    def _leave(self, member: Member, reason: str, now: float) -> None:
        if self.members.pop(member.number, None) is not None:
            del self._by_route[member.route]
            self._left(member, reason, now)

    def turn_out(self, member: Member, reason: str, now: float, *, final: bool = True) -> None:
        """Listen to him no more; not `final`: he may come anew."""
        self._refuse(member.route, reason, final=final)
        self._leave(member, reason, now)

    def _refuse(self, route: bytes, reason: str, *, final: bool = True) -> None:
        self._mailbox.send(codec.simple(visit.Refused(reason, final)), route)
        self._mailbox.take(route)

    def tell(self, number: int, head: object) -> None:
        """A message without payloads; who cannot be reached is gone, and the monitor will say so."""
        self.mail(number, codec.simple(head))

    def mail(self, number: int, message: wire.Message) -> None:
        """Any message."""
        if (member := self.members.get(number)) is not None:
            self._mailbox.send(message, member.route)

    def close(self) -> None:
        """Stop looking; the socket is closed with the others."""
        self._monitor.close()
