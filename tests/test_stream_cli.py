"""`zmqtasks ventilator` around an engine that is none: what it asks of it, writes, says, and how it ends."""

from __future__ import annotations

import io
import json
import logging
import os
import pickle
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle
import pytest

import zmqtasks
from zmqtasks.cli import main, streaming
from zmqtasks.errors import InputFailed
from zmqtasks.stream.batch import Batch, unpack

WORK = """
from collections import Counter
def upper(line): return line.upper()
def number(line): return int(line)
def letters(line): return Counter(line)
def odd(line): return {line}
def add(total, value): return total + value
def join(values): return "-".join(values)
def count(values): return {"values": len(values)}
"""
Captured = pytest.CaptureFixture[str]


class Serial:
    """An engine that runs everything here, as workers would: what goes to them is pickled on the way."""

    address = ""
    failed_before = 0

    def __init__(self, function: Any, options: dict[str, Any]) -> None:
        self.options = options
        self.workers = {"here": 2}
        self.is_stopped = False
        self.delivered: list[int] = []
        self._function = pickle.loads(cloudpickle.dumps(function))

    def run_rendered(
        self, batches: streaming.Batches, deliver: Callable[[int, Batch], None], *, ordered: bool
    ) -> None:
        assert ordered in (True, False)
        for first, items in batches:
            packed = self._function.__zmqtasks_pack__(
                [self._one(index, item) for index, item in enumerate(items, first)]
            )
            self.delivered.append(first)
            deliver(first, unpack(packed))
            if self.is_stopped:
                return

    def _one(self, index: int, item: Any) -> Any:
        function, retries = self._function, self.options["retry"]
        for attempt in range(1, retries + 1):
            function.attempt = attempt
            try:
                return function(index, item)
            except Exception:  # noqa: BLE001 - a worker's
                assert attempt <= retries
        function.attempt = retries + 1
        return function(index, item)

    def chord(self, items: Any, body: Callable[[list[Any]], Any]) -> Any:
        return body([self._function(item) for item in items])

    def fold(self, items: Any, step: Callable[[Any, Any], Any], initial: Any) -> Any:
        step = pickle.loads(cloudpickle.dumps(step))
        for item in items:
            initial = step(initial, self._function(item))
        return initial

    def wait_for_sink(self) -> None:
        """There is none."""

    def stop(self, *, cold: bool = False) -> None:
        self.is_stopped = True


class Pipeline(ModuleType):
    """`zmqtasks.engine`, with that engine; `engine` is the last one."""

    engine: Serial

    def __init__(self) -> None:
        super().__init__("zmqtasks.engine")
        self.kind: type[Serial] = Serial

    @contextmanager
    def Engine(  # noqa: N802 - in its place
        self, function: Any, **options: Any
    ) -> Iterator[Serial]:
        self.engine = self.kind(function, options)
        yield self.engine


@pytest.fixture(autouse=True)
def pipeline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Pipeline]:
    made = Pipeline()
    monkeypatch.setitem(sys.modules, "zmqtasks.engine", made)
    monkeypatch.setattr(zmqtasks, "engine", made, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "pyproject.toml").touch()
    Path("work.py").write_text(WORK)
    Path("in.txt").write_text("a\nb\nc\n")
    handlers = {
        number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
    }
    yield made
    sys.modules.pop("work", None)
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def ended(capfd: Captured, *arguments: str, code: int = 0) -> tuple[str, str]:
    """Run the command, which ends with `code`; what it wrote to standard output and error."""
    root = logging.getLogger()
    handlers, root.handlers = root.handlers, []  # or what the program logs is the runner's
    try:
        assert main(["ventilator", *arguments]) == code
    finally:
        root.handlers = handlers
        root.setLevel(logging.WARNING)
    written = capfd.readouterr()
    return written.out, written.err


def complaint(capfd: Captured, *arguments: str, code: int) -> str:
    out, err = ended(capfd, "--no-progress", *arguments, code=code)
    assert out == ""
    return err.splitlines()[-1].removeprefix("zmqtasks: ").removesuffix(" (see zmqtasks ventilator --help)")


