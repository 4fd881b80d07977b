"""How commands print: one record as a table, as plain lines or as JSON; ages and durations for people."""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from terminal import COLUMNS, on_a_terminal

from zmqtasks import State
from zmqtasks.cli.output import Column, age, duration, json_document, record, records

if TYPE_CHECKING:
    from conftest import RunPython

TASKS: list[dict[str, Any]] = [
    {"id": "01a", "name": "shop.send", "state": State.RUNNING, "age": 3.21, "tries": 1, "place": None},
    {"id": "02b", "name": "漢字", "state": State.SUCCEEDED, "age": 250.0, "tries": 12, "place": "lab7"},
    {"id": "03c", "name": "evil\x1b[2J\nname", "state": State.QUEUED, "age": None, "tries": 0, "place": ""},
]
COLUMNS_OF_TASKS = [
    Column("ID", "id"),
    Column("NAME", "name", cut=True),
    Column("STATE", "state"),
    Column("AGE", "age", age),
    Column("TRIES", "tries", right=True),
    Column("NODE", "place"),
]
LINES = """\
ID   NAME               STATE      AGE        TRIES  NODE
01a  shop.send          RUNNING    3.2 s ago      1  -
02b  漢字               SUCCEEDED  4 min ago     12  lab7
03c  evil\\x1b[2J\\nname  QUEUED     -              0  -
"""


def test_plain_lines_stand_below_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    records(TASKS, COLUMNS_OF_TASKS, as_json=False)
    written = capsys.readouterr()
    assert written.err == ""
    assert written.out == LINES


def test_the_same_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    records(TASKS, COLUMNS_OF_TASKS, as_json=True)
    assert json.loads(capsys.readouterr().out) == TASKS
    records(TASKS, COLUMNS_OF_TASKS, as_json=True, document={"tasks": TASKS, "missing": ["lab7"]})
    assert json.loads(capsys.readouterr().out) == {"tasks": TASKS, "missing": ["lab7"]}


def test_nothing_is_said_beside_the_output(capsys: pytest.CaptureFixture[str]) -> None:
    records([], COLUMNS_OF_TASKS, as_json=False, nothing="no tasks")
    assert capsys.readouterr() == ("", "no tasks\n")
    records([], COLUMNS_OF_TASKS, as_json=True, nothing="no tasks")
    assert capsys.readouterr() == ("[]\n", "")


def test_one_record(capsys: pytest.CaptureFixture[str]) -> None:
    record(TASKS[1], COLUMNS_OF_TASKS, as_json=False)
    assert capsys.readouterr().out == (
        "ID:     02b\nNAME:   漢字\nSTATE:  SUCCEEDED\nAGE:    4 min ago\nTRIES:  12\nNODE:   lab7\n"
    )
    record(TASKS[2], COLUMNS_OF_TASKS, as_json=True)
    assert json.loads(capsys.readouterr().out) == TASKS[2]


def test_json_of_what_json_has_not(capsys: pytest.CaptureFixture[str]) -> None:
    document = {
        "nan": math.nan,
        "far": math.inf,
        "path": Path("a/b"),
        "set": {1},
        "when": datetime(2030, 1, 2, tzinfo=UTC),
        "kind": int,
        "text": "漢\x1b",
        1: (2, 3),
    }
    json_document(document)
    written = capsys.readouterr().out
    assert "\x1b" not in written
    assert json.loads(written) == {
        "nan": None,
        "far": None,
        "path": "a/b",
        "set": [1],
        "when": "2030-01-02T00:00:00Z",
        "kind": "<class 'int'>",
        "text": "漢\x1b",
        "1": [2, 3],
    }


PROGRAM = """
import sys, typer
before = "rich" in sys.modules  # older versions of typer load it themselves
from zmqtasks.cli.output import Column, records
assert ("rich" in sys.modules) is before
wide = {"id": "0123456789abcdef" * 2, "name": "a very long name " * 9, "n": 7, "odd": "[red]x[/red]"}
columns = [Column("ID", "id"), Column("NAME", "name", cut=True), Column("N", "n", right=True), Column("ODD", "odd")]
records([wide, {**wide, "name": "short", "n": 1234}], columns, as_json=False)
"""


def test_a_table_on_a_terminal_keeps_within_it_and_cuts_what_may_be_cut() -> None:
    code, written = on_a_terminal("-c", PROGRAM)
    assert code == 0, written
    lines = [line for line in written.splitlines() if line.strip()]
    assert max(map(len, lines)) <= COLUMNS
    header, _, first, second = lines
    assert header.split() == ["ID", "NAME", "N", "ODD"]
    assert re.fullmatch(r"\s*(0123456789abcdef){2}\s+a very[a-z ]*…\s+7\s+\[red\]x\[/red\]\s*", first)
    assert re.fullmatch(r"\s*(0123456789abcdef){2}\s+short\s+1234\s+\[red\]x\[/red\]\s*", second)
    assert first.rindex("7") == second.rindex("4"), "numbers end below each other"


def test_elsewhere_nothing_is_cut(run_python: RunPython) -> None:
    ended = run_python("-c", PROGRAM)
    assert ended.returncode == 0, ended.stderr
    assert "a very long name " * 8 in ended.stdout
    assert "\x1b" not in ended.stdout


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.0004, "0 s"),
        (0.0006, "1 ms"),
        (0.12, "120 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.0 s"),
        (3.21, "3.2 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (42, "42 s"),
        (90, "90 s"),
        (119.4, "119 s"),
        (119.6, "2 min"),
        (240, "4 min"),
        (7100, "118 min"),
        (7200, "2 h"),
        (5 * 3600, "5 h"),
        (47 * 3600, "47 h"),
        (48 * 3600, "2 d"),
        (400 * 86400, "400 d"),
        (-3.21, "-3.2 s"),
    ],
)
def test_durations_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_ages() -> None:
    assert (age(240), age(-3.21), age(0)) == ("4 min ago", "in 3.2 s", "0 s ago")


SECONDS = {"ms": 0.001, "s": 1, "min": 60, "h": 3600, "d": 86400}


@given(st.floats(0.0005, 1e9))
def test_a_duration_says_about_what_it_is(seconds: float) -> None:
    number, unit = duration(seconds).split()
    assert float(number) * SECONDS[unit] == pytest.approx(seconds, rel=0.26, abs=0.0005)
    assert len(number) <= 5
