"""Targets: what "module:function" and "file.py:function" import, and the one line where there is nothing to call."""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import zmqtasks
from zmqtasks import cli
from zmqtasks.cli.exits import CommandError, Exit, exit_of
from zmqtasks.cli.options import json_or_text
from zmqtasks.cli.target import TargetError, resolve
from zmqtasks.errors import (
    BrokerLost,
    ConnectionTimeout,
    ResultExpired,
    TaskExpired,
    TimeLimitExceeded,
    UnknownTask,
    UnsafeConfiguration,
    UnusableKey,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import RunPython

SHOP = """
from functools import partial
LIMIT = 5
def send(to="all"):
    return f"sent to {to}"
def sender():
    return send
def _hidden():
    pass
class Post:
    office = "main"
    @staticmethod
    def stamp(letter="a"):
        return letter.upper()
    class Inner:
        @classmethod
        def deep(cls):
            return cls.__name__
part = partial(send, "one")
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in an empty directory; what is imported from it is forgotten after the test."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        del sys.modules[name]
    importlib.invalidate_caches()


def write(folder: Path, files: dict[str, str]) -> None:
    """Write files below `folder`, with the directories that they are in."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")
    importlib.invalidate_caches()


def complaint(target: str) -> str:
    """Return the one line that a target gets, which ends a command with 3."""
    with pytest.raises(TargetError) as raised:
        resolve(target)
    assert exit_of(raised.value) == 3
    line = str(raised.value)
    assert line == " ".join(line.split())
    return line


@pytest.mark.parametrize(
    ("target", "answer"),
    [
        ("shop:send", "sent to all"),
        ("shop:part", "sent to one"),
        ("shop:Post.stamp", "A"),
        ("shop:Post.Inner.deep", "Inner"),
        ("shop.py:send", "sent to all"),
        ("./shop.py:Post.stamp", "A"),
        ("pkg.mod:send", "sent to pkg"),
        ("pkg:top", "top of pkg.mod"),
        ("deep/down/tool.py:send", "tool and beside it"),
        ("deep/down/odd-name.py:send", "odd"),
        ("os.path:basename", None),
    ],
)
def test_a_target_is_found(here: Path, target: str, answer: str | None) -> None:
    write(
        here,
        {
            "shop.py": SHOP,
            "pkg/__init__.py": "from .mod import top\n",
            "pkg/mod.py": "def send(): return 'sent to pkg'\ndef top(): return 'top of ' + __name__\n",
            "deep/down/tool.py": "import beside\ndef send(): return f'tool and {beside.NAME}'\n",
            "deep/down/beside.py": "NAME = 'beside it'\n",
            "deep/down/odd-name.py": "import shop\ndef send(): return 'odd'\n",
        },
    )
    found = resolve(target)
    assert found("x") == "x" if answer is None else found() == answer
    assert str(here) in sys.path[:2]
    assert getattr(found, "__module__", "shop") in {*sys.modules, None}


def test_an_absolute_path(here: Path, tmp_path: Path) -> None:
    write(tmp_path, {"elsewhere/shop.py": SHOP})
    assert resolve(f"{tmp_path}/elsewhere/shop.py:send")() == "sent to all"
    assert sys.path[:2] == [str(tmp_path / "elsewhere"), str(here)]
    resolve(f"{tmp_path}/elsewhere/shop.py:send")
    assert sys.path[:2] == [str(tmp_path / "elsewhere"), str(here)]
    assert sys.path.count(str(here)) == 1


