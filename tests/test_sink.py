"""A sink elsewhere, served by a thread here: what it finds in its output, says of it, and is held to."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from conftest import until
from gate import Gate, wait_at
from light import number_of

from zmqtasks.cli.streaming import NoDisplay, Run
from zmqtasks.engine import Engine
from zmqtasks.errors import ConnectionTimeout, InputChanged, InputFailed
from zmqtasks.keys import KeyStore
from zmqtasks.nodes.sink import HAD_PAGES, SinkNode
from zmqtasks.stream.inputs import Values
from zmqtasks.stream.rendering import Named, RenderedFunction
from zmqtasks.stream.results import Output

PAGE = 4096  # indexes


class Sink:
    """A sink with the output `out` of a folder, until it is stopped or its pipeline has ended."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.output = Output(folder / options.pop("name", "out"), **options)
        try:
            self.node = SinkNode(f"ipc://{folder}/sink", KeyStore(folder / "keys"), self.output)
        except BaseException:
            self.output.close()
            raise
        self._thread = threading.Thread(target=self.node.run)
        self._thread.start()

    def ended(self) -> bool:
        """Wait for its pipeline to end; whether that was complete."""
        self._thread.join(20)
        assert not self._thread.is_alive()
        self.output.close()
        return self.node.is_complete

    def stop(self) -> None:
        """End it as a signal does."""
        self.node.stop()
        self.ended()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Pipeline:
    """A ventilator for that sink, to run inputs through `function` once; with a worker, or for want of one in vain."""

    def __init__(self, folder: Path, function: Callable[[str], Any], *, workers: int = 1) -> None:
        self.engine = Engine(
            RenderedFunction(function),
            workers=workers,
            bind=None if workers else f"ipc://{folder}/pipeline",
            key=None,
            sink=f"ipc://{folder}/sink",
            retry=0,
            time_limit=None,
            window=1000,
            wait_workers=None,
        )

    def run(self, inputs: list[str], *, ordered: bool = False) -> int:
        """Run them; how many failures there are in all."""
        with Output(None) as nowhere, self.engine as engine:
            run = Run(Values(inputs), nowhere, NoDisplay())
            run.go(engine, ordered=ordered)
            return run.failed + engine.failed_before


