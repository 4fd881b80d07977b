"""`zmqtasks ventilator` and `zmqtasks sink` as they are used: real processes, killed, stopped and short of disk.

`ZMQTASKS_TEST_CHAOS_S=60` kills at random for so long; by default it is seconds.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import random
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import descendants, free_port, has_ended, until
from program import Inside, Program, World
from terminal import on_a_terminal

CHAOS_S = float(os.environ.get("ZMQTASKS_TEST_CHAOS_S", "1"))
MANY = 8_000

# Bytes of three quarters of the inputs in what has run: they are not dealt in their order once a sink was away.
FAR = sum(len(f"{number}\n") for number in range(MANY)) * 3 // 4

WORK = """
import os, sys, time
from pathlib import Path

def upper(line): return line.upper()
def same(value): return value
def number(line): return int(line)
def add(total, value): return total + value
def join(values): return "-".join(values)

def prints(line):
    print("printed", line)
    sys.stderr.write(f"complained {line}\\n")
    os.system(f"echo shouted {line}")
    return line

def flaky(line):
    path = Path(f"tries.{line}")
    tries = len(path.read_text()) if path.exists() else 0
    path.write_text("x" * (tries + 1))
    if tries < 2:
        raise OSError("not yet")
    return line

def harms(line):
    if line == "poison":
        os._exit(9)
    while line == "endless":
        time.sleep(1)
    return line

def held(line):
    Path(f"begun.{line}").touch()
    while True:  # also once it may end: what has not begun is taken back meanwhile
        time.sleep(0.01)
        if Path("end").exists():
            return line

