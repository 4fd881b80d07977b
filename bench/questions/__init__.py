"""The questions, a module each: title, what a reader should know, figures, how one contestant is measured.

A measurement runs in a process of its own, once a round and contestant (`bench.measure`).
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Final, Protocol

NAMES: Final = (
    "singles",
    "bulk",
    "latency",
    "payload_1mb",
    "payload_100mb",
    "cold_start",
    "memory",
    "metg",
    "efficiency",
)
"""Every question, in the order of asking; each is the name of a module here."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of an answer: its unit, whether more is better, and whether it belongs in the plot."""

    key: str
    label: str
    unit: str
    more_is_better: bool
    plotted: bool = True


class Measure(Protocol):
    """Open that contestant and return its figures by key, with small sizes if `quick`."""

    def __call__(self, contestant: str, *, quick: bool) -> dict[str, float]:
        """Measure."""
        ...


@dataclass(frozen=True, slots=True)
class Question:
    """A question: what it is called, what a reader of its figures should know, and how they are measured."""

    title: str
    note: str
    figures: tuple[Figure, ...]
    measure: Measure


def question(name: str) -> Question:
    """Import the question of that name (one of `NAMES`)."""
    found = importlib.import_module(f"{__name__}.{name}").QUESTION
    if not isinstance(found, Question):
        message = f"{name}.QUESTION is not a Question"
        raise TypeError(message)
    return found
