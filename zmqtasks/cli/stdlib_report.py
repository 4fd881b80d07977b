"""What is in a directory of Python files: the work that `zmqtasks demo` does, as pure functions.

`analyse` looks at one file and is what the workers run; `merge` reduces what they found to one report,
the same whatever the order. Workers import this module to run it, so it imports nothing outside the
standard library.
"""

from __future__ import annotations

import ast
import heapq
import os
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LONGEST_MAX = 10
IMPORTED_MAX = 10
IMPORTERS_MAX = 3


class Function(NamedTuple):
    """A function by its length in lines, its qualified name and the file it is in."""

    lines: int
    name: str
    file: str


class Imported(NamedTuple):
    """A module, how many files import it, and the packages that hold most of these, each with its number."""

    module: str
    files: int
    importers: tuple[tuple[str, int], ...]


class FileReport(NamedTuple):
    """What one file holds; a file that cannot be read or parsed is `skipped` and holds nothing."""

    path: Path
    skipped: bool = False
    lines: int = 0
    classes: int = 0
    functions: int = 0
    longest: tuple[Function, ...] = ()
    imports: frozenset[str] = frozenset()


class Report(NamedTuple):
    """What all files hold, together; paths are relative to the directory they were found in."""

    files: int
    skipped: tuple[str, ...]
    lines: int
    classes: int
    functions: int
    longest: tuple[Function, ...]
    imported: tuple[Imported, ...]


def python_files(root: Path) -> list[Path]:
    """Return the path of every .py file below `root` in order, without site-packages."""
    found = []
    for directory, below, files in os.walk(root):
        below[:] = sorted(name for name in below if name not in ("site-packages", "__pycache__"))
        found += [Path(directory, name) for name in sorted(files) if name.endswith(".py")]
    return found


def analyse(path: Path) -> FileReport:
    """Parse the file at `path` and count what it holds."""
    try:
        source = path.read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the tests of the standard library are full of odd literals
            tree = ast.parse(source)
    except (OSError, SyntaxError, ValueError, RecursionError):
        return FileReport(path, skipped=True)
    classes = 0
    functions = []
    imports: set[str] = set()
    for node, scope in _statements(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                functions.append(Function(lines, scope + node.name, str(path)))
            case ast.ClassDef():
                classes += 1
            case ast.Import():
                imports.update(alias.name.partition(".")[0] for alias in node.names)
            case ast.ImportFrom(module=str(module), level=0):
                imports.add(module.partition(".")[0])
    longest = tuple(heapq.nlargest(LONGEST_MAX, functions))
    lines = len(source.splitlines())
    return FileReport(path, False, lines, classes, len(functions), longest, frozenset(imports))


def merge(reports: Iterable[FileReport], root: Path) -> Report:
    """Reduce the reports of the files below `root`, in any order, to one."""
    files = lines = classes = functions = 0
    skipped: list[str] = []
    longest: list[Function] = []
    importing: dict[str, Counter[str]] = {}
    for report in reports:
        name = report.path.relative_to(root).as_posix()
        package = name.partition("/")[0].removesuffix(".py")
        files += 1
        lines += report.lines
        classes += report.classes
        functions += report.functions
        longest = heapq.nlargest(LONGEST_MAX, longest + [f._replace(file=name) for f in report.longest])
        if report.skipped:
            skipped.append(name)
        for module in report.imports:
            importing.setdefault(module, Counter())[package] += 1
    imported = [
        Imported(module, packages.total(), _most_common(packages, IMPORTERS_MAX))
        for module, packages in importing.items()
    ]
    imported.sort(key=lambda it: (-it.files, it.module))
    return Report(
        files=files,
        skipped=tuple(sorted(skipped)),
        lines=lines,
        classes=classes,
        functions=functions,
        longest=tuple(longest),
        imported=tuple(imported[:IMPORTED_MAX]),
    )


def _most_common(counts: Counter[str], limit: int) -> tuple[tuple[str, int], ...]:
    """As `Counter.most_common`, with those of one count in alphabetical order."""
    return tuple(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:limit])


def _statements(tree: ast.Module) -> Iterator[tuple[ast.stmt, str]]:
    """Yield every statement with the dotted names of what encloses it; expressions are not looked into."""
    pending: list[tuple[ast.AST, str]] = [(tree, "")]
    while pending:
        node, scope = pending.pop()
        if isinstance(node, ast.stmt):
            yield node, scope
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            scope += node.name + "."
        for block in ("body", "orelse", "handlers", "finalbody", "cases"):
            pending.extend((child, scope) for child in getattr(node, block, ()))
