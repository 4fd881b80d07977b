"""`Ventilator` from Python: each input once, lazily, in bounded memory, whatever inputs, results and loops do."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from conftest import RunPython, kept, python_environment, until
from gate import Gate, note, wait_at
from light import odd_one_out
from marks import MARK, marked, names_in

from zmqtasks import (
    ClientClosed,
    ForeignFuture,
    NotPicklable,
    RemoteError,
    Retry,
    TimeLimitExceeded,
    Ventilator,
    WorkerLost,
    ZmqTasksError,
    current,
)

GONE_S = 10.0


@pytest.fixture(scope="module")
def pipeline(_module_leaves_nothing: None) -> Iterator[Ventilator[Any, Any]]:
    """One pipeline with two children for all tests that do no harm to it."""
    with Ventilator(lambda item: item[0](item[1]), workers=2) as pipeline:
        until(lambda: len(set(dict(pipeline.run(with_each(lambda _: os.getpid(), range(50)))).values())) == 2)
        yield pipeline


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    with Gate(tmp_path) as gate:
        yield gate


def with_each(fn: Any, items: Iterable[Any]) -> Iterator[Any]:
    """Inputs of the shared pipeline."""
    return ((fn, item) for item in items)


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "zmqtasks-reader"]


# ---- values ------------------------------------------------------------------------------------------------------


def test_each_input_has_one_value(pipeline: Ventilator) -> None:
    found = list(pipeline.run(with_each(lambda number: number * number, range(5000))))
    assert sorted(found) == [(number, number * number) for number in range(5000)]


def test_in_order_if_that_is_asked_for(pipeline: Ventilator) -> None:
    found = list(pipeline.run(with_each(str, range(5000)), ordered=True))
    assert found == [(number, str(number)) for number in range(5000)]


def test_what_a_function_captures_is_what_it_captured_when_the_pipeline_was_made() -> None:
    class Point:
        def __init__(self, x: int) -> None:
            self.x = x

    table, factor = {"a": 1, "b": 2}, 10

    def scaled(name: str) -> Point:
        return Point(table[name] * factor)

    with Ventilator(scaled, workers=1) as pipeline:
        factor = 0
        found = dict(pipeline.run("ab"))
    assert {index: (type(point), point.x) for index, point in found.items()} == {
        0: (Point, 10),
        1: (Point, 20),
    }


def test_arrays_go_and_come(pipeline: Ventilator) -> None:
    arrays = [np.full((300, 300), number, dtype=np.int64) for number in range(20)]
    values = [value for _, value in pipeline.run(with_each(lambda array: array * 2, arrays), ordered=True)]
    assert all(np.array_equal(value, array * 2) for value, array in zip(values, arrays, strict=True))


def test_a_large_array_that_a_function_captures() -> None:
    weights = np.arange(500_000)
    with Ventilator(lambda index: int(weights[index]), workers=1) as pipeline:
        assert dict(pipeline.run([0, 499_999])) == {0: 0, 1: 499_999}


def test_nothing_in_nothing_out(pipeline: Ventilator) -> None:
    assert list(pipeline.run([])) == list(pipeline.run(iter(()), ordered=True)) == []


def test_what_a_task_knows_of_itself() -> None:
    def about(_: int) -> tuple[str, int, str]:
        return current().name, current().attempt, current().id

    with Ventilator(about, workers=1, name="about it") as pipeline:
        assert dict(pipeline.run(range(2))) == {0: ("about it", 1, "0"), 1: ("about it", 1, "1")}


def test_a_task_that_would_submit_is_told_that_it_cannot(pipeline: Ventilator) -> None:
    with pytest.raises(ZmqTasksError, match="no dispatcher"):
        list(pipeline.run(with_each(lambda _: current().client.submit(abs, 1).result(), [0])))


def test_a_pipeline_within_a_pipelines_task(pipeline: Ventilator) -> None:
    def nested(number: int) -> int:
        with Ventilator(lambda value: value + number, workers=1) as inner:
            return sum(value for _, value in inner.run(range(10)))

    assert dict(pipeline.run(with_each(nested, [100]))) == {0: 1045}


def test_two_pipelines_at_once() -> None:
    with Ventilator(lambda x: -x, workers=1) as one, Ventilator(str, workers=1) as other:
        pairs = list(zip(one.run(range(500), ordered=True), other.run(range(500), ordered=True), strict=True))
    assert pairs == [((number, -number), (number, str(number))) for number in range(500)]


# ---- inputs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [1, 7])
def test_an_endless_input_is_read_no_further_than_the_window(window: int) -> None:
    read = 0

    def endless() -> Iterator[int]:
        nonlocal read
        while True:
            read += 1
            yield read

    with Ventilator(abs, workers=1, window=window) as pipeline:
        values = pipeline.run(endless())
        for taken in range(300):
            next(values)
            assert read <= taken + 1 + window + 1


def test_large_inputs_are_not_read_much_earlier_than_they_are_needed() -> None:
    read = 0

    def endless() -> Iterator[bytearray]:
        nonlocal read
        while True:
            read += 1
            yield bytearray(1 << 20)

    with Ventilator(len, workers=1) as pipeline:
        for index, (_, value) in enumerate(pipeline.run(endless())):
            assert value == 1 << 20
            assert read - index < 100, "64 MiB, and some that are read ahead"
            if index == 110:
                break


def test_results_that_nobody_takes_do_not_pile_up() -> None:
    with Ventilator(lambda _: bytes(1 << 20), workers=1) as pipeline:
        values = pipeline.run(itertools.count())
        next(values)
        window = pipeline._pipe.node.window
        until(lambda: not window.has_room_for_results)
        for _ in range(100):
            next(values)
            assert window._results_bytes < 100 << 20


def test_an_input_that_blocks_does_not_hold_up_those_before_it(pipeline: Ventilator) -> None:
    go_on = threading.Event()

    def blocks() -> Iterator[int]:
        yield from range(100)
        go_on.wait(50)
        yield 100

    values = pipeline.run(with_each(abs, blocks()))
    assert sorted(itertools.islice(values, 100)) == [(number, number) for number in range(100)]
    go_on.set()
    assert list(values) == [(100, 100)]


def test_what_the_inputs_raise_comes_after_the_values_of_those_before(pipeline: Ventilator) -> None:
    def breaks() -> Iterator[int]:
        yield from range(1000)
        raise LookupError("the disk is gone")

    values = pipeline.run(with_each(abs, breaks()))
    found = list(itertools.islice(values, 1000))
    assert sorted(found) == [(number, number) for number in range(1000)]
    with pytest.raises(LookupError, match="the disk is gone"):
        next(values)
    assert list(values) == []


def test_what_cannot_be_iterated_is_an_error_at_the_call(pipeline: Ventilator) -> None:
    with pytest.raises(TypeError, match="not iterable"):
        pipeline.run(17)


def test_an_input_that_cannot_be_pickled_fails_alone() -> None:
    items = [threading.Lock() if number in {30, 77} else number for number in range(100)]
    with Ventilator(lambda item: item, workers=1) as pipeline:
        found = dict(pipeline.run(items, on_error="yield"))
        assert {index for index, value in found.items() if value != index} == {30, 77}
        assert isinstance(found[30], NotPicklable)
        assert "the input cannot be pickled: lock" in str(found[30])
        assert "input 30 " in found[30].__notes__[0]
        (error,) = dict(pipeline.run([Future()], on_error="yield")).values()
        assert isinstance(error, ForeignFuture)


# ---- loops that end early ----------------------------------------------------------------------------------------


def test_who_breaks_out_of_the_loop_has_stopped_the_run() -> None:
    read = 0

    def endless() -> Iterator[int]:
        nonlocal read
        while True:
            read += 1
            yield read

    with Ventilator(abs, workers=1) as pipeline:
        for run in range(3):
            for _ in pipeline.run(endless()):
                break
            until(lambda: not readers())
            so_far = read
            assert pipeline._pipe.node._stream.unsettled == pipeline._pipe.node._stream.running == 0
            assert dict(pipeline.run(range(run, run + 3))) == {0: run, 1: run + 1, 2: run + 2}
            assert read == so_far


def test_close_stops_a_run(pipeline: Ventilator) -> None:
    values = pipeline.run(with_each(abs, itertools.count()))
    next(values)
    values.close()
    values.close()
    assert list(values) == []


def test_a_run_that_begins_ends_the_one_before(pipeline: Ventilator) -> None:
    first = pipeline.run(with_each(abs, itertools.count()))
    next(first)
    second = pipeline.run(with_each(str, range(3)), ordered=True)
    assert list(second) == [(0, "0"), (1, "1"), (2, "2")]
    assert [value for _, value in first if type(value) is not int] == []
    with pytest.raises(StopIteration):
        next(first)


def test_inputs_of_a_run_that_was_broken_off_never_come_out_of_the_next(pipeline: Ventilator) -> None:
    for run in range(30):
        for _ in pipeline.run(with_each(lambda pair: pair, ((run, number) for number in itertools.count()))):
            break
        found = list(pipeline.run(with_each(lambda pair: pair, [(run, "second")] * 5), ordered=True))
        assert found == [(index, (run, "second")) for index in range(5)]


def test_an_input_that_blocks_for_ever_is_left_alone(pipeline: Ventilator) -> None:
    forever = threading.Event()

    def blocks() -> Iterator[int]:
        yield 1
        forever.wait(50)

    for _ in pipeline.run(with_each(abs, blocks())):
        break
    assert dict(pipeline.run(with_each(abs, [-1]))) == {0: 1}
    forever.set()
    until(lambda: not readers())


# ---- failures ----------------------------------------------------------------------------------------------------


def test_a_failure_is_raised_and_ends_the_run(pipeline: Ventilator) -> None:
    values = pipeline.run(with_each(odd_one_out, itertools.count()), ordered=True)
    assert [next(values), next(values)] == [(0, 0), (1, 1)]
    with pytest.raises(ValueError, match="no 2") as caught:
        next(values)
    notes = "\n".join(caught.value.__notes__)
    assert "input 2 of the pipeline's run" in notes
    assert "in odd_one_out" in notes
    assert list(values) == []


def test_a_failure_is_yielded_in_its_place(pipeline: Ventilator) -> None:
    found = list(pipeline.run(with_each(odd_one_out, range(300)), ordered=True, on_error="yield"))
    assert [index for index, _ in found] == list(range(300))
    assert [type(value) for _, value in found] == [int, int, ValueError] * 100


def test_a_failure_is_skipped(pipeline: Ventilator) -> None:
    found = list(pipeline.run(with_each(odd_one_out, range(300)), on_error="skip"))
    assert sorted(found) == [(number, number * number) for number in range(300) if number % 3 != 2]


def test_what_must_not_be_raised_here_comes_as_text(pipeline: Ventilator) -> None:
    (error,) = dict(pipeline.run(with_each(sys.exit, [3]), on_error="yield")).values()
    assert isinstance(error, RemoteError)
    assert error.type_name == "SystemExit"


def test_a_result_that_cannot_be_pickled_fails_alone(pipeline: Ventilator) -> None:
    def some(number: int) -> Any:
        return threading.Lock() if number == 50 else number

    found = dict(pipeline.run(with_each(some, range(100)), on_error="yield"))
    assert {index for index, value in found.items() if value != index} == {50}
    assert isinstance(found[50], NotPicklable)
    assert "lock" in str(found[50])


def test_a_result_that_cannot_be_unpickled_is_a_failure_and_the_run_goes_on(pipeline: Ventilator) -> None:
    class Broken:
        def __reduce__(self) -> Any:
            return int, ("nonsense",)

    def some(number: int) -> Any:
        return Broken() if number == 50 else number

    found = dict(pipeline.run(with_each(some, range(100)), on_error="yield"))
    assert isinstance(found.pop(50), ValueError)
    assert found == {number: number for number in range(100) if number != 50}
    assert len(list(pipeline.run(with_each(some, range(100)), on_error="skip"))) == 99
    seen = []
    with pytest.raises(ValueError, match="nonsense") as caught:
        seen.extend(pipeline.run(with_each(some, range(100)), ordered=True))
    assert "Input 50 of the pipeline's run was done; this was raised here, from its result." in str(
        caught.value.__notes__
    )
    assert pipeline.chord(with_each(some, range(100)), len, on_error="skip") == 99
    with pytest.raises(ValueError, match="nonsense"):
        pipeline.fold(with_each(some, range(100)), lambda state, _: state, 0)


def test_retries_are_counted_and_the_last_failure_is_raised(tmp_path: Path) -> None:
    log = str(tmp_path / "log")

    def fails(item: tuple[str, int]) -> int:
        name, until_attempt = item
        note(log, name)
        if current().attempt < until_attempt:
            raise OSError(name)
        return current().attempt

    with Ventilator(fails, workers=2, retry=Retry(3, delay=0.001)) as pipeline:
        items = [("once", 1), ("thrice", 3), ("ever", 99), ("four", 4)]
        found = dict(pipeline.run(items, on_error="yield"))
    assert (found[0], found[1], found[3]) == (1, 3, 4)
    assert isinstance(found[2], OSError)
    marks = Path(log).read_text().split()
    assert {name: marks.count(name) for name, _ in items} == {"once": 1, "thrice": 3, "ever": 4, "four": 4}


def test_a_task_that_asks_for_another_attempt(pipeline: Ventilator) -> None:
    def again(_: int) -> int:
        if current().attempt == 1:
            current().retry(delay=0)
        return current().attempt

    assert dict(pipeline.run(with_each(again, range(3)))) == {0: 2, 1: 2, 2: 2}


def test_what_takes_too_long_is_ended_and_the_others_are_done() -> None:
    with Ventilator(
        lambda x: threading.Event().wait(50) if x == 7 else x, workers=2, time_limit=0.5
    ) as pipeline:
        found = dict(pipeline.run(range(50), on_error="yield"))
    assert {index for index, value in found.items() if value != index} == {7}
    assert isinstance(found[7], TimeLimitExceeded)
    assert "input 7" in str(found[7])


def test_what_kills_its_child_is_lost_alone_after_its_deliveries(tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    poison = {0, 33, 34, 299}

    def some(number: int) -> int:
        if number in poison:
            note(log, number)
            os._exit(3)
        return number

    with Ventilator(some, workers=2, max_deliveries=2) as pipeline:
        found = dict(pipeline.run(range(300), on_error="yield"))
    assert {index for index, value in found.items() if value != index} == poison
    assert all(isinstance(found[index], WorkerLost) for index in poison)
    assert "status 3" in str(found[0])
    marks = [int(line) for line in Path(log).read_text().split()]
    assert {number: marks.count(number) for number in poison} == dict.fromkeys(poison, 2)


# ---- asyncio -----------------------------------------------------------------------------------------------------


def test_async_for_leaves_the_loop_free(pipeline: Ventilator, gate: Gate) -> None:
    async def main() -> list[tuple[int, Any]]:
        asyncio.get_running_loop().call_soon(opens)
        return [each async for each in pipeline.run(with_each(lambda n: wait_at(gate.path, n), range(4)))]

    def opens() -> None:
        if gate.arrived():
            gate.open()
        else:
            asyncio.get_running_loop().call_later(0.001, opens)

    assert sorted(asyncio.run(main())) == [(number, number) for number in range(4)]


def test_async_for_that_is_left_has_stopped_the_run(pipeline: Ventilator) -> None:
    async def main() -> None:
        async for _ in pipeline.run(with_each(abs, itertools.count())):
            break
        with pytest.raises(ValueError, match="no 2"):
            async for _ in pipeline.run(with_each(odd_one_out, range(3))):
                pass

    asyncio.run(main())
    until(lambda: not readers())
    assert pipeline._pipe.node._stream.unsettled == 0


def test_a_task_of_asyncio_that_is_cancelled_has_stopped_the_run(pipeline: Ventilator, gate: Gate) -> None:
    async def main() -> None:
        async def loop() -> None:
            async for _ in pipeline.run(with_each(lambda n: wait_at(gate.path, n), itertools.count())):
                pass

        task = asyncio.create_task(loop())
        await asyncio.to_thread(until, gate.arrived)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(main())
    until(lambda: not readers())
    gate.open()
    assert dict(pipeline.run(with_each(abs, [-1]))) == {0: 1}


# ---- joins -------------------------------------------------------------------------------------------------------


def test_a_chords_body_has_all_values_in_order(pipeline: Ventilator) -> None:
    here = os.getpid()
    count, total, elsewhere = pipeline.chord(
        with_each(lambda n: n * n, range(3000)),
        body=lambda values: (len(values), sum(i * v for i, v in enumerate(values)), os.getpid() != here),
    )
    assert (count, total, elsewhere) == (3000, sum(n**3 for n in range(3000)), True)


def test_a_chord_over_nothing_and_over_failures(pipeline: Ventilator) -> None:
    assert pipeline.chord([], body=list) == []
    assert pipeline.chord(with_each(odd_one_out, range(7)), body=list, on_error="skip") == [0, 1, 9, 16, 36]
    with pytest.raises(ValueError, match="no 2"):
        pipeline.chord(with_each(odd_one_out, range(7)), body=list)


def test_a_chords_body_that_fails(pipeline: Ventilator) -> None:
    with pytest.raises(ZeroDivisionError):
        pipeline.chord(with_each(abs, range(7)), body=lambda values: 1 // values[0])
    assert dict(pipeline.run(with_each(abs, [-1]))) == {0: 1}


def test_a_fold(pipeline: Ventilator) -> None:
    factor = 3
    items = with_each(abs, range(5000))
    assert (
        pipeline.fold(items, step=lambda state, value: state + factor * value, initial=1)
        == 1 + 3 * 12_497_500
    )
    text = pipeline.fold(
        with_each(str, range(200)), step=lambda state, value: state + value, initial="", ordered=True
    )
    assert text == "".join(map(str, range(200)))
    assert pipeline.fold([], step=max, initial=5) == 5
    assert pipeline.fold(with_each(odd_one_out, range(7)), lambda a, b: a + b, 0, on_error="skip") == 62


def test_a_fold_that_fails_ends_the_run(pipeline: Ventilator) -> None:
    def step(state: int, value: int) -> int:
        if value == 500:
            raise KeyError("no 500")
        return state + value

    with pytest.raises(KeyError, match="no 500"):
        pipeline.fold(with_each(abs, itertools.count()), step, 0)
    until(lambda: not readers())
    assert pipeline._pipe.node._stream.unsettled == 0
    with pytest.raises(ValueError, match="no "):
        pipeline.fold(with_each(odd_one_out, itertools.count()), lambda a, b: a + b, 0)
    until(lambda: not readers())
    assert dict(pipeline.run(with_each(abs, [-1]))) == {0: 1}


def test_a_folds_step_is_called_again_where_its_process_was_killed(
    pipeline: Ventilator, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    log.touch()

    def step(state: int, value: int) -> int:
        if value == 500 and not log.read_text():
            note(log, "killed")
            os.kill(os.getpid(), signal.SIGKILL)
        return state + value

    assert pipeline.fold(with_each(abs, range(1000)), step, 0) == sum(range(1000))
    assert log.read_text() == "killed\n"


# ---- what it is made with ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"fn": 17}, TypeError, "runs a function"),
        ({"workers": 0}, ValueError, "workers is 1 or more"),
        ({"workers": -1, "bind": "tcp://127.0.0.1:*"}, ValueError, "workers is 0 or more"),
        ({"workers": 1.5}, TypeError, "workers is an int"),
        ({"workers": True}, TypeError, "workers is an int"),
        ({"window": 0}, ValueError, "window is 1 or more"),
        ({"retry": 3}, TypeError, "a zmqtasks.Retry"),
        ({"time_limit": -1}, ValueError, "time_limit"),
        ({"time_limit": "soon"}, (TypeError, ValueError), "time_limit"),
        ({"max_deliveries": 0}, ValueError, "max_deliveries"),
        ({"name": 7}, ValueError, "name"),
        ({"bind": "nonsense"}, ValueError, "nonsense"),
        ({"bind": ""}, ValueError, "no address"),
        ({"bind": "tcp://127.0.0.1"}, ValueError, "tcp://127.0.0.1"),
        ({"bind": 5557}, TypeError, "bind"),
        ({"fn": threading.Lock().__enter__}, NotPicklable, "lock"),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_what_makes_no_sense_is_an_error_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], error: Any, text: str
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("ZMQTASKS_KEYS", str(tmp_path / "keys"))
    with pytest.raises(error, match=text) as caught:
        Ventilator(**{"fn": abs, **options})
    assert "\n" not in str(caught.value)
    assert names_in(tmp_path) <= {"keys"}


@pytest.mark.parametrize("verb", ["run", "chord", "fold"])
def test_an_unknown_on_error(pipeline: Ventilator, verb: str) -> None:
    more = {"run": (), "chord": (len,), "fold": (max, 0)}[verb]
    with pytest.raises(ValueError, match="on_error"):
        getattr(pipeline, verb)([], *more, on_error="ignore")


def test_use_after_close() -> None:
    with Ventilator(abs, workers=1) as pipeline:
        values = pipeline.run(itertools.count())
        next(values)
    pipeline.close()
    for use in (
        pipeline.run,
        lambda items: pipeline.chord(items, len),
        lambda items: pipeline.fold(items, max, 0),
    ):
        with pytest.raises(ClientClosed, match="closed"):
            use([1])
    assert len(list(values)) < 100_000, "what had come, and then the end"


def test_close_does_not_wait_for_what_runs(gate: Gate) -> None:
    pipeline = Ventilator(lambda _: wait_at(gate.path, os.getpid()), workers=1)
    values = pipeline.run([1])
    waiting = threading.Thread(target=lambda: list(values))
    waiting.start()
    (pid,) = until(gate.arrived)
    pipeline.close()
    waiting.join()
    until(lambda: not psutil.pid_exists(int(pid)))


# ---- processes ---------------------------------------------------------------------------------------------------

PROGRAM = """
import os, sys
from zmqtasks import Ventilator
offset = 1000
class Pair:
    def __init__(self, a, b):
        self.a, self.b = a, b
