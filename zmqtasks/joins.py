"""What becomes of all outcomes of a run together: `chord` and `fold`, in a process of their own beside the sink.

The outcomes go there as they came, and are opened there. Whatever the body does, the sink goes on; and where that
process dies of something else, the body, or the step that was running, is called again with the same values.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

from zmqtasks.client import Client
from zmqtasks.core.gather import Piece
from zmqtasks.future import Future
from zmqtasks.payload import Sealed
from zmqtasks.results import Pieces, unloadable
from zmqtasks.salvage import Lost, load_each

S = TypeVar("S")
Part = tuple[
    Sealed, int, int, int
]  # a payload, and which of its values: from where on, how many, of which input on


def chord(pieces: Pieces, body: Callable[[list[Any]], S], *, skips: bool) -> S:
    """`body` of the list of all values in the order of `pieces`; a failure raises, or is left out if that `skips`."""
    with contextlib.closing(pieces):
        parts = [part for piece in pieces if (part := _part(pieces, piece, skips=skips)) is not None]
    with Client(workers=1) as client:
        return client.submit(_run_body, body, parts, skips).result()


def fold(pieces: Pieces, step: Callable[[S, Any], S], initial: S, *, window: int, skips: bool) -> S:
    """`step(state, value)` of each value, the state going from one to the next; the last state.

    While a task folds what has come, what comes piles up for the next one, a quarter of the `window` at most. `pieces`
    keep: each is released when its values are in the state.
    """
    state: Any = initial  # or the future of one
    with contextlib.closing(pieces), Client(workers=1) as client:
        pile: list[tuple[Piece, Part]] = []
        for piece in pieces:
            part = _part(pieces, piece, skips=skips)
            if part is None:
                pieces.release(piece)
                continue
            pile.append((piece, part))
            many = sum(piece.items for piece, _ in pile) >= window // 4
            if not isinstance(state, Future) or state.done() or many:
                state, pile = _fold_on(client, pieces, step, state, pile, skips=skips), []
        if pile:
            state = _fold_on(client, pieces, step, state, pile, skips=skips)
        last: S = state.result() if isinstance(state, Future) else state
        return last


def _fold_on(
    client: Client,
    pieces: Pieces,
    step: Callable[[S, Any], S],
    state: S | Future[S],
    pile: list[tuple[Piece, Part]],
    *,
    skips: bool,
) -> Future[Any]:
    if isinstance(state, Future):
        state.result()  # one task at a time: what it fails with is raised here
    folded: Future[Any] = client.submit(_fold_values, step, state, [part for _, part in pile], skips)

    def release(_folded: Future[Any]) -> None:
        for piece, _part in pile:
            pieces.release(piece)

    folded.add_done_callback(release)
    return folded


def _part(pieces: Pieces, piece: Piece, *, skips: bool) -> Part | None:
    if not piece.failed:
        return Sealed(piece.payload), piece.skip, piece.items, piece.first - pieces.first
    if not skips:
        raise pieces.error(piece)
    return None


# ---- in that process --------------------------------------------------------------------------------------------


def _values(part: Part, *, skips: bool) -> list[Any]:
    sealed, skip, items, first = part
    values = load_each(sealed.payload)[skip : skip + items]
    if Lost not in {*map(type, values)}:
        return values
    if not skips:
        raise next(unloadable(value, at) for at, value in enumerate(values, first) if type(value) is Lost)
    return [value for value in values if type(value) is not Lost]


def _run_body(body: Callable[[list[Any]], S], parts: list[Part], skips: bool) -> S:
    return body([value for part in parts for value in _values(part, skips=skips)])


def _fold_values(step: Callable[[Any, Any], Any], state: Any, parts: list[Part], skips: bool) -> Any:
    for each in parts:
        for value in _values(each, skips=skips):
            state = step(state, value)
    return state
