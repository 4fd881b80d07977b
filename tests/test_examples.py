"""Every example runs as it stands, prints what is true, and is short enough to be read."""

from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from conftest import ROOT

if TYPE_CHECKING:
    from conftest import RunPython

pytestmark = pytest.mark.timeout(60)

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
LINES_MAX = 60

PRINTED = {
    "01_closures": """\
a lambda: 42
a map: 332833500
a closure: Price(net=180.0, gross=216.0) True
before and after: 42 63
an error: KeyError('missing')
""",
    "02_futures_as_arguments": """\
north: mean 12.17, spread 11.39
south: mean 15.83, spread 9.65
sum of squares: 1240
after a failure: True UPSTREAM_FAILED
""",
    "03_monte_carlo": """\
3,142,416 of 4,000,000 darts hit
pi is about 3.1424, off by 0.0008
as one process counts: True
""",
    "05_asyncio": """\
27 takes 111 steps
below 200, 171 takes most steps: 124
powers of two: [(1, 0), (2, 1), (4, 2), (8, 3), (16, 4)]
an error: TypeError
""",
}
"""What each example prints. The report of the standard library depends on the Python: it has its own tests."""


def run(path: Path, run_python: RunPython, *arguments: str) -> tuple[str, str]:
    """Run an example, which must end well; what it printed, and what it wrote on standard error."""
    ended = run_python(str(path), *arguments)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout, ended.stderr


def example(name: str) -> Path:
    return ROOT / "examples" / f"{name}.py"


@pytest.mark.parametrize("name", PRINTED)
def test_an_example_prints(name: str, run_python: RunPython) -> None:
    assert run(example(name), run_python) == (PRINTED[name], "")


def test_the_report_of_the_standard_library(run_python: RunPython) -> None:
    root = Path(sysconfig.get_path("stdlib"))
    elsewhere = ("site-packages", "test", "tests")
    files = sum(not any(name in path.parts for name in elsewhere) for path in root.rglob("*.py"))
    printed, progress = run(example("04_stdlib_report"), run_python)
    totals, *lines = printed.splitlines()
    counts = {word: int(number) for number, word in (part.split() for part in totals.split(", "))}
    assert counts["files"] == files
    assert 0 <= counts["skipped"] < files / 20
    assert counts["functions"] > files > counts["classes"] / 100 > 0
    assert [line.split(":")[0] for line in lines] == ["longest"] * 3 + ["imported most"] * 3
    assert progress.splitlines()[-1].startswith(f"parsing: {files:,} of {files:,} in ")


def test_the_report_of_another_directory(tmp_path: Path, run_python: RunPython) -> None:
    below = tmp_path / "below"
    below.mkdir()
    (tmp_path / "a.py").write_text(
        "import os, sys\nclass A:\n    def long(self):\n        import os\n        x = 1\n"
    )
    (below / "b.py").write_text("from os import path\nfrom . import c\nasync def short(): pass\n")
    (below / "broken.py").write_text("def (")
    printed, _ = run(example("04_stdlib_report"), run_python, str(tmp_path))
    assert printed == (
        "3 files, 2 functions, 1 classes, 1 skipped\n"
        "longest: long in a.py, 3 lines\n"
        f"longest: short in {Path('below', 'b.py')}, 1 lines\n"
        "imported most: os, by 2 files\n"
        "imported most: sys, by 1 files\n"
    )


def test_every_example_has_a_test() -> None:
    assert {path.stem for path in EXAMPLES} == {*PRINTED, "04_stdlib_report"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_needs_no_guard(path: Path) -> None:
    text = path.read_text("utf-8")
    assert len(text.splitlines()) < LINES_MAX
    assert '"__main__"' not in text
    assert text.startswith('"""')