def pair(number):
    print("at", number)
    return Pair(number, number + offset)
with Ventilator(pair, workers=1) as pipeline:
    for index, value in pipeline.run(iter([1, 2]), ordered=True):
        print(index, type(value) is Pair, value.a, value.b, flush=True)
    print(pipeline.fold(range(3), step=lambda state, pair: state + pair.b, initial=0), flush=True)
"""


@pytest.mark.parametrize("way", ["-", "script"])
def test_a_program_without_a_guard(run_python: RunPython, tmp_path: Path, way: str) -> None:
    (tmp_path / "script.py").write_text(PROGRAM)
    arguments = {"-": ["-"], "script": ["script.py"]}[way]
    ended = run_python(*arguments, stdin=PROGRAM if way == "-" else "")
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert [line for line in lines if "at" not in line] == ["0 True 1 1001", "1 True 2 1002", "3003"]
    assert len([line for line in lines if "pair" in line and "at 1" in line]) == 2, lines
    assert ended.stderr == ""


ENDS = {
    "in the middle of a run": ("values = pipeline.run(itertools.count()); next(values)", None, 0),
    "while a task runs": ("values = pipeline.run([time.sleep] * 2); values = None", None, 0),
    "sys.exit": ("next(pipeline.run(itertools.count())); sys.exit(3)", None, 3),
    "os._exit": ("values = pipeline.run(itertools.count()); next(values); os._exit(4)", None, 4),
    "kill -9": ("values = pipeline.run(itertools.count()); next(values); hold()", signal.SIGKILL, -9),
    "Ctrl-C": ("list(pipeline.run(itertools.count(), on_error=hold_once()))", signal.SIGINT, -2),
    "kill -9 with a fork that lives": ("FORK", signal.SIGKILL, -9),
    "a fork that ends": (
        "pid = os.fork()\nif pid == 0: sys.exit(0)\nos.waitpid(pid, 0); assert dict(pipeline.run([-5])) == {0: 5}",
        None,
        0,
    ),
}
"""How a program ends that has a pipeline, what is done to it, and its exit code."""


@pytest.mark.parametrize("end", ENDS)
def test_nothing_is_left_however_the_program_ends(tmp_path: Path, end: str) -> None:
    code, number, status = ENDS[end]
    if code == "FORK":
        code = "values = pipeline.run(itertools.count()); next(values)\nif os.fork() == 0: time.sleep(3600)\nhold()"
    mark = f"{os.getpid()}-{end}"
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    program = f"""
import itertools, os, signal, sys, time
from zmqtasks import Ventilator
def hold():
    print("ready", flush=True)
    time.sleep(3600)
