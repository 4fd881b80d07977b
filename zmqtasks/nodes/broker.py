"""The broker: a dispatcher over nodes, with one ROUTER socket for them and for clients.

It carries bytes that it cannot open: no function and no value is ever unpickled here. What was accepted is lost with
this process, and its clients' futures say so: there is a journal, which hears of all that happens before anybody else
does, but so far only one in memory.
"""

from __future__ import annotations

import logging
import secrets
from time import monotonic
from typing import Any

import zmq

from zmqtasks import codec, visit, wire
from zmqtasks.catalog import Catalog
from zmqtasks.core.dispatch import Dispatcher
from zmqtasks.core.effects import Answer, End, Record, Send, Settle
from zmqtasks.core.history import History
from zmqtasks.core.results import Results, end
from zmqtasks.journal import Journal
from zmqtasks.journal.memory import MemoryJournal
from zmqtasks.keys import KeyStore, is_on_this_machine, require_safe_bind
from zmqtasks.messages import FACE, LEASED, QUEUED, RETRYING, SCHEDULED, SUCCEEDED, WAITING, Cancel, Run, Task
from zmqtasks.nodes.asks import Asker
from zmqtasks.nodes.broker_site import BrokerSite
from zmqtasks.nodes.guests import Guests
from zmqtasks.nodes.ids import ids_of
from zmqtasks.nodes.inspection import Inspection
from zmqtasks.nodes.loop import Loop
from zmqtasks.nodes.mailbox import Mail, Mailbox, Monitor
from zmqtasks.nodes.requests import Requests
from zmqtasks.nodes.sockets import BEATS, attend, listen
from zmqtasks.nodes.visitor import Session, Visitor
from zmqtasks.nodes.zap import LOOK_S, Authenticator, keypair, secure_server, user_of

SILENCE_S = 5.0  # after which a node is given up
MAIL_MAX = 512  # messages a turn
EXPIRY_S = 1.0  # how often what is kept is looked through
LINGER_MS = 500
TAKEN_S = 0.002  # for so long the word that something was taken in waits for an outcome to go with
RESULT_BYTES_MAX = 256 << 20
RESULT_TTL_S = 86400.0
AWAY_S = 600.0  # how long a client may be away that has nothing pending
WINDOW_BYTES = 16 << 20  # outcomes on their way to a client that it has not confirmed
BATCH_BYTES = 1 << 20  # of them, about as much in one message

_log = logging.getLogger("zmqtasks")