def test_the_working_directory_comes_first_and_only_once(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(here, {"shop.py": SHOP})
    write(tmp_path, {"other/shop.py": "def send(): return 'wrong'\n"})
    monkeypatch.syspath_prepend(tmp_path / "other")
    assert resolve("shop:send")() == "sent to all"
    assert resolve("shop:Post.stamp")() == "A"
    assert sys.path.count(str(here)) == 1


@pytest.mark.parametrize("target", ["shop", "", ":", "shop:", ":send", "shop.py", "shop:a..b", "shop:.a"])
def test_the_form_is_said(here: Path, target: str) -> None:
    write(here, {"shop.py": SHOP})
    assert complaint(target) == f"a target is 'module:function' or 'file.py:function', not {target!r}"


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("shup:send", "there is no module 'shup', did you mean 'shop'?"),
        ("zzz:send", "there is no module 'zzz' (beside it: pkg, shop)"),
        ("zzz.shop:send", "there is no module 'zzz' (beside it: pkg, shop)"),
        ("pkg.mud:send", "there is no module 'pkg.mud', did you mean 'mod'?"),
        ("pkg.zzz.mod:send", "there is no module 'pkg.zzz' (beside it: mod)"),
        ("shop.zzz:send", "there is no module 'shop.zzz'"),
        ("pkg/mod:send", "there is no module 'pkg/mod', did you mean 'pkg/mod.py'?"),
        ("./pkg/mod:send", "there is no module './pkg/mod', did you mean 'pkg/mod.py'?"),
        ("shup.py:send", "there is no file 'shup.py', did you mean 'shop.py'?"),
        ("pkg/zzz.py:send", "there is no file 'pkg/zzz.py' (beside it: __init__.py, mod.py)"),
        ("gone/zzz.py:send", "there is no file 'gone/zzz.py'"),
        (".shop:send", "there is no module '.shop'"),
        ("pkg..mod:send", "there is no module 'pkg..mod'"),
        ("shop:sned", "'shop' has no 'sned', did you mean 'send'?"),
        ("shop:qqq", "'shop' has no 'qqq' (it has: Post, send, sender)"),
        ("shop.py:sned", "'shop.py' has no 'sned', did you mean 'send'?"),
        ("shop:Post.stomp", "'shop:Post' has no 'stomp', did you mean 'stamp'?"),
        ("shop:Post.Inner.x", "'shop:Post.Inner' has no 'x' (it has: deep)"),
        ("shop:LIMIT", "'shop:LIMIT' is no function: it is of type int"),
        ("shop:LIMIT.x", "'shop:LIMIT' has no 'x'"),
        ("shop:Post.office", "'shop:Post.office' is no function: it is of type str"),
        ("pkg:x", "'pkg' has no 'x'"),
        ("a.b.py:x", "'a.b.py' has no name that Python can import: rename it"),
    ],
)
def test_what_is_not_there_is_said(here: Path, target: str, said: str) -> None:
    write(here, {"shop.py": SHOP, "pkg/__init__.py": "", "pkg/mod.py": "", "a.b.py": "x = print\n"})
    if target.startswith("zzz"):
        (here / "a.b.py").unlink()
    assert complaint(target) == said


def test_a_file_with_the_name_of_another_module(here: Path) -> None:
    write(here, {"json.py": SHOP, "sys.py": SHOP})
    assert (
        complaint("json.py:send") == f"'json.py' has the name of another module ({json.__file__}): rename it"
    )
    assert complaint("sys.py:send") == "'sys.py' has the name of another module (built in): rename it"


