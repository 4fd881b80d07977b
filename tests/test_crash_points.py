"""Processes that stop between any two effects: each point of small workflows, and points by chance in all worlds."""

from __future__ import annotations

import os
from collections import Counter

import pytest
from sim import Sim, first_failure
from sim.points import KINDS, Points
from sim.small import WORKFLOWS, each_point

SEEDS = int(os.environ.get("ZMQTASKS_SIM_SEEDS", "200"))
CHUNK = 50


@pytest.mark.timeout(300)
@pytest.mark.parametrize("nodes", [False, True], ids=["one-level", "nodes"])
@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_small_workflow_comes_out_right_wherever_a_process_stops(name: str, nodes: bool) -> None:
    """A child, a node, the client; or the broker: then its client hears so, and submits it once more."""
    points: Counter[str] = Counter()
    wrong = []
    for kind, effect, what in each_point(name, nodes=nodes):
        points[kind] += 1
        if what:
            wrong.append(f"the {kind} stops before effect {effect}: {what}")
    assert not wrong, "\n".join(wrong)
    assert points.keys() == ({*KINDS} if nodes else {"child"})
    assert points["broker"] > points["node"] or not nodes


@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", ["--flows --nodes", "--flows", "--nodes"])
@pytest.mark.parametrize("start", range(0, SEEDS, CHUNK))
def test_nothing_is_wrong_in_any_world_where_processes_stop(start: int, how: str) -> None:
    nodes, flows = "--nodes" in how, "--flows" in how
    found = first_failure(range(start, min(start + CHUNK, SEEDS)), nodes=nodes, flows=flows, points=True)
    if found is not None:
        seed, what = found
        pytest.fail(f"seed {seed}: {what}\nreplay it: python -m tests.sim {seed} --points {how}")


def test_processes_of_all_kinds_stop_and_things_are_lost_by_it() -> None:
    seen: Counter[str] = Counter()
    for seed in range(40):
        sim = Sim(seed, nodes=True, flows=True, points=Points.draw(seed, nodes=True))
        sim.run()
        seen += sim.points.stopped
        seen["lost with a broker"] += len(sim.truth.gone)
        seen["left by a client"] += len(sim.flows.gone)
    assert not {*KINDS, "lost with a broker", "left by a client"} - seen.keys()
    assert min(seen.values()) > 0, seen
