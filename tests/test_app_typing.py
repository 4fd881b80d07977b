"""Type checkers know what a task takes and returns: `typed_app.py` has each error that it should have, and no other."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import python_environment

TYPED = Path(__file__).with_name("typed_app.py")

COMMANDS = {
    "mypy": [sys.executable, "-m", "mypy"],  # with the cache and the options that the package is checked with
    "basedpyright": [sys.executable, "-m", "basedpyright", "--level", "error"],
}


@pytest.mark.timeout(180)
@pytest.mark.parametrize("checker", COMMANDS)
def test_a_type_checker_knows_tasks(checker: str) -> None:
    """Errors are where they are expected, each in a line of its own."""
    if find_spec(checker) is None:
        pytest.skip(f"{checker} is not installed")
    done = subprocess.run(
        [*COMMANDS[checker], str(TYPED)],
        capture_output=True,
        text=True,
        check=False,
        env=python_environment(),
        cwd=TYPED.parents[1],
        timeout=170,
    )
    found = {int(line) for line in re.findall(r"typed_app\.py:(\d+):(?:\d+)?[: ]*.*error", done.stdout)}
    lines = enumerate(TYPED.read_text().splitlines(), 1)
    expected = {number for number, line in lines if "# E:" in line}
    assert len(expected) > 10
    assert found == expected, done.stdout + done.stderr
