"""The pipeline in simulated worlds: `ZMQTASKS_SIM_PIPELINE_SEEDS` says how many; they find each bug that is planted."""

from __future__ import annotations

import os
from collections import Counter

import pytest
from planted import Bug, DoesNotApply
from planted_pipeline import BUGS, plant
from sim.pipeline import PipeSim, first_pipe_failure

SEEDS = int(os.environ.get("ZMQTASKS_SIM_PIPELINE_SEEDS", "600"))
CHUNK = 100
SEEDS_MAX = 250


@pytest.mark.timeout(300)
@pytest.mark.parametrize("start", range(0, SEEDS, CHUNK))
def test_nothing_is_wrong_in_any_world(start: int) -> None:
    if (found := first_pipe_failure(range(start, min(start + CHUNK, SEEDS)))) is not None:
        seed, what = found
        pytest.fail(f"seed {seed}: {what}\nreplay it: python -m tests.sim {seed} --pipeline")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("start", range(0, SEEDS // 4, CHUNK))
def test_nothing_is_wrong_with_nodes_for_workers(start: int) -> None:
    if (found := first_pipe_failure(range(start, min(start + CHUNK, SEEDS // 4)), nodes=True)) is not None:
        seed, what = found
        pytest.fail(f"seed {seed}: {what}\nreplay it: python -m tests.sim {seed} --pipeline --nodes")


@pytest.mark.parametrize("nodes", [False, True])
def test_a_seed_is_always_the_same_world(nodes: bool) -> None:
    runs = [PipeSim(7, nodes=nodes), PipeSim(7, nodes=nodes)]
    for sim in runs:
        sim.run()
    assert runs[0].events == runs[1].events
    assert runs[0].truth.starts == runs[1].truth.starts
    assert runs[0].now == runs[1].now


def test_the_worlds_have_all_that_may_happen() -> None:
    """A simulator in which nothing goes wrong finds nothing."""
    seen: Counter[str] = Counter()
    for seed in range(150):
        sim = PipeSim(seed)
        sim.run()
        truth = sim.truth
        seen["given out"] += len(truth.given)
        seen["deaths"] += sum(truth.deaths.values())
        seen["asked for another attempt"] += sum(truth.asked.values())
        seen["started again"] += sum(starts > 1 for starts in truth.starts.values())
        seen["given up"] += sum(worker.lost and worker.excused for worker in sim.ventilator.workers.values())
        seen["left"] += sum(worker.leaving for worker in sim.ventilator.workers.values())
        for course in sim.world.runs:
            seen[f"a run to {course.end}"] += 1
    assert seen.keys() >= {"a run to all", "a run to halt", "a run to drop"}
    assert min(seen.values()) > 10, seen


@pytest.mark.skipif(
    os.environ.get("ZMQTASKS_TEST_PLANTED", "1") == "0", reason="ZMQTASKS_TEST_PLANTED=0: planted elsewhere"
)
@pytest.mark.parametrize("name", BUGS)
def test_the_simulator_finds(name: str) -> None:
    found = first_pipe_failure(range(SEEDS_MAX), plant(BUGS[name]))
    assert found is not None, f"not seen in {SEEDS_MAX} worlds: {name}"
    PipeSim(found[0], plant(None)).run()  # it was the bug


def test_there_are_enough_of_them() -> None:
    assert len(BUGS) >= 40
    assert len({bug.new for bug in BUGS.values()}) > len(BUGS) // 2


def test_a_bug_whose_place_is_gone_is_refused() -> None:
    with pytest.raises(DoesNotApply):
        plant(Bug("stream", "no such line", ""))
