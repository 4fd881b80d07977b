"""The simulator finds each bug that is planted in the core, and nothing where none is."""

from __future__ import annotations

import os

import pytest
from planted import BUGS, NODE_BUGS, Bug, DoesNotApply, plant
from sim import Sim, first_failure

SEEDS_MAX = 600

# The core is the same on every Python: it is enough to plant bugs for one of them.
pytestmark = pytest.mark.skipif(
    os.environ.get("ZMQTASKS_TEST_PLANTED", "1") == "0", reason="ZMQTASKS_TEST_PLANTED=0: planted elsewhere"
)


@pytest.mark.parametrize("name", BUGS)
def test_the_simulator_finds(name: str) -> None:
    found = first_failure(range(SEEDS_MAX), plant(BUGS[name]))
    assert found is not None, f"not seen in {SEEDS_MAX} worlds: {name}"
    Sim(found[0], plant(None)).run()  # it was the bug


@pytest.mark.parametrize("name", NODE_BUGS)
def test_the_simulator_finds_in_worlds_of_two_levels(name: str) -> None:
    found = first_failure(range(SEEDS_MAX), plant(NODE_BUGS[name]), nodes=True)
    assert found is not None, f"not seen in {SEEDS_MAX} worlds: {name}"
    Sim(found[0], plant(None), nodes=True).run()  # it was the bug


def test_there_are_enough_of_them() -> None:
    for bugs in (BUGS, NODE_BUGS):
        assert len(bugs) >= 20
        assert len({bug.new for bug in bugs.values()}) > len(bugs) // 2


def test_a_bug_whose_place_is_gone_is_refused() -> None:
    with pytest.raises(DoesNotApply):
        plant(Bug("queue", "no such line", ""))
    with pytest.raises(DoesNotApply):
        plant(Bug("queue", "self", "this"))
