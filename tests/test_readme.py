"""The README is run: each Python snippet as a script of its own, and the commands that CI takes from it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from conftest import ROOT, python_environment
from namespaces import Unavailable, two_machines
from program import World, stub

from zmqtasks.cli import main, tree

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import RunPython
    from namespaces import Machine

BLOCK = re.compile(r"^```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
PRINTS = re.compile(r"# prints: (.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Snippet:
    """A Python block of a page: where it begins, its text, and what it says that it prints, if it says so."""

    line: int
    text: str
    prints: str | None


def snippets(page: str) -> Iterator[Snippet]:
    """Yield the Python blocks of `page`; a text block right after one is its output, or its `# prints:` remarks are."""
    for block, after in pairwise([*BLOCK.finditer(page), None]):
        if block["language"] != "python":
            continue
        prints = None
        if after and after["language"] == "text" and not page[block.end() : after.start()].strip():
            prints = after["text"]
        elif remarks := PRINTS.findall(block["text"]):
            prints = "\n".join(remarks)
        yield Snippet(page.count("\n", 0, block.start()) + 1, block["text"], prints)


def run_snippet(snippet: Snippet, folder: Path, run_python: RunPython) -> None:
    """Run it as a script in `folder`; it must end well and print what it says."""
    (folder / "snippet.py").write_text(snippet.text, "utf-8")
    ended = run_python("snippet.py")
    assert ended.returncode == 0, ended.stderr
    if snippet.prints is not None:
        assert ended.stdout.rstrip() == snippet.prints.rstrip(), ended.stderr


README = (ROOT / "README.md").read_text("utf-8")
OTHER_MACHINE = "HOST"  # what the reader is to replace
ALL_SNIPPETS = list(snippets(README))
STREAMS = README.partition("## Streams")[2].partition("\n## ")[0]
SNIPPETS = [snippet for snippet in ALL_SNIPPETS if OTHER_MACHINE not in snippet.text]


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda snippet: f"line {snippet.line}")
def test_each_snippet_runs_as_it_stands(snippet: Snippet, tmp_path: Path, run_python: RunPython) -> None:
    run_snippet(snippet, tmp_path, run_python)


def test_there_are_snippets_and_each_python_block_is_one() -> None:
    assert SNIPPETS
    assert len(ALL_SNIPPETS) == README.count("```python")
    assert not re.search(r"^```(py|python3|pycon)\b", README, re.MULTILINE), "call it python, and it is run"


@pytest.mark.parametrize("name", ["demo", "test"])
def test_the_command_that_ci_runs_is_the_one_that_a_reader_sees(name: str) -> None:
    marked = [
        README[end:]
        for end in (m.end() for m in re.finditer(rf"^<!-- ci: {name} -->$", README, re.MULTILINE))
    ]
    assert len(marked) == 1, f"one block of README.md is marked <!-- ci: {name} -->"
    block = BLOCK.search(marked[0])
    assert block is not None
    assert not marked[0][: block.start()].strip(), "the block stands right after its mark"
    printed = subprocess.run(
        [ROOT / ".ci" / "run", "--command", name], capture_output=True, text=True, check=True
    )
    assert printed.stdout == block["text"]
    assert "pip install" in printed.stdout
    if name == "test":
        assert re.search(
            r"pip install (-\S+ )*'\.\[test\]' && (python -m )?pytest -n auto$", printed.stdout, re.MULTILINE
        )


FENCE = "```"


def test_a_snippet_that_prints_something_else_is_found(tmp_path: Path, run_python: RunPython) -> None:
    page = (
        f"{FENCE}python\nprint(1)\n{FENCE}\n\n{FENCE}text\n1\n{FENCE}\n"
        f"{FENCE}python\nprint(2)   # prints: 3\n{FENCE}\nwords\n{FENCE}text\n2\n{FENCE}\n"
        f"{FENCE}python\nraise SystemExit(1)\n{FENCE}\n"
    )
    right, wrong, raising = snippets(page)
    assert [(s.line, s.prints) for s in (right, wrong, raising)] == [(1, "1\n"), (8, "3"), (15, None)]
    run_snippet(right, tmp_path, run_python)
    for snippet in (wrong, raising):
        with pytest.raises(AssertionError):
            run_snippet(snippet, tmp_path, run_python)


# ---- two machines -----------------------------------------------------------------------------------------------


def commands() -> list[list[str]]:
    """Return the commands of the section on two machines, as words without the name of the program."""
    section = README.partition("## Two machines")[2].partition("\n## ")[0]
    lines = [
        line
        for block in BLOCK.finditer(section)
        if block["language"] == "sh"
        for line in block["text"].splitlines()
    ]
    assert all(line.startswith("zmqtasks ") for line in lines)
    return [shlex.split(line)[1:] for line in lines]


def as_the_reader(world: World, one: Machine | None, two: Machine | None) -> None:
    """Type the README's three commands, on the broker's machine and on the worker's, and run its program."""
    host = one.address if one else "127.0.0.1"
    here, there = (machine.enter if machine else () for machine in (one, two))
    init, broker, worker = commands()
    made = world.start(*init, prefix=here)
    assert made.wait() == 0, made.err
    for role in ("worker", "client"):  # copied where they are used: there is no store of keys there
        assert f"Copy {world.keys}/{role}.key, and " in made.out
        shutil.copy(world.keys / f"{role}.key", world.folder)
    listening = world.start(*broker, prefix=here)
    listening.says("listens at tcp://0.0.0.0:5555")
    elsewhere = {"ZMQTASKS_KEYS": str(world.folder / "none")}
    arguments = [word.replace(OTHER_MACHINE, host) for word in worker]
    world.start(*arguments, prefix=there, **elsewhere).says(rf"at tcp://{host}:5555, \d+ at a time")
    (program,) = [snippet for snippet in ALL_SNIPPETS if OTHER_MACHINE in snippet.text]
    (world.folder / "program.py").write_text(program.text.replace(OTHER_MACHINE, host))
    ended = world.run(*there, sys.executable, "program.py", **elsewhere)
    assert ended.wait() == 0, ended.err
    assert ended.out == program.prints


