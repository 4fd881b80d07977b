"""The app of a worker, as `-A` names it: found in a process of its own, for the worker's runs no code of users."""

from __future__ import annotations

import os
import subprocess
import sys
from types import ModuleType
from typing import Any

import msgspec

from zmqtasks.cli.target import TargetError
from zmqtasks.options import DEFAULT_OPTIONS, Options
from zmqtasks.suggest import close_to

__all__ = ["Found", "find", "main"]

_BOOT = """\
import sys
sys.path[:] = sys.argv[3:]
from zmqtasks.cli.apps import main
main(sys.argv[1], int(sys.argv[2]))
"""


class Found(msgspec.Struct, frozen=True):
    """An app: where it is, as module:attribute, on which path; its broker; its tasks by name, with their options.

    `error`: why there is none.
    """

    place: str = ""
    path: list[str] = []
    broker: str = ""
    tasks: dict[str, Options] = {}
    error: str = ""


def find(target: str) -> Found:
    """Import the app that `target` names, in another process; a `TargetError` where that cannot be done.

    What it writes while it is imported is seen on standard error.
    """
    out, to = os.pipe()
    command = [sys.executable, "-c", _BOOT, target, str(to), *sys.path]
    with open(out, "rb") as answer:  # noqa: PTH123 - a descriptor
        try:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=2, pass_fds=(to,))
        finally:
            os.close(to)
        with process:
            said = answer.read()
    code = process.returncode
    if not said:
        raise TargetError(f"importing '{target}' ended the process that did it, with status {code}")
    found = msgspec.msgpack.decode(said, type=Found)
    if found.error:
        raise TargetError(found.error)
    return found


def main(target: str, to: int) -> None:
    """Import the app here and write what there is to know of it to the descriptor `to`."""
    os.set_inheritable(to, False)
    try:
        found = _found(target)
    except TargetError as error:
        found = Found(error=str(error))
    with open(to, "wb") as answer:
        answer.write(msgspec.msgpack.encode(found))
    sys.stderr.flush()
    os._exit(0)  # whatever it has started


def _found(target: str) -> Found:
    from zmqtasks.calls import rule_of
    from zmqtasks.cli.target import module_at
    from zmqtasks.payload import Pickler

    place, _, attributes = target.partition(":")
    module = module_at(place)
    attributes = attributes or _only_app(module, place)
    app = _app(module, place, attributes)
    tasks = {}
    for name, task in app.tasks.items():
        options = dict(task.given)
        if options.get("retry") is not None:
            options["retry"] = rule_of(options["retry"], lambda classes: Pickler(None, None).pack(classes)[0])
        tasks[name] = DEFAULT_OPTIONS.replace(**options)
    return Found(f"{module.__name__}:{attributes}", list(sys.path), app.broker or "", tasks)


def _apps(module: ModuleType) -> list[str]:
    from zmqtasks.app import App

    return [name for name, value in vars(module).items() if isinstance(value, App)]


def _only_app(module: ModuleType, place: str) -> str:
    names = _apps(module)
    if len({id(getattr(module, name)) for name in names}) > 1:
        raise TargetError(
            f"'{place}' has {len(names)} apps: say which, {' or '.join(f'{place}:{name}' for name in names)}"
        )
    if not names:
        raise TargetError(f"'{place}' has no App: zmqtasks.App makes one")
    return names[0]


def _app(module: ModuleType, place: str, attributes: str) -> Any:
    from zmqtasks.app import App

    value: Any = module
    for name in attributes.split("."):
        try:
            value = getattr(value, name)
        except AttributeError:
            known = _apps(module)
            raise TargetError(
                f"'{place}' has no {attributes!r}{close_to(attributes, known, 'its apps')}"
            ) from None
    if not isinstance(value, App):
        hint = close_to(attributes, _apps(module), "its apps")
        raise TargetError(f"'{place}:{attributes}' is no App: it is of type {type(value).__name__}{hint}")
    return value
