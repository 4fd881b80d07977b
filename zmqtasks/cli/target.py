"""Targets: the function that "module:function" or "file.py:function" names, or one line on why there is none."""

from __future__ import annotations

import importlib
import pkgutil
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import zmqtasks
from zmqtasks.cli.exits import CommandError, Exit
from zmqtasks.suggest import close_to

__all__ = ["TargetError", "resolve"]


class TargetError(CommandError):
    """Raised when a target names nothing that can be called; the message is one line."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()), Exit.TARGET)


def resolve(target: str) -> Callable[..., Any]:
    """Import what `target` names and return it; a `TargetError` where that is no callable.

    Modules are looked for in the working directory first, as `python -m` does, and those beside a file in its
    directory first, as `python FILE` does: both stay on `sys.path`, for what the function imports when it runs.
    """
    place, colon, attributes = target.rpartition(":")
    if not (colon and place and all(attributes.split("."))):
        raise TargetError(f"a target is 'module:function' or 'file.py:function', not {target!r}")
    return _attribute(module_at(place), place, attributes)


def module_at(place: str) -> ModuleType:
    """Import a module, or a file that ends in .py."""
    _put_first(Path.cwd())
    return _file(Path(place)) if place.endswith(".py") else _imported(place, place)


def _file(path: Path) -> ModuleType:
    """Import a file as the module that its directory has under its name: that is where others find it again."""
    if not path.is_file():
        beside = [other.name for other in path.parent.glob("*.py")]
        raise TargetError(f"there is no file '{path}'{close_to(path.name, beside, 'beside it')}")
    _put_first(path.parent.resolve())
    if "." in path.stem:
        raise TargetError(f"'{path}' has no name that Python can import: rename it")
    importlib.invalidate_caches()
    module = _imported(path.stem, str(path))
    found = getattr(module, "__file__", None)
    if found is None or not Path(found).samefile(path):
        raise TargetError(f"'{path}' has the name of another module ({found or 'built in'}): rename it")
    return module


def _put_first(folder: Path) -> None:
    if str(folder) in sys.path:
        sys.path.remove(str(folder))
    sys.path.insert(0, str(folder))


def _imported(name: str, shown: str) -> ModuleType:
    if "/" in name or not all(name.split(".")):
        file = Path(f"{name}.py")
        raise TargetError(
            f"there is no module {name!r}{f', did you mean {str(file)!r}?' if file.is_file() else ''}"
        )
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name == missing or name.startswith(f"{missing}."):
            raise TargetError(f"there is no module {missing!r}{_modules_like(missing)}") from error
        raise _raised(shown, error) from error
    except (Exception, SystemExit) as error:
        raise _raised(shown, error) from error


def _modules_like(missing: str) -> str:
    """Say which module beside the missing one may have been meant."""
    package, _, last = missing.rpartition(".")
    folders = getattr(sys.modules.get(package), "__path__", []) if package else [str(Path.cwd())]
    return close_to(last, (module.name for module in pkgutil.iter_modules(folders)), "beside it")


def _raised(shown: str, error: BaseException) -> TargetError:
    """Say what importing raised, and in which line of the user's own code."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    place = _place(error)
    if isinstance(error, SyntaxError):
        text = f"{type(error).__name__}: {error.msg}"
    return TargetError(f"importing '{shown}' raised {text}{f' ({place})' if place else ''}")


def _place(error: BaseException) -> str:
    """Return file:line of the innermost frame that is neither Python's nor an installed package's."""
    if isinstance(error, SyntaxError) and error.filename and not error.filename.startswith("<"):
        return f"{error.filename}:{error.lineno}"
    places = list(_frames(error))
    own = [f"{file}:{line}" for file, line in places if not file.startswith(_FOREIGN)]
    return own[-1] if own else f"{places[-1][0]}:{places[-1][1]}" if places else ""


def _frames(error: BaseException) -> Iterator[tuple[str, int]]:
    """Yield the file and line of each frame below ours, outermost first, but for the import system's."""
    step = error.__traceback__
    while step is not None:
        file = step.tb_frame.f_code.co_filename
        if file != __file__ and not file.startswith("<frozen "):
            yield file, step.tb_lineno
        step = step.tb_next


def _foreign() -> tuple[str, ...]:
    folders = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return tuple({*folders, str(Path(zmqtasks.__file__).parent)})


_FOREIGN = _foreign()


def _attribute(module: ModuleType, place: str, attributes: str) -> Callable[..., Any]:
    """Follow the dotted names from a module to a callable."""
    value: Any = module
    holder = place
    for name in attributes.split("."):
        try:
            value = getattr(value, name)
        except AttributeError as error:
            raise TargetError(f"'{holder}' has no {name!r}{close_to(name, _has(value), 'it has')}") from error
        holder = f"{holder}{':' if holder == place else '.'}{name}"
    if not callable(value):
        raise TargetError(f"'{holder}' is no function: it is of type {type(value).__name__}")
    function: Callable[..., Any] = value
    return function


def _has(value: Any) -> list[str]:
    """Name the functions of a module or class: of a module those that it defines, if it defines any."""
    names = [name for name in getattr(value, "__dict__", {}) if not name.startswith("_")]
    public = {name: one for name in names if callable(one := getattr(value, name, None))}
    module = getattr(value, "__name__", None)
    own = [name for name, one in public.items() if getattr(one, "__module__", None) == module]
    return own or list(public)