BROKEN = {
    "zero": ("x = 1\n\ny = x / 0\n", "ZeroDivisionError: division by zero", "zero.py:3"),
    "bare": ("raise ValueError\n", "ValueError", "bare.py:1"),
    "lines": ("raise ValueError('one\\n  two')\n", "ValueError: one two", "lines.py:1"),
    "through": ("import zero\n", "ZeroDivisionError: division by zero", "zero.py:3"),
    "called": ("import json\n\njson.loads('{')\n", "JSONDecodeError: ", "called.py:3"),
    "syntax": ("x = 1\ndef half(:\n", "SyntaxError: invalid syntax", "syntax.py:2"),
    "parsed": ("import ast\n\nast.parse('(')\n", "SyntaxError: '(' was never closed", "parsed.py:3"),
    "needs": ("\nimport not_installed_here\n", "ModuleNotFoundError: No module named ", "needs.py:2"),
    "name": ("from os import nothing_of_it\n", "ImportError: cannot import name ", "name.py:1"),
    "ends": ("import sys\nsys.exit(3)\n", "SystemExit: 3", "ends.py:2"),
    "wrong": ("\nint('x')\n", "ValueError: invalid literal", "wrong.py:2"),
    "own": ("raise ModuleNotFoundError('odd')\n", "ModuleNotFoundError: odd", "own.py:1"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_importing_raised_and_where(here: Path, name: str) -> None:
    write(here, {f"{one}.py": text for one, (text, _, _) in BROKEN.items()})
    _, error, place = BROKEN[name]
    for target in (f"{name}:send", f"{name}.py:send"):
        said = complaint(target)
        assert said.startswith(f"importing '{target.removesuffix(':send')}' raised {error}")
        assert said.endswith(f" ({here}{os.sep}{place})")


def test_ctrl_c_while_importing_is_no_fault_of_the_target(here: Path) -> None:
    write(here, {"stopped.py": "raise KeyboardInterrupt\n"})
    with pytest.raises(KeyboardInterrupt):
        resolve("stopped:send")


def test_a_target_goes_to_workers_by_its_name(here: Path, run_python: RunPython, tmp_path: Path) -> None:
    write(
        tmp_path,
        {"deep/tool.py": "import beside\ndef twice(x): return beside.TWO * x\n", "deep/beside.py": "TWO = 2"},
    )
    ended = run_python(
        "-c",
        "from zmqtasks import Client; from zmqtasks.cli.target import resolve\n"
        "twice = resolve('deep/tool.py:twice')\n"
        "with Client(workers=1) as client: print(client.submit(twice, 21).result())",
    )
    assert (ended.stdout, ended.stderr) == ("42\n", "")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-1.5e3", -1500.0),
        ("true", True),
        ("null", None),
        ('"1"', "1"),
        ('{"a": [1, 2]}', {"a": [1, 2]}),
        (" [1] ", [1]),
        ("one", "one"),
        ("", ""),
        ("1 2", "1 2"),
        ("True", "True"),
        ("NaN", "NaN"),
        ("[Infinity]", "[Infinity]"),
        ("{'a': 1}", "{'a': 1}"),
        ("a=1", "a=1"),
        ("1" * 5000, "1" * 5000),
        ("[" * 100_000, "[" * 100_000),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_an_argument_is_json_where_it_is_json(text: str, value: Any) -> None:
    (read,) = json_or_text([text])
    assert (type(read), read) == (type(value), value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda below: st.lists(below) | st.dictionaries(st.text(), below),
    max_leaves=8,
)


@given(st.lists(JSON, max_size=3))
def test_arguments_in_json_arrive_as_they_are(values: list[Any]) -> None:
    assert json_or_text(map(json.dumps, values)) == values


@given(st.text())
def test_any_text_is_an_argument(text: str) -> None:
    (read,) = json_or_text([text])
    assert read == text or json.loads(text) == read


EXITS = [
    (ConnectionTimeout("no broker"), 4),
    (BrokerLost("it has restarted"), 4),
    (ConnectionRefusedError(111, "refused"), 4),
    (TimeoutError(), 5),
    (UnknownTask("no task 7"), 6),
    (ResultExpired("gone"), 6),
    (UnusableKey("no key"), 2),
    (UnsafeConfiguration("keys init first"), 78),
    (TimeLimitExceeded("10 s"), 1),
    (TaskExpired("late"), 1),
    (ValueError("x"), 1),
    (TargetError("no"), 3),
    (CommandError("no"), 1),
    (CommandError("nobody", Exit.NO_ANSWER), 69),
]


@pytest.mark.parametrize(("error", "code"), EXITS, ids=repr)
def test_each_error_has_its_code_and_one_line(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(arguments: list[str]) -> int:
        raise error

    monkeypatch.setattr(cli, "_run", fails)
    assert cli.main(["demo"]) == code
    text = str(error)
    if not isinstance(error, zmqtasks.ZmqTasksError):  # its type says what its text does not
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    assert capsys.readouterr().err == f"zmqtasks: {text}\n"
    assert cli.main(["demo", "--debug"]) == code
    written = capsys.readouterr().err
    assert written.startswith("Traceback (most recent call last):")
    assert type(error).__name__ in written


def test_the_codes_are_those_of_the_page() -> None:
    assert [int(code) for code in Exit] == [0, 1, 2, 3, 4, 5, 6, 69, 78, 130, 143]
