"""What a workflow comes to in workers, part by part: futures, links, failures, cancelling, iterators, replacing."""

from __future__ import annotations

import operator
import os
import random
import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from conftest import until
from gate import Gate, note, wait_at
from test_workflow_runs import is_idle

from zmqtasks import (
    Client,
    Failure,
    ForeignFuture,
    NotPicklable,
    Retry,
    State,
    TaskCancelled,
    UpstreamFailed,
    ZmqTasksError,
    chain,
    chord,
    current,
    group,
    header,
    signature,
)
from zmqtasks import workflow as workflows
from zmqtasks.workflow import Map, Signature, Workflow

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

s = signature
ADD = operator.add


def boom(*_: Any) -> None:
    raise ValueError("boom")


def immutable(task: Any, *args: Any) -> Signature:
    return Signature(task, args, immutable=True)


# ---- values and futures -----------------------------------------------------------------------------------------


def test_the_examples_of_the_first_page(shared_client: Client) -> None:
    run = shared_client.run
    assert run(s(abs, -1)).result() == 1
    assert run(s(ADD, 1, 2) | s(ADD, 3) | s(operator.sub, 1)).result() == 5
    assert run(group(s(abs, -1), s(abs, -2))).result() == [1, 2]
    assert run(chord([s(abs, -1), s(abs, -2)])(s(sum))).result() == 3
    assert run(group()).result() == []
    assert run(chord([], s(len))).result() == 0
    assert run(Map(abs, [-1, -2]) | s(sum)).result() == 3
    assert run(Map(ADD, [(1, 1), (2, 2), (3, 3)], star=True, size=2)).result() == [[2, 4], [6]]
    factor = 3
    assert run(
        chord([s(lambda n: n * factor, at) for at in range(3)], s(lambda values: values[::-1]))
    ).result() == [6, 3, 0]


def test_a_group_of_every_kind_of_member(shared_client: Client) -> None:
    members = [
        s(abs, -1), group(s(abs, -2), group()), s(abs, -3) | s(ADD, 1), Map(abs, range(3)), s(dict, a=1),
        chord([s(abs, 1)] * 30, s(sum)), *[s(abs, -at) for at in range(50)],
        chord(Map(abs, []), group(s(len), s(list))),
    ]  # fmt: skip
    assert shared_client.run(group(members)).result() == group(members).apply()
    assert shared_client.run(s(abs, -7) | group(s(ADD, at) for at in range(40))).result() == list(
        range(7, 47)
    )


def test_children_are_there_before_the_group_is_done(shared_client: Client, tmp_path: Path) -> None:
    with Gate(tmp_path) as gate:
        made = group(
            s(abs, -1),
            s(wait_at, gate.path, 2),
            group(s(abs, -3), s(boom)),
            Map(abs, range(100)),
            failure="collect",
        )
        future = shared_client.run(made)
        one, two, three, four = future.children
        assert one.result(20) == 1
        assert three.children[0].result(20) == 3
        assert isinstance(three.exception(20), ValueError)
        assert [each.result(20) for each in four.children[97:]] == [97, 98, 99]
        assert not two.done()
        assert not future.done()
        gate.open()
        value = future.result(20)
    assert value[:2] == [1, 2]
    assert isinstance(value[2], ValueError)
    assert value[3] == four.result() == list(range(100))
    assert one.children == ()
    assert [each.id for each in future.children] == sorted({each.id for each in future.children})
    assert three.children[1].state == State.FAILED


def test_children_of_the_last_step_are_those_of_the_whole(shared_client: Client) -> None:
    future = shared_client.run(s(abs, -1) | group(s(ADD, 1), s(ADD, 2)))
    assert [child.result(20) for child in future.children] == [2, 3]
    future = shared_client.run(group(s(abs, -1)) | group(s(len), s(sum)))
    assert [child.result(20) for child in future.children] == [1, 1]
    assert shared_client.run(group(s(abs, -1)) | s(len)).children == ()
    collected = shared_client.run(group(group(s(boom), failure="collect"), s(abs, 1)))
    assert isinstance(collected.children[0].result(20)[0], ValueError)


def test_one_signature_used_many_times_is_many_tasks(shared_client: Client, tmp_path: Path) -> None:
    log = tmp_path / "log"
    one = s(note, log, "x")
    twice = group(one, one) | immutable(note, log, "y")
    shared_client.run(group(twice, one, twice)).result(20)
    assert sorted(log.read_text().split()) == ["x"] * 5 + ["y"] * 2


