"""A program without a `__main__` guard, wherever it comes from: its functions and classes travel, and come back.

One program is given to Python in every way there is. It reports what it saw as one line of JSON, and the test reads
that line. Blocks in it are followed by an empty line, and have none inside, so that it can be typed as well.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import select
import signal
import subprocess
import sys
import termios
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import nbclient
import nbformat
import pytest
from conftest import has_ended, python_environment, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import RunPython

DEFINITIONS = """\
import json, os, sys
from collections import namedtuple
from dataclasses import dataclass, field
from enum import Enum
import beside
from zmqtasks import Client
ran = open("ran", "a").write("once ")
@dataclass
class Point:
    x: int
    y: int
    def shifted(self, by):
        return Point(self.x + by, self.y)

class Point3(Point):
    __slots__ = ("z",)
    def __init__(self, x, y, z):
        super().__init__(x, y)
        self.z = z

class Tree:
    def __init__(self, *branches):
        self.branches = branches
    def depth(self):
        return 1 + max((branch.depth() for branch in self.branches), default=0)
    def grown(self):
        return type(self)(self)

class Colour(Enum):
    RED = 1
    GREEN = 2

class Oops(Exception):
    def __init__(self, code):
        super().__init__(code)
        self.code = code

Pair = namedtuple("Pair", "left right")
OFFSET = 10
def factorial(n):
    return 1 if n < 2 else n * factorial(n - 1)

def even(n):
    return n == 0 or odd(n - 1)

def odd(n):
    return n != 0 and even(n - 1)

def raising(code):
    raise Oops(code)

def maker():
    class Inner:
        value = 7
    count = 0
    def counted():
        nonlocal count
        count += 1
        return count
    return Inner, counted

def caught(future):
    try:
        future.result()
    except Exception as error:
        return error

"""

USE = """\
client = Client(workers=2)
facts = {}
facts["lambda"] = client.submit(lambda x: x + OFFSET, 1).result()
OFFSET = 20
facts["lambda after a change"] = client.submit(lambda x: x + OFFSET, 1).result()
facts["map"] = sum(client.map(lambda x: x * x, range(10)))
facts["recursive"] = client.submit(factorial, 20).result()
facts["mutually recursive"] = client.submit(even, 11).result(), client.submit(odd, 11).result()
point = client.submit(lambda point: point.shifted(1), Point(1, 2)).result()
facts["instance"] = type(point) is Point and point == Point(2, 2)
again = client.submit(Point.shifted, point, 1).result()
facts["instance, twice"] = type(again) is Point and again == Point(3, 2)
points = client.submit(lambda: {"points": [Point(1, 1), Point3(1, 2, 3)]}).result()["points"]
facts["made there"] = [type(point) is kind for point, kind in zip(points, (Point, Point3))] + [points[1].z]
facts["subclass"] = isinstance(points[1], Point) and type(client.submit(points[1].shifted, 0).result()) is Point
tree = client.submit(Tree(Tree(), Tree(Tree())).grown).result()
facts["holding its own kind"] = [type(tree) is Tree, type(tree.branches[0]) is Tree, tree.depth()]
facts["class"] = client.submit(lambda: Point).result() is Point
facts["enumeration"] = client.submit(lambda: [Colour.RED, Colour(2)]).result() == [Colour.RED, Colour.GREEN]
facts["named tuple"] = type(client.submit(lambda: Pair(1, 2)).result()) is Pair
error = caught(client.submit(raising, 5))
facts["exception"] = type(error) is Oops and error.code == 5
Inner, counted = maker()
inner = client.submit(lambda: Inner()).result()
facts["class of a function"] = type(inner) is Inner and inner.value == 7
facts["closure"] = [counted(), client.submit(counted).result(), counted()]
facts["name of main"] = client.submit(lambda: (Point.__module__, __name__)).result()
facts["module beside"] = client.submit(beside.double, 21).result()
facts["folder"] = client.submit(os.getcwd).result() == os.getcwd()
facts["printed"] = client.submit(lambda: print("printed", "by a task")).result()
facts["elsewhere"] = client.submit(os.getpid).result() != os.getpid()
facts["pids"] = sorted(set(client.map(lambda _: os.getpid(), range(100))))
print("facts", json.dumps(facts), flush=True)
"""

EXPECTED = {
    "lambda": 11,
    "lambda after a change": 21,
    "map": 285,
    "recursive": 2432902008176640000,
    "mutually recursive": [False, True],
    "instance": True,
    "instance, twice": True,
    "made there": [True, True, 3],
    "subclass": True,
    "holding its own kind": [True, True, 4],
    "class": True,
    "enumeration": True,
    "named tuple": True,
    "exception": True,
    "class of a function": True,
    "closure": [1, 2, 2],
    "name of main": ["__main__", "__main__"],
    "module beside": 42,
    "folder": True,
    "printed": None,
    "elsewhere": True,
}
PROGRAM = DEFINITIONS + USE
CLOSE = "client.close()\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the test's folder, with a module that the program imports."""
    (tmp_path / "beside.py").write_text("def double(x):\n    return 2 * x\n")
    return tmp_path


