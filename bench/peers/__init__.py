"""Other systems beside zmqtasks, a module each: those that need something which the project itself does not.

A module has `absent()`, which says why it cannot take part here (None if it can), and one or two functions that
start it and return a `bench.contestants.Pool`. Each starts the servers it needs, on this machine and for itself
alone, and ends them in `Pool.close`. None is a dependency of anything: what is not installed is left out of a run
and named below its table. A round of all of them takes minutes; `--contestants` chooses.
"""

from __future__ import annotations

import importlib.util
import shutil

QUESTIONS = ("singles", "bulk", "latency", "payload_1mb", "metg")
"""What peers are asked. Memory, say, would be that of another process than the client's, and take them minutes."""


def missing(*modules: str, program: str = "") -> str | None:
    """Name the modules and the program that are not installed, if any."""
    names = [f"the module {name}" for name in modules if importlib.util.find_spec(name) is None]
    if program and shutil.which(program) is None:
        names.append(f"the program {program}")
    return f"not installed: {', '.join(names)}" if names else None
