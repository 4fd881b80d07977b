"""Who has said nothing for too long."""

from __future__ import annotations

from collections.abc import Collection

from zmqtasks.core.peer import Peer

LOOKS = 4  # how often it is looked, within the time after which silence counts, who is silent


class Silence:
    """`silence_s`: how long is too long; None: nobody is given up for it."""

    def __init__(self, silence_s: float | None) -> None:
        self._silence_s = silence_s
        self._looked: float | None = None  # when there was a turn last

    def look(self, peers: Collection[Peer], now: float) -> list[Peer]:
        """Those that are silent for too long now."""
        silence_s = self._silence_s
        if silence_s is None:
            return []
        if self._looked is None or now - self._looked > 2 * silence_s / LOOKS:
            # It was this process that stood still: what the others said meanwhile is still on its way in.
            for peer in peers:
                peer.heard = now
        self._looked = now
        return [peer for peer in peers if now - peer.heard >= silence_s]

    def next_deadline(self) -> float | None:
        """When it is to be looked again, if there are any peers."""
        if self._silence_s is None or self._looked is None:
            return None
        return self._looked + self._silence_s / LOOKS
