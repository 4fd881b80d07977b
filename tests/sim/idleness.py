"""No task waits for long beside a node that takes it and has a free slot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zmqtasks.messages import LEASED, QUEUED

from .node import NodeHost
from .worlds import Wrong

if TYPE_CHECKING:
    from zmqtasks.messages import Task

    from .system import Sim

EVERY_S = 0.02
IDLE_S = 0.3  # within which a hand is overdue, taken back, and dealt again


class Idleness:
    """Looks now and then."""

    def __init__(self, sim: Sim) -> None:
        self.sim = sim
        self._waits: dict[int, float] = {}  # by id: since when
        world = sim.world
        if world.nodes and not (world.stops or world.late or world.pauses or world.jumps):
            sim.at(EVERY_S, self._look)

    def _look(self) -> None:
        sim, now = self.sim, self.sim.now
        if not sim.truth.unsettled and not sim.faulty:
            return
        sim.at(EVERY_S, self._look)
        nodes = [node for node in sim.top.children.values() if isinstance(node, NodeHost)]
        for node in nodes:
            node.idle_since = max(node.idle_since, node.last_start) if self._has_room(node) else now
        idle = [node for node in nodes if now - node.idle_since > IDLE_S]
        ledger, waits = sim.top.machine.ledger, dict[int, float]()
        for task in ledger.tasks.values():
            if self._could_start(task):
                for id_ in range(task.id, task.id + task.count):
                    if id_ not in sim.truth.running:
                        waits[id_] = self._waits.get(id_, now)
            for node in idle:
                takes = sim.top.machine.peers[node.peer].accepts(task.lane)
                if takes and now - waits.get(task.id, now) > IDLE_S:
                    raise Wrong(f"task {task.id} waits, and node {node.peer} has had a free slot")
        self._waits = waits

    def _could_start(self, task: Task) -> bool:
        if task.state == LEASED:
            node = self.sim.top.children[task.peer]
            return bool(node.alive and not node.lost)
        return task.state == QUEUED

    def _has_room(self, node: NodeHost) -> bool:
        peer = self.sim.top.machine.peers.get(node.peer)
        if peer is None or not node.alive or node.lost or peer.leaving or node.leaving:
            return False
        workers = node.dispatcher.peers.values()
        at_work = sum(1 for worker in workers if worker.hand and not worker.waiting)
        free = any(not w.hand and w.open() and node.children[w.id].alive for w in workers)
        return free and at_work < node.place.slots
