"""Where processes stop: between any two effects.

What a process has done before its point is done; what it was about to do after that, in the same turn, is never done.
A child's effects are the messages that it sends, a node's and a broker's are those of their machine's turns, and behind
these the word to the client of what has ended; a client's are its messages. In worlds of one level the client is the
dispatcher's own process: when that stops nothing is left to look at, and only children have points.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from random import Random

CHILD, NODE, BROKER, CLIENT = KINDS = ("child", "node", "broker", "client")


class Stopped(Exception):
    """The process that was at work is no more."""


class Points:
    """The effects of all processes of a kind are counted together: `at` says before which of them one stops."""

    def __init__(self, at: Mapping[str, frozenset[int]]) -> None:
        self._at = at
        self.count: Counter[str] = Counter()  # effects so far, those that were prevented too
        self.stopped: Counter[str] = Counter()  # processes

    @classmethod
    def draw(cls, seed: int, *, nodes: bool) -> Points:
        """One to three, by chance: a run may be over before any of them."""
        rng = Random(f"points of {seed}")
        at: dict[str, set[int]] = {}
        for _ in range(rng.choice((1, 1, 2, 3))):
            kind = rng.choice(KINDS) if nodes else CHILD
            most = rng.choice((8, 8, 20, 60)) if kind == CLIENT else rng.choice((10, 40, 150, 400))
            at.setdefault(kind, set()).add(rng.randrange(most))
        return cls({kind: frozenset(points) for kind, points in at.items()})

    def stops(self, kind: str) -> bool:
        """Whether the process whose effect is next stops before it."""
        effect = self.count[kind]
        self.count[kind] += 1
        if effect not in self._at.get(kind, ()):
            return False
        self.stopped[kind] += 1
        return True
