"""A workflow as tasks: what `Client.run` submits.

To a dispatcher there are tasks and joins, nothing else. A group is a join, its members have it as their parent; a step
needs the outcome of the step before, a body that of its header's join; what `link` has attached needs the outcome that
it is attached to, and a failure's goes through a join that catches it. Nothing is rewritten: each part has the one
outcome that it was given an id for beforehand, so that whatever waits for it can be made before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from zmqtasks.array import Array, Joined
from zmqtasks.calls import Calls, NotASpan
from zmqtasks.flow import Workflow
from zmqtasks.future import Future
from zmqtasks.members import Members
from zmqtasks.messages import JOIN, Task
from zmqtasks.names import found, is_task
from zmqtasks.options import Options
from zmqtasks.outcome import Caught
from zmqtasks.workflow import Signature

Up = Future[Any] | Caught  # what an argument is made of
_NO_OPTIONS: dict[str, Any] = {}


class Step(NamedTuple):
    """A part whose tasks are still to be made: with the outcome `id`, which belongs to `parent`.

    `up`: the outcome of the step before. `given`: options of what it is in. `face`: what hears of its outcome.
    """

    node: Any
    id: int
    root: int
    up: Up | None = None
    given: dict[str, Any] = _NO_OPTIONS
    parent: tuple[int, int] | None = None
    face: Any = None


class Catch(NamedTuple):
    """In place of a part: what `link_error` has attached to the outcome `of`."""

    link: Workflow
    of: Future[Any]
    kind: str = "catch"
    options: tuple[tuple[str, Any], ...] = ()
    links: tuple[Workflow, ...] = ()
    errors: tuple[Workflow, ...] = ()


class Open(NamedTuple):
    """A join whose members an iterator gives: `step` is its group or map."""

    step: Step
    given: dict[str, Any]
    members: Iterator[Any]


class Plan:
    """The tasks of workflows, as they are made; `opened` are the joins whose members are still to come."""

    def __init__(self, host: Any, calls: Calls, options: Options) -> None:
        self.tasks: list[Task] = []
        self.opened: list[Open] = []
        self._host = host
        self._calls = calls
        self._base = options
        self._work: list[Step] = []
        # The options that were made last, after what they were made of: mostly they are asked for again.
        self._made: tuple[Any, Mapping[str, Any], Options] = (None, _NO_OPTIONS, options)

    def root(self, workflow: Workflow, *, heard: bool = True) -> Future[Any]:
        """Make the tasks of a whole workflow; the future of its outcome, which hears of it if it is to be `heard`."""
        id_ = self._host.ids.next()
        last = _last(workflow)
        future: Future[Any] = (Joined if last.kind in ("group", "map") else Future)(self._host, id_)
        self.make([Step(workflow, id_, id_, face=future if heard else None)])
        return future

    def take(self) -> list[Task]:
        """What was made since it was taken last."""
        tasks, self.tasks = self.tasks, []
        return tasks

    def make(self, steps: list[Step]) -> None:
        """Make the tasks of these, in an order in which whatever one needs stands before it."""
        work = self._work
        work += reversed(steps)
        while work:
            step = work.pop()
            node = step.node
            if node.links or node.errors:
                self._attach(step)
            given = {**step.given, **dict(node.options)} if node.options else step.given
            self._makes[node.kind](self, step, given)

    # ---- parts ---------------------------------------------------------------------------------------------------

    def _attach(self, step: Step) -> None:
        """What hangs on the outcome of a step, to be made after it."""
        of = self._future(step.id)
        later = [self._link(link, of) for link in step.node.links]
        for link in step.node.errors:
            id_ = self._host.ids.next()
            later.append(Step(Catch(link, of), id_, id_))
        self._work += reversed(later)

    def _link(self, link: Workflow, of: Up) -> Step:
        id_ = self._host.ids.next()
        return Step(link, id_, id_, of)

    def _catch(self, step: Step, _given: dict[str, Any]) -> None:
        of = step.node.of
        self.tasks.append(
            Task(step.id, JOIN, Members(1, "catch"), needs=(of.number,), inputs=(of,), root=step.root)
        )
        self._work.append(self._link(step.node.link, Caught(of.id, self._future(step.id))))

    def _call(self, step: Step, given: dict[str, Any]) -> None:
        self._single(step, step.node, step.id, step.parent, given)

    def _single(
        self, step: Step, node: Any, id_: int, parent: tuple[int, int] | None, given: dict[str, Any]
    ) -> None:
        """The task of a call; of `step` all that is not its own."""
        up, fn = step.up, node.task
        if type(fn) is str:
            fn = found(fn)
        args = node.args if up is None or node.immutable else (up, *node.args)
        task = self._calls.task(fn, args, node.kwargs, self._options_of(fn, given), id_)
        if up is not None and up.number not in task.needs:  # for the order alone
            task.needs += (up.number,)
            task.inputs += (up,)
        task.parent, task.root, task.face = parent, step.root, step.face
        self.tasks.append(task)

    def _chain(self, step: Step, given: dict[str, Any]) -> None:
        up: Up | None = step.up
        steps = []
        for node in step.node.steps[:-1]:
            id_ = self._host.ids.next()
            steps.append(Step(node, id_, step.root, up, given))
            up = self._future(id_)
        steps.append(step._replace(node=step.node.steps[-1], up=up, given=given))
        self._work += reversed(steps)

    def _group(self, step: Step, given: dict[str, Any]) -> None:
        members = step.node.members
        if not isinstance(members, tuple):
            self._open(step, given, members.take())
            return
        base, children = self._join(step, len(members))
        self.members(Step(None, base, step.root, step.up, given, (step.id, 0), children), members)

    def _map(self, step: Step, given: dict[str, Any]) -> None:
        items, size = step.node.items, step.node.size
        if not isinstance(items, tuple):
            self._open(step, given, items.take())
            return
        base, children = self._join(step, len(items) if size is None else -(-len(items) // size))
        self.items(Step(step.node, base, step.root, step.up, given, (step.id, 0), children), items)

    def _join(self, step: Step, count: int | None) -> tuple[int, Array[Any] | None]:
        """The join of a group; the id of its first member, and what hears of them."""
        needs, inputs = ((), ()) if step.up is None else ((step.up.number,), (step.up,))
        members = Members(count, step.node.failure)
        self.tasks.append(
            Task(
                step.id, JOIN, members, needs=needs, inputs=inputs, parent=step.parent, root=step.root, face=step.face
            )
        )  # fmt: skip
        base = self._host.ids.block(count) if count else 0
        if count is None or not getattr(step.face, "keeps", step.face is not None):
            return base, None
        children: Array[Any] = Array(self._host, base, count)
        step.face.adopt(step.id, children)
        return base, children

    # ---- members -------------------------------------------------------------------------------------------------

    def members(self, first: Step, members: Sequence[Any]) -> None:
        """The members of a group; `first` is what they have in common, with the id and parent of the first one."""
        at, nested = 0, []
        join, index = first.parent or (-1, 0)
        while at < len(members):
            node = members[at]
            if type(node) is not Signature or node.links or node.errors:
                nested.append(_shifted(first, at, node))
                at += 1
                continue
            given = {**first.given, **dict(node.options)} if node.options else first.given
            count = _alike(members, at)
            if count == 1:
                self._single(first, node, first.id + at, (join, index + at), given)
            else:
                self._alike(_shifted(first, at, node), members[at : at + count], given, len(members))
            at += count
        self._work += reversed(nested)

    def _alike(self, first: Step, members: Sequence[Any], given: dict[str, Any], of: int) -> None:
        """Neighbours that call the same, each with its arguments; `of`: how many the group has."""
        takes = first.up is not None and not first.node.immutable  # then each has a value of its own to take
        rows = [member.args for member in members]
        if takes or not self._spans(first, given, rows, self._calls.span_size(of), star=True):
            join, index = first.parent or (-1, 0)
            for at, member in enumerate(members):
                self._single(first, member, first.id + at, (join, index + at), given)

    def items(self, first: Step, items: Sequence[Any]) -> None:
        """The same for the items of a map, which is the node of `first`."""
        node = first.node
        given, size = first.given, node.size
        if size is None:
            self._items(first, items, self._calls.span_size(len(items)))
            return
        for at in range(0, len(items), size):
            chunk = _shifted(first, at // size, node)
            part = items[at : at + size]
            base, children = self._join(chunk._replace(up=None), len(part))
            self._items(Step(node, base, first.root, first.up, given, (chunk.id, 0), children), part, size)

    def _items(self, first: Step, items: Sequence[Any], size: int) -> None:
        star = first.node.star
        if size == 1 or not self._spans(first, first.given, list(items), size, star=star):
            for at, item in enumerate(items):
                call = Signature(first.node.task, tuple(item) if star else (item,), immutable=True)
                self._call(_shifted(first, at, call), first.given)

    def _spans(self, first: Step, given: dict[str, Any], rows: list[Any], size: int, *, star: bool) -> bool:
        """Calls of one task as spans; False where they have to be tasks of their own."""
        fn = found(first.node.task)
        options = self._options_of(fn, given)
        if size == 1 or options.countdown:
            return False
        try:
            tasks = self._calls.spans(fn, rows, size, options, star=star, base=first.id, after=first.up)
        except NotASpan:
            return False
        parent, index = first.parent or (-1, 0)
        for task in tasks:
            task.parent = parent, index + task.id - first.id
            task.root, task.face = first.root, first.face
        self.tasks += tasks
        return True

    # ---- of an iterator ------------------------------------------------------------------------------------------

    def _open(self, step: Step, given: dict[str, Any], members: Iterator[Any]) -> None:
        if step.up is not None:  # members that come late need the value itself: it may be forgotten by then
            for task in self.tasks:
                if task.id == step.up.number and task.face is None:
                    task.face = step.up.future if isinstance(step.up, Caught) else step.up
        self._join(step, None)
        self.opened.append(Open(step, given, members))

    # ---- what they are made of -----------------------------------------------------------------------------------

    def _future(self, id_: int) -> Future[Any]:
        return Future(self._host, id_)

    def _options_of(self, fn: Any, given: Mapping[str, Any]) -> Options:
        """The options of a call: those of its task, and over these those that it was given and is in."""
        task = fn if is_task(fn) and fn.given else None
        if task is None and not given:
            return self._base
        if self._made[0] is not task or self._made[1] != given:
            both = {**task.given, **given} if task is not None else given
            self._made = task, given, self._calls.options(self._base, both)
        return self._made[2]

    _makes: ClassVar[dict[str, Callable[..., None]]] = {
        "task": _call,
        "chain": _chain,
        "chord": _chain,  # of two steps
        "group": _group,
        "map": _map,
        "catch": _catch,
    }


def _shifted(first: Step, at: int, node: Any) -> Step:
    """The step of a member so many places behind the first."""
    join, index = first.parent or (-1, 0)
    return Step(node, first.id + at, first.root, first.up, first.given, (join, index + at), first.face)


def _alike(members: Sequence[Any], at: int) -> int:
    """How many members from there on call the same, with nothing but other arguments by position; 1 at least."""
    first = members[at]
    if first.kwargs:
        return 1
    task, options, immutable = first.task, first.options, first.immutable
    end = at + 1
    while end < len(members):
        node = members[end]
        if (
            type(node) is not Signature or node.task is not task or node.kwargs or node.links or node.errors
            or node.options != options or node.immutable is not immutable
        ):  # fmt: skip
            break
        end += 1
    return end - at


def _last(workflow: Any) -> Any:
    """The part whose outcome is that of the whole."""
    while workflow.kind in ("chain", "chord"):
        workflow = workflow.steps[-1]
    return workflow