def is_free(port: int) -> bool:
    try:
        socket.create_server(("0.0.0.0", port)).close()
    except OSError:
        return False
    return True


def test_three_commands_on_two_machines(tmp_path: Path) -> None:
    """Or on one, where the system lets nobody make two."""
    with ExitStack() as stack:
        try:
            machines: Any = stack.enter_context(two_machines())
        except Unavailable:
            machines = (None, None)
            if not is_free(5555):
                pytest.skip("another program has the port that the README names")
        as_the_reader(stack.enter_context(World(tmp_path)), *machines)


# ---- streams ----------------------------------------------------------------------------------------------------


def shell(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    """Run what a reader types, where there are two files, `a.txt` and `in.txt`."""
    if not (folder / "bin").exists():
        stub(folder)
        (folder / "a.txt").write_text("one two\nthree\n")
        (folder / "in.txt").write_text("four\nfive six\n")
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["sh", "-c", command],
        cwd=folder,
        env={**python_environment(), "PATH": path, "ZMQTASKS_KEYS": str(folder / "keys")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def pairs() -> list[tuple[str, str]]:
    """Other programs' words, and ours."""
    rows = re.findall(r"^\| `(.*)` \| `(.*)` \|$", STREAMS, re.MULTILINE)
    return [(theirs.replace("\\|", "|"), ours.replace("\\|", "|")) for theirs, ours in rows]


def test_ours_beside_the_words_of_others(tmp_path: Path, run_python: RunPython) -> None:
    compress, count, upper, python = pairs()
    assert shell(tmp_path, compress[1]).returncode == 0
    assert {path.name for path in tmp_path.glob("*.gz")} == {"a.txt.gz", "in.txt.gz"}
    theirs, ours = (shell(tmp_path, command) for command in count)
    assert (theirs.returncode, ours.returncode) == (0, 0)
    assert sorted(ours.stdout.splitlines()) == sorted(theirs.stdout.splitlines())
    assert shell(tmp_path, upper[1]).stdout == "FOUR\nFIVE SIX\n"
    if shutil.which("parallel"):
        for path in tmp_path.glob("*.gz"):
            path.unlink()
        assert shell(tmp_path, compress[0]).returncode == 0
        assert {path.name for path in tmp_path.glob("*.gz")} == {"a.txt.gz", "in.txt.gz"}
    for program, found in zip(python, ("[0, 1, 2]", "[(0, 0), (1, 1), (2, 2)]"), strict=True):
        begin = "from multiprocessing import *\nfrom zmqtasks import Ventilator\nfn, items, all = abs, range(3), []\n"
        name = "index, value" if "index" in program else "value"
        ended = run_python("-c", f"{begin}{program}:\n    all.append(({name}))\nprint(sorted(all))")
        assert (ended.returncode, ended.stdout.strip()) == (0, found), ended.stderr


def test_the_three_commands_of_a_pipeline(tmp_path: Path) -> None:
    begin = STREAMS.index("<!-- pipeline: three commands -->")
    block = BLOCK.search(STREAMS, begin)
    assert block is not None
    run, resume, total = block["text"].splitlines()
    ended = shell(tmp_path, run)
    assert ended.returncode == 0, ended.stderr
    lines = {
        json.loads(line)["result"]["stdout"] for line in (tmp_path / "counts.jsonl").read_text().splitlines()
    }
    assert lines == {"3 a.txt\n", "3 in.txt\n"}
    ended = shell(tmp_path, resume)
    assert (ended.returncode, len((tmp_path / "counts.jsonl").read_text().splitlines())) == (0, 2)
    assert "2 results are there" in ended.stderr
    assert shell(tmp_path, total).stdout == "24\n"


def stream_as_the_reader(world: World, one: Machine, two: Machine) -> None:
    """Type the two commands of a pipeline of two machines."""
    ventilator, worker = (
        shlex.split(line)[1:] for line in re.findall(r"^zmqtasks .*tcp://.*$", STREAMS, re.MULTILINE)
    )
    (world.folder / "work.py").write_text("def function(line):\n    return line[::-1]\n")
    (world.folder / "in.txt").write_text("one\ntwo\n")
    assert world.start("keys", "init", prefix=one.enter).wait() == 0
    shutil.copy(world.keys / "worker.key", world.folder)
    reading = world.start(*ventilator, prefix=one.enter)
    reading.says("for workers: zmqtasks worker --ventilator")
    arguments = [word.replace(OTHER_MACHINE, one.address) for word in worker]
    working = world.start(*arguments, prefix=two.enter, ZMQTASKS_KEYS=str(world.folder / "none"))
    assert reading.wait() == 0, reading.err
    assert working.wait() == 0, working.err
    found = [json.loads(line) for line in (world.folder / "out.jsonl").read_text().splitlines()]
    assert {line["index"]: line["result"] for line in found} == {0: "eno", 1: "owt"}


def test_a_stream_on_two_machines(tmp_path: Path, machines: tuple[Machine, Machine]) -> None:
    with World(tmp_path) as world:
        stream_as_the_reader(world, *machines)


def test_the_configuration_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (text,) = (block["text"] for block in BLOCK.finditer(README) if block["language"] == "toml")
    (tmp_path / "zmqtasks.toml").write_text(text)
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZMQTASKS_KEYS", str(tmp_path / "none"))
    assert main(["keys", "list", "--json"]) == 0  # any setting that is not there is an error
    assert main(["worker"]) == 2
    assert f"cannot read {tmp_path}/keys/worker.key" in capsys.readouterr().err
    assert main(["status"]) == 2
    assert f"cannot read {tmp_path}/keys/client.key" in capsys.readouterr().err


def test_the_commands_that_the_readme_lists_are_those_there_are() -> None:
    section = README.partition("## The command line")[2].partition("\n## ")[0]
    listed = [re.split(r"  +", line)[0] for line in section.splitlines() if line.startswith("zmqtasks ")]
    words = {word for line in listed for word in re.findall(r"\b[a-z]+\b", re.sub(r"\[[^]]*\]", "", line))}
    program = tree().commands
    assert words - {"zmqtasks"} == {*program, *program["keys"].commands, *program["inspect"].commands}
