"""One seed: a world, its workload, its faults."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

from zmqtasks.core import waits
from zmqtasks.core.dispatch import Dispatcher
from zmqtasks.core.loans import Lender
from zmqtasks.core.node import Node
from zmqtasks.messages import LEASED, Task

from .flows import Flows
from .idleness import Idleness
from .lending import Lending
from .links import Time
from .node import NodeHost
from .points import Points
from .policies import Policies
from .program import Client, Program
from .top import Top
from .truth import Truth
from .work import Work
from .worlds import Place, World, Wrong

if TYPE_CHECKING:
    from .child import Child
    from .host import Host

SAFETY_S = 0.4  # how long faults go on
LIVENESS_S = 1000.0  # within which everything settles after that
RETRY_S = 0.01  # between two tries to reach a broker


class Core(NamedTuple):
    """The machines, and where their limit on waits stands: the real ones, or some with a bug planted."""

    dispatcher: type[Any]
    node: type[Any]
    waits: dict[str, Any]
    lender: type[Any]


CORE = Core(Dispatcher, Node, vars(waits), Lender)


class Sim:
    """One seed, of one level or, with `nodes`, of two."""

    def __init__(
        self,
        seed: int,
        core: Core = CORE,
        *,
        nodes: bool = False,
        flows: bool = False,
        points: Points | None = None,
        world: World | None = None,
        trace: Callable[[str], object] | None = None,
    ) -> None:
        self.seed = seed
        self.has_flows = flows
        self.rng = Random(seed)
        self.core = core
        self.trace = trace
        self.more = Random(~seed)  # for what concerns policies
        self.world = world or World.draw(self.rng, self.more, nodes=nodes)
        self.faulty = True
        self.time = Time()
        self.at, self.at_time = self.time.at, self.time.at_time
        self.work = Work(self)
        self.flows = Flows(self)
        self.truth = Truth(self)
        self.policies = Policies(self)
        self.points = points or Points({})
        self.top = Top(self)
        self.program = Client(self) if points is not None and self.world.nodes else Program(self)
        self.lending = Lending(self)
        self.idleness = Idleness(self)

    @property
    def now(self) -> float:
        """Seconds."""
        return self.time.now

    @property
    def events(self) -> int:
        """How many have happened."""
        return self.time.events

    def note(self, text: str) -> None:
        """For the reader of a seed."""
        if self.trace is not None:
            self.trace(f"{self.now * 1e3:10.3f} ms {text}")

    def run(self) -> None:
        """Both phases; `Wrong` if anything is."""
        kept = self.core.waits["WAITING_MAX"]
        self.core.waits["WAITING_MAX"] = self.world.waiting_max
        try:
            self.note(str(self.world))
            self._plan()
            self.time.go(SAFETY_S)
            self.faulty = False
            self.note("no more faults")
            self.time.go(SAFETY_S + LIVENESS_S)
            self.top.verify()
            self.lending.verify()
            self.program.verify()
            self.truth.verify()
        except Wrong:
            raise
        except AssertionError as error:
            raise Wrong(f"invariant: {error}") from error
        except Exception as error:
            raise Wrong(f"{type(error).__name__}: {error}") from error
        finally:
            self.core.waits["WAITING_MAX"] = kept

    # ---- what there will be

    def _plan(self) -> None:
        rng, world, work = self.rng, self.world, self.work
        work.costs = [rng.choice((2e-5, 2e-4, 2e-3, 0.02, 0.12)) for _ in range(rng.randint(1, 4))]
        self._join_all()
        ids: list[int] = []
        latest = 0.0
        for _ in range(rng.randint(1, 6)):
            batch = []
            for _ in range(rng.choice((1, 2, 4, 8))):
                task = work.new_task(work.spec(ids))
                ids += range(task.id, task.id + task.count)
                batch.append(task)
            when = max(rng.random() * 0.2, latest)  # a need is submitted before the one that needs it
            self.at_time(latest + when, self.program.submit, batch)
            latest = when
        if self.has_flows:
            ids += self.flows.plan()
        self.lending.plan(ids)
        for _ in range(world.cancels):
            id_ = rng.choice((None, None, None, rng.choice(ids), rng.choice(ids), -5))
            self.at(rng.random() * 0.25, self.cancel, id_, rng.random() < 0.6)
            if rng.random() < (0.3 if world.nodes else 0.1):
                start = rng.choice(ids)
                self.at(
                    rng.random() * 0.25, self._cancel_range, range(start, start + rng.choice((2, 10, 100)))
                )
        for times, fault in (
            (world.crashes, self._crash),
            (world.stops, self._stop),
            (world.jumps, self._jump),
            (world.kills, self._kill_node),
            (world.cuts, self._cut_node),
            (world.pauses, self._pause_node),
            (world.leaves, self._leave),
            (world.new_lanes, self._new_lane),
        ):
            self._some_time(times, fault)

    def _some_time(self, times: int, fault: Callable[[], None]) -> None:
        for _ in range(times):
            self.at(self.rng.random() * SAFETY_S / 2, fault)

    def _join_all(self) -> None:
        rng, world = self.rng, self.world
        for place in world.nodes:
            self.at(rng.random() * 0.005, self.join_node, place)
        for _ in range(0 if world.nodes else world.children):
            self.at(rng.random() * 0.005, self.top.join)

    # ---- what programs do

    def cancel(self, id_: int | None, terminate: bool) -> None:
        """A program asks; of what is in hands above all."""
        if id_ is None:
            groups: dict[int, list[Task]] = {}  # what is in hands, and spans by their state
            for task in self.top.machine.ledger.tasks.values():
                if task.state == LEASED or task.count > 1:
                    groups.setdefault(task.state, []).append(task)
            odds = [*groups, LEASED, LEASED] if LEASED in groups else list(groups)
            chosen = self.rng.choice(groups[self.rng.choice(odds)]) if groups else None
            id_ = chosen.id + self.rng.randrange(chosen.count) if chosen else -5
            children = [child for host in self._hosts() for child in host.children.values()]
            through = [child.through for child in children if child.through in self.truth.unsettled]
            if through and self.rng.random() < 0.4:
                id_ = self.rng.choice(through)  # its outcome is on its way
        if id_ in self.truth.submitted or id_ < 0:
            self.program.ask(id_, terminate=terminate)

    def _cancel_range(self, ids: range) -> None:
        """A program has no use any more for a part of what it submitted, as far as it has not started."""
        if ids[0] in self.truth.submitted:
            self.program.drop(ids)

    # ---- brokers

    def join_node(self, place: Place) -> None:
        """A node comes to the broker, as soon as there is one."""
        if self.top.alive:
            self.top.join_node(place)
        else:
            self.at(RETRY_S, self.join_node, place)

    def start_broker(self) -> None:
        """Another one, where the last one is gone: it knows nothing."""
        self.note("  a broker is there")
        self.top = Top(self, self.top)
        self.at(RETRY_S * self.rng.random(), self.program.meet, self.top)

    # ---- faults

    def _nodes(self) -> list[NodeHost]:
        return [node for node in self.top.children.values() if isinstance(node, NodeHost) and node.alive]

    def _hosts(self) -> list[Host]:
        """Of children."""
        return [*self._nodes()] if self.world.nodes else [self.top]

    def _victim(self) -> Child | None:
        alive = [child for host in self._hosts() for child in host.children.values() if not child.lost]
        return self.rng.choice(alive) if alive else None

    def _crash(self) -> None:
        """A child ends, or falls silent, for no fault of its task."""
        if (child := self._victim()) is None:
            return
        if self.would_blame(child):
            return
        child.die("crash", lives_on=self.world.zombies and self.rng.random() < 0.5)

    def would_blame(self, child: Child) -> bool:
        """Whether its end would be the end of its task, which is innocent: whoever is DEAD is to blame."""
        entry = child.current
        if entry is None or entry.offset + child.item in entry.spec.poison:
            return False
        return self.truth.deaths[entry.id + child.item] + 1 >= entry.spec.options.max_deliveries

    def _stop(self) -> None:
        """A child stands still for a while."""
        if (child := self._victim()) is not None and child.stopped_until <= self.now:
            longest = 3 * (self.world.silence_s or (0.1 if self.world.nodes else 0.03))
            child.stopped_until = child.stood_still = self.now + self.rng.random() * longest
            self.note(f"  {child.name} stops until {child.stopped_until * 1e3:.3f} ms")

    def _jump(self) -> None:
        """A clock does."""
        seconds = self.rng.choice((0.01, 0.2, 3600.0))
        host = self.rng.choice([self.top, *self._nodes()]) if self.world.nodes else self.top
        host.jump(seconds)

    def _node(self) -> NodeHost | None:
        nodes = [node for node in self._nodes() if not node.lost]
        return self.rng.choice(nodes) if nodes else None

    def _kill_node(self) -> None:
        """With all its children."""
        if (node := self._node()) is not None:
            self.take_down(node)

    def take_down(self, node: NodeHost) -> None:
        """It is killed; the broker sees it, or only hears nothing more."""
        node.kill()
        if self.world.silence_s is not None and self.rng.random() < 0.5:
            return
        if node.up.cut:
            self.at(self.rng.choice((0.0, 1e-4, 0.005)), self._see, node, "its link is gone")
        else:  # after all that it had said
            node.up.send(self._see, node, "its link is gone")

    def _cut_node(self) -> None:
        """The broker takes it for lost, and it lives on."""
        if (node := self._node()) is not None:
            self._see(node, "its link is cut")

    def _see(self, node: NodeHost, reason: str) -> None:
        if not node.lost:
            self.top.lose_node(node, reason)

    def _pause_node(self) -> None:
        if (node := self._node()) is not None and node.stopped_until <= self.now:
            node.pause(self.rng.random() * 3 * (self.world.silence_s or 0.03))

    def _leave(self) -> None:
        if (node := self._node()) is not None:
            node.leave()

    def _new_lane(self) -> None:
        if (node := self._node()) is not None:
            node.take_more()


def first_failure(
    seeds: Iterable[int], core: Core = CORE, *, nodes: bool = False, flows: bool = False, points: bool = False
) -> tuple[int, str] | None:
    """The first of `seeds` that finds something, and what; None if none does."""
    for seed in seeds:
        try:
            drawn = Points.draw(seed, nodes=nodes) if points else None
            Sim(seed, core, nodes=nodes, flows=flows, points=drawn).run()
        except Wrong as error:
            return seed, str(error)
    return None
