"""The form of the package, read from its source: floors, banned imports, size, exports, and how light an import is.

Each rule is a function from a source tree to a list of complaints, so that it can be shown a tree that breaks it.
"""

from __future__ import annotations

import ast
import inspect
import sys
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from conftest import ROOT

import zmqtasks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from conftest import RunPython

PACKAGE = "zmqtasks"
LINES_MAX = 400

FACES, PROGRAMS, NODES, BYTES, CORE, WORDS = 5, 4, 3, 2, 1, 0
FLOORS = {
    **dict.fromkeys(("__main__", "cli", "dashboard", "contrib"), FACES),
    "nodes": NODES,
    **dict.fromkeys(
        (
            "wire",
            "places",
            "codec",
            "payload",
            "salvage",
            "keys",
            "journal",
            "functions",
            "catalog",
            "blobs",
            "files",
            "culprit",
            "visit",
            "installed",
            "named",
            "streamed",
            "stream",
        ),
        BYTES,
    ),
    "core": CORE,
    **dict.fromkeys(
        ("messages", "members", "loans", "weight", "options", "errors", "suggest", "units"), WORDS
    ),
}
"""The floor of each module or package of the top level; what is not named here is on PROGRAMS."""

PEERS = {"local", "broker", "worker", "child", "ventilator", "sink"}
"""The modules of nodes/ that are a node, each what one process or one thread of it is; the others are plumbing."""

CORE_BANS = {
    *("zmq", "time", "datetime", "random", "uuid", "threading", "_thread", "concurrent", "queue"),
    *("os", "io", "pathlib", "socket", "logging", "asyncio"),
}
"""What would let the core see a clock, chance, a file, a thread or a peer."""

ONLY_IN = {
    "zmq": ("nodes",),
    "pickle": ("payload", "functions", "salvage"),
    "cloudpickle": ("payload", "functions"),
    "sqlite3": ("journal",),
}
"""Which tops of the package alone may import a module."""

TYPE_CHECKING_TESTS = {"TYPE_CHECKING", "typing.TYPE_CHECKING"}

HEAVY = ("typer", "rich", "pydantic", "sqlite3", "starlette", "zmq")
"""What `import zmqtasks` must not load."""


@dataclass(frozen=True, slots=True, order=True)
class Arrow:
    """One import: from which module, of which, on which line, and whether only type checkers follow it."""

    source: str
    target: str
    line: int
    typing_only: bool = False

    def __str__(self) -> str:
        return f"{self.source}:{self.line} imports {self.target}"

    @property
    def inward(self) -> bool:
        """Whether it stays within the package."""
        return self.target.split(".")[0] == self.source.split(".")[0]


@dataclass(frozen=True, slots=True)
class Tree:
    """The modules of a package by their dotted name, as paths."""

    modules: dict[str, Path]

    @classmethod
    def at(cls, folder: Path) -> Tree:
        """Read the package that lies in `folder`."""
        modules = {}
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder.parent).with_suffix("").parts
            modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
        return cls(modules)

    def arrows(self) -> Iterator[Arrow]:
        """Yield every import of every module, those inside functions too."""
        for name, path in self.modules.items():
            package = name if path.name == "__init__.py" else name.rpartition(".")[0]
            yield from self._arrows_of(name, package, ast.parse(path.read_text("utf-8"), str(path)), False)

    def _arrows_of(self, name: str, package: str, node: ast.AST, typing_only: bool) -> Iterator[Arrow]:
        if isinstance(node, ast.If) and ast.unparse(node.test) in TYPE_CHECKING_TESTS:
            for child in node.body:
                yield from self._arrows_of(name, package, child, True)
            for child in node.orelse:
                yield from self._arrows_of(name, package, child, typing_only)
            return
        for target in self._targets(package, node):
            yield Arrow(name, target, getattr(node, "lineno", 0), typing_only)
        for child in ast.iter_child_nodes(node):
            yield from self._arrows_of(name, package, child, typing_only)

    def _targets(self, package: str, node: ast.AST) -> Iterator[str]:
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                base = package.split(".")[: len(package.split(".")) + 1 - level] if level else []
                origin = ".".join([*base, *filter(None, [module])])
                for alias in names:  # a name may be a module of its own, or something in the module
                    within = f"{origin}.{alias.name}"
                    yield within if within in self.modules else origin
            case ast.Call(func=func, args=[ast.Constant(value=str(target)), *_]):
                if ast.unparse(func) in {"__import__", "import_module", "importlib.import_module"}:
                    yield target if not target.startswith(".") else package + target


def top(module: str) -> str:
    """Return the name below the package: 'zmqtasks.core.join' is in 'core', the package itself is ''."""
    return module.partition(".")[2].partition(".")[0]


def floor(module: str) -> int:
    """Return the floor a module stands on."""
    return FLOORS.get(top(module), PROGRAMS)


