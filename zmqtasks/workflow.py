"""Workflows as values: chains, groups and chords of signatures, in any nesting.

What becomes of the things that hang on another, by how that one ends (a task by its last attempt, a chord by its body,
a chain by its last step):

    it ends            | the next step, a body | its group (fail_fast) | link | link_error
    -------------------|-----------------------|-----------------------|------|-----------
    SUCCEEDED          | runs                  | takes the value       | runs | no
    FAILED             | UPSTREAM_FAILED       | fails as it did       | no   | runs
    DEAD               | UPSTREAM_FAILED       | fails as it did       | no   | runs
    EXPIRED            | UPSTREAM_FAILED       | fails as it did       | no   | runs
    UPSTREAM_FAILED    | UPSTREAM_FAILED       | fails as it did       | no   | runs
    CANCELLED          | UPSTREAM_FAILED       | UPSTREAM_FAILED       | no   | no
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, get_args, overload

import msgspec

from zmqtasks.errors import NotPicklable, ZmqTasksError
from zmqtasks.flow import Policy, Workflow, workflows
from zmqtasks.names import called, is_task, name_in

__all__ = [
    "Chain",
    "Chord",
    "Group",
    "Map",
    "Once",
    "Signature",
    "Workflow",
    "chain",
    "chord",
    "group",
    "signature",
]


class Signature(Workflow, frozen=True, eq=False):
    """A call: of a function, of a task, or of the task of a name.

    What the step before returns comes before `args`, unless it is `immutable`.
    """

    task: Any
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}  # noqa: RUF012 - never written
    immutable: bool = False

    kind: ClassVar[str] = "task"
    FIELDS: ClassVar[tuple[str, ...]] = ("task", "args", "kwargs", "immutable", "options")

    def clone(self, *args: Any, **kwargs: Any) -> Signature:
        """The same with more arguments: positional ones come first, as the result of a step before does."""
        return msgspec.structs.replace(self, args=args + self.args, kwargs={**self.kwargs, **kwargs})

    def written(self) -> Iterator[str]:
        """A call of `signature`."""
        given = [repr(called(self.task)) if isinstance(called(self.task), str) else name_in(self)]
        given += map(repr, self.args)
        given += [f"{name}={value!r}" for name, value in self.kwargs.items()]
        yield f"signature({', '.join(given)}{', immutable=True' if self.immutable else ''})"


class Once:
    """The members of a group as an iterator gives them: whoever takes them first has them."""

    __slots__ = ("_iterator", "_taken")

    def __init__(self, iterator: Iterator[Any]) -> None:
        self._iterator = iterator
        self._taken = False

    def take(self) -> Iterator[Any]:
        """The iterator, the first time."""
        if self._taken:
            raise ZmqTasksError(
                "this group was made of an iterator, and has been run: a group of a list can be run again"
            )
        self._taken = True
        return self._iterator

    def __repr__(self) -> str:
        return f"<{type(self._iterator).__name__}>"

    def __reduce__(self) -> Any:
        raise NotPicklable("a group of an iterator cannot be pickled: make it of a list")


class Map(Workflow, frozen=True, eq=False):
    """`task` of each of `items`, in parallel: the list of its values.

    With `star` an item is the arguments of a call. With a `size`, the value is a list of lists, of so many neighbours
    each. It takes nothing of a step before.
    """

    task: Any
    items: Iterable[Any] | Once  # a tuple, or of an iterator that
    star: bool = False
    size: int | None = None
    failure: Policy = "fail_fast"

    kind: ClassVar[str] = "map"
    FIELDS: ClassVar[tuple[str, ...]] = ("task", "items", "star", "size", "failure", "options")

    def __post_init__(self) -> None:
        if self.size is not None and (type(self.size) is not int or self.size < 1):
            raise ValueError(f"the size of chunks is an int of 1 or more, not {self.size!r}")
        items: Any = self.items
        if isinstance(items, Iterator):
            items = Once(items)
        elif type(items) is not Once:
            items = tuple(map(tuple, items)) if self.star else tuple(items)
        msgspec.structs.force_setattr(self, "items", items)

    def written(self) -> Iterator[str]:
        """Its task's verb."""
        verb = "map" if not self.star else "starmap" if self.size is None else "chunks"
        items = repr(self.items) if isinstance(self.items, Once) else repr(list(self.items))
        yield f"{name_in(self)}.{verb}({items}{'' if self.size is None else f', {self.size}'})"

    def _then(self, other: Workflow) -> Workflow:
        return Chord((self, other))


