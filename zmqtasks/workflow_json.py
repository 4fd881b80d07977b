"""Workflows as JSON: `{"workflow": 1, "nodes": [...]}`, a node a part, the parts of each before it, the root the last.

Tasks go by their names: what comes back can be run where a task of that name is known.
"""

from __future__ import annotations

import builtins
import json
from datetime import datetime
from math import isfinite
from typing import TYPE_CHECKING, Any

from zmqtasks import shape
from zmqtasks.errors import BadInputError, NotJson
from zmqtasks.options import Retry

if TYPE_CHECKING:
    from collections.abc import Mapping

    from zmqtasks.flow import Workflow

VERSION = 1

_AT_REST: dict[str, Any] = {
    "args": (), "kwargs": {}, "immutable": False, "options": (), "star": False, "size": None, "failure": "fail_fast",
}  # fmt: skip
"""What need not be said."""


def to_json(root: Workflow) -> str:
    """The text; `NotJson`, with the path to the culprit, for what has no place in it."""
    nodes = []
    for number, (node, row) in enumerate(zip(shape.every(root), shape.rows(root), strict=True)):
        entry: dict[str, Any] = {"kind": row.kind}
        names, values = node.FIELDS, node.identity()
        if len(values) > len(names) or type(getattr(node, "items", ())) is not tuple:
            raise NotJson(
                f"nodes[{number}]: what an iterator gives is not there yet: make the {row.kind} of a list"
            )
        for name, value in zip(names, values, strict=True):
            if name not in _AT_REST or value != _AT_REST[name]:
                entry[name] = _entry(name, value, f"nodes[{number}].{name}")
        several = {"parts": row.parts, "links": row.links, "errors": row.errors}
        entry |= {name: list(numbers) for name, numbers in several.items() if numbers}
        nodes.append(entry)
    return json.dumps({"workflow": VERSION, "nodes": nodes}, separators=(",", ":"))


def _entry(name: str, value: Any, path: str) -> Any:
    if name == "task" and not isinstance(value, str):
        raise NotJson(
            f"{path}: {value!r:.80} has no name: in JSON tasks go by the names that an app gives them"
        )
    if name == "options":
        return {option: _option(given, f"{path}.{option}") for option, given in value}
    if name in ("args", "items"):
        value = [list(item) if name == "items" and type(item) is tuple else item for item in value]
    _check(value, path)
    return value


def _check(value: Any, path: str) -> None:
    """Raise unless JSON gives back what it was: a tuple, say, would be a list."""
    work = [(value, path)]
    while work:
        value, path = work.pop()
        kind = type(value)
        if kind is list:
            work += [(item, f"{path}[{at}]") for at, item in enumerate(value)]
        elif kind is dict and all(type(key) is str for key in value):
            work += [(item, f"{path}[{key!r}]") for key, item in value.items()]
        elif kind not in (str, int, bool, type(None)) and not (kind is float and isfinite(value)):
            raise NotJson(f"{path}: a {kind.__qualname__} has no place in JSON: {value!r:.80}")


def _option(value: Any, path: str) -> Any:
    if isinstance(value, datetime):
        return {"eta": value.isoformat()}
    if not isinstance(value, Retry):
        _check(value, path)
        return value
    fields = {name: getattr(value, name) for name in value.__struct_fields__}
    for name in ("on", "not_on"):
        for each in fields[name]:
            if getattr(builtins, each.__name__, None) is not each:
                raise NotJson(f"{path}.{name}: {each.__qualname__} is no exception of Python's own")
        fields[name] = [each.__name__ for each in fields[name]]
    return {"retry": fields}


def from_json(text: str | bytes, kinds: Mapping[str, type[Workflow]]) -> Workflow:
    """The workflow; `BadInputError` for text that is none."""
    try:
        said = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"no workflow: {error}") from None
    if not isinstance(said, dict) or "workflow" not in said:
        raise BadInputError('no workflow: {"workflow": 1, "nodes": [...]} is one')
    if said["workflow"] != VERSION:
        raise BadInputError(
            f"a workflow of version {said['workflow']!r}: this zmqtasks reads version {VERSION}"
        )
    nodes: list[Workflow] = []
    try:
        for entry in said["nodes"]:
            several = {
                name: tuple([nodes[_before(at, nodes)] for at in entry.get(name, ())])
                for name in ("parts", "links", "errors")
            }
            kind = kinds[entry["kind"]]
            own = [_read(name, entry) for name in kind.FIELDS]
            nodes.append(kind.made(tuple(own), several.pop("parts"), **several))
        return nodes[-1]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        what = f"nodes[{len(nodes)}]"
        raise BadInputError(f"no workflow: {what}: {type(error).__name__}: {error}") from None


def _before(at: int, nodes: list[Workflow]) -> int:
    if type(at) is not int or not 0 <= at < len(nodes):
        raise ValueError(f"{at!r} is no node before it")
    return at


def _read(name: str, entry: dict[str, Any]) -> Any:
    value = entry.get(name, _AT_REST[name]) if name in _AT_REST else entry[name]
    right = {"task": str, "args": list, "items": list, "kwargs": dict, "options": dict, "immutable": bool}
    if name in entry and name in right and type(value) is not right[name]:
        raise ValueError(f"{name} is {value!r:.80}")
    if name in ("args", "items"):
        return tuple(value)
    if name == "options":
        options = {option: _read_option(given) for option, given in dict(value).items()}
        return tuple(sorted(options.items()))
    return value


def _read_option(value: Any) -> Any:
    if not isinstance(value, dict) or value.keys() not in ({"retry"}, {"eta"}):
        return value
    if "eta" in value:
        return datetime.fromisoformat(value["eta"])
    fields = dict(value["retry"])
    for name in ("on", "not_on"):
        found = tuple([getattr(builtins, each) for each in fields[name]])
        if not all(isinstance(each, type) and issubclass(each, BaseException) for each in found):
            raise ValueError(f"{name} is {fields[name]!r}")
        fields[name] = found
    return Retry(**fields)