def test_workflows_are_arguments_too(client: Client) -> None:
    """Whoever opens one may not have heard of any before."""

    def runs(workflow: Any) -> Any:
        return workflow.apply()

    assert client.submit(runs, group([signature(abs, -1)]) | signature(sum)).result(30) == 1


def test_futures_are_arguments_anywhere(shared_client: Client) -> None:
    seven = shared_client.submit(abs, -7)
    made = shared_client.run(group(s(abs, -1), s(abs, -2)))
    assert shared_client.run(group([s(ADD, at, seven) for at in range(40)])).result() == list(range(7, 47))
    assert shared_client.run(s(abs, -1) | s(lambda one, more: [one, more], {"deep": [seven]})).result() == [
        1,
        {"deep": [7]},
    ]
    assert shared_client.run(Map(abs, [seven, -1])).result() == [7, 1]
    assert shared_client.run(s(sum, made)).result() == 3
    assert shared_client.submit(len, shared_client.run(Map(abs, range(5)))).result() == 5
    assert shared_client.submit(ADD, made.children[0], made.children[1]).result() == 3
    assert s(ADD, seven, 1).apply() == 8


def test_what_cannot_travel_is_said_at_once(shared_client: Client) -> None:
    with Client(workers=1) as other, pytest.raises(ForeignFuture):
        shared_client.run(group(s(abs, -1), s(abs, other.submit(abs, -1))))
    with pytest.raises(NotPicklable, match="lock"):
        shared_client.run(s(abs, -1) | s(ADD, threading.Lock()))
    with pytest.raises(TypeError, match="a signature or a workflow"):
        shared_client.run(abs)  # type: ignore[arg-type]
    assert shared_client.run(s(abs, -1)).result() == 1


def test_options_of_the_whole_hold_where_a_part_says_nothing_else(shared_client: Client) -> None:
    def told(*_: Any) -> tuple[str, dict[str, str]]:
        return current().name, current().tags

    made = group(
        s(told), s(told).set(name="own"), group(s(told), s(told)).set(name="inner"), Map(told, [1]), s(told) | s(told)
    ).set(name="outer", tags={"a": "b"})  # fmt: skip
    tags = {"a": "b"}
    assert shared_client.options(name="client").run(made).result() == [
        ("outer", tags), ("own", tags), [("inner", tags)] * 2, [("outer", tags)], ("outer", tags),
    ]  # fmt: skip
    assert shared_client.options(name="client").run(s(told)).result() == ("client", {})


def test_members_are_retried(shared_client: Client, tmp_path: Path) -> None:
    log = tmp_path / "log"

    def third_time(number: int) -> int:
        note(log, number)
        if current().attempt < 3:
            raise OSError(number)
        return number

    made = group([s(third_time, at) for at in range(4)]).set(retry=Retry(2, on=OSError, delay=0)) | s(sum)
    assert shared_client.run(made).result(20) == 6
    assert sorted(log.read_text().split()) == sorted(["0", "1", "2", "3"] * 3)
    with pytest.raises(UpstreamFailed) as caught:
        shared_client.run(group(s(third_time, 9).set(retry=Retry(1, delay=0))) | s(sum)).result(20)
    assert isinstance(caught.value.__cause__, OSError)


def test_an_eta_is_of_each_part(shared_client: Client) -> None:
    soon = datetime.now(UTC) + timedelta(milliseconds=100)
    made = group(s(abs, -1), s(abs, -2)).set(eta=soon) | s(sum)
    assert shared_client.run(made).result(20) == 3
    assert datetime.now(UTC) >= soon


# ---- the table of links -----------------------------------------------------------------------------------------

TABLE = [
    [cell.strip() for cell in line.split("|")]
    for line in (workflows.__doc__ or "").splitlines()
    if line.strip().startswith(tuple(State))
]
"""The rows of the table in the documentation."""


def test_the_table_speaks_of_every_final_state() -> None:
    assert [row[0] for row in TABLE] == [
        "SUCCEEDED", "FAILED", "DEAD", "EXPIRED", "UPSTREAM_FAILED", "CANCELLED",
    ]  # fmt: skip


THINGS: dict[str, Any] = {
    "SUCCEEDED": s(abs, -1),
    "FAILED": s(boom),
    "DEAD": s(os._exit, 3).set(max_deliveries=1),
    "EXPIRED": s(abs, -1).set(expires=0.01),
    "UPSTREAM_FAILED": s(boom) | s(abs),
    "CANCELLED": s(abs, -1),
}
"""What ends so, where the only worker is busy."""


