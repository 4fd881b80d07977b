"""What comes together is taken in as what comes one by one is, whatever quick ways there are."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from test_core_dispatch import CLIENT, Rig, single, span
from test_core_workflow import ROOT, join, work

from zmqtasks.core.effects import Record
from zmqtasks.core.history import History
from zmqtasks.messages import Done, Submit, Task
from zmqtasks.options import Options

KINDS = (
    "plain",
    "priority",
    "later",
    "needs",
    "span",
    "join",
    "other root",
    "elsewhere",
    "gap",
    "twice",
    "single",
)
OPTIONS = {"priority": Options(priority=9), "later": Options(countdown=1.0)}


def member(kind: str, id_: int, index: int) -> list[Task]:
    """Return what a submit has in this place of the join ROOT."""
    if kind == "span":
        return [Task(id_, 7, b"items", count=2, span=True, parent=(ROOT, index), root=ROOT)]
    if kind == "join":
        return [join(id_, 0, parent=(ROOT, index))]
    if kind == "single":
        return [single(id_)]
    more: dict[str, Any] = {"needs": (1,)} if kind == "needs" else {}
    parent = (ROOT + 1, 0) if kind == "elsewhere" else (ROOT, index + (kind == "gap"))
    one = work(id_, *parent, options=OPTIONS.get(kind, Options()), **more)
    if kind == "other root":
        one.root = ROOT + 1
    return [one, work(id_, *parent)] if kind == "twice" else [one]


def submitted(kinds: list[str], count: int | None, rig: Rig, *, apart: bool) -> tuple[Any, ...]:
    """Return all that can be seen of a submit, and of the end of what it has handed out."""
    rig.machine.ledger.history = history = History("c", 1 << 20)
    tasks, id_, index = [span(1, 1), join(ROOT, count), join(ROOT + 1, 0)], 10, 0
    for kind in kinds:
        tasks += member(kind, id_, index)
        id_, index = id_ + 2 - (kind != "span"), index + 1 + (kind == "span")
    for part in [[task] for task in tasks] if apart else [tasks]:
        rig.machine.receive(CLIENT, Submit(part), rig.now)
    effects = rig.turn()
    out = [(task.id, task.ordinal) for task in rig.machine.ledger.tasks.values() if task.ordinal >= 0]
    if out:
        effects += rig.say(1, Done(min(ordinal for _, ordinal in out), [b"value"] * len(out)))
    ledger = rig.machine.ledger
    return (
        sorted(
            (effect.kind, task.id) for effect in effects if type(effect) is Record for task in effect.tasks
        ),
        {id_: (task.state, task.ordinal) for id_, task in ledger.tasks.items()},
        (ledger.counts, ledger.submitted, ledger.pending, ledger.ready.size),
        {
            id_: (found.there, found.have, found.ranges, found.entries)
            for id_, found in ledger.joins.assemblies.items()
        },
        history.nodes(ROOT),
    )


@given(st.lists(st.sampled_from(KINDS), max_size=12), st.none() | st.integers(0, 14), st.integers(0, 2))
def test_a_batch_is_taken_in_as_its_tasks_are_one_by_one(
    kinds: list[str], count: int | None, peers: int
) -> None:
    together, apart = (submitted(kinds, count, Rig(peers), apart=apart) for apart in (False, True))
    assert together == apart
