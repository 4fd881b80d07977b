"""Workflows do what plain Python says they do: here, in workers, with a broker, and with workers that are killed."""

from __future__ import annotations

import os
import random
import shutil
from concurrent.futures import wait
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from conftest import until
from flows import Oracle, Recipe, build, counted, is_right, recipes, tried
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from zmqtasks import Client

if TYPE_CHECKING:
    from brokered import Cluster, Clusters

EXAMPLES = int(os.environ.get("ZMQTASKS_TEST_FLOWS", "40"))
"""Generated workflows for each topology."""

KILLED = int(os.environ.get("ZMQTASKS_TEST_KILLED_FLOWS", "15"))
"""Generated workflows while workers are killed."""

RESULT_S = 20


class Trial:
    """Runs recipes in a folder, and knows what each of their calls has to leave there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tried: list[tuple[Recipe, Oracle, Path]] = []

    def run(self, recipe: Recipe, outcome: Any) -> None:
        """Compare what comes out; what runs and is not waited for is looked at later."""
        folder = self._folder / str(len(self._tried))
        folder.mkdir()
        self._tried.append((recipe, tried(recipe, folder, outcome), folder))

    def check(self) -> None:
        """Compare how often each call has run, now that all of them have."""
        for recipe, oracle, folder in self._tried:
            assert is_right(oracle, counted(folder)), (recipe, oracle.sure, oracle.perhaps, counted(folder))
        shutil.rmtree(self._folder)


@given(recipe=recipes())
@settings(max_examples=3 * EXAMPLES)
def test_apply_is_what_plain_python_does(recipe: Recipe, tmp_path_factory: Any) -> None:
    trial = Trial(tmp_path_factory.mktemp("calls"))
    trial.run(recipe, lambda workflow: workflow.apply())
    trial.check()


def test_workers_do_what_plain_python_does(shared_client: Client, tmp_path: Path) -> None:
    (tmp_path / "calls").mkdir()
    trial = Trial(tmp_path / "calls")

    @given(recipe=recipes())
    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
    def compare(recipe: Recipe) -> None:
        trial.run(recipe, lambda workflow: shared_client.run(workflow).result(RESULT_S))

    compare()
    until(lambda: is_idle(shared_client))
    trial.check()


def is_idle(client: Client) -> bool:
    """Whether nothing is left to be done: what was cancelled or forsaken may still run."""
    host = client._host
    if hasattr(host, "_dispatcher"):
        return not host._dispatcher.ledger.tasks and not host._inbox
    tasks = client.inspect.status()["tasks"]
    return not any(tasks.get(state, 0) for state in ("QUEUED", "WAITING", "SCHEDULED", "RETRYING", "RUNNING"))


def test_what_is_cancelled_leaves_nothing_behind(shared_client: Client, tmp_path: Path) -> None:
    """Cancelled at any moment, as a whole or by a member: nothing is stuck, and no call runs more often than it may."""
    (tmp_path / "calls").mkdir()
    numbers = count()

    @given(recipe=recipes(("ok", "ok", "slow", "slow", "fail")), chance=st.randoms(use_true_random=False))
    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
    def cancel(recipe: Recipe, chance: random.Random) -> None:
        folder = tmp_path / "calls" / str(next(numbers))
        folder.mkdir()
        future = shared_client.run(build(recipe, folder))
        for _ in range(chance.randrange(3)):
            shared_client.submit(int).result(RESULT_S)  # some time goes by
        members = [future, *future.children]
        chance.choice(members).cancel(terminate=chance.random() < 0.3)
        wait(members, RESULT_S)
        assert all(member.done() for member in members)
        until(lambda: is_idle(shared_client))
        assert all(runs <= 1 for runs in counted(folder).values())

    cancel()


@pytest.fixture
def cluster(_clusters: Clusters) -> Cluster:
    """A broker with a node of two children."""
    return _clusters.get(2)


@pytest.mark.parametrize("topology", ["embedded", "brokered"])
def test_with_kill_9_of_workers_the_same_comes_out(topology: str, cluster: Cluster, tmp_path: Path) -> None:
    """How often a call runs is then another matter: what has run, and was not heard of, runs again."""
    (tmp_path / "calls").mkdir()
    trial = Trial(tmp_path / "calls")
    embedded = topology == "embedded"
    with Client(workers=2) if embedded else cluster.client() as client:
        client.submit(int).result(RESULT_S)
        patient = client.options(max_deliveries=1000)

        @given(recipe=recipes(("ok", "slow", "fail", "killed", "doomed")))
        @settings(max_examples=KILLED, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
        def compare(recipe: Recipe) -> None:
            trial.run(recipe, lambda workflow: patient.run(workflow).result(RESULT_S))

        compare()
        until(lambda: is_idle(client))
