"""What the visitors of a broker say, and what it does about each word."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any, ClassVar

from zmqtasks import codec, visit, wire
from zmqtasks.catalog import Catalog
from zmqtasks.core.dispatch import Dispatcher
from zmqtasks.core.effects import Answer
from zmqtasks.core.lanes import Lane
from zmqtasks.core.results import Results, known
from zmqtasks.keys import may
from zmqtasks.loans import Told
from zmqtasks.members import Gone
from zmqtasks.messages import JOIN, QUEUED, SUCCEEDED, Answered, Beat, Cancel, Lent, Submit, Task
from zmqtasks.nodes import checked
from zmqtasks.nodes.asks import Asker, Asks
from zmqtasks.nodes.crew import SESSIONS_MAX
from zmqtasks.nodes.guests import Guests
from zmqtasks.nodes.ids import ids_of, session_of
from zmqtasks.nodes.inspection import Inspection
from zmqtasks.nodes.mailbox import PART, Mailbox
from zmqtasks.nodes.visitor import Session, Visitor

_VERBS: dict[type, str] = {
    wire.Asked: "submit",
    wire.Values: "submit",
    wire.CancelAsked: "cancel",
    visit.Got: "result",
    visit.Fetch: "result",
    visit.Enough: "result",
    visit.Inquiry: "inspect",
}


FUNCTIONS_MIN = 64  # so many need not be looked through

_ABOUT_TASKS = (wire.CancelAsked, visit.Fetch, visit.Inquiry, Gone)


class Requests:
    """Turns words into what the dispatcher hears, and answers those that are not for it."""

    def __init__(
        self,
        guests: Guests,
        mailbox: Mailbox,
        dispatcher: Dispatcher,
        results: Results,
        catalog: Catalog,
        inspection: Inspection,
    ) -> None:
        self.asks = Asks(catalog)
        self.forgotten: set[bytes] = set()  # hashes of buffers that a client will not name again
        self.touched: set[int] = set()  # sessions that may have something to be told
        self._guests = guests
        self._mailbox = mailbox
        self._dispatcher = dispatcher
        self._results = results
        self._catalog = catalog
        self._inspection = inspection
        self._tokens = count()
        self._questions: dict[
            int, tuple[Visitor, Any]
        ] = {}  # of cancels: the node that was asked, by the token that it got
        self._functions_kept = 0  # for tasks and their outcomes, when it was looked last
        self._relayed: dict[
            int, tuple[Visitor, int, Visitor, int]
        ] = {}  # who asked, his token, the node, attempt
        self._fetches: dict[int, list[tuple[Visitor, int]]] = {}  # by id: who waits for the outcome
        # By session, while it is in the midst of what needs them: outcomes that nobody else asks for.
        self._held: dict[int, list[Task]] = {}
        self._lenders: dict[int, Visitor] = {}  # nodes that are to hear that what they have lent is here

    def hear(self, visitor: Visitor, message: wire.Arrived, now: float) -> None:
        """`visitor` says something; any exception means that it makes no sense."""
        if message is PART:
            if visitor.session is None:
                self._dispatcher.receive(visitor.number, Beat(), now)
            return
        kind = type(message.head)
        verb = _VERBS.get(kind, "join")
        if (
            visitor.user
            and not (verb == "join" and visitor.session is not None)
            and not may(visitor.role, verb)
        ):
            raise PermissionError(f"a key for the role {visitor.role} does not let anybody {verb}")
        if visitor.session is not None and visitor.session.backlog and kind is not wire.Asked:
            self.take_in(visitor.session, now, all_of_it=kind in _ABOUT_TASKS)  # they may be among these
        self._reactions[kind](self, visitor, message, now)

    # ---- nodes ---------------------------------------------------------------------------------------------------

    def _core_word(self, node: Visitor, message: wire.Arrived, now: float) -> None:
        said = codec.core_message(message)
        _require_node(node)
        checked.word(said)
        self._dispatcher.receive(node.number, said, now)

    def ask_node(self, node: Visitor, question: Cancel) -> None:
        """The dispatcher asks a node to cancel something."""
        token = None
        if question.token is not None:
            token = next(self._tokens)
            self._questions[token] = node, question.token
        self._guests.tell(node, wire.CancelAsked(question.id, question.terminate, token, question.count))

    def _cancel_answer(self, node: Visitor, message: wire.Arrived, now: float) -> None:
        _require_node(node)
        head = message.head
        _, token = self._questions.pop(head.token)
        self._dispatcher.receive(node.number, Answered(head.id, token, head.cancelled), now)

    def _progress(self, node: Visitor, message: wire.Arrived, _now: float) -> None:
        _require_node(node)
        task = self._dispatcher.ledger.find(message.head.id)
        if task is not None and (to := self._asker(task.face)) is not None:
            self._guests.tell(to, message.head)

    def _asker(self, face: Any) -> Visitor | None:
        """Who waits for a task, if he is connected."""
        if type(face) is not Asker:
            return None
        session = self._guests.sessions.get(face.peer)
        return session.visitor if session is not None else self._guests.nodes.get(face.peer)

    def _signal(self, visitor: Visitor, message: wire.Arrived, now: float) -> None:
        if message.head.name == "bye":
            self._guests.leave(visitor, "it has left", now)
            if visitor.session is not None:
                visitor.session.end()
        else:
            self._core_word(visitor, message, now)

    def _gone(self, visitor: Visitor, message: wire.Arrived, now: float) -> None:
        """A child of a node is, or a client submits no more."""
        first, last = message.head.first, message.head.first + message.head.count - 1
        sessions = 1 if visitor.session is not None else SESSIONS_MAX
        if not visitor.number <= session_of(first) <= session_of(last) < visitor.number + sessions:
            raise ValueError("these ids are none of this visitor's")
        self._dispatcher.receive(visitor.number, message.head, now)
        self._results.forget(first, message.head.count)

    def forget_session(self, number: int) -> None:
        """That client is not known any more."""
        self.asks.forget(number)
        gone = ids_of(number)
        self._results.forget(gone.first, gone.count)
        self._results.drop(self._held.pop(number, []))

    # ---- submitting ----------------------------------------------------------------------------------------------

    def _asked(self, visitor: Visitor, message: wire.Arrived, now: float) -> None:
        for blob in message.head.blobs:
            self._mailbox.keep(visitor.route, blob.digest, message.buffer(blob.buffer, blob.digest))
        # Opened now, since buffers that it names may be forgotten before there is room; and looked at while whoever
        # makes no sense can be told apart from others.
        submit = self.asks.submit(visitor.number, message)
        checked.tasks(submit, visitor.number, 1 if visitor.session is not None else SESSIONS_MAX)
        if visitor.session is None:  # a node's task waits for it: it must not wait for room
            submit.patient = True
            if message.head.lent:
                visitor.loans += 1
                self._lenders[visitor.number] = visitor
            self._submit(visitor.number, visitor.about.python, submit, now)
        else:
            visitor.session.backlog.append(submit)
            self.touched.add(visitor.session.number)

    def take_in(self, session: Session, now: float, *, all_of_it: bool = False) -> None:
        """What a client has submitted, as far as there is room, or it wants to hear that there is none."""
        patient, queue_max = session.patient, self._dispatcher.queue_max
        room = None if queue_max is None else queue_max - self._dispatcher.ledger.pending
        while session.backlog and (room is None or room > 0 or not patient or all_of_it):
            submit = session.backlog.popleft()
            submit.patient = patient
            taken = self._submit(session.number, session.python, submit, now)
            if submit.more:
                self._held.setdefault(session.number, [])
            elif (held := self._held.pop(session.number, None)) is not None:
                self._results.release(held)
            room = None if room is None else room - taken
            session.taken += 1

    def _submit(self, number: int, python: str, submit: Submit, now: float) -> int:
        lane, results = self._guests.lane, self._results
        usual = lane(Lane("default", python), now)
        names = self._catalog.names
        for id_ in [id_ for id_, each in submit.known.items() if type(each) is Lent]:
            if (result := results.lend(id_)) is not None:
                submit.known[id_] = known(result, id_)
        if len(results):  # what is said once more may have been settled before
            submit.tasks = [task for task in submit.tasks if results.find(task.id) is None]
        items = 0
        for task in submit.tasks:
            name = names.get(task.fn, "")
            if name and (given := self._guests.registered.get(name)) is not None:
                task.options = task.options.over(given)
            queue = task.options.queue
            task.lane = usual if queue == "default" and not name else lane(Lane(queue, python, name), now)
            items += task.count
            for need in task.needs:
                if need not in submit.known and (result := results.find(need)) is not None:
                    submit.known[need] = known(result, need)
        self._dispatcher.receive(number, submit, now)
        return items

    def _told(self, visitor: Visitor, message: wire.Arrived, now: float) -> None:
        """Values that were lent, and asked for: those that are whole may be asked for again."""
        for blob in message.head.blobs:
            self._mailbox.keep(visitor.route, blob.digest, message.buffer(blob.buffer, blob.digest))
        told = codec.told_values(message)
        checked.told(told)
        owed = {
            id_: told.known[id_]
            for id_ in self._dispatcher.ledger.loans.of(visitor.number)
            if id_ in told.known
        }
        self._dispatcher.receive(visitor.number, Told(owed), now)
        values = [
            (id_, value) for id_, (state, value) in owed.items() if state == SUCCEEDED and value.index < 0
        ]
        self._results.spare([Task(id_, JOIN, value.payload, state=SUCCEEDED) for id_, value in values], now)
        if visitor.session is not None:
            self.touched.add(visitor.number)

    def tell_lenders(self) -> None:
        """Nodes hear that what they have submitted is taken in, where they have lent something for it."""
        loans = self._dispatcher.ledger.loans
        for number in [number for number in self._lenders if not loans.of(number)]:
            node = self._lenders.pop(number)
            self._guests.tell(node, visit.Taken(node.loans))

    # ---- asking --------------------------------------------------------------------------------------------------

    def _cancel(self, visitor: Visitor, message: wire.Arrived, now: float) -> None:
        head = message.head
        token = (visitor.route, head.id, head.token) if head.token is not None else None
        self._dispatcher.receive(visitor.number, Cancel(head.id, head.terminate, token, head.count), now)

    def answer(self, effect: Answer) -> None:
        """The dispatcher's answer to a cancel."""
        if effect.token is not None:
            route, id_, token = effect.token
            if (visitor := self._guests.by_route.get(route)) is not None:
                self._guests.tell(visitor, wire.CancelAnswer(id_, token, effect.cancelled))

    def _got(self, visitor: Visitor, message: wire.Arrived, _now: float) -> None:
        if visitor.session is None:
            raise ValueError("a node has no session")
        confirmed = visitor.session.confirm(message.head.count)
        if (held := self._held.get(visitor.session.number)) is not None:
            held += confirmed
        else:
            self._results.release(confirmed)
        self.touched.add(visitor.session.number)

    def _fetch(self, visitor: Visitor, message: wire.Arrived, _now: float) -> None:
        token, id_, wait = message.head.token, message.head.id, message.head.wait
        if (result := self._results.find(id_)) is not None:
            self._fetched(visitor, token, id_, result)
        elif self._dispatcher.ledger.find(id_) is None:
            self._guests.tell(visitor, wire.Fetched(token, -1, 0, None, -1, []))
        elif wait:
            self._fetches.setdefault(id_, []).append((visitor, token))
        else:
            self._guests.tell(visitor, wire.Fetched(token, 0, 0, None, -1, []))

    def settled(self, tasks: list[Task]) -> None:
        """Whoever has asked for one of these outcomes gets it."""
        for id_ in list(self._fetches):
            for task in tasks:
                if task.id <= id_ < task.id + task.count:
                    for visitor, token in self._fetches.pop(id_):
                        self._fetched(visitor, token, id_, task)
                    break

    def settled_unheard(self, tasks: list[Task], now: float) -> None:
        """Outcomes for which nobody waits, unless it is in what is still to be submitted."""
        for task in tasks if self._held else ():
            if (held := self._held.get(session_of(task.id))) is not None:
                self._results.put([task], now)
                held.append(task)
        if self._fetches:
            self.settled(tasks)

    def _fetched(self, visitor: Visitor, token: int, id_: int, result: Task) -> None:
        out = wire.Message(visitor.known, afar=True)
        payload = out.outcome(result.state, result.payload)
        index = id_ - result.id if result.span and result.state == SUCCEEDED else -1
        out.head = wire.Fetched(token, result.state, result.attempt, payload, index, out.new)
        self._guests.mail(visitor, out)

    def _inquiry(self, visitor: Visitor, message: wire.Arrived, now: float) -> None:
        head = message.head
        if head.what == "state" and self._ask_state(visitor, head):
            return
        try:
            answer, error = self._inspection.answer(head.what, head.about, now), ""
        except LookupError as reason:
            answer, error = None, str(reason.args[0])
        self._guests.tell(visitor, visit.Report(head.token, answer, error))

    def _ask_state(self, visitor: Visitor, head: visit.Inquiry) -> bool:
        """Whether a task that a node has is running there, only the node knows; False if none has it."""
        task = self._dispatcher.ledger.find(int(head.about["id"]))
        node = self._guests.nodes.get(task.peer) if task is not None else None
        if task is None or node is None:
            return False
        token = next(self._tokens)
        self._relayed[token] = visitor, head.token, node, task.attempt
        self._guests.tell(node, visit.Inquiry(token, "state", head.about))
        return True

    def _report(self, node: Visitor, message: wire.Arrived, _now: float) -> None:
        _require_node(node)
        visitor, token, _, attempt = self._relayed.pop(message.head.token)
        self._guests.tell(visitor, visit.Report(token, [message.head.answer, attempt]))

    def forget(self, visitor: Visitor, now: float) -> None:
        """It is gone: it will not answer, and hears of nothing that it has asked for."""
        for id_ in list(self._fetches):
            self._drop_fetches(id_, lambda waiting: waiting[0] is not visitor)
        if visitor.session is None:
            self._forget_node(visitor, now)

    def _drop_fetches(self, id_: int, stays: Callable[[tuple[Visitor, int]], bool]) -> None:
        self._fetches[id_] = list(filter(stays, self._fetches[id_]))
        if not self._fetches[id_]:
            del self._fetches[id_]

    def _enough(self, visitor: Visitor, message: wire.Arrived, _now: float) -> None:
        for id_ in list(self._fetches):
            self._drop_fetches(id_, lambda waiting: waiting != (visitor, message.head.token))

    def drop_functions(self) -> None:
        """Those that no client, node or task will name again, once they are as many as the others."""
        catalog, named = self._catalog.by_number, self.asks.functions()
        if len(catalog) <= 2 * (len(named) + self._functions_kept) + FUNCTIONS_MIN:
            return
        kept = {task.fn for task in self._results}
        kept |= {task.fn for task in self._dispatcher.ledger.tasks.values()}
        self._functions_kept = len(kept - named)
        for number in catalog.keys() - named - kept:
            self._catalog.drop(number)
            self._dispatcher.pace.forget(number)
            for node in self._guests.nodes.values():
                node.functions.discard(number)

    def _forget_node(self, node: Visitor, now: float) -> None:
        self.asks.forget(node.number)
        self._lenders.pop(node.number, None)
        self._dispatcher.receive(node.number, ids_of(node.number, SESSIONS_MAX), now)
        for key in [key for key, (asked, _) in self._questions.items() if asked is node]:
            del self._questions[key]
        for key in [key for key, relayed in self._relayed.items() if relayed[2] is node]:
            visitor, token, _, attempt = self._relayed.pop(key)
            self._guests.tell(visitor, visit.Report(token, [QUEUED, attempt]))

    def _forget_blobs(self, visitor: Visitor, message: wire.Arrived, _now: float) -> None:
        self._mailbox.drop(visitor.route, message.head.digests)
        self.forgotten.update(message.head.digests)

    _reactions: ClassVar[dict[type, Callable[..., None]]] = {
        wire.Outcomes: _core_word,
        wire.Rest: _core_word,
        wire.Stops: _core_word,
        wire.Room: _core_word,
        wire.Begun: _core_word,
        Gone: _gone,
        wire.Signal: _signal,
        wire.Asked: _asked,
        wire.Values: _told,
        wire.CancelAsked: _cancel,
        wire.CancelAnswer: _cancel_answer,
        wire.Progress: _progress,
        visit.Yielded: _progress,
        wire.Forget: _forget_blobs,
        visit.Got: _got,
        visit.Fetch: _fetch,
        visit.Enough: _enough,
        visit.Inquiry: _inquiry,
        visit.Report: _report,
    }


def _require_node(visitor: Visitor) -> None:
    if visitor.session is not None:
        raise PermissionError(f"that is no word of a {visitor.about.role}")
