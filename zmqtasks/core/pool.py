"""How many children there should be: one a slot, and one more for each task that waits for another."""

from __future__ import annotations

from collections.abc import Iterable

IDLE_S = 1.0  # a child beyond the slots is kept this long: a recursion comes and goes
STILLBORN_MAX = 5  # children in a row that end before they ran anything: something is wrong with all of them


class Pool:
    """Decides when a child is started and when one leaves. The host says what happened."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.starting = 0
        self.ready: set[int] = set()
        self._stillborn = 0
        self._idle_since: dict[int, float] = {}
        self._dismissed: set[int] = set()  # told to go

    @property
    def broken(self) -> bool:
        """No child comes up: starting more is vain."""
        return self._stillborn >= STILLBORN_MAX

    def started(self) -> None:
        """A child was asked for."""
        self.starting += 1

    def joined(self, peer: int) -> None:
        """A child is ready."""
        self.starting -= 1
        self.ready.add(peer)

    def left(self, peer: int, *, worked: bool) -> None:
        """A child is gone, ready or not; `worked`: it has run a task, or ended in one."""
        self._idle_since.pop(peer, None)
        if peer in self.ready:
            self.ready.remove(peer)
        else:
            self.starting -= 1
        self._stillborn = 0 if worked or peer in self._dismissed else self._stillborn + 1
        self._dismissed.discard(peer)

    def is_right(self, waiting: int) -> bool:
        """Whether there are as many as there should be, and all of them ready."""
        if self.starting or len(self.ready) != self.workers + waiting:
            return False
        if self._idle_since:
            self._idle_since.clear()
        return True

    def missing(self, waiting: int) -> int:
        """How many to start now, with `waiting` children whose task waits."""
        if self.broken:
            return 0
        return max(0, self.workers + waiting - self.starting - len(self.ready))

    def surplus(self, idle: Iterable[int], waiting: int, now: float) -> list[int]:
        """Which of the `idle` children have been beyond the slots for long enough to leave."""
        over = len(self.ready) - waiting - self.workers
        if over <= 0:
            self._idle_since.clear()
            return []
        since = {peer: self._idle_since.get(peer, now) for peer in idle}
        self._idle_since = since
        leaving = [peer for peer in sorted(since, reverse=True) if now - since[peer] >= IDLE_S][:over]
        self._dismissed.update(leaving)
        return leaving

    def next_deadline(self) -> float | None:
        """When `surplus` is due, or None."""
        return min(self._idle_since.values()) + IDLE_S if self._idle_since else None