def upward(tree: Tree) -> list[str]:
    """Complain of each import of a module from a floor above, for type checkers or not."""
    return [
        f"{arrow}: floor {floor(arrow.source)} looks up at floor {floor(arrow.target)}"
        for arrow in tree.arrows()
        if arrow.inward and floor(arrow.target) > floor(arrow.source)
    ]


def cycles(tree: Tree) -> list[str]:
    """Complain of a ring of imports that run."""
    graph: dict[str, set[str]] = {}
    for arrow in tree.arrows():
        if arrow.inward and not arrow.typing_only and arrow.target != arrow.source:
            graph.setdefault(arrow.source, set()).add(arrow.target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return ["a ring: " + " <- ".join(error.args[1])]
    return []


def nodes_apart(tree: Tree) -> list[str]:
    """Complain of a node that rests on another node, be it through plumbing that both may use."""
    within: dict[str, set[str]] = {}
    for arrow in tree.arrows():
        if arrow.inward and top(arrow.source) == top(arrow.target) == "nodes":
            within.setdefault(node_of(arrow.source), set()).add(node_of(arrow.target))
    complaints = []
    for node in sorted(PEERS & within.keys()):
        reached, ahead = set[str](), [node]
        while ahead:
            found = within.get(ahead.pop(), set()) - reached
            reached |= found
            ahead += found
        complaints += [f"nodes/{node} rests on nodes/{other}" for other in sorted(reached & PEERS - {node})]
    return complaints


def node_of(module: str) -> str:
    """Return which part of nodes/ a module is: 'zmqtasks.nodes.child' is 'child'."""
    return [*module.split("."), ""][2]


def banned(tree: Tree) -> list[str]:
    """Complain of what the core must not know, and of each library outside the rooms it is kept in."""
    complaints = []
    for arrow in tree.arrows():
        library = arrow.target.split(".")[0]
        if top(arrow.source) == "core" and library in CORE_BANS:
            complaints.append(f"{arrow}: not in core/")
        if library in ONLY_IN and top(arrow.source) not in ONLY_IN[library]:
            complaints.append(f"{arrow}: only in {' and '.join(ONLY_IN[library])}")
    return complaints


def too_long(tree: Tree) -> list[str]:
    """Complain of files over the limit: does the name hold two nouns."""
    lengths = {path: len(path.read_text("utf-8").splitlines()) for path in tree.modules.values()}
    return [f"{path}: {lines} lines" for path, lines in lengths.items() if lines > LINES_MAX]


def sleeping(paths: Iterable[Path]) -> list[str]:
    """Complain of waiting on the clock where one could wait on a fact. What a task does is its own affair."""
    complaints = []
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text("utf-8"), str(path))):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            taken = (
                isinstance(node, ast.ImportFrom)
                and node.module == "time"
                and "sleep" in [a.name for a in node.names]
            )
            if taken or called == "time.sleep":
                complaints.append(f"{path}:{node.lineno} sleeps")
    return complaints


RULES: dict[str, Callable[[Tree], list[str]]] = {
    rule.__name__: rule for rule in (upward, cycles, nodes_apart, banned, too_long)
}
OWN = Tree.at(ROOT / PACKAGE)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_the_package_keeps_the_rule(rule: Callable[[Tree], list[str]]) -> None:
    assert rule(OWN) == []


def test_the_reader_of_imports_sees_the_package() -> None:
    arrows = set(OWN.arrows())
    assert PACKAGE in OWN.modules
    assert {f"{PACKAGE}.core", f"{PACKAGE}.nodes", f"{PACKAGE}.errors"} <= OWN.modules.keys()
    assert any(arrow.inward for arrow in arrows)
    assert any(arrow.target == "__future__" for arrow in arrows)


def test_nothing_sleeps() -> None:
    assert sleeping([*OWN.modules.values(), *(ROOT / "tests").rglob("*.py")]) == []


PLANTED = {
    "upward": [
        ("errors.py", "from zmqtasks.core import join", "core/join.py"),
        ("core/join.py", "def late():\n    from ..nodes import child", "nodes/child.py"),
        ("wire.py", "from . import client", "client.py"),
        ("wire.py", "from zmqtasks import Client", "client.py"),
        ("nodes/child.py", "if TYPE_CHECKING:\n    from zmqtasks.client import Client", "client.py"),
        ("client.py", "import zmqtasks.cli.main", "cli/main.py"),
        ("core/join.py", "import importlib\nimportlib.import_module('zmqtasks.payload')", "payload.py"),
    ],
    "cycles": [
        ("core/join.py", "from . import queue", "core/queue.py", "def late():\n    from .join import x"),
        ("client.py", "import zmqtasks.future", "future.py", "from zmqtasks import client"),
    ],
    "nodes_apart": [
        ("nodes/worker.py", "from zmqtasks.nodes.child import Child", "nodes/child.py"),
        (
            "nodes/sink.py",
            "from . import link",
            "nodes/link.py",
            "def late():\n    import zmqtasks.nodes.ventilator",
            "nodes/ventilator.py",
        ),
    ],
    "banned": [
        ("core/join.py", "import time"),
        ("core/join.py", "def late():\n    from concurrent.futures import Future"),
        ("core/join.py", "from datetime import datetime"),
        ("wire.py", "import zmq"),
        ("client.py", "from zmq.auth import certs"),
        ("nodes/child.py", "import pickle"),
        ("app.py", "import cloudpickle as c"),
        ("nodes/broker.py", "__import__('sqlite3')"),
    ],
    "too_long": [("wire.py", "x = 1\n" * (LINES_MAX + 1))],
}


