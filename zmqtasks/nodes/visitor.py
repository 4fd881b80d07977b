"""Who is connected to a broker: nodes, and clients with what they have not yet heard."""

from __future__ import annotations

from collections import deque

from zmqtasks import visit
from zmqtasks.blobs import Buffer
from zmqtasks.core.lanes import Taker
from zmqtasks.messages import Submit, Task

Ended = tuple[list[Task], int]  # tasks, and their bytes as results


class Visitor:
    """A connection: `route` names it to the socket, `number` to the dispatcher. A client's has a `session`."""

    def __init__(self, route: bytes, role: str, user: str, descriptor: int, about: visit.Enter) -> None:
        self.route = route
        self.role = role  # as its key says
        self.user = user
        self.descriptor = descriptor  # of the connection
        self.about = about
        self.number = 0
        self.session: Session | None = None
        self.functions: set[int] = set()  # numbers of those it has
        self.known: set[bytes] = set()  # hashes of the buffers it has
        self.loans = 0  # of a node: how many submits that name what it has lent were taken in

    @property
    def name(self) -> str:
        """What it calls itself."""
        return self.about.name or f"{self.about.host}:{self.about.pid}"

    @property
    def taker(self) -> Taker:
        """What it takes."""
        return Taker(self.about.python, self.about.queues, self.about.excluded, self.about.tasks)


class Session:
    """A client, whatever its connections: its outcomes in the order of their settling, until it has confirmed them."""

    def __init__(self, number: int, token: str, user: str) -> None:
        self.number = number
        self.token = token
        self.user = user
        self.visitor: Visitor | None = None  # while it is connected
        self.python = ""  # what its functions were made with
        self.patient = True
        self.taken = 0  # how many `Asked` were taken in
        self.told_taken = 0
        self.tell_at: float | None = (
            None  # when it is to hear what was taken in, if nothing takes the word along
        )
        self.backlog: deque[Submit] = deque()  # `Asked` that wait until there is room
        self.waiting: deque[Ended] = deque()  # outcomes that are to be sent
        self.confirmed = 0  # how many `Settled` it has had
        self.sent: deque[Ended] = deque()  # those that it has not confirmed
        self.on_the_way = 0  # their bytes together
        self.blobs: dict[bytes, Buffer] = {}  # while it is not connected: the buffers that it has sent
        self.gone_at: float | None = None  # since when it is not connected
        self.has_left = False  # for good

    def confirm(self, count: int) -> list[Task]:
        """It has had `count` messages: what it had not confirmed before."""
        outcomes: list[Task] = []
        while self.confirmed < count and self.sent:
            tasks, nbytes = self.sent.popleft()
            outcomes += tasks
            self.on_the_way -= nbytes
            self.confirmed += 1
        return outcomes

    def send_again(self) -> None:
        """It is back: what it had not confirmed has to be sent once more."""
        self.waiting.extendleft(reversed(self.sent))
        self.sent.clear()
        self.on_the_way = 0

    def end(self) -> None:
        """It has left for good: what it has not heard stays with the results."""
        self.has_left = True
        self.blobs = {}
        self.waiting.clear()
        self.sent.clear()
        self.on_the_way = 0

    @property
    def is_told(self) -> bool:
        """Whether nothing is left to tell it that was not told."""
        return not (self.waiting or self.sent or self.backlog)

    def is_over(self, now: float, away_s: float) -> bool:
        """Whether it need not be known any more, if nothing of it is pending; it may come back for a while."""
        return self.is_away(now, away_s) and not self.backlog

    def is_away(self, now: float, away_s: float) -> bool:
        """Whether nothing is to be expected of it any more."""
        if self.visitor is not None:
            return False
        return self.has_left or (self.gone_at is not None and now - self.gone_at > away_s)
