"""Values that are needed, and are with whoever submits: they are asked for, once each, where they are not here.

What a task takes as an argument has often ended before it is submitted, and whoever submits it has read the value. The
dispatcher's host has kept it too, as long as it had room. So the submit names such a value and does not bring it:

    Lender                                  Loans
    a submit that names X   ------------>   X is kept here: nothing more is said of it
    a submit that names X   ------------>   X is not here: what needs it waits
                            <------------   Lacks([X])
    Told({X: value})        ------------>   what waits for X goes on
                            <------------   that submit is taken in: the lender need not hold X any more

Two rules make it safe. The lender holds X until the submit is said to be taken in, and nothing of a lender's is said
to be while something is owed by it. Words are lost with a connection: after each, `Lacks` is said again with all that
is owed. If the lender is gone for good, what waits for its values fails.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from zmqtasks.core.effects import Send
from zmqtasks.loans import LAPSED, Lacks
from zmqtasks.messages import UPSTREAM_FAILED, Lent

Known = dict[int, tuple[int, Any] | Lent]  # outcomes that come with a submit, and what stands for some


class Loans:
    """What a dispatcher waits for that is with its lenders, by their peer numbers."""

    def __init__(self) -> None:
        self._lender: dict[int, int] = {}  # by the id of what is owed
        self._owed: dict[int, dict[int, None]] = {}  # the other way round, in the order of asking
        self._unasked: list[int] = []

    def __contains__(self, id_: int) -> bool:
        return id_ in self._lender

    def __len__(self) -> int:
        return len(self._lender)

    def owe(self, id_: int, lender: int) -> None:
        """Something waits for that value."""
        if id_ not in self._lender:
            self._lender[id_] = lender
            self._owed.setdefault(lender, {})[id_] = None
            self._unasked.append(id_)

    def settle(self, id_: int) -> bool:
        """The value is here; False if nobody waits for it: it was told before, say."""
        if (lender := self._lender.pop(id_, None)) is None:
            return False
        owed = self._owed[lender]
        del owed[id_]
        if not owed:
            del self._owed[lender]
        return True

    def of(self, lender: int) -> list[int]:
        """What that one owes."""
        return list(self._owed.get(lender, ()))

    def taken(self, lender: int, count: int, told: int) -> int:
        """How many submits may be said to be taken in, of `count` that are, where `told` were said to be before."""
        return told if lender in self._owed else count

    def lapse(self, lender: int) -> dict[int, tuple[int, Any]]:
        """The lender is gone: what has become of its values."""
        return dict.fromkeys(self.of(lender), (UPSTREAM_FAILED, LAPSED))

    def asks(self) -> list[Send]:
        """Ask for what is owed since the last time."""
        if not self._unasked:
            return []
        unasked, self._unasked = self._unasked, []
        by_lender: dict[int, list[int]] = {}
        for id_ in unasked:
            if (lender := self._lender.get(id_)) is not None:
                by_lender.setdefault(lender, []).append(id_)
        return [Send(lender, Lacks(ids)) for lender, ids in by_lender.items()]


class Lender:
    """The other side: what was lent with which submit, counted from 1, until that is taken in."""

    def __init__(self) -> None:
        self._lent: deque[tuple[int, dict[int, Any]]] = deque()

    def __bool__(self) -> bool:
        return bool(self._lent)

    def lend(self, submit: int, values: dict[int, Any]) -> None:
        """Hold these, by their ids, for the submit of that number."""
        if values:
            self._lent.append((submit, values))

    def find(self, id_: int) -> Any:
        """What is held under that id; None if nothing is."""
        return next((values[id_] for _, values in self._lent if id_ in values), None)

    def take_off(self, count: int) -> None:
        """So many submits are taken in."""
        while self._lent and self._lent[0][0] <= count:
            self._lent.popleft()

    def clear(self) -> None:
        """Nothing that was submitted is waited for any more."""
        self._lent.clear()
