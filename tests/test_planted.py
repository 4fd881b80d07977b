"""The simulator finds each bug that is planted in the core, and nothing where none is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache

import pytest
from planted import BUGS, FLOW_BUGS, NODE_BUGS, POINT_BUGS, Bug, Core, DoesNotApply, plant
from planted_seeds import SEEDS_MAX, SEEN_IN
from sim import Sim, first_failure
from sim.points import Points

# The core is the same on every Python: it is enough to plant bugs for one of them.
pytestmark = pytest.mark.skipif(
    os.environ.get("ZMQTASKS_TEST_PLANTED", "1") == "0", reason="ZMQTASKS_TEST_PLANTED=0: planted elsewhere"
)


def worlds(name: str) -> Iterator[int]:
    """Yield the seeds of all worlds, the one first that is known to show this bug soon."""
    if name in SEEN_IN:
        yield SEEN_IN[name]
    yield from range(SEEDS_MAX)


@cache
def sound() -> Core:
    """Return the machines without any bug, made as those with one are."""
    return plant(None)


@pytest.mark.parametrize("name", BUGS)
def test_the_simulator_finds(name: str) -> None:
    found = first_failure(worlds(name), plant(BUGS[name]))
    assert found is not None, f"not seen in {SEEDS_MAX} worlds: {name}"
    Sim(found[0], sound()).run()  # it was the bug


@pytest.mark.parametrize("name", NODE_BUGS)
def test_the_simulator_finds_in_worlds_of_two_levels(name: str) -> None:
    found = first_failure(worlds(name), plant(NODE_BUGS[name]), nodes=True)
    assert found is not None, f"not seen in {SEEDS_MAX} worlds: {name}"
    Sim(found[0], sound(), nodes=True).run()  # it was the bug


@pytest.mark.parametrize("name", FLOW_BUGS)
def test_the_simulator_finds_in_worlds_with_workflows(name: str) -> None:
    found = first_failure(worlds(name), plant(FLOW_BUGS[name]), flows=True)
    assert found is not None, f"not seen in {SEEDS_MAX} worlds: {name}"
    Sim(found[0], sound(), flows=True).run()  # it was the bug


@pytest.mark.parametrize("name", POINT_BUGS)
def test_the_simulator_finds_where_a_process_stops(name: str) -> None:
    bad = plant(POINT_BUGS[name])
    found = first_failure(worlds(name), bad, nodes=True, flows=True, points=True)
    assert found is not None, f"not seen in {SEEDS_MAX} worlds: {name}"
    seed = found[0]
    Sim(seed, sound(), nodes=True, flows=True, points=Points.draw(seed, nodes=True)).run()  # it was the bug
    Sim(seed, bad, nodes=True, flows=True, points=Points({})).run()  # and only where somebody stops


def test_there_are_enough_of_them() -> None:
    for bugs in (BUGS, NODE_BUGS, FLOW_BUGS):
        assert len(bugs) >= 20
        assert len({bug.new for bug in bugs.values()}) > len(bugs) // 2


def test_where_they_are_seen_soon_is_of_bugs_and_worlds_that_there_are() -> None:
    assert SEEN_IN.keys() <= BUGS.keys() | NODE_BUGS.keys() | FLOW_BUGS.keys() | POINT_BUGS.keys()
    assert all(0 <= seed < SEEDS_MAX for seed in SEEN_IN.values())


def test_a_bug_whose_place_is_gone_is_refused() -> None:
    with pytest.raises(DoesNotApply):
        plant(Bug("queue", "no such line", ""))
    with pytest.raises(DoesNotApply):
        plant(Bug("queue", "self", "this"))
