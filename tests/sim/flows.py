"""Workflows: what is submitted of them, and what has to become of it whatever happens on the way.

A workflow is a tree: a call, a chain, a group; a body is a step behind a group. It is compiled here into the tasks and
joins that a client would submit, by another hand than the client's. Nothing of it is looked at by its time: each turn
what must not be left is looked for, and in the end each part has to follow from the ends of those that it depends on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from zmqtasks.core.assembly import ABANDONED, LEFT, MISFIT
from zmqtasks.members import Closed, Gathered, Gone, Lapse, Members
from zmqtasks.messages import (
    CANCELLED,
    DEAD,
    EXPIRED,
    FAILED,
    FULL,
    JOIN,
    LEASED,
    QUEUED,
    RETRYING,
    SUCCEEDED,
    UNHURT,
    UPSTREAM_FAILED,
    WAITING,
    Submit,
    Task,
)
from zmqtasks.options import Options

from .worlds import Spec, Wrong

if TYPE_CHECKING:
    from .system import Sim
    from .truth import Final

LAPSED = (
    -1
)  # in front of a member's failure, as the tasks behind a join see it: a number, for their values come of it
Node = tuple[Any, ...]  # ("call", spec), ("span", spec), ("chain", nodes), ("group", failure, nodes)


@dataclass(slots=True)
class Joint:
    """A join: its members' ids by their places, and whether these are all."""

    failure: str
    whole: bool = True
    members: list[int] = field(default_factory=list)


