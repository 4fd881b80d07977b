"""The form of a workflow as a value, whatever its nodes stand for: compared, hashed, shown and taken apart.

Workflows may be deep, and hold the same part many times: nothing here recurses, and each part is seen once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Protocol, TypeVar

_SHOWN_MAX = 4000  # characters of a repr


class Node(Protocol):
    """A workflow, as far as its form goes."""

    @property
    def kind(self) -> str:
        """Which of the five it is: "task", "map", "group", "chain" or "chord"."""

    @property
    def links(self) -> tuple[Any, ...]:
        """What gets its result."""

    @property
    def errors(self) -> tuple[Any, ...]:
        """What gets its failure."""

    def parts(self) -> tuple[Any, ...]:
        """The workflows that it consists of."""

    def own(self) -> tuple[Any, ...]:
        """All else."""

    def identity(self) -> tuple[Any, ...]:
        """The same, as it is compared."""

    def shown(self) -> Iterable[Any]:
        """How it is written: texts, and workflows."""


N = TypeVar("N", bound=Node)


class Row(NamedTuple):
    """A node of a workflow that was taken apart: its `parts`, `links` and `errors` are numbers of rows before it."""

    kind: str
    own: tuple[Any, ...]
    parts: tuple[int, ...] = ()
    links: tuple[int, ...] = ()
    errors: tuple[int, ...] = ()


def below(node: Node) -> Iterator[Node]:
    """What hangs on `node`: its parts, then its links of both kinds."""
    yield from node.parts()
    yield from node.links
    yield from node.errors


def every(root: N) -> list[N]:
    """All nodes of a workflow, each once: what hangs on a node stands before it."""
    found: list[Any] = []
    seen: set[int] = set()
    work: list[tuple[Any, bool]] = [(root, False)]
    while work:
        node, left = work.pop()
        if left:
            found.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            work.append((node, True))
            work += [(part, False) for part in reversed(list(below(node)))]
    return found


def rows(root: Node) -> list[Row]:
    """A workflow taken apart; the last row is its root."""
    at: dict[int, int] = {}
    made = []
    for number, node in enumerate(every(root)):
        at[id(node)] = number
        parts, links, errors = (
            tuple([at[id(each)] for each in several]) for several in (node.parts(), node.links, node.errors)
        )
        made.append(Row(node.kind, node.own(), parts, links, errors))
    return made


def equal(one: Node, other: Node) -> bool:
    """Whether they have the same form and content."""
    work = [(one, other)]
    seen: set[tuple[int, int]] = set()
    while work:
        left, right = work.pop()
        key = id(left), id(right)
        if left is right or key in seen:
            continue
        seen.add(key)
        if left.kind != right.kind or left.identity() != right.identity():
            return False
        for mine, theirs in (
            (left.parts(), right.parts()), (left.links, right.links), (left.errors, right.errors),
        ):  # fmt: skip
            if len(mine) != len(theirs):
                return False
            work += zip(mine, theirs, strict=True)
    return True


def hashed(root: Node) -> int:
    """The hash of its content; a `TypeError` where an argument has none."""
    of: dict[int, int] = {}
    for node in every(root):
        below_it = tuple([of[id(each)] for each in below(node)])
        counts = len(node.parts()), len(node.links)
        of[id(node)] = hash((node.kind, tuple(map(_frozen, node.identity())), counts, below_it))
    return of[id(root)]


def _frozen(value: Any) -> Any:
    return frozenset(value.items()) if isinstance(value, dict) else value


def text(root: Node) -> str:
    """A workflow as it would be written, cut off where it is very long."""
    out: list[str] = []
    length = 0
    work: list[Any] = [root]
    while work and length <= _SHOWN_MAX:
        piece = work.pop()
        if isinstance(piece, str):
            out.append(piece)
            length += len(piece)
        else:
            work += reversed(list(piece.shown()))
    return "".join(out) + (" ..." if work else "")