def results(path: str = "out.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


# ---- inputs and outputs -----------------------------------------------------------------------------------------


def test_results_are_printed_as_they_are(capfd: Captured) -> None:
    assert ended(capfd, "work.py:upper", "in.txt", "--no-progress") == ("A\nB\nC\n", "")
    assert ended(capfd, "work:letters", "in.txt", "--no-progress")[0] == '{"a":1}\n{"b":1}\n{"c":1}\n'


@pytest.mark.parametrize("option", [("--json",), ("-o", "-")])
def test_or_as_lines_of_json(option: tuple[str, ...], capfd: Captured) -> None:
    out, _ = ended(capfd, "work.py:number", *option, ":::", "-7", "--json", ":::", code=1)
    lines = [json.loads(line) for line in out.splitlines()]
    assert lines[0] == {"index": 0, "input": "-7", "result": -7, "attempts": 1}
    assert [(line["input"], line["error"]["type"]) for line in lines[1:]] == [
        ("--json", "ValueError"),
        (":::", "ValueError"),
    ]


def test_a_command_is_run_for_each_input(capfd: Captured) -> None:
    assert ended(capfd, "--exec", "echo {#}: {}", "in.txt")[0] == "1: a\n2: b\n3: c\n"
    assert ended(capfd, "--exec", "printf '%s\\n'", ":::", "$(id)", "it's")[0] == "$(id)\nit's\n"
    out, err = ended(capfd, "--exec", "echo out; echo err >&2; exit 3 #", "--no-progress", ":::", "a", code=1)
    assert (out, err) == ("out\n", 'err\nzmqtasks: input 0, "a": exit status 3: err\n')


def test_standard_input_is_read_without_files(
    capfd: Captured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with (tmp_path / "in.txt").open("rb") as file:
        copy = os.dup(0)
        os.dup2(file.fileno(), 0)
        try:
            assert ended(capfd, "work.py:upper")[0] == "A\nB\nC\n"
        finally:
            os.dup2(copy, 0)
            os.close(copy)


def test_formats_and_notations(capfd: Captured) -> None:
    Path("a.csv").write_text("x,y\n1,2\n")
    Path("a.jsonl").write_text('{"x": 1}\n')
    assert ended(capfd, "builtins:len", "a.csv", "--format", "csv")[0] == "2\n"
    assert ended(capfd, "builtins:len", "a.jsonl", "--format", "jsonl")[0] == "1\n"
    assert ended(capfd, "builtins:abs", "--format", "jsonl", ":::", "-3")[0] == "3\n"
    assert ended(capfd, "work.py:odd", "--result", "repr", "--json", ":::", "a")[0].count("\"{'a'}\"") == 1
    ended(capfd, "work.py:odd", "-o", "out.jsonl", ":::", "a", code=1)
    assert "the result is of type set" in results()[0]["error"]["message"]


def test_what_the_engine_is_asked_for(capfd: Captured, pipeline: Pipeline) -> None:
    ended(capfd, "work.py:upper", "in.txt")
    assert pipeline.engine.options == {
        "workers": 0,
        "bind": "tcp://127.0.0.1:5557",
        "key": None,
        "sink": None,
        "retry": 0,
        "time_limit": None,
        "window": 100_000,
        "wait_workers": None,
    }
    ended(
        capfd,
        "work.py:upper",
        "in.txt",
        "--workers",
        "3",
        "--time-limit",
        "1m",
        "--retry",
        "2",
        "--window",
        "9",
    )
    assert pipeline.engine.options["bind"] is None
    asked = [pipeline.engine.options[name] for name in ("workers", "time_limit", "retry", "window")]
    assert asked == [3, 60.0, 2, 9]
    more = ["--bind", "tcp://0.0.0.0:1", "--wait-workers", "5s", "--sink", "tcp://a:1", "--key", "k"]
    ended(capfd, "work.py:upper", "in.txt", "--workers", "1", *more)
    asked = [pipeline.engine.options[name] for name in ("bind", "wait_workers", "sink", "key")]
    assert asked == ["tcp://0.0.0.0:1", 5.0, "tcp://a:1", Path("k")]


def test_where_workers_find_it_is_said(capfd: Captured, pipeline: Pipeline) -> None:
    class Bound(Serial):
        address = "tcp://127.0.0.1:5557"

    pipeline.kind = Bound
    err = ended(capfd, "work.py:upper", "in.txt")[1]
    assert "INFO for workers: zmqtasks worker --ventilator tcp://127.0.0.1:5557\n" in err


# ---- failures ---------------------------------------------------------------------------------------------------


def test_it_fails_if_an_input_does_and_tries_again_before(capfd: Captured) -> None:
    out, err = ended(capfd, "work.py:number", "--retry", "2", "--no-progress", ":::", "1", "x", "2", code=1)
    assert out == "1\n2\n"
    assert err == "zmqtasks: input 1, \"x\": ValueError: invalid literal for int() with base 10: 'x'\n"
    ended(capfd, "work.py:number", "-o", "out.jsonl", "--retry", "2", ":::", "x", code=1)
    assert results()[0]["attempts"] == 3


def test_it_stops_after_so_many_failures(capfd: Captured, pipeline: Pipeline) -> None:
    Path("x.txt").write_text("x\n" * 5000)
    err = ended(capfd, "work.py:number", "x.txt", "--halt", "2", "-o", "out.jsonl", code=1)[1]
    assert pipeline.engine.is_stopped
    assert pipeline.engine.delivered == [0], "what was on its way is kept, the rest is not begun"
    assert "INFO the same command with --resume does the rest\n" in err


@pytest.mark.parametrize("name", ["a.jsonl", "b.csv"])
def test_bad_inputs_stop_it_or_fail(name: str, capfd: Captured) -> None:
    Path("a.jsonl").write_text("1\n" * 16 + "oops\n3\n")
    Path("b.csv").write_text("a\n" + "1\n" * 15 + "2,3\n3\n")
    format_ = name.partition(".")[2]
    assert (
        main(["ventilator", "builtins:repr", name, "--format", format_, "-o", "out.jsonl", "--no-progress"])
        == 1
    )
    assert capfd.readouterr().err.startswith(f"zmqtasks: {name}, line 17: ")
    before = len(results())
    assert before == {"a.jsonl": 16, "b.csv": 15}[name]
    err = ended(
        capfd,
        "builtins:repr",
        name,
        "--format",
        format_,
        "-o",
        "out.jsonl",
        "--on-bad-input",
        "skip",
        "--resume",
        code=1,
    )[1]
    assert f"INFO out.jsonl: {before} results are there\n" in err
    assert len(results()) == before + 2
    assert results()[before]["error"]["message"].startswith(f"{name}, line 17: ")


XML = "Invalid value for '--format' (env var: 'ZMQTASKS_VENTILATOR_FORMAT'): 'xml' is not one of"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "Invalid value: a TARGET is missing, or --exec"),
        (["work.py:none", "in.txt"], 3, "'work.py' has no 'none'"),
        (["none:none", "in.txt"], 3, "there is no module 'none'"),
        (["work.py:upper", "none.txt"], 2, "cannot read 'none.txt': No such file or directory"),
        (["work.py:upper", "*.none"], 2, "no file matches '*.none'"),
        (["work.py:upper", "."], 2, "'.' is a directory: name what is in it, as './*'"),
        (["work.py:upper", "work.py", "-o", "in.txt"], 2, "'in.txt' is there: --resume goes on with it, --overwrite"),
        (["work.py:upper", "*.txt", "-o", "./in.txt", "--overwrite"], 2, "Invalid value for --output: 'in.txt' is an"),
        (["work.py:upper", "work.py", "-o", "in.txt", "--resume"], 2, "cannot resume 'in.txt': line 1 is no result"),
        (["work.py:upper", "in.txt", "-o", "no/out"], 2, "cannot write 'no/out': No such file or directory"),
        (["work.py:upper", "in.txt", "-o", "/dev/full"], 1, "cannot write '/dev/full': No space left on device"),
        (["work.py:upper", "in.txt", "--resume"], 2, "to resume needs an output file: -o FILE"),
        (["work.py:upper", "in.txt", "--resume", "--overwrite"], 2, "Invalid value: --overwrite excludes --resume"),
        (["work.py:upper", "in.txt", ":::", "a"], 2, "Invalid value: inputs are files or what is after :::"),
        (["--exec", "echo", "in.txt", ":::", "a"], 2, "Invalid value: inputs are files or what is after :::"),
        (["work.py:upper", "--format", "csv", ":::", "a"], 2, "Invalid value: --format csv is for files"),
        (["--exec", "echo '"], 2, "Invalid value for --exec: ' is not closed in \"echo ' {}\""),
        (["--exec", "", "in.txt"], 2, "Invalid value for --exec: an empty command"),
        (["--exec", "echo", "--result", "repr"], 2, "Invalid value: --result is for a TARGET"),
        (["--exec", "echo", "--then", "a:b"], 2, "Invalid value: --then and --fold need a TARGET"),
        (["work.py:upper", "--fold", "a:b", "--then", "a:b"], 2, "Invalid value: --then excludes --fold"),
        (["work.py:upper", "--fold", "a:b", "--resume"], 2, "Invalid value: --then and --fold give one result"),
        (["work.py:upper", "--sink", "tcp://a:1", "-o", "x"], 2, "Invalid value: with --sink the output is the sink's"),
        (["work.py:upper", "--sink", "tcp://a:1", "--resume"], 2, "Invalid value: with --sink it is the sink that"),
        (["work.py:upper", "--sink", "tcp://a:1", "--fold", "a:b"], 2, "Invalid value: --then and --fold join the"),
        (["work.py:upper", "--bind", "a:1"], 2, "Invalid value for '--bind' (env var:"),
        (["work.py:upper", "--workers", "0"], 2, "Invalid value for '--workers'"),
        (["work.py:upper", "--format", "xml"], 2, XML),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(arguments: list[str], code: int, said: str, capfd: Captured) -> None:
    assert complaint(capfd, *arguments, code=code).startswith(said)


def test_a_full_disk_ends_it(capfd: Captured) -> None:
    said = complaint(capfd, "work.py:upper", "in.txt", "-o", "/dev/full", code=1)
    assert said == "cannot write '/dev/full': No space left on device"


# ---- going on ---------------------------------------------------------------------------------------------------


def test_it_goes_on_where_it_was_torn(capfd: Captured, pipeline: Pipeline) -> None:
    ended(capfd, "work.py:upper", "in.txt", "-o", "out.jsonl")
    whole = Path("out.jsonl").read_bytes()
    Path("out.jsonl").write_bytes(whole[:-10])
    err = ended(capfd, "work.py:upper", "in.txt", "-o", "out.jsonl", "--resume")[1]
    assert Path("out.jsonl").read_bytes() == whole
    assert pipeline.engine.delivered == [2]
    assert "WARNING out.jsonl: the last line was torn (" in err
    assert "INFO out.jsonl: 2 results are there\n" in err
    Path("in.txt").write_text("a\nB\nc\n")
    said = complaint(capfd, "work.py:upper", "in.txt", "-o", "out.jsonl", "--resume", code=1)
    assert said.endswith('was made from other inputs: that of index 1 is the first that differs, now "B"')


def test_failures_are_done_again(capfd: Captured) -> None:
    Path("n.txt").write_text("1\nx\n3\n")
    ended(capfd, "work.py:number", "n.txt", "-o", "out.jsonl", code=1)
    Path("work.py").write_text("def number(line): return 0")
    sys.modules.pop("work")
    ended(capfd, "work.py:number", "n.txt", "-o", "out.jsonl", "--resume", code=1)  # it is still in it
    err = ended(capfd, "work.py:number", "n.txt", "-o", "out.jsonl", "--resume-failed")[1]
    assert "INFO out.jsonl: 2 results are there, 1 failures are done again\n" in err
    assert [(line["index"], line["result"]) for line in results()] == [(0, 1), (2, 3), (1, 0)]


# ---- joins ------------------------------------------------------------------------------------------------------


def test_results_are_joined(capfd: Captured) -> None:
    assert ended(capfd, "work.py:upper", "in.txt", "--then", "work.py:join") == ("A-B-C\n", "")
    assert (
        ended(capfd, "work.py:letters", "--fold", "work.py:add", ":::", "ab", "bc")[0]
        == '{"a":1,"b":2,"c":1}\n'
    )
    assert ended(capfd, "work.py:upper", "in.txt", "--then", "work:count", "--json")[0] == '{"values":3}\n'
    ended(capfd, "work.py:upper", "in.txt", "--then", "work.py:join", "-o", "out.json")
    assert Path("out.json").read_text() == '"A-B-C"\n'
    assert ended(capfd, "work.py:number", "--fold", "work.py:add", os.devnull)[0] == "null\n"


def test_what_cannot_be_joined(capfd: Captured) -> None:
    said = complaint(capfd, "work.py:upper", "in.txt", "--then", "builtins:set", code=1)
    assert said.startswith("the result is of type set, which JSON does not have")
    Path("a.jsonl").write_text("1\noops\n3\n")
    bad = ["a.jsonl", "--format", "jsonl", "--on-bad-input", "skip"]
    out, err = ended(capfd, "builtins:abs", *bad, "--fold", "work.py:add", code=1)
    assert out == "4\n"
    assert err.startswith("zmqtasks: input 1: a.jsonl, line 2: no JSON")


def test_a_failed_input_of_a_join_is_named(capfd: Captured, pipeline: Pipeline) -> None:
    class Fails(Serial):
        def chord(self, items: Any, body: Any) -> Any:
            for index, item in enumerate(items):
                try:
                    self._function(item)
                except InputFailed as error:  # which does not know its place
                    raise InputFailed(index, error.reason) from None

    pipeline.kind = Fails
    Path("a.jsonl").write_text('oops\n"1"\noops\n"a"\noops\n')
    options = ["--format", "jsonl", "--on-bad-input", "skip", "--then", "work.py:join"]
    said = complaint(capfd, "work.py:number", "a.jsonl", *options, code=1)
    assert said == """input 3, "a": ValueError: invalid literal for int() with base 10: 'a'"""


# ---- signals and progress ---------------------------------------------------------------------------------------


def test_a_signal_stops_it_and_the_rest_can_be_done(capfd: Captured, pipeline: Pipeline) -> None:
    Path("many.txt").write_text("a\n" * 5000)

    class Hit(Serial):
        def run_rendered(self, batches: Any, deliver: Any, *, ordered: bool) -> None:
            def then_hit(first: int, batch: Batch) -> None:
                deliver(first, batch)
                os.kill(os.getpid(), signal.SIGTERM)

            super().run_rendered(batches, then_hit, ordered=ordered)

    pipeline.kind = Hit
    err = ended(capfd, "work.py:upper", "many.txt", "-o", "out.jsonl", code=143)[1]
    assert len(results()) == 1000
    assert err.endswith("INFO the same command with --resume does the rest\n")
    err = ended(capfd, "work.py:upper", "many.txt", "-o", os.devnull, code=143)[1]
    assert "--resume" not in err, "there is nothing to go on with"
    pipeline.kind = Serial
    ended(capfd, "work.py:upper", "many.txt", "-o", "out.jsonl", "--resume")
    assert len(results()) == 5000


def test_lines_tell_how_far_it_was(capfd: Captured) -> None:
    err = ended(capfd, "work.py:upper", "in.txt", "-o", "out.jsonl")[1]
    assert re.fullmatch(r"zmqtasks: 3 in \d+\.\d s.*", err.splitlines()[-1])
    err = ended(capfd, "work.py:upper", "in.txt", "-o", "out.jsonl", "--overwrite", "--no-progress")[1]
    assert err == ""


def test_a_run_knows_how_far_it_is(
    capfd: Captured, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    class Watch(streaming.NoDisplay):
        def show(self, snapshot: Any) -> None:
            seen.append(snapshot)

        close = show

    monkeypatch.setattr(streaming, "display", lambda **_: Watch())
    Path("n.txt").write_text("1\n" * 1500 + "x\n" * 500)
    ended(capfd, "work.py:number", "n.txt", "-o", "out.jsonl", code=1)
    assert [(one.done, one.failed, one.window) for one in seen] == [
        (1000, 0, 0),
        (2000, 500, 0),
        (2000, 500, 0),
    ]
    assert {(one.total, one.bytes_done, one.bytes_total, one.workers, one.kept) for one in seen} == {
        (None, 4000, 4000, 2, 0)
    }
    seen.clear()
    ended(capfd, "work.py:number", "n.txt", "-o", "out.jsonl", "--resume-failed", code=1)
    assert (seen[-1].done, seen[-1].kept, seen[-1].expected) == (500, 1500, 500)
    seen.clear()
    ended(capfd, "work.py:number", "--no-progress", ":::", "1", "2")
    assert (seen[-1].total, seen[-1].expected) == (2, 2)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("asked", "to_stdout", "err", "out", "kind"),
    [
        (None, False, True, False, "Bar"),
        (None, True, True, True, "NoDisplay"),
        (True, True, True, True, "Bar"),
        (None, True, True, False, "Bar"),
        (None, True, False, True, "Lines"),
        (False, False, True, False, "NoDisplay"),
    ],
)
def test_where_progress_is_shown(
    asked: bool | None, to_stdout: bool, err: bool, out: bool, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, is_terminal in (("stderr", err), ("stdout", out)):
        monkeypatch.setattr(sys, name, Terminal() if is_terminal else io.StringIO())
    shown = streaming.display(asked=asked, to_stdout=to_stdout)
    assert type(shown).__name__ == kind
    shown.close(streaming.Snapshot(done=3))
    written = sys.stderr.getvalue()
    assert bool(re.search(r"3 in \d+\.\d s.*\n\Z", written)) != (kind == "NoDisplay")
