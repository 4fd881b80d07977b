"""Retries, time limits, expiry: what they allow, of the truth. Worlds of one level have them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from zmqtasks.messages import EXPIRED, QUEUED, RETRYING, SCHEDULED, WAITING
from zmqtasks.options import DEFAULT_RETRY, RetryRule

from .worlds import Spec, Wrong

if TYPE_CHECKING:
    from zmqtasks.messages import Task

    from .child import Child
    from .system import Sim
    from .truth import Final

LATE_S = 0.05  # how long after its time an order of the dispatcher may have its effect
HANG_S = 50.0  # how long a task runs that overruns its limit, if nobody ends it


class Policies:
    """What the dispatcher may do again, has to end, and must not start any more."""

    def __init__(self, sim: Sim) -> None:
        self.sim = sim
        self.born: dict[int, float] = {}  # when it was accepted
        self.runs: Counter[int] = Counter()  # that began anywhere
        self.retried: Counter[int] = Counter()
        self.asked: dict[int, float | None] = {}  # the delay that its last failure asked for
        self.retry_at: dict[int, tuple[float, float]] = {}  # from when to when the backoff ends
        self.limited: Counter[int] = Counter()  # how often it was ended for its limit
        # It was ordered to be: where its child crashes meanwhile, that is no delivery.
        self.over: set[int] = set()

    def regulate(self, spec: Spec) -> None:
        """Give `spec` some, by chance."""
        more, world = self.sim.more, self.sim.world
        if world.retries and more.random() < 0.6:
            if more.random() < 0.8:
                rule = RetryRule(
                    max=more.choice((0, 1, 2, 4)),
                    delay=more.choice((0.0, 0.01, 0.05)),
                    factor=more.choice((1.0, 2.0)),
                    max_delay=more.choice((0.06, 600.0)),
                    jitter=more.choice(("none", "none", "equal", "full")),
                    deadline=more.choice((None, None, 0.05, 0.3)),
                    on_limit=more.random() < 0.7,
                )
                spec.options = spec.options.replace(retry=rule)
            if more.random() < 0.3:
                spec.delay = more.choice((0.0, 0.02))
            spec.picky = more.random() < 0.3
            if spec.picky and spec.span:
                spec.fails |= {more.randrange(spec.count)}
            if more.random() < 0.7:
                items = {more.randrange(spec.count) for _ in range(more.randint(1, 3))}
                spec.flaky = {item: more.choice((1, 2, 5)) for item in sorted(items)}
        if world.limits and more.random() < 0.5:
            spec.options = spec.options.replace(time_limit=more.choice((0.005, 0.03, 0.2)))
            if more.random() < 0.5:
                spec.hangs = {more.randrange(spec.count): more.choice((1, 9))}
            spec.near = more.random() < 0.4
        if world.expires and more.random() < 0.5:
            after = spec.options.countdown + more.choice((0.001, 0.01, 0.05, 0.3))
            spec.options = spec.options.replace(expires=after)

    # ---- what happens

    def begins(self, id_: int, item: int, spec: Spec, seconds: float) -> tuple[float, bool]:
        """A run: how long it takes, and whether it fails."""
        self.runs[id_] += 1
        run = self.runs[id_]
        if run <= spec.hangs.get(item, 0):
            seconds = HANG_S
        elif spec.near:
            seconds = (spec.options.time_limit or 0.0) + (self.sim.more.random() - 0.4) * 0.004
        return seconds, run <= spec.flaky.get(item, 0)

    def ends(self, child: Child, id_: int, spec: Spec) -> None:
        """A run has come to its end by itself."""
        limit, ran = spec.options.time_limit, self.sim.top.clock() - child.began_clock
        if limit is not None and ran > limit + LATE_S and not child.lost and not self.sim.world.jumps:
            raise Wrong(f"task {id_} has run for {ran:.3f} s, its limit is {limit} s")

    def end(self, child: Child, ordinal: int, item: int) -> None:
        """The host ends a child if it runs that: it is over its limit."""
        entry, clock = child.current, self.sim.top.clock()
        if child.lost or entry is None or (entry.ordinal, child.claimed_item) != (ordinal, item):
            return
        id_, limit, ran = entry.id + child.item, entry.spec.options.time_limit, clock - child.began_clock
        if limit is None or ran < limit - 1e-9:
            raise Wrong(f"task {id_} is ended after {ran} s, its limit is {limit}")
        if ran > limit + LATE_S and not self.sim.world.jumps:
            raise Wrong(f"task {id_} is ended after {ran} s, its limit is {limit}")
        self.limited[id_] += 1
        self.asked[id_] = None
        child.die("limit", blamed=False)

    def retry(self, id_: int) -> None:
        """The dispatcher has decided to."""
        truth, clock = self.sim.truth, self.sim.top.clock()
        rule = self.sim.work.spec_of[id_][0].options.retry or DEFAULT_RETRY
        full = min(rule.max_delay, rule.delay * rule.factor ** self.retried[id_])
        least = {"none": full, "equal": full / 2, "full": 0.0}[rule.jitter]
        if id_ not in self.asked and id_ not in self.over:
            raise Wrong(f"task {id_} is retried, and has not asked for it")
        if (delay := self.asked.get(id_)) is not None:
            # One that was ordered to be ended has failed by itself, or has crashed, and then its delay is the rule's.
            least, full = (min(least, delay), max(full, delay)) if id_ in self.over else (delay, delay)
        self.retry_at[id_] = clock + least, clock + full
        self.retried[id_] += 1
        truth.excuses[id_] += 1
        truth.running.discard(id_)
        if self.retried[id_] > rule.max:
            raise Wrong(f"task {id_} is retried for the {self.retried[id_]}th time, its rule says {rule.max}")
        if rule.deadline is not None and clock + least > self.born[id_] + rule.deadline + 1e-9:
            raise Wrong(f"task {id_} is to be retried after its deadline")

    # ---- what must hold

    def latest(self, id_: int) -> float:
        """When `id_` must have started, as far as it has not started before."""
        options = self.sim.work.spec_of[id_][0].options
        after = options.expires
        if self.retried[id_]:
            after = options.retry.deadline if options.retry else None
        elif self.sim.truth.deaths[id_]:
            after = None
        return float("inf") if after is None else self.born[id_] + after

    def delivered(self, id_: int, deliveries: int) -> bool:
        """Whether so many are what the dispatcher should know."""
        deaths = self.sim.truth.deaths[id_]
        if (lost := self.sim.top.lost_under(id_)) or self.sim.top.nodes_lost:
            return deliveries <= deaths + lost  # what a lost node knew is lost with it
        return deliveries == deaths or (id_ in self.over and deliveries < deaths)

    def started(self, id_: int) -> None:
        """`id_` starts, where somebody listens."""
        world, clock, starts = self.sim.world, self.sim.top.clock(), self.sim.truth.starts[id_]
        if clock < self.retry_at.get(id_, (0.0, 0.0))[0] - 1e-9:
            raise Wrong(f"task {id_} is retried before its backoff is over")
        exact = not (world.stops or world.late or world.jumps or world.overtaking or world.silence_s)
        if exact and starts == 1 + self.retried[id_] and clock > (latest := self.latest(id_)) + LATE_S:
            raise Wrong(f"task {id_} starts {clock - latest:.3f} s after its time was over")

    def settled(self, id_: int, final: Final) -> None:
        """`id_` ends."""
        truth, top = self.sim.truth, self.sim.top
        runs = id_ in truth.running and truth.where[id_].peer in top.machine.peers
        by_itself = id_ not in self.sim.flows.joints and id_ not in self.sim.flows.stand_ins
        if final.state == EXPIRED and by_itself and (top.clock() < self.latest(id_) or runs or final.deaths):
            raise Wrong(f"task {id_} has expired before its time, or had started")

    def look_at(self, task: Task, deadline: float | None, now: float) -> None:
        """`task` is not forgotten, and not late."""
        if task.state == RETRYING and not (deadline and now < deadline <= self.retry_at[task.id][1] + 1e-9):
            raise Wrong(f"task {task.id} is to be retried at {self.retry_at[task.id]}, and is forgotten")
        if task.state in (WAITING, SCHEDULED, QUEUED) and task.course and not task.deliveries:
            late = [id_ for id_ in range(task.id, task.id + task.count) if self.latest(id_) <= now]
            if late:
                raise Wrong(f"tasks {late} are late, and in state {task.state}")

    def look_at_hands(self) -> None:
        """What is late and has not started is asked for."""
        world, top = self.sim.world, self.sim.top
        if not (world.expires or world.retries) or world.late or world.jumps or world.overtaking:
            return
        for child in top.children.values():
            peer = top.machine.peers.get(child.peer)
            if peer is None or child.lost or peer.asked or peer.ending >= 0:
                continue
            if child.stopped_until > self.sim.now:
                continue
            for entry in child.hand:
                if self.latest(entry.id) + 5e-3 < top.clock() and child.current is not None:
                    raise Wrong(f"task {entry.id} is late, and left in the hand of peer {child.peer}")

    def verify_failure(self, id_: int, value: Any, spec: Spec, item: int) -> None:
        """It had a reason, and no attempt was left."""
        rule = spec.options.retry or DEFAULT_RETRY
        if str(value).startswith("it ran for longer"):
            right, asks = id_ in self.over, spec.options.retry is not None and rule.on_limit
        else:
            right = {
                "own": item in spec.fails,
                "flaky": item in spec.flaky,
                "sub": bool(spec.subs),
                "deep": bool(spec.subs),
            }.get(value, False)
            asks = spec.asks(value)
        if not right:
            raise Wrong(f"task {id_} failed with {value}, and nothing was wrong with it")
        if self.sim.flows.is_unheard(id_) or id_ in self.sim.flows.stands:
            return
        if asks and self.retried[id_] < rule.max and rule.deadline is None:
            raise Wrong(f"task {id_} failed after {self.retried[id_]} retries, and has {rule.max}")
