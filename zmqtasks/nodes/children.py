"""The children of a host, as many as there should be: what they say, what they are told, when they end."""

from __future__ import annotations

import logging
from collections.abc import Collection

from zmqtasks import codec, wire
from zmqtasks.catalog import Catalog
from zmqtasks.core.effects import End
from zmqtasks.core.peer import Peer
from zmqtasks.core.pool import Pool
from zmqtasks.messages import LEASED, QUEUED, Claimed, Lost, Run, Task
from zmqtasks.nodes.claim import ITEM, ORDINAL, SINCE
from zmqtasks.nodes.crew import ChildLink, Crew, describe
from zmqtasks.nodes.link import Closed, Link, Malformed
from zmqtasks.nodes.loop import Loop
from zmqtasks.nodes.site import remember

STARTING_MAX = 64  # children that are asked for and not ready

Heard = tuple[ChildLink, wire.Arrived]


class Children:
    """Children by peer, with their links in a loop."""

    def __init__(
        self,
        loop: Loop,
        functions: Catalog,
        workers: int,
        cpus: int,
        cluster_id: str,
        later: str,
        first_session: int = 0,
        app: str = "",
    ) -> None:
        self.by_peer: dict[int, ChildLink] = {}
        self.names: dict[int, str] = {}  # of those that are or were ready
        self._pool = Pool(workers)
        self._loop = loop
        self._functions = functions
        self._links: dict[int, tuple[ChildLink, Link]] = {}  # by descriptor
        self._crew = Crew(workers, cpus, cluster_id, later, first_session, app)
        loop.watch(self._crew)
        for relay in self._crew.relays:
            if relay is not None:
                loop.watch(relay)

    # ---- hearing -------------------------------------------------------------------------------------------------

    def read(self, file: int) -> list[Heard]:
        """What the link of that descriptor brings; nothing if it is none of the children's."""
        child, link = self._links.get(file, (None, None))
        if child is None or link is None:
            return []
        heard: list[Heard] = []
        try:
            if link.pending and link.flush():
                self._loop.watch(link, known=True)
            heard = [(child, message) for message in link.read()]
        except BlockingIOError:
            return heard
        except Closed:
            # That a child has ended is known from its parent; this end only must not be looked at any more.
            self._unwatch(link)
        except Malformed:
            self.expel(child)
        return heard

    def expel(self, child: ChildLink) -> None:
        """Something in a child has written to its links: whatever comes from it now means nothing."""
        logging.getLogger("zmqtasks").error(
            "worker process %d is ended: its messages are malformed", child.pid
        )
        self._unwatch(child.data)
        self._unwatch(child.control)
        self._crew.kill(child)

    def relay_output(self, ready: list[int]) -> None:
        """What tasks have printed: first of all, so that it is seen before their outcomes are."""
        for relay in self._crew.relays:
            if relay is not None and relay.fileno() in ready:
                relay.pump()

    def is_ready(self, child: ChildLink, pid: int) -> None:
        """A child has said hello."""
        if not child.is_ready:
            child.is_ready = True
            child.pid = pid
            remember(self.names, child.peer, f"process {pid}")
            self._pool.joined(child.peer)

    def ended(self, file: int) -> list[tuple[ChildLink, list[Heard], Lost]]:
        """The children that have ended, what they said before, and how; nothing if `file` says nothing of that."""
        if file != self._crew.fileno():
            return []
        try:
            ended = self._crew.events()
        except Closed:
            self._loop.unwatch(self._crew)
            ended = self._crew.restart()
            self._loop.watch(self._crew)
        lost = []
        for child, status in ended:
            heard: list[Heard] = []
            for link in (child.data, child.control):
                self._drain(child, link, heard)
                self._unwatch(link)
            ordinal, item, _ = child.claim
            self._pool.left(child.peer, worked=bool(child.functions))
            self.by_peer.pop(child.peer, None)
            child.close()
            lost.append((child, heard, Lost(describe(status), ordinal, item)))
        return lost

    def _drain(self, child: ChildLink, link: Link, heard: list[Heard]) -> None:
        """What a child sent before it ended counts."""
        try:
            while True:
                heard += [(child, message) for message in link.read()]
        except (BlockingIOError, Closed, Malformed):
            return

    def _unwatch(self, link: Link) -> None:
        if self._links.pop(link.fileno(), None) is not None:
            self._loop.unwatch(link)

    def state(self, task: Task, id_: int) -> int:
        """Of `id_`, which is `task` or one of it: LEASED once the claim of a child has come to it."""
        child = self.by_peer.get(task.peer)
        if task.state != LEASED or child is None:
            return task.state if task.state < LEASED else QUEUED
        ordinal, item, _ = child.claim
        begun = ordinal > task.ordinal or (ordinal == task.ordinal and item >= task.offset + id_ - task.id)
        return LEASED if begun or (not task.span and ordinal == task.ordinal) else QUEUED

    # ---- telling -------------------------------------------------------------------------------------------------

    def run(self, peer: int, message: Run) -> None:
        """Tasks for a child, with the functions that it does not have yet."""
        if (child := self.by_peer.get(peer)) is None:
            return
        functions: wire.Functions = []
        if new := {task.fn for task in message.tasks} - child.functions:
            child.functions |= new
            functions += [self._functions.by_number[number] for number in new]
        self._post(child.data, codec.run(message, child.data.known, functions))

    def tell(self, peer: int, message: wire.Message) -> None:
        """Anything else, on the control link."""
        if (child := self.by_peer.get(peer)) is not None:
            self._post(child.control, message)

    def forget(self, digests: set[bytes]) -> None:
        """Buffers that nothing here names any more: the children need not keep them."""
        for child in self.by_peer.values():
            if known := digests & child.data.known:
                child.data.known -= known
                self._post(child.data, codec.simple(wire.Forget(list(known))))

    def _post(self, link: Link, message: wire.Message) -> None:
        try:
            waited = link.pending
            if not link.post(message) and not waited and link.fileno() in self._links:
                self._loop.watch(link, write=True, known=True)
        except Closed:
            return  # it has ended; what it had in hand comes back when its parent says so

    # ---- as many as there should be ------------------------------------------------------------------------------

    @property
    def broken(self) -> bool:
        """No child comes up."""
        return self._pool.broken

    def staff(self, peers: Collection[Peer], now: float) -> float | None:
        """Start those that are missing, end those that are too many; when to look again, or None."""
        pool = self._pool
        waiting = sum([peer.waiting or peer.awaits for peer in peers])
        if pool.is_right(waiting):
            return None
        # Not all at once: with hundreds, this side and the fork server would each wait until the other reads.
        for _ in range(min(pool.missing(waiting), STARTING_MAX - pool.starting)):
            child = self._crew.fork()
            pool.started()
            self.by_peer[child.peer] = child
            for link in (child.data, child.control):
                self._links[link.fileno()] = (child, link)
                self._loop.watch(link)
        if len(pool.ready) > pool.workers:
            idle = [peer.id for peer in peers if not peer.hand and not peer.asked]
            for id_ in pool.surplus(idle, waiting, now):
                self.kill(id_)
        return pool.next_deadline()

    def kill(self, peer: int) -> None:
        """End a child, now."""
        if (child := self.by_peer.get(peer)) is not None:
            self._crew.kill(child)

    def end(self, order: End) -> None:
        """End a child: whatever it runs, or only if it still runs what the order names."""
        if order.ordinal < 0:
            self.kill(order.peer)
        elif (child := self.by_peer.get(order.peer)) is not None:
            self._crew.end(child, order.ordinal, order.item)

    def claimed(self, peer: int) -> Claimed:
        """What a child runs, if it has a time limit, and since when."""
        if (child := self.by_peer.get(peer)) is None:
            return Claimed(peer)
        claim = child.claim
        since = claim[SINCE]  # first: see `begin`
        return Claimed(peer, claim[ORDINAL], claim[ITEM], since / 1e9) if since else Claimed(peer)

    def close(self) -> None:
        """End all of them, and what they started."""
        self._crew.close()
        self.by_peer.clear()
        self._links.clear()

    def leave(self) -> None:
        """Close what this process, a forked one, inherited."""
        for child in self.by_peer.values():
            child.close()
        self._crew.leave()
