"""Time, and what goes from one to another in it."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

from .worlds import Wrong

if TYPE_CHECKING:
    from .system import Sim

EVENTS_MAX = 50_000


class Time:
    """Virtual seconds, and what happens in them."""

    def __init__(self) -> None:
        self.now = 0.0
        self.events = 0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = 0
        self._dropped: set[int] = set()

    def at(self, delay: float, act: Callable[..., None], *args: Any) -> int:
        """`act(*args)` in `delay` seconds."""
        return self.at_time(self.now + delay, act, *args)

    def at_time(self, when: float, act: Callable[..., None], *args: Any) -> int:
        """`act(*args)` at `when`; of two at one time, the one that was said first."""
        self._order += 1
        heappush(self._heap, (when, self._order, act, args))
        return self._order

    def drop(self, event: int) -> None:
        """What `at` gave this number to does not happen."""
        self._dropped.add(event)

    def go(self, until: float) -> None:
        """All that happens until then."""
        heap = self._heap
        while heap and heap[0][0] <= until:
            when, order, act, args = heappop(heap)
            self.now = when
            if order in self._dropped:
                self._dropped.remove(order)
                continue
            self.events += 1
            if self.events > EVENTS_MAX:
                raise Wrong("it goes round in circles")
            act(*args)
        self.now = until if heap else self.now


class Channel:
    """Delivers in order, each message some time after it was sent."""

    def __init__(self, sim: Sim, usual_s: float) -> None:
        self.sim = sim
        self.usual_s = usual_s
        self.last = 0.0
        self.cut = False  # what is under way is lost

    def send(self, act: Callable[..., None], *args: Any) -> float:
        """`act` is called when it has arrived: seconds from now."""
        sim, world, rng = self.sim, self.sim.world, self.sim.rng
        delay = self.usual_s * (0.5 + rng.random())
        if world.late and sim.faulty and rng.random() < world.late:
            delay += rng.random() * 0.03
        self.last = max(self.last, sim.now + delay)
        sim.at_time(self.last, self._arrive, act, *args)
        return self.last - sim.now

    def _arrive(self, act: Callable[..., None], *args: Any) -> None:
        if not self.cut:
            act(*args)