class Broker:
    """Binds and serves. `queue_max`: tasks that may be unsettled at a time, before clients wait or are refused."""

    def __init__(
        self,
        addresses: list[str],
        store: KeyStore,
        *,
        queue_max: int | None = 1_000_000,
        result_bytes_max: int = RESULT_BYTES_MAX,
        result_ttl_s: float = RESULT_TTL_S,
        silence_s: float = SILENCE_S,
        away_s: float = AWAY_S,
        journal: Journal | None = None,
    ) -> None:
        self.journal: Journal = MemoryJournal() if journal is None else journal
        self.cluster_id = secrets.token_hex(4)
        history = History(self.cluster_id)
        self._dispatcher = Dispatcher(queue_max=queue_max, silence_s=silence_s, limits=False, history=history)
        self._results = Results(result_bytes_max, result_ttl_s)
        self._catalog = Catalog()
        self._stops = 0  # how often it was told to
        self._is_stopping = False  # and has said what it waits for
        self._expire_at = 0.0
        self._gone: list[int] = []  # descriptors of connections that are gone
        self._loop = Loop()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._authenticator: Authenticator | None = None
        try:
            self._mailbox = self._open(addresses, store, silence_s)
        except BaseException:
            self._context.destroy(0)
            self._loop.close()
            raise
        self._guests = Guests(
            self.cluster_id, self._mailbox, self._dispatcher, away_s=away_s, beat_s=silence_s / BEATS
        )
        site = BrokerSite(self._dispatcher, self._guests, self._results, self._catalog, self.journal.name)
        inspection = Inspection(lambda: self._dispatcher, site, self.cluster_id)
        self._requests = Requests(
            self._guests, self._mailbox, self._dispatcher, self._results, self._catalog, inspection
        )

    def _open(self, addresses: list[str], store: KeyStore, silence_s: float) -> Mailbox:
        socket = self._context.socket(zmq.ROUTER)
        attend(socket, silence_s=silence_s)  # credit and windows bound what is on its way
        if not all(address.startswith("ipc:") for address in addresses):
            for address in addresses:
                require_safe_bind(address, store)
            if all(map(is_on_this_machine, addresses)):
                store.ensure_local(keypair)
            secure_server(socket, *store.server())
            self._authenticator = Authenticator(self._context, store)
            self._loop.watch(self._authenticator)
        self._monitor = Monitor(socket, zmq.EVENT_DISCONNECTED)
        self.addresses = [listen(socket, address) for address in addresses]
        self.address = self.addresses[-1]
        mailbox = Mailbox(socket)
        self._loop.watch(mailbox)
        self._loop.watch(self._monitor)
        return mailbox

    def stop(self) -> None:
        """From a signal handler or a thread: end when nothing is left to be done. The second time: end."""
        self._stops += 1
        self._loop.wake()

    # ---- the loop ------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until stopped."""
        loop, mailbox, monitor, authenticator = self._loop, self._mailbox, self._monitor, self._authenticator
        deadline = 0.0
        if authenticator is not None:  # a socket signals only after it was found empty
            authenticator.answer(monotonic())
        watched = (monitor.fileno(), authenticator.fileno() if authenticator is not None else -1)
        try:
            while not self._is_over():
                loop.asleep = True
                ready = loop.wait(0.0 if self._gone or mailbox.has_mail() else deadline)
                now = monotonic()
                if watched[0] in ready:
                    self._gone += [descriptor for _, descriptor in monitor.events()]
                if authenticator is not None:
                    look = authenticator.answer if watched[1] in ready else authenticator.refresh
                    if out := look(now):
                        self._guests.turn_out(out, now)
                for _ in range(MAIL_MAX):
                    if not mailbox.has_mail() or (mail := mailbox.receive()) is None:
                        self._let_go(now)
                        break
                    self._hear(mail, now)
                deadline = self._turn(now)
        finally:
            self._close()

    def _let_go(self, now: float, only: int | None = None) -> None:
        """Connections are gone, and all that came by them was read: last words count. `only` those so numbered."""
        for descriptor in self._gone:
            if only in (None, descriptor):
                self._guests.disconnected(descriptor, now)
        self._gone = [] if only is None else [each for each in self._gone if each != only]

    def _is_over(self) -> bool:
        if self._stops != 1:
            return self._stops > 1
        # A client that is not there would be waited for in vain.
        sessions = self._guests.sessions.values()
        unheard = sum(session.visitor is not None and not session.is_told for session in sessions)
        if not self._is_stopping:
            self._is_stopping = True
            states = (LEASED, QUEUED, WAITING, SCHEDULED, RETRYING)
            counts = self._dispatcher.ledger.counts
            tasks = ", ".join(f"{counts[state]} {FACE[state]}" for state in states if counts[state])
            waits = [f"tasks ({tasks})"] if tasks else []
            waits += [f"clients ({unheard}) to hear of theirs"] if unheard else []
            _log.info("the broker waits for %s", " and ".join(waits) or "nothing")
        return not (self._dispatcher.ledger.tasks or unheard)

    def _hear(self, mail: Mail, now: float) -> None:
        user = None
        if self._authenticator is not None:
            user = user_of(mail.frame)
            if user is None or not self._authenticator.is_authorized(":".join(user)):
                self._guests.refuse(mail.sender, "this key is not admitted any more", now)
                return
        if mail.message is None:
            self._guests.refuse(mail.sender, "that is no message of this version of zmqtasks", now)
            return
        try:
            if type(mail.message.head) is visit.Enter:
                self._gone += [descriptor for _, descriptor in self._monitor.events()]
                self._let_go(now, int(mail.frame.get(zmq.SRCFD)))  # whoever had this descriptor before
                self._results.release(self._guests.enter(mail, mail.message.head, user, now))
                # Whoever is back has something to hear, and may say nothing more until then.
                visitor = self._guests.by_route.get(mail.sender)
                if visitor is not None and visitor.session is not None:
                    self._requests.touched.add(visitor.session.number)
            elif (visitor := self._guests.by_route.get(mail.sender)) is not None:
                self._requests.hear(visitor, mail.message, now)
            else:
                self._guests.refuse(mail.sender, "who are you?", now, final=False)
        except PermissionError as error:
            self._guests.refuse(mail.sender, str(error), now)
        except Exception:  # noqa: BLE001 - whatever somebody with a key makes up
            _log.exception("a message makes no sense: its sender is refused")
            self._guests.refuse(mail.sender, "that makes no sense here", now)

    def _turn(self, now: float) -> float:
        requests, guests, dispatcher = self._requests, self._guests, self._dispatcher
        for session in guests.sessions.values():
            if session.backlog:
                requests.take_in(session, now)
                requests.touched.add(session.number)
        while guests.left:
            requests.forget(guests.left.pop(), now)
        effects = dispatcher.turn(now)
        if records := [effect for effect in effects if isinstance(effect, Record)]:
            self.journal.record(records)
            self.journal.commit()  # before anybody hears of it
        answers: list[Answer] = []
        effect: Any
        for effect in effects:
            kind = type(effect)
            if kind is Settle:
                self._settle(effect, now)
            elif kind is Send and (node := guests.nodes.get(effect.peer)) is not None:
                self._send(node, effect.message)
            elif kind is Send and (lender := guests.sessions.get(effect.peer)) is not None:
                if lender.visitor is not None:  # else it is asked when it comes back
                    guests.tell(lender.visitor, effect.message)
            elif kind is Answer:
                answers.append(effect)
            elif kind is End and (node := guests.nodes.get(effect.peer)) is not None:
                guests.refuse(node.route, "nothing was heard of it for too long", now, final=False)
        for number, outcomes in requests.asks.outcomes().items():
            if (node := guests.nodes.get(number)) is not None:  # a task of its children has asked
                guests.mail(node, codec.settled(outcomes, node.known, afar=True))
        requests.tell_lenders()
        touched, requests.touched = requests.touched, set()
        for number in touched:
            if number in guests.sessions:
                self._tell(guests.sessions[number], now)
        for answer in answers:  # after the outcomes: who is told that a task is cancelled sees that it is
            requests.answer(answer)
        if requests.forgotten:
            forgotten, requests.forgotten = requests.forgotten, set()
            guests.forget(forgotten)
        if now >= self._expire_at:
            self._expire_at = now + EXPIRY_S
            self._results.expire(now)
            for number in guests.expire(now):
                requests.forget_session(number)
            while guests.gone:
                dispatcher.receive(0, ids_of(guests.gone.pop()), now)
            requests.drop_functions()
        times = [self._expire_at, dispatcher.next_deadline(), now + LOOK_S]
        times += [guests.sessions[number].tell_at for number in requests.touched if number in guests.sessions]
        return min(time for time in times if time is not None)

    def _send(self, node: Visitor, message: Any) -> None:
        if type(message) is Run:
            new = {task.fn for task in message.tasks} - node.functions
            node.functions |= new
            functions: wire.Functions = [self._catalog.by_number[number] for number in new]
            self._guests.mail(node, codec.run(message, node.known, functions, afar=True))
        elif type(message) is Cancel:
            self._requests.ask_node(node, message)
        else:
            self._guests.tell(node, message)

    def _settle(self, effect: Settle, now: float) -> None:
        by_face: dict[Any, list[Task]] = {}
        for task, payload in zip(effect.tasks, effect.payloads, strict=True):
            by_face.setdefault(task.face, []).append(task)
            end(task, payload)
        for face, tasks in by_face.items():
            if face is None:
                self._requests.settled_unheard(tasks, now)
                continue
            peer = face.peer if type(face) is Asker else -1
            if peer in self._guests.nodes:  # a task of its children has asked
                self._requests.asks.settle(face, tasks)
                self._requests.settled(tasks)
                if effect.state == SUCCEEDED:
                    self._results.spare(tasks, now)
                continue
            nbytes = self._results.put(tasks, now)
            if (session := self._guests.sessions.get(peer)) is not None:
                session.waiting.append((tasks, nbytes))
                self._requests.touched.add(session.number)
            self._requests.settled(tasks)

    def _tell(self, session: Session, now: float) -> None:
        """Whatever a client is to know, as far as it has confirmed what was sent before."""
        visitor = session.visitor
        if visitor is None:
            return
        waiting = session.waiting
        taken = self._dispatcher.ledger.loans.taken(session.number, session.taken, session.told_taken)
        while waiting and session.on_the_way < WINDOW_BYTES:
            tasks, nbytes = waiting.popleft()
            while waiting and nbytes < BATCH_BYTES:
                more, of_more = waiting.popleft()
                tasks = tasks + more
                nbytes += of_more
            session.sent.append((tasks, nbytes))
            session.on_the_way += nbytes
            session.told_taken = taken
            message = codec.settled(tasks, visitor.known, afar=True, taken=taken)
            self._guests.mail(visitor, message)
        if taken == session.told_taken:
            session.tell_at = None
        elif session.tell_at is None:
            session.tell_at = now + TAKEN_S
            self._requests.touched.add(session.number)
        elif now < session.tell_at:
            self._requests.touched.add(session.number)
        else:
            session.told_taken, session.tell_at = taken, None
            self._guests.tell(visitor, visit.Taken(taken))

    def _close(self) -> None:
        for visitor in list(self._guests.by_route.values()):
            self._guests.tell(visitor, visit.Refused("the broker was stopped", final=False))
        self._monitor.close()
        self._mailbox.close(LINGER_MS)
        if self._authenticator is not None:
            self._authenticator.close()
        self._context.term()
        self._loop.close()
