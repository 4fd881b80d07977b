"""The dispatcher in simulated worlds: `ZMQTASKS_SIM_SEEDS` says how many."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from sim import Sim, first_failure

from zmqtasks.core.assembly import LEFT
from zmqtasks.messages import CANCELLED, DEAD, EXPIRED, FAILED, SUCCEEDED, UPSTREAM_FAILED

SEEDS = int(os.environ.get("ZMQTASKS_SIM_SEEDS", "300"))
FLOW_SEEDS = int(os.environ.get("ZMQTASKS_SIM_SEEDS", "1000"))  # of worlds with workflows
CHUNK = 50
ROOT = Path(__file__).parents[1]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("nodes", [False, True], ids=["one-level", "nodes"])
@pytest.mark.parametrize("start", range(0, SEEDS, CHUNK))
def test_nothing_is_wrong_in_any_world(start: int, nodes: bool) -> None:
    look(range(start, min(start + CHUNK, SEEDS)), nodes=nodes, flows=False)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("nodes", [False, True], ids=["one-level", "nodes"])
@pytest.mark.parametrize("start", range(0, FLOW_SEEDS, CHUNK))
def test_nothing_is_wrong_in_any_world_of_workflows(start: int, nodes: bool) -> None:
    look(range(start, min(start + CHUNK, FLOW_SEEDS)), nodes=nodes, flows=True)


def look(seeds: range, *, nodes: bool, flows: bool) -> None:
    if (found := first_failure(seeds, nodes=nodes, flows=flows)) is not None:
        seed, what = found
        how = " --nodes" * nodes + " --flows" * flows
        pytest.fail(f"seed {seed}: {what}\nreplay it: python -m tests.sim {seed}{how}")


@pytest.mark.parametrize("nodes", [False, True])
def test_a_seed_is_always_the_same_world(nodes: bool) -> None:
    runs = [Sim(7, nodes=nodes), Sim(7, nodes=nodes)]
    for sim in runs:
        sim.run()
    assert runs[0].events == runs[1].events
    assert runs[0].truth.final == runs[1].truth.final
    assert runs[0].now == runs[1].now


@pytest.mark.parametrize("what", ["--flows", "--flows --nodes", "--pipeline", "--pipeline --nodes"])
def test_a_seed_is_the_same_in_any_process(what: str) -> None:
    """Whatever the order of sets and the addresses of objects are there."""
    command = [sys.executable, "-m", "tests.sim", "--seeds", "15", "--digest", *what.split()]
    said = {
        subprocess.run(
            command,
            env={**os.environ, "PYTHONHASHSEED": salt},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()[-1]
        for salt in ("0", "1")
    }
    assert len(said) == 1
    assert len(said.pop()) == 32


def test_the_workflows_have_all_that_may_happen() -> None:
    seen: Counter[str] = Counter()
    for seed in range(100):
        sim = Sim(seed, flows=True)
        sim.run()
        flows, final = sim.flows, sim.truth.final
        for id_, joint in flows.joints.items():
            if id_ in final:
                seen[f"{joint.failure} ended {final[id_].state}"] += 1
        seen["released"] += len(flows.released)
        seen["gone"] += len(flows.gone & final.keys())
        seen["replaced"] += sum(id_ in final for id_ in flows.stand_ins)
        seen["again"] += sum(len(by) > 1 for by in flows.stand_ins.values())
        seen["forsaken"] += sum(final[id_].payload == LEFT for id_ in final)
    ends = {
        f"{how} ended {state}"
        for how in ("fail_fast", "collect", "wait", "catch")
        for state in (SUCCEEDED, CANCELLED)
    }
    ends |= {f"fail_fast ended {state}" for state in (FAILED, UPSTREAM_FAILED)} | {f"wait ended {FAILED}"}
    assert not ends - seen.keys()
    assert min(seen.values()) > 0, seen


@pytest.mark.parametrize("nodes", [False, True])
def test_the_worlds_have_all_that_may_happen(nodes: bool) -> None:
    """A simulator in which nothing goes wrong finds nothing."""
    states = {SUCCEEDED, FAILED, CANCELLED, UPSTREAM_FAILED, DEAD} | (set() if nodes else {EXPIRED})
    cancels = {
        f"cancel, terminate {force}: {[answer]}" for force in (True, False) for answer in (True, False)
    }
    ends: Counter[int] = Counter()
    seen: Counter[str] = Counter()
    for seed in range(100):
        sim = Sim(seed, nodes=nodes)
        sim.run()
        truth = sim.truth
        ends.update(final.state for final in truth.final.values())
        seen["deaths"] += sum(truth.deaths.values())
        seen["again"] += sum(starts > 1 for starts in truth.starts.values())
        seen["refused"] += len(truth.refused)
        seen["waits"] += sum(bool(spec.subs) for spec, _ in sim.work.spec_of.values())
        seen["dropped"] += len(truth.dropped)
        if not nodes:
            seen["retried"] += sum(sim.policies.retried.values())
            seen["over a limit"] += sum(sim.policies.limited.values())
        seen["given up"] += truth.given_up
        for question in truth.questions:
            seen[f"cancel, terminate {question.terminate}: {question.answers}"] += 1
        if ends.keys() == states and seen.keys() >= cancels and min(seen.values()) > 0:
            return
    pytest.fail(f"{ends.keys() ^ states} {cancels - seen.keys()} {seen}")