def logged(line):
    global file
    if "file" not in globals():
        file = os.open("runs", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{line}\\n".encode())
    while os.fstat(file).st_size > FAR and Path("hold").exists():
        time.sleep(0.01)
    sum(range(2500))
    return line
"""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Yield a machine whose folder has a module `work` and inputs a, b, c in in.txt; temporary files have their own."""
    with World(tmp_path) as world:
        (tmp_path / "work.py").write_text(f"FAR = {FAR}\n{WORK}")
        (tmp_path / "in.txt").write_text("a\nb\nc\n")
        (tmp_path / "tmp").mkdir()
        world.environment["TMPDIR"] = str(tmp_path / "tmp")
        yield world


def begin(world: World, *arguments: str, shell: str = 'exec "$@"') -> Program:
    """Start a ventilator, as `shell` does it."""
    command = ("sh", "-c", shell, "sh", sys.executable, "-m", "zmqtasks")
    return world.run(*command, "ventilator", *arguments)


def results(world: World, name: str) -> dict[int, dict[str, Any]]:
    """What an output has, by index, each once."""
    lines = [json.loads(line) for line in (world.folder / name).read_text().splitlines()]
    found = {line["index"]: line for line in lines}
    assert len(found) == len(lines)
    return found


def complaints(program: Program | Inside) -> list[str]:
    """What it said, without times, and without how far it was."""
    said = [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in program.err.splitlines()]
    return [line for line in said if not re.match(r"zmqtasks: [\d,]+ (in|of) ", line)]


def lines_of(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def free_address() -> str:
    return f"tcp://127.0.0.1:{free_port()}"


# ---- what goes in, what comes out -------------------------------------------------------------------------------


def test_formats_side_by_side(world: World) -> None:
    folder = world.folder
    (folder / "a.csv").write_text('k,v\n1,"x\ny"\nonly\n2,z\n')
    (folder / "a.gz").write_bytes(gzip.compress(b"\n".join(b"%d" % number for number in range(500))))
    own = ("--workers", "1")
    csv = world.inside(
        "ventilator",
        "work:same",
        "*.csv",
        "--format",
        "csv",
        "--on-bad-input",
        "skip",
        *own,
        "-o",
        "o.csv.jsonl",
    )
    zipped = world.inside(
        "ventilator", "work.py:number", "a.gz", "--ordered", "--window", "7", *own, "-o", "o.gz"
    )
    assert [one.wait() for one in (csv, zipped)] == [1, 0]
    rows = results(world, "o.csv.jsonl")
    assert (rows[0]["result"], rows[2]["result"]) == ({"k": "1", "v": "x\ny"}, {"k": "2", "v": "z"})
    assert rows[1]["error"]["type"] == "BadInput"
    with gzip.open(folder / "o.gz", "rt") as file:
        assert [json.loads(line)["result"] for line in file] == list(range(500))
    assert [complaints(one) for one in (csv, zipped)] == [[], []], "nothing to be told"


def test_commands(world: World) -> None:
    nasty = "a 'b' \"c\" $(touch oops) `touch oops`; touch oops"
    own = ("--workers", "2", "--no-progress")
    json_ = world.inside(
        "ventilator",
        "--exec",
        "test {} != 7 && echo {}/{#} '{}' || exit {}",
        *own,
        "-o",
        "o",
        ":::",
        nasty,
        "7",
    )
    text = world.inside(
        "ventilator",
        "--exec",
        "printf '%s\\n' {}; echo low >&2; test {} = a",
        *own,
        "--ordered",
        ":::",
        "a",
        "b",
    )
    assert [one.wait() for one in (json_, text)] == [1, 1]
    found = results(world, "o")
    assert found[0]["result"] == {"exit": 0, "stdout": f"{nasty}/1 {nasty}\n", "stderr": ""}
    assert (found[1]["error"]["exit"], found[1]["input"]) == (7, "7")
    assert not (world.folder / "oops").exists()
    assert text.out == "a\nb\n"
    assert text.err.splitlines() == ["low", "low", 'zmqtasks: input 1, "b": exit status 1: low']


def test_joins(world: World) -> None:
    (world.folder / "n.txt").write_text("".join(f"{number}\n" for number in range(1000)))
    own = ("--workers", "2")
    fold = world.inside(
        "ventilator", "work.py:number", "n.txt", "--fold", "work.py:add", "--window", "50", *own
    )
    fails = world.inside("ventilator", "work.py:number", *own, "--then", "work.py:join", ":::", "1", "x", "3")
    assert [one.wait() for one in (fold, fails)] == [0, 1]
    assert (fold.out, fails.out) == ("499500\n", "")
    assert complaints(fails) == [
        """zmqtasks: input 1, "x": ValueError: invalid literal for int() with base 10: 'x'"""
    ]


def test_what_tasks_print_is_no_result(world: World) -> None:
    prints = world.inside(
        "ventilator", "work.py:prints", "in.txt", "--workers", "1", "--no-progress", "--ordered"
    )
    assert prints.wait() == 0
    assert prints.out == "a\nb\nc\n"
    assert sorted(prints.err.splitlines()) == sorted(
        f"{said} {line}" for said in ("[prints] printed", "[prints] complained", "shouted") for line in "abc"
    )


def test_an_endless_input_comes_out_at_once(world: World) -> None:
    os.mkfifo(world.folder / "fifo")
    program = begin(world, "work.py:upper", "--workers", "1", "--no-progress", shell='exec "$@" < fifo')
    with (world.folder / "fifo").open("w") as fifo:
        for line in ("first", "second"):
            fifo.write(f"{line}\n")
            fifo.flush()
            until(lambda line=line: program.out.endswith(f"{line.upper()}\n"), within_s=30)  # type: ignore[misc]
        program.signal(signal.SIGTERM)
        assert program.wait() == 143
    assert program.out == "FIRST\nSECOND\n"


# ---- failures ---------------------------------------------------------------------------------------------------


def test_failures_and_what_can_be_done_about_them(world: World) -> None:
    own = ("--workers", "2", "--no-progress")
    (world.folder / "n.txt").write_text("x\ny\n" + "".join(f"{number}\n" for number in range(20_000)))
    harm = [*"123456", "poison", *"789", "endless", *"abc"]
    halts = world.inside(
        "ventilator", "work.py:number", "n.txt", *own, "--halt", "2", "--window", "1000", "-o", "halts"
    )
    tries = world.inside("ventilator", "work.py:flaky", *own, "--retry", "5", "-o", "tries", ":::", "a", "b")
    harms = world.inside(
        "ventilator", "work.py:harms", *own, "--time-limit", "0.5", "-o", "harms", ":::", *harm
    )
    assert [one.wait() for one in (halts, tries, harms)] == [1, 0, 1]
    assert [one["attempts"] for one in results(world, "tries").values()] == [3, 3]
    assert len(results(world, "halts")) < 20_000
    assert complaints(halts) == ["INFO the same command with --resume does the rest"]
    found = results(world, "harms")
    assert [found[place]["input"] for place in range(len(harm))] == harm
    failed = {one["input"]: one["error"]["type"] for one in found.values() if "error" in one}
    assert failed == {"poison": "zmqtasks.errors.WorkerLost", "endless": "zmqtasks.errors.TimeLimitExceeded"}
    assert [found[harm.index(one)]["attempts"] for one in ("1", "poison", "endless")] == [1, 3, 1]


def test_a_reader_that_has_seen_enough_and_a_disk_that_is_full(world: World) -> None:
    # Longer lines than need be: no pipe holds them all.
    (world.folder / "n.txt").write_text("".join(f"{number:020}\n" for number in range(MANY)))
    own = ("work.py:upper", "n.txt", "--workers", "1", "--no-progress")
    head = begin(world, *own, shell='{ "$@"; echo $? > code; } | head -1')
    # As a disk that is full: what is written last is torn.
    torn = begin(world, *own, "-o", "out", shell='ulimit -f 400; exec "$@"')
    assert [one.wait() for one in (head, torn)] == [0, 1]
    assert (lines_of(world.folder / "0.stdout"), head.err) == (1, "")
    assert (world.folder / "code").read_text() == "1\n"
    assert torn.err == "zmqtasks: cannot write 'out': File too large\n"
    assert 0 < lines_of(world.folder / "out") < MANY
    again = world.inside("ventilator", *own, "-o", "out", "--resume")
    assert (again.wait(), len(results(world, "out"))) == (0, MANY)
    assert "results are there" in again.err


def test_a_target_that_cannot_be_had(world: World) -> None:
    (world.folder / "needs.py").write_text("import beside\nf = beside.f\ndef g(x): return beside.f(x)\n")
    (world.folder / "beside.py").write_text("def f(x): return x\n")
    far = world.folder / "far"
    far.mkdir()
    address = free_address()
    there = begin(world, "needs.py:g", "in.txt", "--bind", address, "--no-progress")
    there.says("for workers: ")
    command = f'cd far && exec "{sys.executable}" -m zmqtasks worker --ventilator {address} -c 1'
    worker = world.run("sh", "-c", command, PYTHONSAFEPATH="1")
    assert [one.wait() for one in (there, worker)] == [3, 0]
    assert complaints(there)[-1].startswith("zmqtasks: a worker cannot run it: ModuleNotFoundError: ")
    assert "beside" in complaints(there)[-1]


# ---- workers ----------------------------------------------------------------------------------------------------


def test_workers_that_are_waited_for(world: World) -> None:
    address = free_address()
    waits = begin(world, "work.py:upper", "in.txt", "--bind", address, "-o", "out", "--no-progress")
    never = world.inside(
        "ventilator", "work.py:upper", "in.txt", "--bind", free_address(), "--wait-workers", "0.2"
    )
    waits.says(rf"WARNING waiting for a worker: zmqtasks worker --ventilator {address}\n")
    worker = world.start("worker", "--ventilator", address, "-c", "1", "--name", "late")
    assert [one.wait() for one in (waits, never, worker)] == [0, 69, 0]
    assert [results(world, "out")[place]["result"] for place in range(3)] == ["A", "B", "C"]
    assert "INFO worker late has joined: slots 1" in complaints(waits)
    assert complaints(never)[-1] == "zmqtasks: no worker has come within 0.2 s"


# ---- signals ----------------------------------------------------------------------------------------------------


def begun(world: World) -> set[str]:
    """The inputs of `held` that have begun."""
    return {path.suffix[1:] for path in world.folder.glob("begun.*")}


def test_what_runs_is_finished_and_the_rest_is_done_later(world: World) -> None:
    command = ("work.py:held", "n.txt", "--workers", "2", "--no-progress", "-o", "out")
    (world.folder / "n.txt").write_text("".join(f"{number}\n" for number in range(300)))
    program = begin(world, *command)
    running = until(lambda: len(begun(world)) == 2 and begun(world))
    program.signal(signal.SIGINT)
    program.says("SIGINT: what runs is finished")
    (world.folder / "end").touch()
    assert program.wait() == 130
    assert complaints(program)[-1] == "INFO the same command with --resume does the rest"
    found = {one["result"] for one in results(world, "out").values()}
    assert running <= found <= begun(world)
    assert len(begun(world)) < 300


def test_a_join_that_was_stopped_has_no_result(world: World) -> None:
    program = begin(world, "work.py:held", "in.txt", "--then", "work.py:join", "--workers", "1")
    until(lambda: [*world.folder.glob("begun.*")], within_s=30)
    program.signal(signal.SIGTERM)
    program.says("SIGTERM: what runs is finished")
    (world.folder / "end").touch()
    assert (program.wait(), program.out) == (143, "")
    assert (
        complaints(program)[-1] == "WARNING it was stopped before all inputs were through: there is no result"
    )


@pytest.mark.parametrize(
    ("signals", "options", "code"),
    [
        ([signal.SIGINT, signal.SIGINT], [], 130),
        ([signal.SIGTERM], ["--shutdown-timeout", "0.2"], 143),
        ([signal.SIGQUIT], [], 131),
    ],
    ids=["INT, INT", "TERM, too long", "QUIT"],
)
def test_what_runs_is_ended(
    world: World, signals: list[signal.Signals], options: list[str], code: int
) -> None:
    program = begin(world, "work.py:held", "in.txt", "--workers", "1", "--no-progress", *options)
    until(lambda: [*world.folder.glob("begun.*")], within_s=30)
    below = descendants(psutil.Process(program.pid))
    assert len(below) >= 3, "a worker, its fork server, a child"
    for number in signals:
        program.signal(number)
        if number != signal.SIGQUIT:
            program.says(f"{number.name}: what runs is finished")
    assert program.wait() == code
    until(lambda: all(has_ended(process.pid) for process in below))
    assert [*(world.folder / "tmp").iterdir()] == []


# ---- kill -9 ----------------------------------------------------------------------------------------------------

LOGGED = ("work.py:logged", "many.txt", "--workers", "2", "--no-progress")


@pytest.fixture
def many(world: World) -> World:
    """Return a machine with 8,000 inputs, whose runs are counted; the last quarter to run waits while it is held."""
    (world.folder / "many.txt").write_text("".join(f"{number}\n" for number in range(MANY)))
    return world


def hold(world: World) -> Path:
    """Have no ventilator be through before this file is gone."""
    file = world.folder / "hold"
    file.touch()
    return file


def wait_until_gone(world: World, *but: Program) -> None:
    """Wait until nothing runs there but those: what was killed leaves processes that end what they have in hand."""

    def is_gone() -> bool:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.cwd() == str(world.folder) and process.pid not in {one.pid for one in but}:
                    return False
        return True

    until(is_gone)


def wait_for_lines(world: World, count: int) -> None:
    until(lambda: lines_of(world.folder / "out") >= count, within_s=60, every_s=0.002)


def assert_done(world: World, again_max: int) -> None:
    """Each input is in the output once, and no more than so many ran a second time."""
    found = results(world, "out")
    assert [found[index]["result"] for index in range(MANY)] == [str(index) for index in range(MANY)]
    runs = Counter((world.folder / "runs").read_text().split())
    assert len(runs) == MANY
    assert sum(runs.values()) - MANY <= again_max


def test_a_ventilator_that_is_killed(many: World) -> None:
    held = hold(many)
    program = begin(many, *LOGGED, "-o", "out")
    wait_for_lines(many, MANY // 4)
    program.signal(signal.SIGKILL)
    program.wait()
    wait_until_gone(many)
    held.unlink()
    until(lambda: not [*(many.folder / "tmp").iterdir()])
    written, run = lines_of(many.folder / "out"), lines_of(many.folder / "runs")
    with (many.folder / "out").open("ab") as file:
        file.write(b'{"index": 0, "inp')
    again = begin(many, *LOGGED, "-o", "out", "--resume")
    assert again.wait(60) == 0
    assert complaints(again) == [
        "WARNING out: the last line was torn (17 bytes), and is cut off",
        f"INFO out: {written} results are there",
    ]
    assert_done(many, run - written)


def test_a_sink_that_is_killed(many: World) -> None:
    address = free_address()
    held = hold(many)
    sink = many.start("sink", "--bind", address, "-o", "out")
    program = begin(many, *LOGGED, "--sink", address)
    for part in (1, 2):
        wait_for_lines(many, MANY * part // 4)
        sink.signal(signal.SIGKILL)
        sink.wait()
        sink = many.start("sink", "--bind", address, "-o", "out", "--resume")
    held.unlink()
    assert (program.wait(60), sink.wait()) == (0, 0)
    assert_done(many, MANY)
    assert program.err.count("is gone: waiting for it") == 2
    assert re.search(r"INFO out: \d+ results are there\n", sink.err)


def test_both_are_killed_and_started_anew(many: World) -> None:
    address = free_address()
    held = hold(many)
    sink = many.start("sink", "--bind", address, "-o", "out")
    program = begin(many, *LOGGED, "--sink", address)
    wait_for_lines(many, MANY // 4)
    program.signal(signal.SIGKILL)
    program.wait()
    wait_until_gone(many, sink)
    held.unlink()
    sink.says("WARNING the ventilator is gone")
    sink.signal(signal.SIGKILL)
    sink.wait()
    run, written = lines_of(many.folder / "runs"), lines_of(many.folder / "out")
    with (many.folder / "out").open("ab") as file:
        file.write(b'{"index": 0, "inp')
    inputs = (many.folder / "many.txt").read_text()
    (many.folder / "many.txt").write_text(f"changed{inputs[1:]}")
    sink = many.start("sink", "--bind", address, "-o", "out", "--resume")
    changed = many.inside("ventilator", *LOGGED, "--sink", address)
    assert (changed.wait(), sink.wait()) == (1, 1)
    assert complaints(changed)[-1].endswith('that of index 0 is the first that differs, now "changed"')
    assert "WARNING out: the last line was torn (17 bytes), and is cut off" in complaints(sink)
    assert lines_of(many.folder / "runs") == run, "nothing has run"
    (many.folder / "many.txt").write_text(inputs)
    sink = many.start("sink", "--bind", address, "-o", "out", "--resume")
    program = begin(many, *LOGGED, "--sink", address)
    assert (program.wait(60), sink.wait()) == (0, 0)
    assert_done(many, run - written)


def test_a_sink_tells_of_failures_and_ends_with_its_pipeline(world: World) -> None:
    address = free_address()
    (world.folder / "n.txt").write_text("1\nx\n3\n")
    program = begin(world, "work.py:number", "n.txt", "--workers", "1", "--sink", address)
    program.says("WARNING no sink answers at .* yet: waiting for it")
    sink = world.start("sink", "--bind", address, "-o", "out")
    assert (program.wait(), sink.wait()) == (1, 1)
    assert complaints(sink)[-1] == "INFO 3 written, 1 of all failed"
    assert results(world, "out")[1]["error"]["type"] == "ValueError"
    (world.folder / "work.py").write_text("def number(line): return line")
    for option, code in (("--resume", 1), ("--resume-failed", 0)):
        sink = world.start("sink", "--bind", address, "-o", "out", option)
        program: Program | Inside = world.inside(
            "ventilator", "work.py:number", "n.txt", "--workers", "1", "--sink", address
        )
        assert (program.wait(), sink.wait()) == (code, code)
    assert results(world, "out")[1]["result"] == "x"


def test_workers_and_children_that_are_killed_at_random(many: World) -> None:
    seed = random.randrange(1 << 30)
    rng, deadline = random.Random(seed), time.monotonic() + CHAOS_S
    while True:
        kills = 0
        program = begin(many, *LOGGED, "-o", "out")
        for part in range(10):
            wait_for_lines(many, 1 + MANY * part // 10)
            if below := descendants(psutil.Process(program.pid)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    rng.choice(below).kill()
                    kills += 1
        assert program.wait(60) == 0, f"seed {seed}: {program.err}"
        assert kills
        assert_done(many, MANY)
        if time.monotonic() > deadline:
            return
        for name in ("out", "runs"):
            (many.folder / name).unlink()


# ---- on a terminal ----------------------------------------------------------------------------------------------


def test_a_bar_on_a_terminal(world: World) -> None:
    target, inputs, out = (str(world.folder / name) for name in ("work.py:upper", "in.txt", "out"))
    code, seen = on_a_terminal("-m", "zmqtasks", "ventilator", target, inputs, "--workers", "1", "-o", out)
    assert code == 0
    assert "3 in " in seen
    assert "of about 3" in seen
    assert "joined" not in seen
    assert len(results(world, "out")) == 3
