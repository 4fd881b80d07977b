"""The end of a message about a name that is not there: which one was meant, or which there are."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["close_to"]

_LISTED_MAX = 12


def close_to(name: str, known: Iterable[str], otherwise: str = "there are") -> str:
    """Return ", did you mean ..." if one of the `known` is close to `name`, else what there is."""
    names = sorted(set(known))
    if close := difflib.get_close_matches(name, names, n=1):
        return f", did you mean {close[0]!r}?"
    if not names:
        return ""
    more = ", ..." if len(names) > _LISTED_MAX else ""
    return f" ({otherwise}: {', '.join(names[:_LISTED_MAX])}{more})"