def check(folder: Path, output: str, errors: str = "") -> None:
    """Compare the facts in `output` with what is expected, and see that nothing of the program is left running."""
    line = re.search(r"facts (\{.*\})", output)
    assert line is not None, output + errors
    facts = json.loads(line[1])
    pids = facts.pop("pids")
    assert facts == EXPECTED
    assert (folder / "ran").read_text() == "once ", "the children do not run the main module"
    assert pids
    until(lambda: all(map(has_ended, pids)))


def check_script(folder: Path, ended: subprocess.CompletedProcess[str]) -> None:
    """Check a run that is over: it ended well, said nothing on standard error but what tasks print, and showed that."""
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    assert "printed by a task" in ended.stdout + ended.stderr
    check(folder, ended.stdout, ended.stderr)


@pytest.mark.parametrize("ending", [CLOSE, ""], ids=["closed", "left open"])
def test_a_file(folder: Path, run_python: RunPython, ending: str) -> None:
    (folder / "script.py").write_text(PROGRAM + ending)
    check_script(folder, run_python("script.py"))


def test_a_file_of_another_folder(folder: Path, run_python: RunPython) -> None:
    (folder / "elsewhere").mkdir()
    (folder / "beside.py").rename(folder / "elsewhere" / "beside.py")
    (folder / "elsewhere" / "script.py").write_text(PROGRAM + CLOSE)
    check_script(folder, run_python("elsewhere/script.py"))


@pytest.mark.parametrize("ending", [CLOSE, ""], ids=["closed", "left open"])
@pytest.mark.parametrize("arguments", [[], ["-"]], ids=["nothing", "dash"])
def test_standard_input(folder: Path, run_python: RunPython, arguments: list[str], ending: str) -> None:
    check_script(folder, run_python(*arguments, stdin=PROGRAM + ending))


def test_an_argument(folder: Path, run_python: RunPython) -> None:
    check_script(folder, run_python("-c", PROGRAM + CLOSE))


def test_a_package_by_its_name(folder: Path, run_python: RunPython) -> None:
    (folder / "shop").mkdir()
    (folder / "shop" / "__init__.py").touch()
    (folder / "shop" / "goods.py").write_text("class Book:\n    pass\n")
    (folder / "shop" / "__main__.py").write_text(
        PROGRAM.replace("import beside", "import beside\nfrom . import goods\nfrom .goods import Book")
        + "assert type(client.submit(lambda: goods.Book()).result()) is Book\n"
        + "assert type(client.submit(Book).result()) is Book\n"
        + CLOSE
    )
    check_script(folder, run_python("-m", "shop"))


def test_a_folder_that_is_a_program(folder: Path, run_python: RunPython) -> None:
    (folder / "program").mkdir()
    (folder / "beside.py").rename(folder / "program" / "beside.py")
    (folder / "program" / "__main__.py").write_text(PROGRAM + CLOSE)
    check_script(folder, run_python("program"))


def test_the_interactive_interpreter_fed_by_a_pipe(folder: Path, run_python: RunPython) -> None:
    ended = run_python("-i", stdin=PROGRAM)
    assert ended.returncode == 0
    assert "Traceback" not in ended.stderr
    check(folder, ended.stdout, ended.stderr)


def test_a_file_and_then_the_interpreter(folder: Path, run_python: RunPython) -> None:
    (folder / "script.py").write_text(PROGRAM)
    ended = run_python("-i", "script.py", stdin="print('still', client.submit(factorial, 5).result())\n")
    assert ended.returncode == 0
    assert "still 120" in ended.stdout
    check(folder, ended.stdout, ended.stderr)


