"""A node and its children: what a worker has, whoever is above it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

from zmqtasks import codec, wire
from zmqtasks.catalog import Catalog
from zmqtasks.core.effects import End, Look, Send
from zmqtasks.core.node import ABOVE, Node
from zmqtasks.messages import Beat, Joined, Leaving, Lost, Recall, Run
from zmqtasks.nodes.children import Children, Heard
from zmqtasks.nodes.crew import ChildLink
from zmqtasks.nodes.dealer import Dealer
from zmqtasks.nodes.loop import Loop
from zmqtasks.options import Options

AGAIN = "again"  # trouble that another connection ends
BURST_S = 0.5  # with nothing to do for so long, a worker in burst mode leaves


class Plan(NamedTuple):
    """How a worker is to work."""

    slots: int
    cpus: int
    name: str = ""
    queues: list[str] = []  # noqa: RUF012 - never written
    excluded: list[str] = []  # noqa: RUF012 - likewise
    burst: bool = False  # leave when there is nothing to do
    shutdown_s: float = 30.0  # what a warm stop may take
    app: str = ""  # module:attribute, which its children import
    tasks: dict[str, Options] = {}  # noqa: RUF012 - likewise; those of the app, and their options


class Household(ABC):
    """From the welcome of whoever is above to the loss of the connection."""

    def __init__(
        self, loop: Loop, dealer: Dealer, plan: Plan, cluster_id: str, first: int, beat_s: float, now: float
    ) -> None:
        self.trouble = ""  # why it cannot go on
        self.slots = plan.slots
        self.node = Node(plan.slots)
        self.given = Catalog()  # the functions of whoever is above, by their numbers
        self.children = Children(
            loop, self.given, plan.slots, plan.cpus, cluster_id, "zmqtasks.context", first, plan.app
        )
        self._dealer = dealer
        self._beat_s = beat_s
        self._beat_at = now + beat_s
        self._idle_since: float | None = None
        self._gives_up = self._gave_up = False  # what runs here is to end, and has ended

    # ---- the host's turn -----------------------------------------------------------------------------------------

    def turn(self, now: float) -> float:
        """Decide and tell; when the next turn is due even if nothing comes."""
        children, effect = self.children, None
        looked: float | None = None
        for effect in self.node.turn(now):
            if isinstance(effect, Send) and effect.peer == ABOVE:
                self.tell_above(effect.message)
            elif isinstance(effect, Send) and type(effect.message) is Run:
                children.run(effect.peer, effect.message)
            elif isinstance(effect, Send):
                children.tell(effect.peer, codec.simple(effect.message))
            elif isinstance(effect, Look):
                self.node.receive(effect.peer, children.claimed(effect.peer), now)
                looked = now
            elif isinstance(effect, End):
                children.end(effect)
        if now >= self._beat_at:
            self._beat_at = now + self._beat_s
            self._dealer.send(codec.simple(Beat()))
        if self._gives_up:
            return now if self.node.idle else self._beat_at
        look_again = children.staff(self.node.machine.peers.values(), now)
        if children.broken:
            self.trouble = "no worker process comes up: see what they wrote to standard error"
        times = (self.node.next_deadline(), look_again, self._beat_at, looked)
        return min(time for time in times if time is not None)

    @abstractmethod
    def tell_above(self, message: Any) -> None:
        """What the node says."""

    @abstractmethod
    def hear(self, message: wire.Arrived, now: float) -> None:
        """What is said to the node."""

    def has_mail(self) -> bool:
        """Whether something has come by other ways than the dealer's; asked before each sleep."""
        return False

    def leave(self, now: float) -> None:
        """Finish what runs, give back the rest."""
        self._dealer.send(codec.simple(Leaving()))
        self.node.leave(now)

    def give_up(self, now: float) -> None:
        """End what runs: it goes back with the rest. Called until `is_over`."""
        if not self._gives_up:
            self._gives_up = True
            for peer in list(self.children.by_peer):
                self.children.kill(peer)
        elif not (self.children.by_peer or self._gave_up):
            self._gave_up = True
            self.node.receive(ABOVE, Recall(), now)

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to be done here."""
        return self.node.idle

    def has_nothing_to_do(self, now: float) -> bool:
        """Whether that has been so for a while."""
        if not self.node.idle:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now
        return self._idle_since is not None and now - self._idle_since >= BURST_S

    def close(self) -> None:
        """End the children, whatever they run."""
        self.children.close()

    # ---- children ------------------------------------------------------------------------------------------------

    def hear_children(self, ready: list[int], now: float) -> None:
        """What these descriptors bring, as far as they are children's."""
        self.children.relay_output(ready)
        for file in ready:
            self._hear_all(self.children.read(file), now)
            for child, heard, lost in self.children.ended(file):
                self._hear_all(heard, now)
                self.child_lost(child.peer)
                loss = (lost.reason, lost.ordinal, lost.item)
                self.node.receive(child.peer, Lost(*loss, innocent=self._gives_up), now)

    def _hear_all(self, messages: list[Heard], now: float) -> None:
        for child, message in messages:
            try:
                self._hear_child(child, message, now)
            except Exception:  # noqa: BLE001 - a buffer that never came, an id of another's: no message of ours
                self.children.expel(child)

    def _hear_child(self, child: ChildLink, message: wire.Arrived, now: float) -> None:
        said = codec.core_message(message)
        if said is not None:
            self.node.receive(child.peer, said, now)
        elif type(message.head) is wire.Hello:
            self.children.is_ready(child, message.head.pid)
            self.node.receive(child.peer, Joined(), now)
        else:
            self.child_asks(child, message)

    @abstractmethod
    def child_asks(self, child: ChildLink, message: wire.Arrived) -> None:
        """What a task asks of whoever is above."""

    @abstractmethod
    def child_lost(self, peer: int) -> None:
        """A child has ended."""
