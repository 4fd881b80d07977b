"""What a seed draws: a world with some features and faults, and what its tasks do."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from random import Random
from typing import Any

from zmqtasks.options import Options

LANES = 3


class Wrong(AssertionError):
    """What the simulator found."""


class Blob:
    """A payload of `size` bytes that takes none."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __repr__(self) -> str:  # without an address: what a seed says is always the same
        return f"Blob({self.size})"


@dataclass(slots=True)
class Spec:
    """What a task does, whatever its id: each item its value, or a failure, or the end of its child."""

    key: int
    fn: int
    options: Options
    size: int = 0
    count: int = 1
    span: bool = False
    needs: tuple[int, ...] = ()
    fails: frozenset[int] = frozenset()
    poison: frozenset[int] = frozenset()
    subs: tuple[Spec, ...] = ()
    lane: int = 0
    flaky: dict[int, int] = field(default_factory=dict)  # by item: how many runs fail before one succeeds
    hangs: dict[int, int] = field(default_factory=dict)  # by item: how many runs overrun the limit
    near: bool = False  # they run about as long as their limit
    picky: bool = False  # what always fails is not to be retried
    delay: float | None = None  # its failures ask for this, whatever the rule
    instead: Any = None  # a workflow that it submits to take its place

    def asks(self, trouble: str) -> bool:
        """Whether that failure asks for another attempt."""
        ruled = self.options.retry is not None or self.delay is not None
        return ruled and not (self.picky and trouble == "own")


@dataclass(slots=True, frozen=True)
class Place:
    """A node to be: its slots and what it takes."""

    slots: int
    lanes: frozenset[int] | None = None


@dataclass(slots=True)
class World:
    """What a seed has: every feature is in some worlds and not in others, for what is always there hides the rest."""

    children: int
    slots: int | None
    queue_max: int | None
    waiting_max: int
    data_s: float
    control_s: float
    overtaking: bool  # a recall comes before a run that was sent earlier: the child was just reading
    words_are_data: bool  # submits, waits, resumes go where outcomes go
    loop_s: float
    crashes: int
    stops: int
    jumps: int
    cancels: int
    late: float
    twice: float
    zombies: bool
    spans: bool
    needs: bool
    subs: bool
    priorities: bool
    countdowns: bool
    fails: bool
    poison: bool
    blobs: bool
    returns_when_waiting: bool
    silence_s: float | None  # the dispatcher gives up who says nothing for so long
    waits_in_turn: bool  # for one task after the other, and says for which
    retries: bool
    limits: bool
    expires: bool
    fickle: float = 0.1  # how often a task that has asked another to end in its place ends by itself
    # of two levels
    nodes: tuple[Place, ...] = ()
    link_s: float = 0.0  # between the broker and a node
    lanes: bool = False
    kills: int = 0  # of nodes, with all their children
    cuts: int = 0  # the broker takes a node for lost, and it lives on
    pauses: int = 0  # a node stands still, its children go on
    leaves: int = 0
    new_lanes: int = 0  # a node takes more than before
    cuts_submits: float = 0.3  # how often a client, in a process of its own, submits something in parts
    plague: bool = False  # some of what ends its child ends its node
    crossing: float = 0.0  # how often a cancel crosses what a node gives back

    @classmethod
    def calm(cls, *, nodes: bool) -> World:
        """Two workers, or two nodes of two, and nothing goes wrong."""
        nothing = {field.name: False for field in fields(cls) if field.type == "bool"}
        nothing |= dict.fromkeys(("crashes", "stops", "jumps", "cancels"), 0)
        return cls(
            children=2,
            slots=2,
            queue_max=None,
            waiting_max=64,
            data_s=1e-4,
            control_s=1e-4,
            loop_s=2e-5,
            late=0.0,
            twice=0.0,
            silence_s=None,
            nodes=(Place(2), Place(2)) if nodes else (),
            link_s=1e-4,
            fickle=0.0,
            cuts_submits=1.0,
            **nothing,  # type: ignore[arg-type]  # as the fields are
        )

    @classmethod
    def draw(cls, rng: Random, more: Random, *, nodes: bool = False) -> World:
        """A world by chance; the policies by `more`: the rest of a seed's world is what it was without them."""

        def some(odds: float = 0.4) -> bool:
            return rng.random() < odds

        children, subs = rng.choice((1, 1, 2, 2, 3, 4)), some(0.4)
        world = cls(
            children=children,
            slots=children if subs or some(0.3) else None,
            queue_max=rng.randint(3, 30) if some(0.15) else None,
            waiting_max=rng.choice((1, 2, 64)),
            data_s=rng.choice((1e-5, 1e-4, 2e-3, 5e-3, 0.015)),
            control_s=rng.choice((1e-5, 1e-4, 2e-3)),
            overtaking=some(0.3),
            words_are_data=some(0.5),
            loop_s=rng.choice((0.0, 2e-5, 1e-3)),
            crashes=rng.randint(1, 4) if some() else 0,
            stops=rng.randint(1, 3) if some(0.25) else 0,
            jumps=rng.randint(1, 3) if some(0.2) else 0,
            cancels=rng.randint(1, 15) if some(0.5) else 0,
            late=rng.choice((0.02, 0.2)) if some(0.3) else 0.0,
            twice=rng.choice((0.05, 0.5)) if some(0.3) else 0.0,
            zombies=some(0.3),
            spans=some(0.5),
            needs=some(0.5),
            subs=subs,
            priorities=some(),
            countdowns=some(0.3),
            fails=some(0.3),
            poison=some(0.2),
            blobs=some(0.1),
            returns_when_waiting=some(),
            silence_s=rng.choice((0.1, 0.3)) if some(0.25) else None,
            waits_in_turn=some(0.5),
            retries=more.random() < 0.3,
            limits=more.random() < 0.3,
            expires=more.random() < 0.3,
        )
        if nodes:
            world._draw_nodes(rng)
        return world

    def _draw_nodes(self, rng: Random) -> None:
        def times(odds: float, most: int) -> int:
            return rng.randint(1, most) if rng.random() < odds else 0

        self.retries = self.limits = self.expires = False  # of one level, so far
        self.slots = None  # the broker's nodes have theirs
        self.lanes = rng.random() < 0.3
        self.link_s = rng.choice((1e-5, 1e-4, 2e-3, 5e-3, 0.015))
        slots = [rng.choice((1, 1, 2, 2, 3)) for _ in range(rng.choice((1, 2, 2, 3)))]
        takes: list[frozenset[int] | None] = [None] * len(slots)
        if self.lanes:
            some = [{lane for lane in range(LANES) if rng.random() < 0.5} for _ in slots]
            for lane in range(LANES):  # each is somebody's
                rng.choice(some).add(lane)
            takes = [frozenset(lanes) if rng.random() < 0.8 else None for lanes in some]
        self.nodes = tuple(Place(*place) for place in zip(slots, takes, strict=True))
        self.kills = times(0.3, 2)
        self.cuts = times(0.2, 2) if self.zombies else 0
        self.pauses = times(0.25, 3)
        self.leaves = times(0.3, 2)
        self.new_lanes = times(0.5, 2) if self.lanes else 0
        self.crossing = 0.5 if self.cancels and rng.random() < 0.7 else 0.0
        self.plague = self.poison and rng.random() < 0.6
