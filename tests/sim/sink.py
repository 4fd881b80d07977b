"""The sink of the pipeline: in the ventilator's process, or in one of its own that is killed and started anew."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zmqtasks.core.parcels import BASE_MASK

from .links import Channel

if TYPE_CHECKING:
    from .pipeline import PipeSim


class Sink:
    """Hosts a `Gather`. Elsewhere it confirms what it has written, in the ventilator's process what it has."""

    def __init__(self, sim: PipeSim) -> None:
        self.sim = sim
        self.alive = True
        self._first = 0
        self._gather: Any = None
        self._written: Any = None
        self._known: list[tuple[int, int]] = []
        self._inbox: list[list[Any]] = []
        self._links()

    def _links(self) -> None:
        self.up, self.down = (
            Channel(self.sim, self.sim.world.control_s),
            Channel(self.sim, self.sim.world.control_s),
        )

    def begin(self, first: int, known: list[tuple[int, int]]) -> None:
        """A run."""
        ranges = self.sim.core.ranges
        self._first = first
        self._written = ranges(known)
        self._gather = self.sim.core.gather(first, ordered=self.sim.world.ordered, known=ranges(known))

    @property
    def waiting(self) -> int:
        """How many outcomes wait for their turn."""
        return 0 if self.sim.world.remote else int(self._gather.waiting)

    def hear(self, parts: list[Any]) -> None:
        """Outcomes of a worker have arrived."""
        if not self.sim.world.remote:
            self._inbox.append(parts)
            self.sim.ventilator.turn_soon()
        elif self.alive:
            self._gather_parts(parts)

    def turn(self) -> None:
        """Read what has come."""
        inbox, self._inbox = self._inbox, []
        for parts in inbox:
            self._gather_parts(parts)

    def _gather_parts(self, parts: list[Any]) -> None:
        for part in parts:
            base = part.ordinal & BASE_MASK
            self._take(base, base + part.offset, part.items, part.payload, failed=part.failed)

    def fail(self, number: int, payload: Any) -> None:
        """The ventilator knows of a failure that no worker can tell."""
        if self.sim.world.remote:
            self.down.send(self._fail, number, payload)
        else:
            self._fail(number, payload)

    def _fail(self, number: int, payload: Any) -> None:
        if self.alive:
            base = next(
                (base for base, count in self.sim.ventilator.fed if base <= number < base + count), -1
            )
            self._take(base, number, 1, payload, failed=True)

    def _take(self, base: int, first: int, items: int, payload: Any, *, failed: bool) -> None:
        new, out = self._gather.take(first, items, payload, failed=failed)
        for piece in out:
            self.sim.truth.out(piece)
        if not self.sim.world.remote:
            for piece in new:
                self.sim.ventilator.accepted(base, piece.first - base, piece.items)
            return
        for piece in out:  # written; what waits for its turn would be lost with the process
            self._written.add(piece.first, piece.first + piece.items)
            self.up.send(self.sim.ventilator.accepted_range, piece.first, piece.first + piece.items)

    # ---- of its own process

    def kill(self) -> None:
        """What it had in memory is gone, and what was on its way to it."""
        if not self.alive:
            return
        self.sim.note("  the sink is killed")
        self.alive = False
        self.sim.truth.excuse_all()
        self.up.cut = self.sim.rng.random() < 0.5
        self.down.cut = True
        self.sim.at(self.sim.rng.random() * 0.1, self._restart)

    def _restart(self) -> None:
        self.sim.note(f"  the sink is there again, with {list(self._written)}")
        self.alive = True
        self.sim.truth.excuse_all()
        self._links()
        self._known = list(self._written)
        self._gather = self.sim.core.gather(
            self._first, ordered=self.sim.world.ordered, known=self.sim.core.ranges(self._known)
        )
        for first, limit in self._known:
            self.up.send(self.sim.ventilator.accepted_range, first, limit)
        self.up.send(self.sim.ventilator.lose_all)