@dataclass(slots=True)
class Terminal:
    """A Python that a person sits before: what was typed into it and what is to be seen on it."""

    process: subprocess.Popen[bytes]
    descriptor: int
    shown: str = ""

    def type(self, text: str) -> None:
        """Type line by line, each after the prompt: a terminal holds only so much that nobody has read."""
        for line in text.splitlines(keepends=True):
            os.write(self.descriptor, line.encode())
            self.expect(r"(>>>|\.\.\.) $")

    def press(self, key: str) -> None:
        """Press a key."""
        os.write(self.descriptor, key.encode())

    def leave(self) -> None:
        """Press Ctrl-D at the prompt, and see Python end well."""
        self.expect(">>> $")  # before it, the terminal may be in the mode of the wait, and the key be lost
        self.press("\x04")
        assert self.process.wait(20) == 0

    def expect(self, pattern: str, within_s: float = 20) -> re.Match[str]:
        """Wait for `pattern` in what is shown from here on, and leave behind what was shown up to its end."""
        deadline = time.monotonic() + within_s
        while not (found := re.search(pattern, self.shown)):
            ready, _, _ = select.select([self.descriptor], [], [], max(deadline - time.monotonic(), 0))
            assert ready, f"no {pattern!r} within {within_s} s: {self.shown}"
            try:
                self.shown += os.read(self.descriptor, 65536).decode()
            except OSError:  # the other side has closed
                pytest.fail(f"no {pattern!r} before the end: {self.shown}")
        self.shown = self.shown[found.end() :]
        return found


@contextmanager
def terminal(folder: Path) -> Iterator[Terminal]:
    """Start an interactive Python whose terminal we hold, so that keys such as Ctrl-C reach it and its children."""
    ours, theirs = os.openpty()
    attributes = termios.tcgetattr(theirs)
    attributes[3] &= ~termios.ECHO
    termios.tcsetattr(theirs, termios.TCSANOW, attributes)
    adopt = (
        "import os, sys; os.close(os.open(os.ttyname(0), os.O_RDWR)); os.execv(sys.executable, sys.argv[1:])"
    )
    environment = {**python_environment(), "TERM": "dumb", "INPUTRC": os.devnull}
    with subprocess.Popen(
        [sys.executable, "-c", adopt, sys.executable, "-q", "-i"],
        cwd=folder,
        env=environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        try:
            yield Terminal(process, ours)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            os.close(ours)


def test_the_interactive_interpreter_on_a_terminal(folder: Path) -> None:
    with terminal(folder) as screen:
        screen.expect(">>> $")
        screen.type(PROGRAM.removesuffix('print("facts", json.dumps(facts), flush=True)\n'))
        screen.press('print("facts", json.dumps(facts), flush=True)\n')
        line = screen.expect(r"facts \{.*\}")[0]
        screen.leave()
        check(folder, line)


def test_an_interrupt_ends_the_wait_and_nothing_else(folder: Path) -> None:
    with terminal(folder) as screen:
        screen.expect(">>> $")
        screen.type("import os, time\nfrom zmqtasks import Client\nclient = Client(workers=1)\n")
        screen.press("print('child', client.submit(os.getpid).result(), '.')\n")
        pid = int(screen.expect(r"child (\d+) \.")[1])
        screen.type("waiting = client.submit(time.sleep, 2)\n")
        screen.press("print('wait' + 'ing'), waiting.result()\n")
        screen.expect("waiting\r?\n")
        screen.press("\x03")
        screen.expect("KeyboardInterrupt\r?\n")
        screen.press("print('then', waiting.result(), client.submit(os.getpid).result(), '.')\n")
        assert int(screen.expect(r"then None (\d+) \.")[1]) == pid
        screen.leave()
        until(lambda: has_ended(pid))


def run_notebook(folder: Path, *cells: str) -> list[list[dict[str, Any]]]:
    """Run a notebook of these cells in a kernel of this Python; the outputs of each."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    runner = nbclient.NotebookClient(
        notebook, timeout=90, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    asyncio.run(runner.async_execute(env=python_environment()))
    return [cell.outputs for cell in notebook.cells]


def shown(outputs: list[dict[str, Any]]) -> str:
    """Return what the streams of a cell show."""
    return "".join(output["text"] for output in outputs if output["output_type"] == "stream")


REDEFINED = """\
class Point:
    kind = "new"

new = client.submit(lambda: Point()).result()
old = client.submit(lambda: type(point)).result()
print(type(new) is Point, new.kind, old is type(point), old is Point)
"""


def test_a_notebook(folder: Path) -> None:
    outputs = run_notebook(
        folder,
        DEFINITIONS,
        USE,
        "client.submit(lambda: print('from the', 'third cell')).result()",
        REDEFINED,
        "print(await client.submit(factorial, 5))",
        "client.close()",
    )
    check(folder, shown(outputs[1]))
    assert "printed by a task" in shown(outputs[1])
    assert "from the third cell" in shown(outputs[2])
    assert shown(outputs[3]).strip() == "True new True False"
    assert shown(outputs[4]).strip() == "120"


def test_a_notebook_that_never_closes_its_client(folder: Path) -> None:
    check(folder, shown(run_notebook(folder, PROGRAM)[0]))
