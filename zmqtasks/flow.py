"""What all workflows can do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import msgspec

from zmqtasks import shape
from zmqtasks.drawing import mermaid
from zmqtasks.names import NAMED, TaskLike, called, found, is_task
from zmqtasks.options import checked
from zmqtasks.workflow_json import from_json, to_json

if TYPE_CHECKING:
    from zmqtasks.future import Future

__all__ = ["NAMED", "Policy", "TaskLike", "Workflow", "workflows"]


Policy = Literal["fail_fast", "wait", "collect"]


class Workflow(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """What `Client.run` runs: a signature, or a chain, group or chord of them. A value: it never changes.

    Equal by content, hashable where its arguments are, picklable; JSON where its tasks have names and its arguments
    have a place there.
    """

    options: tuple[tuple[str, Any], ...] = ()
    links: tuple[Workflow, ...] = ()
    errors: tuple[Workflow, ...] = ()

    kind: ClassVar[str] = ""
    FIELDS: ClassVar[tuple[str, ...]] = ("options",)  # what is no workflow
    WITHIN: ClassVar[str] = ""  # the field that holds the workflows it consists of
    KINDS: ClassVar[dict[str, type[Workflow]]] = {}

    def __init_subclass__(cls, **config: Any) -> None:
        super().__init_subclass__(**config)
        cls.KINDS[cls.kind] = cls

    # ---- what each kind says of itself ----------------------------------------------------------------------------

    def parts(self) -> tuple[Workflow, ...]:
        """The workflows that it consists of."""
        parts = getattr(self, self.WITHIN) if self.WITHIN else ()
        return parts if type(parts) is tuple else ()

    def own(self) -> tuple[Any, ...]:
        """All else that it consists of: the values of `FIELDS`, and of an iterator's group that iterator."""
        own = [getattr(self, name) for name in self.FIELDS]
        if self.WITHIN and type(given := getattr(self, self.WITHIN)) is not tuple:
            own.append(given)
        return tuple(own)

    def identity(self) -> tuple[Any, ...]:
        """The same, as it is compared: a task by its name."""
        own = self.own()
        return (called(own[0]), *own[1:]) if self.FIELDS[0] == "task" else own

    @classmethod
    def made(cls, own: tuple[Any, ...], parts: tuple[Workflow, ...], **common: Any) -> Workflow:
        """The one of this kind that `own()` and `parts()` are of."""
        within: dict[str, Any] = {cls.WITHIN: parts} if cls.WITHIN else {}
        return cls(**within, **dict(zip(cls.FIELDS, own, strict=True)), **common)

    def written(self) -> Iterator[Any]:
        """How it is written, without options and links: texts, and workflows."""
        yield f"{self.kind}("
        for at, part in enumerate(self.parts() or [repr(given) for given in self.own()[len(self.FIELDS) :]]):
            yield from (", ", part) if at else (part,)
        failure = getattr(self, "failure", "fail_fast")
        yield ")" if failure == "fail_fast" else f", failure={failure!r})"

    # ---- others like it ------------------------------------------------------------------------------------------

    def set(self, **options: Any) -> Self:
        """The same with options, those of `Client.options`: of all in it that do not say otherwise."""
        for name, value in options.items():
            if isinstance(value, timedelta):
                options[name] = value.total_seconds()
        options = checked(options)
        return msgspec.structs.replace(self, options=tuple(sorted({**dict(self.options), **options}.items())))

    def link(self, *others: Workflow) -> Self:
        """The same; once its result is there, the `others` are run with it as their first argument."""
        return msgspec.structs.replace(self, links=self.links + workflows(others, "link"))

    def link_error(self, *others: Workflow) -> Self:
        """The same; if it fails, the `others` are run with a `Failure` as their first argument."""
        return msgspec.structs.replace(self, errors=self.errors + workflows(others, "link_error"))

    def __or__(self, other: Any) -> Workflow:
        """`other` gets the result of this; that of a group makes it the body of a chord."""
        if not isinstance(other, Workflow):
            return NotImplemented
        return self._then(other)

    def _then(self, other: Workflow) -> Workflow:
        made: Workflow = self.KINDS["chain"].of(self, other)  # type: ignore[attr-defined]  # that one has it
        return made

    # ---- running -------------------------------------------------------------------------------------------------

    def delay(self) -> Future[Any]:
        """Run it with the app that its tasks belong to; its future."""
        clients: list[Any] = []
        for node in shape.every(self):
            task: Any = found(getattr(node, "task", None))
            if is_task(task) and (client := task.client()) not in clients:
                clients.append(client)
        if len(clients) != 1:
            reason = "tasks of several apps are in it" if clients else "no task of an app is in it"
            raise TypeError(f"{reason}: client.run(workflow) says which client runs it")
        future: Future[Any] = clients[0].run(self)
        return future

    def apply(self) -> Any:
        """Run it here and now, one call after the other: its value, or the exception that its future would raise.

        Retries follow at once.
        """
        from zmqtasks.locally import value_of  # with asyncio, for which most have no use

        return value_of(self)

    # ---- a value -------------------------------------------------------------------------------------------------

    def to_mermaid(self) -> str:
        """A flowchart of it, in the language of mermaid."""
        return mermaid(self)

    def to_json(self) -> str:
        """It as JSON; `NotJson`, naming what and where, if something in it has no place there."""
        return to_json(self)

    @staticmethod
    def from_json(text: str | bytes) -> Workflow:
        """The workflow that `to_json` has written; `BadInputError` for what is none, or of another version."""
        return from_json(text, Workflow.KINDS)

    def __eq__(self, other: object) -> bool:
        return shape.equal(self, other) if isinstance(other, Workflow) else NotImplemented

    def __ne__(self, other: object) -> bool:  # a struct has one of its own, that goes by identity
        return not shape.equal(self, other) if isinstance(other, Workflow) else NotImplemented

    def __hash__(self) -> int:
        return shape.hashed(self)

    def __repr__(self) -> str:
        return shape.text(self)

    def shown(self) -> Iterator[Any]:
        """How it is written: texts, and workflows."""
        yield from self.written()
        if self.options:
            yield f".set({', '.join(f'{name}={value!r}' for name, value in self.options)})"
        for verb, others in (("link", self.links), ("link_error", self.errors)):
            for other in others:
                yield f".{verb}("
                yield other
                yield ")"

    def __reduce__(self) -> Any:
        kinds = {
            type(node).kind: type(node) for node in shape.every(self)
        }  # whoever loads it may have none of them
        return assembled, (shape.rows(self), kinds)


def workflows(others: Iterable[Any], what: str) -> tuple[Workflow, ...]:
    """They, if all of them are workflows."""
    taken = tuple(others)
    for at, other in enumerate(taken):
        if not isinstance(other, Workflow):
            raise TypeError(
                f"{what}[{at}] is {other!r:.80}, and no signature: zmqtasks.signature(fn, ...) makes one of a function"
            )
    return taken


def assembled(made: list[shape.Row], kinds: dict[str, type[Workflow]]) -> Workflow:
    """The workflow that was taken apart into these rows, of these kinds."""
    nodes: list[Workflow] = []
    for kind, own, *several in made:
        parts, links, errors = (tuple([nodes[at] for at in numbers]) for numbers in several)
        nodes.append(kinds[kind].made(own, parts, links=links, errors=errors))
    return nodes[-1]