@pytest.mark.parametrize("row", TABLE, ids=[row[0] for row in TABLE])
def test_the_table(row: list[str], lone: Client, tmp_path: Path) -> None:
    state, step, join, link, link_error = row
    log = tmp_path / "log"
    thing = THINGS[state]

    def heard(given: Any, name: str) -> None:
        note(log, f"{name}:{state}" if isinstance(given, Failure) == (name == "link_error") else "what?")

    with Gate(tmp_path) as gate:
        blocked = lone.submit(wait_at, gate.path, "here")
        until(gate.arrived)
        one = lone.run(thing.link(s(heard, "link")).link_error(s(heard, "link_error")))
        following = lone.submit(str, one)
        whole = lone.run(group(thing))
        if state == "CANCELLED":
            assert one.cancel()
            assert whole.children[0].cancel()
        if state == "EXPIRED":
            until(lambda: one.done() and whole.done())
        gate.open()
        blocked.result(20)
    until(lambda: one.done() and following.done() and whole.done())
    until(lambda: is_idle(lone))
    assert one.state == state
    assert following.state == {"runs": "SUCCEEDED"}.get(step, step)
    assert whole.children[0].state == state
    assert whole.state == {"takes the value": "SUCCEEDED", "fails as it did": state}.get(join, join)
    expected = [
        f"{name}:{state}" for name, calls in (("link", link), ("link_error", link_error)) if calls == "runs"
    ]
    assert (log.read_text().split() if log.exists() else []) == expected


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("kind", ["group", "chord", "chain", "map", "nested"])
def test_what_hangs_on_a_whole_runs_once(
    shared_client: Client, tmp_path: Path, kind: str, fails: bool
) -> None:
    log = tmp_path / "log"
    one = s(boom) if fails else s(abs)
    item = "no number" if fails else -1
    whole: Workflow = {
        "group": group(immutable(abs, -1), immutable(abs, -2), *[immutable(boom)] * fails),
        "chord": chord([s(abs, -at) for at in range(5)], s(sum) | one),
        "chain": chain(s(abs, -1), one, s(abs)),
        "map": Map(abs, [1, 2, item], failure="wait"),
        "nested": chain(s(abs, -1), group(one, group(one)) | s(len)),
    }[kind]
    future = shared_client.run(whole.link(s(noted_value, log), s(noted_value, log)).link_error(s(noted, log)))
    assert (future.exception(20) is not None) == fails
    until(lambda: log.exists() and len(log.read_text().splitlines()) == (1 if fails else 2))
    until(lambda: is_idle(shared_client))
    assert len(log.read_text().splitlines()) == (1 if fails else 2)
    if fails:
        assert log.read_text() == f"{future.id}\n"


def noted(failure: Failure, log: Path) -> None:
    note(log, failure.task_id)


def test_links_are_workflows_too(shared_client: Client, tmp_path: Path) -> None:
    log = tmp_path / "log"
    on_success = s(ADD, 1) | group(s(ADD, 10), s(ADD, 20)) | s(noted_value, log)
    on_failure = group(s(noted, log), s(noted, log)) | s(noted_value, log)
    assert shared_client.run(s(abs, -1).link(on_success)).result(20) == 1
    until(lambda: log.exists() and log.read_text() == "[12, 22]\n")
    failed = shared_client.run(s(boom).link_error(on_failure))
    until(lambda: log.read_text().endswith("[None, None]\n"))
    assert log.read_text().splitlines()[1:3] == [failed.id] * 2
    assert isinstance(failed.exception(), ValueError)


def noted_value(value: Any, log: Path) -> None:
    note(log, value)


# ---- cancelling -------------------------------------------------------------------------------------------------


def test_cancelling_a_workflow_cancels_what_is_left_of_it(lone: Client, tmp_path: Path) -> None:
    log = tmp_path / "log"
    mine = lone.options(priority=0).submit(abs, -3)
    with Gate(tmp_path) as gate:
        started = s(wait_at, gate.path, 1)
        rest = [immutable(note, log, at) for at in range(100)]
        future = lone.run(started | group(*rest, immutable(abs, mine)) | s(noted_value, log))
        until(gate.arrived)
        kept = lone.submit(abs, mine)
        assert future.cancel()
        with pytest.raises(CancelledError):
            future.result(20)
        gate.open()
        assert kept.result(20) == 3
    until(lambda: is_idle(lone))
    assert not log.exists()