class Group(Workflow, frozen=True, eq=False):
    """Members in parallel: the list of their values, in order."""

    members: tuple[Workflow, ...] | Once
    failure: Policy = "fail_fast"

    kind: ClassVar[str] = "group"
    FIELDS: ClassVar[tuple[str, ...]] = ("failure", "options")
    WITHIN: ClassVar[str] = "members"

    def _then(self, other: Workflow) -> Workflow:
        return Chord((self, other))


class Chain(Workflow, frozen=True, eq=False):
    """Steps one after the other, each with the result of the one before: the last one's value."""

    steps: tuple[Workflow, ...]

    kind: ClassVar[str] = "chain"
    WITHIN: ClassVar[str] = "steps"

    @classmethod
    def of(cls, *steps: Workflow) -> Chain:
        """A chain of them; steps of chains that have nothing of their own are steps of this one."""
        flat: list[Workflow] = []
        for step in steps:
            if isinstance(step, Chain) and not (step.options or step.links or step.errors):
                flat += step.steps
            else:
                flat.append(step)
        return cls(tuple(flat))


class Chord(Workflow, frozen=True, eq=False):
    """A header in parallel, and then a body with the list of its values: the body's value."""

    steps: tuple[Workflow, Workflow]

    kind: ClassVar[str] = "chord"
    WITHIN: ClassVar[str] = "steps"

    @property
    def header(self) -> Workflow:
        """A group, or a map."""
        return self.steps[0]

    @property
    def body(self) -> Workflow:
        """What gets the list."""
        return self.steps[1]


# ---- what programs call -----------------------------------------------------------------------------------------


def signature(task: Callable[..., Any] | str, /, *args: Any, **kwargs: Any) -> Signature:
    """The call `task(*args, **kwargs)` as a value, of any callable, or of the task of a name.

    It is partial: what a step before returns comes first. `signature(task).clone(...)` adds arguments.
    """
    if not (isinstance(task, str) or callable(task) or is_task(task)):  # type: ignore[unreachable]  # anything may be passed
        raise TypeError(f"a signature is of what can be called, or of a task's name, not of {task!r}")
    return Signature(task, args, kwargs)


def chain(*steps: Workflow) -> Chain:
    """`steps` one after the other, each with the result of the one before; `a | b | c` is the same."""
    if not steps:
        raise TypeError("a chain has one step at least")
    return Chain.of(*workflows(steps, "steps"))


def group(*members: Workflow | Iterable[Workflow], failure: Policy = "fail_fast") -> Group:
    """`members`, or those of one iterable, in parallel: always the list of their values, in order.

    `failure`: the first member that fails fails the group at once, and those that have not started are cancelled
    ("fail_fast"); it waits for all, and raises an `ExceptionGroup` of all failures ("wait"); or the list has exceptions
    in the places of members that failed ("collect"). The members of an iterator are taken as they can be run.
    """
    _check_policy(failure)
    if len(members) != 1 or isinstance(members[0], Workflow):
        return Group(workflows(members, "members"), failure)
    if isinstance(members[0], Iterator):
        return Group(Once(members[0]), failure)
    several: Iterable[Any] = members[0] if isinstance(members[0], Iterable) else members  # type: ignore[redundant-expr]  # anything may be passed
    return Group(workflows(several, "members"), failure)


class Header:
    """`chord(header)`, which waits for its body: `chord(header)(body)`."""

    __slots__ = ("_group",)

    def __init__(self, header: Workflow) -> None:
        self._group = header

    def __call__(self, body: Workflow) -> Chord:
        """The chord."""
        return Chord((self._group, workflows((body,), "body")[0]))


@overload
def chord(
    header: Workflow | Iterable[Workflow], body: None = None, *, failure: Policy | None = None
) -> Header: ...
@overload
def chord(
    header: Workflow | Iterable[Workflow], body: Workflow, *, failure: Policy | None = None
) -> Chord: ...
def chord(
    header: Workflow | Iterable[Workflow], body: Workflow | None = None, *, failure: Policy | None = None
) -> Header | Chord:
    """The members of `header` in parallel, and then `body`, once, with the list of their values.

    `chord(header)(body)` and `group(...) | body` are the same. `failure` as in `group`.
    """
    if not isinstance(header, Group | Map):
        header = group(header, failure=failure or "fail_fast")
    elif failure is not None:
        _check_policy(failure)
        header = msgspec.structs.replace(header, failure=failure)
    made = Header(header)
    return made if body is None else made(body)


def _check_policy(failure: str) -> None:
    if failure not in get_args(Policy):
        raise ValueError(f'failure is "fail_fast", "wait" or "collect", not {failure!r}')
