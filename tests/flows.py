"""Workflows to be tried: generated ones, and what plain Python says of them.

A recipe is a small tree; `build` makes a workflow of it, `Oracle` knows what comes out, and how often each call runs.
Calls leave a byte in a file of their own each time they run, in whatever process.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

from hypothesis import strategies as st
from steps import TRIES, plain, step

from zmqtasks import Retry, chain, chord, group, signature
from zmqtasks.workflow import Map

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zmqtasks import Workflow


@dataclass
class Recipe:
    """A part of a workflow: a call of a `mode`, or what consists of `parts`."""

    kind: str
    parts: list[Recipe] = field(default_factory=list)
    mode: str = "ok"
    failure: str = "fail_fast"
    immutable: bool = False
    lazy: bool = False
    size: int | None = None
    links: list[Recipe] = field(default_factory=list)
    errors: list[Recipe] = field(default_factory=list)
    label: str = ""

    def labelled(self, numbers: count[int] | None = None) -> Recipe:
        """Give each call a name of its own."""
        numbers = numbers or count()
        self.label = f"c{next(numbers)}"
        for part in [*self.parts, *self.links, *self.errors]:
            part.labelled(numbers)
        return self


# ---- the workflow ------------------------------------------------------------------------------------------------


def build(recipe: Recipe, folder: Path) -> Workflow:
    """The workflow of a recipe; its calls leave their bytes in `folder`."""
    parts = [build(part, folder) for part in recipe.parts]
    made: Any
    if recipe.kind == "task":
        made = signature(step, recipe.label, recipe.mode, str(folder))
        if recipe.immutable:
            made = type(made)(made.task, made.args, immutable=True)
        if recipe.mode in ("retry", "give up"):
            made = made.set(retry=Retry(TRIES[recipe.mode] - 1, delay=0))
    elif recipe.kind == "map":
        rows = [(part.label, part.mode, str(folder)) for part in recipe.parts]
        items = iter(rows) if recipe.lazy else rows
        made = Map(step, items, star=True, size=recipe.size, failure=recipe.failure)  # type: ignore[arg-type]
    elif recipe.kind == "group":
        made = group(iter(parts) if recipe.lazy else parts, failure=recipe.failure)  # type: ignore[arg-type]
    else:
        made = chain(*parts) if recipe.kind == "chain" else chord(*parts)
    for link in recipe.links:
        made = made.link(build(link, folder))
    for link in recipe.errors:
        made = made.link_error(build(link, folder))
    return made  # type: ignore[no-any-return]


# ---- what plain Python says of it -------------------------------------------------------------------------------


class OneOf(NamedTuple):
    """Any of these may come: of several failures, whichever was first."""

    several: list[Any]


class End(NamedTuple):
    """How a part ends: with a value, or with an exception as `plain` has it."""

    fine: bool
    value: Any

    def skipped(self) -> End:
        """How a part ends that needs this failed one."""
        causes = self.value.several if isinstance(self.value, OneOf) else [self.value]
        causes = [cause if cause[0] != "UpstreamFailed" else cause[1] for cause in causes]
        return End(False, ["UpstreamFailed", causes[0] if len(causes) == 1 else OneOf(causes)])


NOTHING = object()


class Oracle:
    """What becomes of a recipe, and how often each of its calls runs: `sure`, and `perhaps` so often more."""

    def __init__(self, recipe: Recipe) -> None:
        self.sure: Counter[str] = Counter()
        self.perhaps: Counter[str] = Counter()
        self.end = self._run(recipe, NOTHING, sure=True)

    def _run(self, recipe: Recipe, given: Any, *, sure: bool) -> End:
        parts = recipe.parts
        if recipe.kind == "task":
            (self.sure if sure else self.perhaps)[recipe.label] += TRIES[recipe.mode]
            inputs = [] if given is NOTHING or recipe.immutable else [given]
            failed = recipe.mode in ("fail", "give up")
            end = End(False, ["ValueError", recipe.label]) if failed else End(True, [recipe.label, *inputs])
        elif recipe.kind == "map":
            end = self._group(_as_group(recipe), NOTHING, sure=sure)
        elif recipe.kind == "group":
            end = self._group(recipe, given, sure=sure)
        else:
            end = End(True, given)
            for part in parts:
                end = self._run(part, end.value, sure=sure) if end.fine else self._skip(part, end, sure=sure)
        return self._links(recipe, end, sure=sure)

    def _group(self, recipe: Recipe, given: Any, *, sure: bool) -> End:
        before = self.sure.copy(), self.perhaps.copy()
        ends = [self._run(part, given, sure=sure) for part in recipe.parts]
        failed = [end.value for end in ends if not end.fine]
        if failed and recipe.failure == "fail_fast":  # what has not started may be cancelled
            self.sure, self.perhaps = before
            for part in recipe.parts:
                self._run(part, given, sure=False)
            several = [
                each for value in failed for each in (value.several if isinstance(value, OneOf) else [value])
            ]
            return End(False, several[0] if len(several) == 1 else OneOf(several))
        if failed and recipe.failure == "wait":
            return End(False, ["ExceptionGroup", *failed])
        return End(True, [end.value for end in ends])

    def _skip(self, recipe: Recipe, before: End, *, sure: bool) -> End:
        """A part that never runs; but what hangs on its failure does."""
        end = before.skipped()
        for part in recipe.parts if recipe.kind != "map" else []:
            self._skip(part, before, sure=sure and recipe.kind != "group")
        return self._links(recipe, end, sure=sure)

    def _links(self, recipe: Recipe, end: End, *, sure: bool) -> End:
        several = recipe.links if end.fine else recipe.errors
        if (
            not sure
        ):  # what nobody wants any more is not retried either, and so may fail before it would succeed
            several = recipe.links + recipe.errors
        for link in several:
            self._run(link, end.value if end.fine else ["Failure", end.value], sure=sure)
        return end


def _as_group(recipe: Recipe) -> Recipe:
    """A map as the group that it is, of chunks or of calls."""
    parts, size = recipe.parts, recipe.size
    if size is not None:
        chunks = [parts[at : at + size] for at in range(0, len(parts), size)]
        parts = [Recipe("group", chunk, failure=recipe.failure) for chunk in chunks]
    return Recipe("group", parts, failure=recipe.failure)


def matches(expected: Any, actual: Any) -> bool:
    """Whether `actual` is what was expected."""
    if isinstance(expected, OneOf):
        return any(matches(each, actual) for each in expected.several)
    if isinstance(expected, list):
        same = isinstance(actual, list) and len(actual) == len(expected)
        return same and all(matches(*pair) for pair in zip(expected, actual, strict=True))
    return bool(expected == actual)


def tried(recipe: Recipe, folder: Path, outcome: Callable[[Workflow], Any]) -> Oracle:
    """Run a recipe: what comes out is what the oracle says."""
    oracle = Oracle(recipe)
    try:
        end = End(True, plain(outcome(build(recipe, folder))))
    except Exception as error:  # noqa: BLE001 - it is compared
        end = End(False, plain(error))
    assert end.fine == oracle.end.fine, f"{end} is not {oracle.end}"
    assert matches(plain(oracle.end.value) if end.fine else oracle.end.value, end.value), (
        f"{end} is not {oracle.end}"
    )
    return oracle


def counted(folder: Path) -> Counter[str]:
    """How often each call has run."""
    return Counter({entry.name: entry.stat().st_size for entry in os.scandir(folder)})


def is_right(oracle: Oracle, runs: Counter[str]) -> bool:
    """Whether each call has run as often as it should."""
    return all(
        oracle.sure[label] <= runs[label] <= oracle.sure[label] + oracle.perhaps[label]
        for label in {*oracle.sure, *oracle.perhaps, *runs}
    )


# ---- recipes ----------------------------------------------------------------------------------------------------

_FAILURES = st.sampled_from(["fail_fast", "wait", "collect"])


def recipes(
    modes: tuple[str, ...] = ("ok", "ok", "ok", "slow", "retry", "fail", "give up"), size: int = 12
) -> Any:
    """Workflows of any nesting."""
    tasks = st.builds(
        Recipe, st.just("task"), mode=st.sampled_from(modes), immutable=st.sampled_from([False, False, True])
    )
    calls = st.builds(Recipe, st.just("task"), mode=st.sampled_from(sorted({*modes} - {"retry", "give up"})))
    maps = st.builds(
        Recipe, st.just("map"), st.lists(calls, max_size=4), failure=_FAILURES, lazy=st.booleans(),
        size=st.sampled_from([None, None, 1, 2]),
    )  # fmt: skip

    def bigger(inner: Any) -> Any:
        groups = st.builds(
            Recipe, st.just("group"), st.lists(inner, max_size=4), failure=_FAILURES, lazy=st.booleans()
        )
        chords = st.builds(lambda header, body: Recipe("chord", [header, body]), groups | maps, inner)
        chains = st.builds(Recipe, st.just("chain"), st.lists(inner, min_size=1, max_size=4))
        linked = st.builds(_linked, inner, st.lists(tasks, max_size=2), st.lists(tasks, max_size=2))
        return groups | chords | chains | linked

    return st.recursive(tasks | maps, bigger, max_leaves=size).map(_copied).map(Recipe.labelled)


def _linked(recipe: Recipe, links: list[Recipe], errors: list[Recipe]) -> Recipe:
    return replace(recipe, links=links, errors=errors)


def _copied(recipe: Recipe) -> Recipe:
    """A tree of its own: a part that stands in two places is two."""
    parts, links, errors = (
        [_copied(each) for each in several] for several in (recipe.parts, recipe.links, recipe.errors)
    )
    return replace(recipe, parts=parts, links=links, errors=errors)
