"""A workflow as a flowchart, in the language of mermaid."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from zmqtasks.names import name_in

if TYPE_CHECKING:
    from zmqtasks.flow import Workflow

_MEMBERS_MAX = 12  # of a group: of more, the first ones and their number are drawn
_LABEL_MAX = 60


class _Piece(NamedTuple):
    """What a part is in the picture: where it begins, and where it ends."""

    first: list[str]
    last: list[str]


def mermaid(workflow: Workflow) -> str:
    """The chart: calls are boxes, what joins is round, an arrow is a result that goes on, a dotted one an exception."""
    drawing = _Drawing()
    drawing.draw(workflow)
    return "\n".join(["flowchart TD", *(f"    {line}" for line in drawing.lines)]) + "\n"


class _Drawing:
    """Draws parts after what they consist of: with a stack of its own, for workflows may be deep."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._count = 0
        self._done: list[_Piece] = []

    def draw(self, root: Any) -> None:
        """Draw a workflow."""
        work: list[tuple[Any, int]] = [(root, -1)]
        while work:
            node, below = work.pop()
            if below < 0:
                shown = self._shown(node)
                work.append((node, len(shown)))
                work += [(part, -1) for part in reversed(shown)]
            else:
                at = len(self._done) - below
                pieces, self._done = self._done[at:], self._done[:at]
                self._done.append(self._piece(node, pieces))

    def _shown(self, node: Any) -> list[Any]:
        parts = list(node.parts())
        if node.kind == "group":
            parts = parts[:_MEMBERS_MAX]
        return [*parts, *node.links, *node.errors]

    def _piece(self, node: Any, pieces: list[_Piece]) -> _Piece:
        parts = pieces[: len(pieces) - len(node.links) - len(node.errors)]
        links = pieces[len(parts) :]
        piece: _Piece
        if node.kind in ("chain", "chord"):
            for one, next_one in pairwise(parts):
                self._arrows(one.last, next_one.first, "-->")
            piece = _Piece(parts[0].first, parts[-1].last)
        elif node.kind == "group":
            piece = self._group(node, parts)
        else:
            box = self._box(_label(node), "[", "]")
            piece = _Piece([box], [box])
        for at, link in enumerate(links):
            self._arrows(piece.last, link.first, "-->|result|" if at < len(node.links) else "-.->|failure|")
        return piece

    def _group(self, node: Any, parts: list[_Piece]) -> _Piece:
        members = node.members
        more = len(members) - len(parts) if isinstance(members, tuple) else None
        join = self._box("[ ]" if node.failure == "fail_fast" else f"[ ] {node.failure}", "([", "])")
        first = [name for part in parts for name in part.first]
        for part in parts:
            self._arrows(part.last, [join], "-->")
        if more is None or more > 0:
            rest = self._box("an iterator's" if more is None else f"{more} more", "[", "]")
            self._arrows([rest], [join], "-->")
            first.append(rest)
        return _Piece(first or [join], [join])

    def _box(self, label: str, left: str, right: str) -> str:
        name = f"n{self._count}"
        self._count += 1
        self.lines.append(f'{name}{left}"{_escaped(label)}"{right}')
        return name

    def _arrows(self, sources: list[str], targets: list[str], arrow: str) -> None:
        self.lines += [f"{source} {arrow} {target}" for source in sources for target in targets]


def _label(node: Any) -> str:
    if node.kind == "map":
        verb = "map" if not node.star else "starmap" if node.size is None else f"chunks of {node.size}"
        count = f" of {len(node.items)}" if isinstance(node.items, tuple) else ""
        return f"{name_in(node)}: {verb}{count}"
    given = [f"{value!r:.20}" for value in node.args]
    given += [f"{name}={value!r:.20}" for name, value in node.kwargs.items()]
    return f"{name_in(node)}({', '.join(given)})"[:_LABEL_MAX]


def _escaped(label: str) -> str:
    """Text that mermaid takes as it is, in quotes."""
    plain = " ".join(label.split())
    return plain.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")
