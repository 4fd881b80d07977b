"""Where an option's value comes from: the command line, the environment, a file, its default; the first that has it.

The files are `zmqtasks.toml`, in the working directory or the nearest above it up to the root of the project (which
holds a `pyproject.toml` or `.git`), and beneath it `[tool.zmqtasks]` in that `pyproject.toml`::

    broker = "tcp://10.0.0.1:5555"      # for every command: what the environment calls ZMQTASKS_BROKER
    key = "keys/worker.key"             # a path is relative to the file

    [worker]                            # for one command, by the long names of its options
    concurrency = 4

The address `broker` and the table `[broker]` of `zmqtasks broker` have one name: a file has one of the two.

A value in a file means what the same text means on the command line; a flag is true or false, and an option that may
be repeated a list. `--debug` and what else comes before the command is for one call: it is in no file.
"""

from __future__ import annotations

import inspect
import os
import stat
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_args

from zmqtasks.cli.exits import CommandError, Exit
from zmqtasks.suggest import close_to

__all__ = ["complaint", "name_variables", "read_files"]

_PREFIX = "ZMQTASKS_"
_FILE = "zmqtasks.toml"
_PROJECT = "pyproject.toml"
_PLACES = "zmqtasks.places"

# Typer is built on click, or on a copy of its own: commands, parameters and contexts are under no name that lasts.
Command = Any
Context = Any
Parameter = Any


class _Setting(NamedTuple):
    """One parameter of one command: `path` are the names that lead to the command."""

    path: tuple[str, ...]
    command: Command
    parameter: Parameter

    @property
    def name(self) -> str:
        """Its name in a file: the longest that it has on the command line."""
        names: list[str] = self.parameter.opts
        return max(names, key=len).lstrip("-")

    @property
    def variable(self) -> str:
        """The environment variable of its own."""
        return _PREFIX + "_".join((*self.path, self.name)).upper().replace("-", "_")

    @property
    def is_path(self) -> bool:
        """Whether its value is the path of a file or directory."""
        hints = inspect.get_annotations(inspect.unwrap(self.command.callback), eval_str=True)
        return _mentions(hints.get(self.parameter.name), Path)


class _Source(NamedTuple):
    """A file, and the table of it that is for zmqtasks; `prefix` leads to that table."""

    file: Path
    table: dict[str, Any]
    prefix: tuple[str, ...] = ()

    def fail(self, key: Iterable[str], what: str) -> CommandError:
        """Return the error that says `what` of a key."""
        return CommandError(f"{self.place(key)}: {what}", Exit.USAGE)

    def place(self, key: Iterable[str]) -> str:
        """Name a key of this file."""
        return f"{self.file}: {'.'.join((*self.prefix, *key))}"


def name_variables(program: Command) -> None:
    """Give each option of a command that has no environment variable its own: ZMQTASKS_<COMMAND>_<OPTION>."""
    for setting in _settings(program):
        if setting.parameter.envvar is None:
            setting.parameter.envvar = setting.variable


def read_files(context: Context) -> None:
    """Let the files that the working directory has set the defaults of all commands below `context`.

    A file that is no TOML, an unknown key and a value of the wrong kind are a `CommandError` that names them.
    """
    defaults: dict[str, Any] = {}
    places: dict[tuple[str, ...], str] = {}
    settings = list(_settings(context.command))
    for source in _sources():
        for key, setting, value in _values(source, source.table, context.command, (), settings):
            section = defaults
            for step in setting.path:
                section = section.setdefault(step, {})
            section[setting.parameter.name] = value
            places[*setting.path, setting.parameter.name] = source.place(key)
    context.default_map = defaults
    context.meta[_PLACES] = places


def complaint(error: Any) -> str:
    """Return in one line what a usage error complains of, naming the file and key or the variable of a value."""
    context, parameter = getattr(error, "ctx", None), getattr(error, "param", None)
    if context is not None and parameter is not None:
        path = [parameter.name]
        step = context
        while step.parent is not None:
            path.insert(0, step.info_name)
            step = step.parent
        places = {
            "DEFAULT_MAP": context.meta.get(_PLACES, {}).get(tuple(path)),
            "ENVIRONMENT": parameter.envvar,
        }
        source = context.get_parameter_source(parameter.name)
        if source is not None and (place := places.get(source.name)):
            return f"{place}: {_plain(error.message)}"
    return _plain(str(error.format_message()))


def _plain(text: str) -> str:
    """The text of a usage error without what pydantic says before its own."""
    return text.rstrip(".").replace(": Value error, ", ": ").removeprefix("Value error, ")