def hold_once():
    print("ready", flush=True)
    return "raise"
pipeline = Ventilator(abs, workers=1)
{code}
"""
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env={**python_environment(), MARK: mark, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    ) as process:
        assert process.stdout is not None
        forked: list[psutil.Process] = []
        try:
            if number is not None:
                assert process.stdout.readline() == "ready\n"
                if "fork that lives" in end:
                    children = psutil.Process(process.pid).children()
                    forked = [each for each in children if "nodes.worker" not in " ".join(each.cmdline())]
                    assert len(forked) == 1
                os.kill(process.pid, number)
            _, errors = ("", "") if forked else process.communicate(timeout=80)
            assert process.wait(80) == status, errors
            until(lambda: [each for each in marked(mark) if each not in forked] == [], GONE_S)
            until(lambda: names_in(temporary) == set(), GONE_S)
        finally:
            for each in marked(mark):
                each.kill()
    if number is None and status == 0:
        assert errors == ""


def test_a_forked_process_has_no_pipeline_of_its_parents(run_python: RunPython) -> None:
    ended = run_python(
        "-c",
        """
import os, sys
from zmqtasks import ForkedClient, Ventilator
pipeline = Ventilator(abs, workers=1)
values = pipeline.run(iter(range(10**9)))
next(values)
pid = os.fork()
if pid == 0:
    for use in (lambda: next(values), lambda: pipeline.run([1]), lambda: pipeline.chord([1], len)):
        try:
            use()
        except ForkedClient as error:
            assert "forked" in str(error)
        else:
            os._exit(1)
    pipeline.close()
    with Ventilator(abs, workers=1) as own:
        assert list(own.run([-4])) == [(0, 4)]
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
next(values)
assert list(pipeline.run([-3])) == [(0, 3)]
""",
    )
    assert (ended.returncode, ended.stderr) == (0, "")


def test_the_memory_of_an_endless_run_stays_flat(pipeline: Ventilator) -> None:
    here = psutil.Process()
    values = pipeline.run(with_each(lambda data: data, (bytes(10_000) for _ in itertools.count())))
    for _ in itertools.islice(values, 3000):
        pass
    before = here.memory_info().rss
    for _ in itertools.islice(values, 12_000):
        pass
    values.close()
    assert here.memory_info().rss - before < 100 << 20


def test_no_process_that_a_pipeline_started_is_left_after_it() -> None:
    with Ventilator(lambda _: os.getpid(), workers=2) as pipeline:
        pids = set(dict(pipeline.run(range(100))).values())
        pids |= {child.pid for child in psutil.Process().children(recursive=True) if child.pid not in kept}
        folder = Path(pipeline.address.removeprefix("ipc://")).parent
        assert pipeline.workers == {"local": 2}
        assert folder.stat().st_mode & 0o77 == 0
    assert not folder.exists()
    del pipeline
