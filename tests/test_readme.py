"""The README is run: each Python snippet as a script of its own, and the commands that CI takes from it."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from conftest import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import RunPython

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
SNIPPETS = list(snippets(README))


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda snippet: f"line {snippet.line}")
def test_each_snippet_runs_as_it_stands(snippet: Snippet, tmp_path: Path, run_python: RunPython) -> None:
    run_snippet(snippet, tmp_path, run_python)


def test_there_are_snippets_and_each_python_block_is_one() -> None:
    assert SNIPPETS
    assert len(SNIPPETS) == README.count("```python")
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
            r"pip install (-\S+ )*'\.\[test\]' && (python -m )?pytest -n 2$", printed.stdout, re.MULTILINE
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