def test_cancelling_one_member_fails_the_group_as_a_failure_would(lone: Client, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with Gate(tmp_path) as gate:
        blocked = lone.submit(wait_at, gate.path, 1)
        until(gate.arrived)
        fast = lone.run(group([s(note, log, at) for at in range(5)]))
        patient = lone.run(group([s(abs, -at) for at in range(3)], failure="collect"))
        assert fast.children[2].cancel()
        assert patient.children[1].cancel()
        error = fast.exception(20)
        gate.open()
        blocked.result(20)
    assert isinstance(error, UpstreamFailed)
    assert isinstance(error.__cause__, TaskCancelled)
    assert [child.state for child in fast.children] == [State.CANCELLED] * 5
    value = patient.result(20)
    assert (value[0], type(value[1]), value[2]) == (0, TaskCancelled, 2)
    until(lambda: is_idle(lone))
    assert not log.exists()


def test_the_first_failure_is_known_while_others_run(shared_client: Client, tmp_path: Path) -> None:
    with Gate(tmp_path) as gate:
        future = shared_client.run(group(s(wait_at, gate.path, 1), s(boom)) | s(len))
        error = future.exception(20)
        assert isinstance(error, UpstreamFailed)
        assert isinstance(error.__cause__, ValueError)
        gate.open()
    until(lambda: is_idle(shared_client))


# ---- iterators --------------------------------------------------------------------------------------------------


def test_an_iterator_is_read_as_its_members_can_be_run(
    shared_client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(header, "WINDOW", 100)
    monkeypatch.setattr(header, "_BATCH_MAX", 50)
    read: list[int] = []
    too_early: list[int] = []
    opened = threading.Event()
    with Gate(tmp_path) as gate, ThreadPoolExecutor(1) as thread:

        def members() -> Iterator[Workflow]:
            for at in range(1000):
                read.append(at)
                if at >= 150 and not opened.is_set():
                    too_early.append(at)
                yield s(wait_at, gate.path, at)

        made = group(members()) | s(sum)
        running = thread.submit(shared_client.run, made)
        until(lambda: len(read) >= 100 and gate.arrived())
        opened.set()
        gate.open()
        assert running.result(20).result(20) == 499500
    assert len(read) == 1000
    assert not too_early
    with pytest.raises(ZmqTasksError, match="has been run"):
        shared_client.run(made)


def test_children_of_an_iterators_group(shared_client: Client) -> None:
    future = shared_client.run(group(s(abs, -at) for at in range(2500)))
    assert len(future.children) == 2500
    assert [child.result(20) for child in future.children[1200:1203]] == [1200, 1201, 1202]
    assert future.children[-1].result(20) == 2499
    assert future.result(20) == list(range(2500))
    nested = shared_client.run(group(group(s(abs, -at) for at in range(3)) for _ in range(2)))
    assert nested.result(20) == [[0, 1, 2]] * 2
    assert nested.children[1].children[2].result() == 2


def test_an_iterators_group_takes_the_result_of_a_step_before(shared_client: Client) -> None:
    made = s(abs, -5) | group(s(ADD, at) for at in range(100)) | s(sum) | group(s(ADD, at) for at in range(2))
    assert shared_client.run(made).result(20) == [5450, 5451]
    assert shared_client.run(s(abs, -5) | Map(abs, iter(range(100))) | s(len)).result(20) == 100


def test_members_that_come_late_take_what_has_ended_long_ago(
    shared_client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(header, "_BATCH_MAX", 1)
    log = tmp_path / "log"

    def members() -> Iterator[Workflow]:
        yield s(noted_value, log)
        until(log.exists)  # so the step before has ended, and nobody but the client knows of it any more
        yield s(ADD, 1)

    assert shared_client.run(s(abs, -5) | group(members())).result(20) == [None, 6]


def test_what_an_iterator_raises_cancels_the_workflow(shared_client: Client, tmp_path: Path) -> None:
    log = tmp_path / "log"

    def members() -> Iterator[Workflow]:
        yield s(abs, -1)
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        shared_client.run(group(members()) | s(noted_value, log))
    with pytest.raises(TypeError, match="members"):
        shared_client.run(group(iter([3])))  # type: ignore[list-item]
    until(lambda: is_idle(shared_client))
    assert not log.exists()


def test_an_iterator_is_left_where_its_group_has_failed(
    shared_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(header, "WINDOW", 20)
    monkeypatch.setattr(header, "_BATCH_MAX", 10)
    read: list[int] = []

    def members() -> Iterator[Workflow]:
        for at in range(1_000_000):
            read.append(at)
            yield s(boom) if at == 15 else s(abs, -at)

    future = shared_client.run(group(members()))
    assert isinstance(future.exception(20), ValueError)
    assert len(read) < 1_000_000
    until(lambda: is_idle(shared_client))


# ---- in tasks ---------------------------------------------------------------------------------------------------


def test_a_task_runs_a_workflow_and_waits_for_it(lone: Client) -> None:
    def outer(number: int) -> Any:
        made = group([s(abs, -at) for at in range(number)]) | s(sum)
        return [current().client.run(made).result(), current().client.run(Map(abs, iter([-1, -2]))).result()]

    assert lone.submit(outer, 10).result(20) == [45, [1, 2]]
    assert lone.run(group(s(outer, 2), s(outer, 3)) | s(len)).result(20) == 2


def test_a_workflow_takes_a_tasks_place(shared_client: Client, tmp_path: Path) -> None:
    def replaced(number: int) -> Any:
        try:
            current().replace(group([s(abs, -at) for at in range(number)]) | s(sum))
        except Exception:  # noqa: BLE001 - it is none
            return "caught"

    assert shared_client.submit(replaced, 5).result(20) == 10
    assert shared_client.run(s(abs, -5) | s(replaced) | s(ADD, 1)).result(20) == 11
    assert shared_client.run(group(s(replaced, 3), s(replaced, 4), s(abs, -1)) | s(sum)).result(20) == 10
    assert shared_client.run(Map(replaced, range(6))).result(20) == [0, 0, 1, 3, 6, 10]
    log = tmp_path / "log"
    shared_client.run(s(replaced, 4).link(s(noted_value, log))).result(20)
    until(lambda: log.exists() and log.read_text() == "6\n")


def test_a_task_may_grow_a_chain_of_replacements(shared_client: Client) -> None:
    assert shared_client.submit(countdown, 50, []).result(20) == list(range(50, -1, -1))


def countdown(number: int, before: list[int]) -> Any:
    """Each run has another run take its place."""
    if number:
        current().replace(s(countdown, number - 1, [*before, number]))
    return [*before, 0]


def test_what_fails_in_the_place_of_a_task_fails_it(shared_client: Client) -> None:
    def replaced(made: Any) -> Any:
        current().replace(made)

    with pytest.raises(ValueError, match="boom"):
        shared_client.submit(replaced, s(boom)).result(20)
    with pytest.raises(UpstreamFailed):
        shared_client.submit(replaced, s(boom) | s(abs)).result(20)
    with pytest.raises(TypeError, match="a signature or a workflow"):
        shared_client.submit(replaced, 3).result(20)
    assert (
        shared_client.run(group(s(replaced, s(boom)), s(abs, -1), failure="collect") | s(len)).result(20) == 2
    )


# ---- graphs -----------------------------------------------------------------------------------------------------

MANY = int(os.environ.get("ZMQTASKS_TEST_GRAPH", "500"))
"""Nodes of a graph, tasks of a fan-in, links of a chain; ten thousand are as right and take longer."""


def test_a_random_graph_of_futures(shared_client: Client) -> None:
    chance = random.Random(5)
    values: list[int] = []
    futures: list[Any] = []
    for at in range(2 * MANY):
        needs = chance.sample(range(at), min(at, chance.randrange(4)))
        values.append((at + sum(values[each] for each in needs)) % 1009)
        given = [futures[each] for each in needs]
        if chance.random() < 0.2:
            made = group(s(lambda at, *given: at + sum(given), at, *given)) | s(lambda sums: sums[0] % 1009)
            futures.append(shared_client.run(made))
        else:
            futures.append(shared_client.submit(lambda at, *given: (at + sum(given)) % 1009, at, *given))
    assert shared_client.gather(futures) == values


def test_a_fan_in_of_many(shared_client: Client) -> None:
    futures = [shared_client.submit(abs, -at) for at in range(MANY)]
    assert shared_client.submit(sum, futures).result(20) == sum(range(MANY))
    assert shared_client.run(group([s(abs, -at) for at in range(MANY)]) | s(sum)).result(20) == sum(
        range(MANY)
    )
    assert shared_client.run(Map(abs, range(200 * MANY)) | s(len)).result(30) == 200 * MANY


def test_a_chain_of_many(shared_client: Client) -> None:
    last: Any = 0
    for _ in range(MANY):
        last = shared_client.submit(ADD, last, 1)
    assert last.result(30) == MANY
    assert shared_client.run(chain(s(int), *[s(ADD, 1)] * MANY)).result(30) == MANY
    failed = shared_client.run(chain(s(boom), *[s(ADD, 1)] * MANY)).exception(20)
    assert isinstance(failed, UpstreamFailed)
    assert isinstance(failed.__cause__, ValueError)