def _settings(program: Command) -> Iterator[_Setting]:
    """Yield what can be set outside the command line: options, and the arguments that have a variable."""
    own = {parameter.envvar for parameter in program.params if parameter.envvar}
    for path, command in _commands(program, ()):
        for parameter in command.params if path else ():
            is_option = parameter.param_type_name == "option" and not parameter.is_eager
            if (is_option or parameter.envvar) and parameter.envvar not in own:
                yield _Setting(path, command, parameter)


def _commands(command: Command, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Command]]:
    yield path, command
    for name, below in getattr(command, "commands", {}).items():
        yield from _commands(below, (*path, name))


def _sources() -> Iterator[_Source]:
    """Yield the files that are there, what counts less first."""
    try:
        folder = Path.cwd()
    except FileNotFoundError:  # it was deleted
        return
    nearest: _Source | None = None
    for place in (folder, *folder.parents):
        file, project = place / _FILE, place / _PROJECT
        if nearest is None and file.is_file():
            nearest = _Source(file, _parsed(file))
        if project.is_file():
            tool = _parsed(project).get("tool")
            if isinstance(tool, dict) and "zmqtasks" in tool:
                yield _safe(_Source(project, tool["zmqtasks"], ("tool", "zmqtasks")))
        if project.is_file() or (place / ".git").exists():
            break
    if nearest is not None:
        yield _safe(nearest)


def _parsed(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise CommandError(f"{file}: cannot be read: {error.strerror}", Exit.USAGE) from error
    except ValueError as error:  # no TOML, or not even UTF-8
        raise CommandError(f"{file}: not TOML: {error}", Exit.USAGE) from error


def _safe(source: _Source) -> _Source:
    """Refuse what anybody may have put there, as in /tmp: it could send our tasks to a broker of theirs."""
    file = source.file
    owner = file.stat().st_uid
    if file.parent.stat().st_mode & stat.S_IWOTH and owner not in {0, os.geteuid()}:
        what = f"belongs to another user (uid {owner}), in a directory that all may write to"
        raise CommandError(f"{file} {what}", Exit.UNSAFE)
    return source


def _values(
    source: _Source, table: Any, command: Command, path: tuple[str, ...], settings: list[_Setting]
) -> Iterator[tuple[tuple[str, ...], _Setting, Any]]:
    """Yield each key of a table with what it sets; those of the tables within come last, for they count more."""
    if not isinstance(table, dict):
        raise source.fail(path, f"is a table, not {_kind(table)}")
    tables = getattr(command, "commands", {})
    known = _known(path, settings)
    for key, value in sorted(table.items(), key=lambda item: isinstance(item[1], dict)):
        name, where = key.replace("_", "-"), (*path, key)
        if isinstance(value, dict) and name in tables:
            yield from _values(source, value, tables[name], (*path, name), settings)
        elif name in known:
            for setting in known[name]:
                yield where, setting, _value(source, where, setting, value)
        elif name in tables:
            raise source.fail(where, f"is a table, not {_kind(value)}")
        else:
            raise source.fail(where, f"no such setting{close_to(name, {*known, *tables})}")


def _known(path: tuple[str, ...], settings: list[_Setting]) -> dict[str, list[_Setting]]:
    """Return what a table may set: a command's its options, the outermost the variables that commands share."""
    known: dict[str, list[_Setting]] = {}
    for setting in settings:
        variable = setting.parameter.envvar
        if path:
            if setting.path == path:
                known[setting.name] = [setting]
        elif variable != setting.variable:
            shared = variable.removeprefix(_PREFIX).lower().replace("_", "-")
            known.setdefault(shared, []).append(setting)
    return known


def _value(source: _Source, where: tuple[str, ...], setting: _Setting, value: Any) -> Any:
    """Return the text that the value would be on the command line: a list of them, or whether, as the option has it."""
    parameter = setting.parameter
    if getattr(parameter, "is_flag", False):
        if not isinstance(value, bool):
            raise source.fail(where, f"is true or false, not {_kind(value)}")
        return value
    many = getattr(parameter, "multiple", False) or parameter.nargs != 1
    items = value if many and isinstance(value, list) else [value]
    for item in items:
        if isinstance(item, bool) or not isinstance(item, str | int | float):
            allowed = "a list, or text or a number" if many else "text or a number"
            raise source.fail(where, f"is {allowed}, not {_kind(item)}")
    texts = [
        str(source.file.parent / Path(str(i)).expanduser()) if setting.is_path else str(i) for i in items
    ]
    return texts if many else texts[0]


def _kind(value: Any) -> str:
    """Name a value of TOML as in TOML."""
    match value:
        case bool():
            return str(value).lower()
        case dict():
            return "a table"
        case list():
            return "a list"
        case _:
            return repr(value) if isinstance(value, str | int | float) else str(value)


def _mentions(hint: Any, kind: type) -> bool:
    return hint is kind or any(_mentions(part, kind) for part in get_args(hint))