def results(path: Path) -> dict[int, dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    found = {line["index"]: line for line in lines}
    assert len(found) == len(lines), "an index is there twice"
    return found


def write(path: Path, inputs: list[str], failed: int | None = None) -> None:
    """An output of these, as an earlier run has left it."""
    rendered = RenderedFunction(lambda line: int(line) if line != str(failed) else int(""))
    values = [rendered(index, item) for index, item in enumerate(inputs)]
    path.write_bytes(b"".join(value if isinstance(value, bytes) else value.out for value in values))


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    with Gate(tmp_path) as gate:
        yield gate


@pytest.mark.parametrize(
    ("count", "changed"), [(10, 0), (10, 7), (PAGE * HAD_PAGES + 10, PAGE * HAD_PAGES + 5)]
)
def test_another_input_is_refused_and_the_first_is_named(tmp_path: Path, count: int, changed: int) -> None:
    inputs = [str(index) for index in range(count)]  # at last more than a message tells of
    write(tmp_path / "out", inputs)
    before = (tmp_path / "out").read_bytes()
    inputs[changed] = inputs[-1] = "other"
    with Sink(tmp_path, resume=True) as sink:
        with pytest.raises(InputChanged) as caught:
            Pipeline(tmp_path, number_of, workers=0).run([*inputs, "more"])
        assert not sink.ended()
    assert str(caught.value) == (
        f"'{tmp_path}/out' was made from other inputs:"
        f' that of index {changed} is the first that differs, now "other"'
    )
    assert (tmp_path / "out").read_bytes() == before


def test_fewer_inputs_are_other_inputs(tmp_path: Path) -> None:
    write(tmp_path / "out", ["0", "1", "2"])
    with (
        Sink(tmp_path, resume=True),
        pytest.raises(InputChanged, match="it has 3 of them, and now there are 2"),
    ):
        Pipeline(tmp_path, number_of, workers=0).run(["0", "1"])


def test_the_rest_is_done_and_earlier_failures_are_counted(tmp_path: Path) -> None:
    write(tmp_path / "out", ["0", "x", "2"])
    with (tmp_path / "out").open("a") as file:
        file.write('{"index": 3, "inp')
    with Sink(tmp_path, resume=True) as sink:
        assert Pipeline(tmp_path, number_of).run(["0", "x", "2", "3", "y", "5"]) == 2
        assert sink.ended()
        assert (sink.node.done, sink.output.cut) == (3, 17)
    found = results(tmp_path / "out")
    assert {index: found[index].get("result") for index in range(6)} == {
        0: 0,
        1: None,
        2: 2,
        3: 3,
        4: None,
        5: 5,
    }


def test_failures_are_done_again(tmp_path: Path) -> None:
    write(tmp_path / "out", ["0", "1", "2"], failed=1)
    assert "error" in results(tmp_path / "out")[1]
    with (
        Sink(tmp_path, resume_failed=True),
        pytest.raises(ConnectionTimeout, match=r"cannot keep the order of .*1 of it are to be done again"),
    ):
        Pipeline(tmp_path, number_of, workers=0).run(["0", "1", "2"], ordered=True)
    write(tmp_path / "out", ["0", "1", "2"], failed=1)
    with Sink(tmp_path, resume_failed=True) as sink:
        assert Pipeline(tmp_path, number_of).run(["0", "1", "2"]) == 0
        assert sink.ended()
        assert sink.node.done == 1
    assert results(tmp_path / "out")[1]["result"] == 1


def test_what_is_in_order_is_gone_on_with_in_order(tmp_path: Path) -> None:
    write(tmp_path / "out", ["0", "1"])
    with Sink(tmp_path, resume=True) as sink:
        assert Pipeline(tmp_path, number_of).run(["0", "1", "2", "3"], ordered=True) == 0
        assert sink.ended()
    assert list(results(tmp_path / "out")) == [0, 1, 2, 3]


class Running:
    """A run in a thread, whose last input waits at a gate."""

    def __init__(self, folder: Path, gate: Gate, inputs: list[str]) -> None:
        here, last = gate.path, inputs[-1]
        self._pipeline = Pipeline(folder, lambda line: int(wait_at(here, line) if line == last else line))
        self._inputs = inputs
        self.failed: int | None = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.failed = self._pipeline.run(self._inputs)
        except BaseException as error:  # noqa: BLE001 - the test's thread looks at it
            self.error = error

    def stop(self) -> None:
        self._pipeline.engine.stop()

    def end(self) -> None:
        self._thread.join(20)
        assert not self._thread.is_alive()


def test_a_sink_that_comes_back_has_what_it_had(tmp_path: Path, gate: Gate) -> None:
    inputs = [str(index) for index in range(50)]
    inputs[3] = "x"
    with Sink(tmp_path):
        run = Running(tmp_path, gate, inputs)
        until(lambda: len(results(tmp_path / "out")) == 49)
    with Sink(tmp_path, resume=True) as sink:
        until(lambda: sink.node._pipeline)
        with pytest.raises(
            ConnectionTimeout, match="this sink serves another pipeline: started anew with --resume"
        ):
            Pipeline(tmp_path, number_of, workers=0).run(inputs)
        gate.open()
        run.end()
        assert sink.ended()
    assert (run.failed, run.error) == (1, None)
    assert len(results(tmp_path / "out")) == 50


def test_a_sink_that_comes_back_without_what_it_had_is_no_use(tmp_path: Path, gate: Gate) -> None:
    inputs = [str(index) for index in range(50)]
    with Sink(tmp_path):
        run = Running(tmp_path, gate, inputs)
        until(lambda: len(results(tmp_path / "out")) == 49)
    with Sink(tmp_path, name="another"):
        run.end()
    assert isinstance(run.error, ConnectionTimeout)
    assert str(run.error).endswith(
        "it has come back without results that it had: it needs the same output, and --resume"
    )


def test_a_sink_that_comes_back_with_other_inputs_is_no_use(tmp_path: Path, gate: Gate) -> None:
    inputs = [str(index) for index in range(50)]
    with Sink(tmp_path):
        run = Running(tmp_path, gate, inputs)
        until(lambda: len(results(tmp_path / "out")) == 49)
    with (tmp_path / "out").open("ab") as file:  # of the one that still runs
        file.write(b'{"index": 49, "input": "other", "result": 1, "attempts": 1}\n')
    with Sink(tmp_path, resume=True):
        run.end()
    assert isinstance(run.error, InputChanged)
    assert str(run.error).endswith('that of index 49 is the first that differs, now "49"')


def test_who_is_to_stop_waits_no_longer_for_a_sink_that_is_gone(
    tmp_path: Path, gate: Gate, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zmqtasks.nodes.ventilator.SINK_PATIENCE_S", 0.3)
    inputs = [str(index) for index in range(50)]
    with Sink(tmp_path):
        run = Running(tmp_path, gate, inputs)
        until(lambda: len(results(tmp_path / "out")) == 49)
    run.stop()
    run.end()
    assert (run.failed, run.error) == (0, None)
    said = [one.getMessage() for one in caplog.records if "not come back" in one.getMessage()]
    assert said == ["the sink has not come back: the run ends without it, and without what was running"]
    with Sink(tmp_path, resume=True) as sink:
        gate.open()
        assert Pipeline(tmp_path, number_of).run(inputs) == 0
        assert sink.ended()
    assert len(results(tmp_path / "out")) == 50


def test_who_is_to_stop_tells_a_sink_that_comes_back(
    tmp_path: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zmqtasks.nodes.ventilator.SINK_PATIENCE_S", 20.0)
    inputs = [str(index) for index in range(50)]
    with Sink(tmp_path):
        run = Running(tmp_path, gate, inputs)
        until(lambda: len(results(tmp_path / "out")) == 49)
    run.stop()
    with Sink(tmp_path, resume=True) as sink:
        run.end()
        assert not sink.ended(), "it has heard that there is more to be done"
        assert (run.failed, run.error) == (0, None)
    assert len(results(tmp_path / "out")) == 49


# ---- joins, which have no such sink -----------------------------------------------------------------------------


def test_a_failed_input_of_a_join_is_named() -> None:
    engine = Engine(
        Named(number_of),
        workers=1,
        bind=None,
        key=None,
        sink=None,
        retry=0,
        time_limit=None,
        window=1000,
        wait_workers=None,
    )
    with engine:
        assert engine.chord(["1", "2"], sum) == 3
        with pytest.raises(InputFailed) as caught:
            engine.chord(["1", "x", "3"], sum)
        assert (
            str(caught.value) == """input 1, "x": ValueError: invalid literal for int() with base 10: 'x'"""
        )
        with pytest.raises(InputFailed) as caught:
            engine.fold(["1", "2", "poison"], max, 0)
        assert str(caught.value).startswith(
            'input 2, "poison": zmqtasks.errors.WorkerLost: task of this input was'
        )