class Flows:
    """The workflows of one seed."""

    def __init__(self, sim: Sim) -> None:
        self.sim = sim
        self.joints: dict[int, Joint] = {}
        self.takers: dict[int, list[int]] = {}  # by what they need, in the same workflow
        self.parents: dict[int, int] = {}
        self.stand_ins: dict[int, list[int]] = {}  # by the task whose place they take
        self.stands: dict[int, int] = {}  # the other way round
        self.quiet: set[int] = set()  # whose outcome nobody could tell a later submit
        self.gone: set[int] = set()  # joins whose submitter went away
        self.misfits: set[int] = set()  # that were closed with another count
        self._order: dict[int, int] = {}  # of all ends
        self.released: Counter[int] = Counter()

    # ---- what there will be

    def plan(self) -> list[int]:
        """Some, and when they are submitted; the ids that a program may cancel."""
        rng = self.sim.rng
        ids: list[int] = []
        for _ in range(rng.randint(1, 4)):
            root = self.new_id()
            tasks: list[Task] = []
            when = rng.random() * 0.2
            if rng.random() < 0.25:
                self._open(root, when)
            else:
                self.compile(self._draw(0), root, None, None, root, tasks)
                if rng.random() < 0.4:
                    self.catch(root, tasks)
                self.quiet.update({task.id for task in tasks} - {root})
                self._submit_at(when, tasks)
            ids += [root, root, *self.joints, *(task.id for task in tasks)]
        return ids

    def _submit_at(self, when: float, tasks: list[Task]) -> None:
        self.sim.at_time(when, self.sim.program.submit, tasks)

    def _draw(self, depth: int) -> Node:
        rng = self.sim.rng
        kind = rng.choice(("call", "call", "chain", "group", "group")) if depth < 3 else "call"
        if depth == 0:
            kind = rng.choice(("chain", "group"))
        if kind == "chain":
            return kind, [self._draw(depth + 1) for _ in range(rng.choice((1, 2, 2, 3, 5)))]
        if kind == "group":
            failure = rng.choice(("fail_fast", "fail_fast", "wait", "collect"))
            return kind, failure, [self._member(depth) for _ in range(rng.choice((0, 1, 2, 3, 3, 6)))]
        return kind, self._spec(depth)

    def _member(self, depth: int) -> Node:
        if self.sim.world.spans and self.sim.rng.random() < 0.2:
            return "span", replace(self._spec(3), span=True, count=self.sim.rng.choice((1, 2, 5, 20)))
        return self._draw(depth + 1)

    def _spec(self, depth: int) -> Spec:
        sim, rng = self.sim, self.sim.rng
        spec = replace(sim.work.spec([], 2), span=False, count=1, needs=(), subs=())
        if spec.fails:
            spec.fails = frozenset({0})
        spec.flaky = {item: runs for item, runs in spec.flaky.items() if not item}
        spec.hangs = {item: runs for item, runs in spec.hangs.items() if not item}
        if sim.world.poison and rng.random() < 0.1:
            spec.poison = frozenset({0})
        elif depth < 3 and rng.random() < 0.2:
            spec = Spec(spec.key, spec.fn, Options(), lane=spec.lane, instead=self._draw(depth + 1))
        return spec

    def new_id(self) -> int:
        work = self.sim.work
        work.ids += 1
        return work.ids - 1

    # ---- as tasks

    def compile(
        self, node: Node, id_: int, up: int | None, parent: tuple[int, int] | None, root: int, out: list[Task]
    ) -> None:
        kind, needs = node[0], () if up is None else (up,)
        if kind == "chain":
            for step in node[1][:-1]:
                self.compile(step, up_ := self.new_id(), up, None, root, out)
                up = up_
            self.compile(node[1][-1], id_, up, parent, root, out)
            return
        if kind == "group":
            joint = self.joints[id_] = Joint(node[1])
            count = sum(member[1].count if member[0] == "span" else 1 for member in node[2])
            out.append(self._join(id_, Members(count, node[1]), needs))
            self._place(out[-1], parent, root)
            for member in node[2]:
                items = member[1].count if member[0] == "span" else 1
                first, self.sim.work.ids = self.sim.work.ids, self.sim.work.ids + items
                place = id_, len(joint.members)
                joint.members += range(first, first + items)
                self.compile(member, first, up, place, root, out)
            return
        task = self.sim.work.new_task(replace(node[1], needs=needs), id_)
        self._place(task, parent, root)
        out.append(task)

    def _join(self, id_: int, members: Members, needs: tuple[int, ...]) -> Task:
        self.sim.work.spec_of[id_] = Spec(-id_, JOIN, Options(), needs=needs), 0
        return Task(id_, JOIN, members, needs=needs)

    def _place(self, task: Task, parent: tuple[int, int] | None, root: int) -> None:
        task.parent, task.root = parent, root
        if parent is not None:
            self.parents.update(dict.fromkeys(range(task.id, task.id + task.count), parent[0]))
        for need in task.needs:
            self.takers.setdefault(need, []).append(task.id)

    def catch(self, of: int, out: list[Task], spec: Spec | None = None) -> int:
        """What is called if `of` fails: its id."""
        catch = self.new_id()
        self.joints[catch] = Joint("catch")
        out.append(self._join(catch, Members(1, "catch"), (of,)))
        spec = spec or self._spec(3)
        out.append(self.sim.work.new_task(replace(spec, needs=(catch,), instead=None)))
        return out[-1].id

    def _open(self, root: int, when: float) -> None:
        """A group whose members come as they come, and a body behind it; or the program goes away in the midst."""
        rng = self.sim.rng
        failure = rng.choice(("fail_fast", "wait", "collect"))
        id_, tasks = self.begin_open(root, failure, self._spec)
        self._submit_at(when, tasks)
        for _ in range(rng.randint(0, 5)):
            when += rng.random() * 0.03
            self._submit_at(when, self.member(id_, root, self._draw))
        self.sim.at_time(when + 0.01, self.end_open, id_, rng.choice((-1, 0, 0, 0, 0, 1)))

    def begin_open(self, root: int, failure: str, spec: Callable[[int], Spec]) -> tuple[int, list[Task]]:
        """An open join's id, and what is to be submitted: that, and the body `root` behind it."""
        id_ = self.new_id()
        self.joints[id_] = Joint(failure, whole=False)
        join = self._join(id_, Members(None, failure), ())
        body = self.sim.work.new_task(replace(spec(3), needs=(id_,), instead=None), root)
        self._place(join, None, root)
        self._place(body, None, root)
        self.quiet.add(id_)
        return id_, [join, body]

    def member(self, id_: int, root: int, draw: Callable[[int], Node]) -> list[Task]:
        """One more for that open join."""
        tasks: list[Task] = []
        members = self.joints[id_].members
        first = self.new_id()
        self.compile(draw(1), first, None, (id_, len(members)), root, tasks)
        members.append(first)
        self.quiet.update(task.id for task in tasks)
        return tasks

    def end_open(self, id_: int, more: int) -> None:
        """No more come. `more` than it has, by mistake; less: the program is gone."""
        if more < 0:
            self.sim.program.say(Gone(id_, 1))
        else:
            self.sim.program.say(Closed(id_, len(self.joints[id_].members) + more))

    def close(self, message: Closed | Gone) -> None:
        """The dispatcher hears that."""
        if isinstance(message, Closed):
            joint = self.joints[message.id]
            joint.whole = message.count == len(joint.members)
            self.misfits.update(() if joint.whole else (message.id,))
            return
        ids = range(message.first, message.first + message.count)
        there = self.sim.truth.submitted
        for id_, joint in self.joints.items():
            if id_ in ids and not (joint.whole and there.issuperset(joint.members)):
                self.gone.add(id_)

    def stand_in(self, id_: int, node: Node) -> tuple[int, Submit]:
        """What a running task submits to have it in its place."""
        by = self.new_id()
        tasks: list[Task] = []
        self.compile(node, by, None, None, by, tasks)
        self.stand_ins.setdefault(id_, []).append(by)
        self.stands[by] = id_
        self.quiet.update(task.id for task in tasks)
        return by, Submit(tasks, instead={by: id_})

    # ---- what must hold

    def release(self, ids: list[int]) -> None:
        """The journal hears that these can run now."""
        self.released.update(ids)
        if twice := [id_ for id_ in ids if self.released[id_] > 1]:
            raise Wrong(f"tasks {twice} are released twice")

    def look(self) -> None:
        """After a turn: nothing is stuck, and nothing is kept that nobody needs."""
        final = self.sim.truth.final
        for task in self.sim.top.machine.ledger.tasks.values():
            joint = self.joints.get(task.id)
            owed = self.sim.top.machine.ledger.loans
            there = all(need in final and need not in owed for need in task.needs)
            if joint is not None and joint.failure != "catch":
                ended = [final[id_].state for id_ in joint.members if id_ in final]
                if joint.failure == "fail_fast" and any(state != SUCCEEDED for state in ended):
                    raise Wrong(f"join {task.id} has a member that failed, and has not")
                if joint.whole and there and len(ended) == len(joint.members):
                    raise Wrong(f"join {task.id} is stuck")
            elif task.state == WAITING and there and task.needs and task.id not in self.stand_ins:
                raise Wrong(f"task {task.id} is stuck")
            if task.state == LEASED:
                continue
            if task.id in self.stands:
                whom = self.sim.top.machine.ledger.find(self.stands[task.id])
                if whom is None or whom.state in (QUEUED, RETRYING):
                    raise Wrong(f"task {task.id} is kept for a run of {self.stands[task.id]} that is over")
            ids = range(task.id, task.id + task.count)
            if any(self.parents.get(id_) in final for id_ in ids):
                raise Wrong(f"task {task.id} is kept for a join that has ended")
            takers = self.takers.get(task.id)
            if takers and all(taker in final for taker in takers) and task.count == 1:
                raise Wrong(f"task {task.id} is kept, and nothing needs it")

    def opened(self, payload: Any) -> Any:
        """What a join has gathered, as the tasks behind it see it."""
        if not isinstance(payload, Gathered):
            return payload
        found: list[Any] = []
        for value in payload.values:
            if isinstance(value, Lapse):
                found.append((LAPSED, value.id, value.state))
            elif value.index < 0:
                found.append(self.opened(value.payload))
            else:
                found += list(self.opened(value.payload))[value.index : value.index + value.count]
        return tuple(found)

    def value(self, id_: int) -> Any:
        """What a join is worth, or a task that another has ended for; None for any other."""
        if id_ in self.stand_ins:
            return self.opened(self.sim.truth.final[id_].value)
        if (joint := self.joints.get(id_)) is None:
            return None
        final, work = self.sim.truth.final, self.sim.work
        ids = self.sim.work.spec_of[id_][0].needs if joint.failure == "catch" else joint.members
        return tuple(
            work.value(each) if final[each].state == SUCCEEDED else (LAPSED, each, final[each].state)
            for each in ids
        )

    # ---- the end

    def verify(self, id_: int, final: Final, told: set[int]) -> bool:
        """Whether this has to do with a join, or with another's place, or was forsaken: then it is as it should be.

        `told`: what was cancelled, or refused.
        """
        if not self._order:
            self._order = {each: place for place, each in enumerate(self.sim.truth.final)}
        if final.state == UPSTREAM_FAILED and final.payload[2] == UNHURT:
            raise Wrong(f"task {id_} has failed, and nothing was wrong")
        if final.state == CANCELLED:
            by = self._all_that_stand_in(id_)
            full = any(
                self.sim.truth.final[each].payload == FULL for each in by if each in self.sim.truth.final
            )
            if id_ in told or self._is_forsaken(id_, final) or not told.isdisjoint(by) or full:
                return True
        elif id_ in self.stand_ins and self._is_stand(id_, final):
            return True
        if id_ not in self.joints:
            return False
        if not self._is_right(id_, self.joints[id_], final):
            ends = {each: self.sim.truth.final.get(each) for each in self.joints[id_].members}
            raise Wrong(f"join {id_} ended {final}, its members {ends}")
        return True

    def _all_that_stand_in(self, id_: int) -> set[int]:
        """What took its place, and what took theirs."""
        found, new = set[int](), set(self.stand_ins.get(id_, ()))
        while new:
            found |= new
            new = {by for each in new for by in self.stand_ins.get(each, ())} - found
        return found

    def _is_stand(self, id_: int, final: Final) -> bool:
        """Whether it has ended as one of those that stood in for it did."""
        ends = [self.sim.truth.final[by] for by in self.stand_ins[id_] if by in self.sim.truth.final]
        return any(
            (end.state, self.opened(end.value)) == (final.state, self.opened(final.value)) for end in ends
        )

    def _is_forsaken(self, id_: int, final: Final) -> bool:
        ends = self.sim.truth.final
        spec = self.sim.work.spec_of[id_][0]
        if final.payload == UNHURT:
            joint = self.joints.get(id_)
            if joint is not None and joint.failure == "catch":
                return ends[spec.needs[0]].state in (SUCCEEDED, CANCELLED)
            return any(ends[need].payload == UNHURT for need in spec.needs)
        if final.payload == ABANDONED:
            return id_ in self.gone
        if final.payload == MISFIT:
            return id_ in self.misfits
        if final.payload == FULL and id_ in self.joints:
            return any(ends[each].payload == FULL for each in self.joints[id_].members if each in ends)
        # That a worker asked for it at last: the reason may be that of a cancel.
        return self.is_unheard(id_) or id_ in self.stands

    def is_unheard(self, id_: int) -> bool:
        """Whether nothing was left that had a use for it, before it ended."""
        ends, order = self.sim.truth.final, self._order
        parent = self.parents.get(id_, -1)
        if parent in ends and ends[parent].state != SUCCEEDED and order[parent] < order[id_]:
            return True
        takers = [each for each in self.takers.get(id_, ()) if each in self.sim.truth.submitted]
        return bool(takers) and all(
            taker in ends
            and ends[taker].state != SUCCEEDED
            and (order[taker] < order[id_] or ends[taker].payload in (LEFT, FULL))  # then it came too late
            for taker in takers
        )

    def _is_right(self, id_: int, joint: Joint, final: Final) -> bool:
        ends = self.sim.truth.final
        needs = self.sim.work.spec_of[id_][0].needs
        if joint.failure == "catch":
            end = ends[needs[0]]
            failed = end.state in (FAILED, DEAD, EXPIRED, UPSTREAM_FAILED)
            lapse = Gathered([Lapse(needs[0], end.state, end.payload)])
            return failed and (final.state, final.payload) == (SUCCEEDED, lapse)
        if final.state == UPSTREAM_FAILED and any(ends[need].state != SUCCEEDED for need in needs):
            return True
        members = [(each, ends[each]) for each in joint.members if each in ends]
        lapses = [(each, end) for each, end in members if end.state != SUCCEEDED]
        if final.state == SUCCEEDED:
            whole = len(members) == len(joint.members) and id_ not in self.gone
            right = whole and (joint.failure == "collect" or not lapses)
            return right and self.opened(final.payload) == self.value(id_)
        if joint.failure == "wait":
            gathered = [Lapse(each, end.state, end.value) for each, end in lapses]
            return final.state == FAILED and final.payload == Gathered([*gathered])
        return joint.failure == "fail_fast" and any(
            ((final.state, final.payload) == (end.state, end.value) and end.state != CANCELLED)
            or (final.state, final.payload) == (UPSTREAM_FAILED, (each, CANCELLED, end.payload))
            for each, end in lapses
        )
