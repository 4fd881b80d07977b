"""Which modules a worker elsewhere has: those of the standard library, those that were installed, and this package."""

from __future__ import annotations

import os
import site
import sys
import sysconfig
from functools import cache


@cache
def _folders() -> tuple[str, ...]:
    """Where installed modules lie."""
    paths = sysconfig.get_paths()
    found = {paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    found.update(site.getsitepackages())
    found.add(site.getusersitepackages())
    return tuple(os.path.realpath(path) + os.sep for path in found)


@cache
def is_installed(name: str) -> bool:
    """Whether the module of that name, which is imported here, is found by workers too; the main one is not."""
    top = name.partition(".")[0]
    if top == "zmqtasks" or top in sys.stdlib_module_names:
        return True
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    if name == "__main__" or module is None:
        return False
    if not file:  # made by hand, or by whatever was installed and says so
        return getattr(module, "__spec__", None) is not None
    if not file.endswith((".py", ".pyc")):
        return True  # what is compiled does not travel by value
    return os.path.realpath(str(file)).startswith(_folders())
