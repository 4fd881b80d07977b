"""Small workflows in calm worlds: for each of their effects there is a run in which the process stops before it.

A broker that is gone has lost them: the program hears that and submits them once more, to the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from zmqtasks.messages import CANCELLED, FAILED, GONE, SUCCEEDED, UPSTREAM_FAILED, Task
from zmqtasks.options import Options, RetryRule

from .flows import Node
from .points import CHILD, CLIENT, KINDS, Points
from .system import CORE, Core, Sim
from .worlds import Spec, World, Wrong

BEGIN_S = 0.01
AGAIN_S = 0.02  # after a broker has come: its client has met it
COSTS_S = (2e-4, 2e-3)


class Small(NamedTuple):
    """A workflow, how it is to end, and its link and its link_error, if it has them; and when it is cancelled."""

    node: Callable[[Calls], Node]
    ends: set[int]
    link: int | None = None
    link_error: int | None = None
    cancelled_s: float | None = None
    retries: int = 0
    is_open: bool = (
        False  # a group whose members are submitted one by one, and a body; it fails if the client is gone
    )


class Calls:
    """Makes calls, each with a value of its own."""

    def __init__(self) -> None:
        self._keys = 0

    def call(self, **about: Any) -> Node:
        """One that does what `about` says, as fields of a `Spec`."""
        return "call", self.spec(**about)

    def span(self, count: int) -> Node:
        """Several in one."""
        return "span", self.spec(span=True, count=count)

    def spec(self, **about: Any) -> Spec:
        """The next one."""
        self._keys += 1
        return Spec(self._keys, self._keys % len(COSTS_S), about.pop("options", Options()), **about)


def _group(calls: Calls, failure: str, fails: tuple[int, ...] = (), count: int = 4) -> Node:
    bad = frozenset({0})
    return "group", failure, [calls.call(fails=bad if at in fails else frozenset()) for at in range(count)]


def _flaky(calls: Calls) -> Node:
    rule = RetryRule(max=3, delay=0.002, jitter="none")
    return calls.call(flaky={0: 2}, options=Options(retry=rule))


WORKFLOWS = {
    "chain": Small(lambda c: ("chain", [c.call(), c.call(), c.call()]), {SUCCEEDED}),
    "chord": Small(lambda c: ("chain", [_group(c, "fail_fast"), c.call()]), {SUCCEEDED}),
    "chord of a span": Small(
        lambda c: ("chain", [("group", "fail_fast", [c.span(5), c.call()]), c.call()]), {SUCCEEDED}
    ),
    "chord within a chord, in a chain": Small(
        lambda c: (
            "chain",
            [
                c.call(),
                ("group", "wait", [("chain", [_group(c, "collect", (1,), 3), c.call()]), c.call()]),
                c.call(),
            ],
        ),
        {SUCCEEDED},
    ),
    "a chord takes the place of a member": Small(
        lambda c: (
            "chain",
            [
                (
                    "group",
                    "fail_fast",
                    [c.call(instead=("chain", [_group(c, "fail_fast", count=3), c.call()])), c.call()],
                ),
                c.call(),
            ],
        ),
        {SUCCEEDED},
    ),
    "what takes the place of another fails": Small(
        lambda c: ("chain", [c.call(instead=("chain", [c.call(), c.call(fails=frozenset({0}))])), c.call()]),
        {UPSTREAM_FAILED},
        link=UPSTREAM_FAILED,
        link_error=SUCCEEDED,
    ),
    "link": Small(
        lambda c: ("chain", [c.call(), c.call()]), {SUCCEEDED}, link=SUCCEEDED, link_error=CANCELLED
    ),
    "link_error": Small(
        lambda c: ("chain", [c.call(), _group(c, "fail_fast", (2,))]),
        {FAILED},
        link=UPSTREAM_FAILED,
        link_error=SUCCEEDED,
    ),
    "fail_fast": Small(lambda c: ("chain", [_group(c, "fail_fast", (0,), 6), c.call()]), {UPSTREAM_FAILED}),
    "wait": Small(lambda c: ("chain", [_group(c, "wait", (0, 2)), c.call()]), {UPSTREAM_FAILED}),
    "collect": Small(lambda c: ("chain", [_group(c, "collect", (0, 2)), c.call()]), {SUCCEEDED}),
    "a member is retried": Small(
        lambda c: ("chain", [("group", "fail_fast", [_flaky(c), c.call()]), c.call()]), {SUCCEEDED}, retries=2
    ),
    "a task waits for its own": Small(
        lambda c: ("chain", [c.call(), c.call(subs=(c.spec(), c.spec())), c.call()]), {SUCCEEDED}
    ),
    "members come one by one": Small(lambda c: _group(c, "wait"), {SUCCEEDED, UPSTREAM_FAILED}, is_open=True),
    "cancelled": Small(
        lambda c: ("chain", [c.call(), _group(c, "fail_fast"), c.call()]),
        {SUCCEEDED, CANCELLED},
        cancelled_s=0.003,
    ),
}


class SmallSim(Sim):
    """One of them."""

    def __init__(self, name: str, points: Points, core: Core = CORE, *, nodes: bool, **about: Any) -> None:
        super().__init__(
            7, core, nodes=nodes, flows=True, points=points, world=World.calm(nodes=nodes), **about
        )
        self.small = WORKFLOWS[name]
        self.faulty = False
        self._expected: list[dict[int, set[int]]] = []  # of each time that it was submitted

    def _plan(self) -> None:
        self.work.costs = list(COSTS_S)
        self._join_all()
        self.at(BEGIN_S, self._submit)

    def _submit(self) -> None:
        calls, flows, tasks, small = Calls(), self.flows, list[Task](), self.small
        root = flows.new_id()
        if small.is_open:
            self._submit_open(small.node(calls), root)
            return
        flows.compile(small.node(calls), root, None, None, root, tasks)
        expected = {root: small.ends}
        if small.link is not None:
            tasks.append(self.work.new_task(replace(calls.spec(), needs=(root,))))
            expected[tasks[-1].id] = {small.link}
        if small.link_error is not None:
            expected[flows.catch(root, tasks, calls.spec())] = {small.link_error}
        flows.quiet.update({task.id for task in tasks} - expected.keys())
        self._expected.append(expected)
        self.program.submit(tasks)
        if small.cancelled_s is not None and len(self._expected) == 1:
            self.at(small.cancelled_s, self.cancel, root, False)

    def _submit_open(self, group: Node, root: int) -> None:
        self._expected.append({root: self.small.ends})
        _, failure, members = group
        id_, tasks = self.flows.begin_open(root, failure, lambda _: Spec(100, 0, Options()))
        self.program.submit(tasks)
        for at, member in enumerate(members, 1):
            tasks = self.flows.member(id_, root, lambda _, member=member: member)
            self.at(at * 1e-3, self.program.submit, tasks)
        self.at(len(members) * 1e-3 + 2e-3, self.flows.end_open, id_, 0)

    def start_broker(self) -> None:
        """What the last one has lost is submitted once more."""
        super().start_broker()
        self.at(AGAIN_S, self._again)

    def _again(self) -> None:
        if any(id_ in self.truth.gone for id_ in self._expected[-1]):
            self._submit()

    def look(self) -> None:
        """In the end: it has come out as it has to."""
        cut = (
            self.points.stopped[CLIENT] > 0
        )  # what it was about to submit never came, nor what depends on that
        for expected in self._expected:
            for id_, states in expected.items():
                final = self.truth.final.get(id_)
                if final is None and cut:
                    continue
                lost = final is not None and final.payload == GONE and expected is not self._expected[-1]
                allowed = states | {CANCELLED, UPSTREAM_FAILED} if cut else states
                if final is None or (final.state not in allowed and not lost):
                    raise Wrong(f"task {id_} has ended {final}, and not in one of {states}")
        again = self.points.stopped[CHILD] + self.points.stopped["node"]
        most = 1 + again + self.small.retries
        if self.truth.starts and (worst := max(self.truth.starts.values())) > most:
            raise Wrong(f"a task was started {worst} times, and {again} processes that run them have stopped")


def each_point(name: str, core: Core = CORE, *, nodes: bool) -> Iterator[tuple[str, int, str]]:
    """Run it with a stop before each of its effects: the kind of process, which effect, and what was wrong or ""."""
    whole = SmallSim(name, Points({}), core, nodes=nodes)
    whole.run()
    whole.look()
    for kind in KINDS if nodes else [CHILD]:
        for effect in range(whole.points.count[kind]):
            points = Points({kind: frozenset({effect})})
            sim, wrong = SmallSim(name, points, core, nodes=nodes), ""
            try:
                sim.run()
                sim.look()
            except Wrong as error:
                wrong = str(error)
            yield kind, effect, wrong or ("" if points.stopped[kind] else "nothing has stopped")