def plant(folder: Path, *names_and_texts: str) -> Tree:
    """Make a package with the given files, name and text in turn."""
    package = folder / PACKAGE
    for room in ("core", "nodes", "cli", "journal"):
        (package / room).mkdir(parents=True)
        (package / room / "__init__.py").touch()
    (package / "__init__.py").touch()
    for name, text in zip(names_and_texts[::2], [*names_and_texts[1::2], ""], strict=False):
        (package / name).write_text(text, "utf-8")
    return Tree.at(package)


@pytest.mark.parametrize(
    ("rule", "files"), [(rule, files) for rule, cases in PLANTED.items() for files in cases]
)
def test_each_rule_finds_what_is_planted(tmp_path: Path, rule: str, files: tuple[str, ...]) -> None:
    tree = plant(tmp_path, *files)
    found = {name: check(tree) for name, check in RULES.items() if check(tree)}
    assert rule in found
    assert found.keys() <= {rule, "upward"}, (
        "and no other rule is broken, but that late imports may look up too"
    )


@pytest.mark.parametrize(
    "files",
    [
        (
            "client.py",
            "from .future import Future",
            "future.py",
            "if TYPE_CHECKING:\n    from .client import Client",
        ),
        ("nodes/child.py", "import zmq, time\nfrom zmqtasks.nodes import link", "nodes/link.py", ""),
        (
            "nodes/broker.py",
            "from ..core.join import Join\nfrom ..errors import E",
            "core/join.py",
            "",
            "errors.py",
            "",
        ),
        ("payload.py", "import pickle, cloudpickle", "journal/lite.py", "import sqlite3"),
        ("wire.py", "x = 1\n" * LINES_MAX),
    ],
)
def test_no_rule_complains_of_what_is_right(tmp_path: Path, files: tuple[str, ...]) -> None:
    tree = plant(tmp_path, *files)
    assert {name: check(tree) for name, check in RULES.items() if check(tree)} == {}


def test_sleeping_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("import time\ntime." + "sleep(1)")
    (tmp_path / "b.py").write_text("from time import " + "sleep")
    (tmp_path / "c.py").write_text("import time\nclient.submit(time.sleep, 1)")
    assert [complaint.split(":")[0][-4:] for complaint in sleeping(sorted(tmp_path.iterdir()))] == [
        "a.py",
        "b.py",
    ]


@pytest.mark.parametrize("name", sorted(zmqtasks.__all__))
def test_every_public_name_is_there_and_says_what_it_is(name: str) -> None:
    value = getattr(zmqtasks, name)
    if inspect.isclass(value) or inspect.isroutine(value):
        assert vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__, (
            f"{name} has no docstring"
        )
        assert value.__module__.split(".")[0] == PACKAGE


def test_public_names_are_listed_once_and_seen_by_dir() -> None:
    assert len(set(zmqtasks.__all__)) == len(zmqtasks.__all__)
    assert set(zmqtasks.__all__) <= set(dir(zmqtasks))
    with pytest.raises(AttributeError, match="no_such_name"):
        zmqtasks.no_such_name  # noqa: B018 - it raises


def test_all_errors_are_of_one_tree() -> None:
    from zmqtasks import errors

    public = {n: v for n, v in vars(errors).items() if inspect.isclass(v) and v.__module__ == errors.__name__}
    raised = {name: value for name, value in public.items() if issubclass(value, BaseException)}
    assert raised.pop("ZmqTasksError").__mro__[1] is Exception
    assert raised
    for name, value in raised.items():
        assert issubclass(value, zmqtasks.ZmqTasksError), name
        assert vars(value).get("__doc__", "").startswith("Raised"), f"{name} does not say when it is raised"
    for name in zmqtasks.__all__:
        value = getattr(zmqtasks, name)
        if inspect.isclass(value) and issubclass(value, BaseException):
            assert issubclass(value, zmqtasks.ZmqTasksError), name


def test_an_import_is_light(run_python: RunPython) -> None:
    ended = run_python("-c", f"import {PACKAGE}, sys; print([n for n in {HEAVY!r} if n in sys.modules])")
    assert (ended.returncode, ended.stdout.strip(), ended.stderr) == (0, "[]", "")


def test_the_oldest_python_is_the_one_that_is_promised() -> None:
    assert sys.version_info >= (3, 11)
    assert 'requires-python = ">=3.11"' in (ROOT / "pyproject.toml").read_text("utf-8")
