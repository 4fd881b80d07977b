"""Where in a value the thing is that cannot be pickled."""

from __future__ import annotations

from collections.abc import Sequence
from types import CodeType, ModuleType
from typing import Any

from zmqtasks.blobs import Buffer
from zmqtasks.payload import Pickler

_DEPTH_MAX = 12

Part = tuple[Any, str]  # a value, and the path to it


def culprit(parts: Sequence[Part]) -> Part | None:
    """The innermost thing among `parts` that cannot be pickled, and the path to it; None if all of them can."""
    found: Part | None = None
    for _ in range(_DEPTH_MAX):
        part = _first_bad(parts)
        if part is None:
            break
        found = part
        parts = _parts(*part)
    return found


def _first_bad(parts: Sequence[Part]) -> Part | None:
    """The first that cannot be pickled, by halves: a list of a million has one pickled twice over, not one by one."""
    if not parts or _can([value for value, _ in parts]):
        return None
    while len(parts) > 1:
        half = parts[: len(parts) // 2]
        parts = parts[len(half) :] if _can([value for value, _ in half]) else half
    return parts[0]


def _can(value: Any) -> bool:
    try:
        _Lenient(None, lambda view: Buffer(view.nbytes)).pack(value)
    except Exception:  # noqa: BLE001 - whatever a __reduce__ raises
        return False
    return True


class _Lenient(Pickler):
    """Takes any future: what is wrong with those is said elsewhere."""

    def _need(self, future: Any) -> int:  # noqa: ARG002 - every future is taken: what is looked for is another thing
        return 0


def _parts(value: Any, path: str) -> list[Part]:
    """What `value` consists of, as far as pickling it looks."""
    if isinstance(value, dict):
        return [(part, f"{path}[{_short(key)}]") for key, part in value.items()] + [
            (key, f"{path} key {_short(key)}") for key in value
        ]
    if isinstance(value, (list, tuple)):
        return [(part, f"{path}[{index}]") for index, part in enumerate(value)]
    if isinstance(value, (set, frozenset)):
        return [(part, f"{path} item {_short(part)}") for part in value]
    parts: list[Part] = []
    code = getattr(value, "__code__", None)
    if isinstance(code, CodeType):
        cells = zip(code.co_freevars, value.__closure__ or (), strict=False)
        parts += [(cell.cell_contents, f"{path} captures {name}") for name, cell in cells if _is_full(cell)]
        scope = value.__globals__
        parts += [
            (scope[name], f"{path} uses the global {name}") for name in sorted(names(code)) if name in scope
        ]
    owner = getattr(value, "__self__", None)
    if owner is not None and not isinstance(owner, ModuleType):
        parts.append((owner, f"{path}.__self__"))
    if hasattr(value, "func") and hasattr(value, "keywords"):  # functools.partial
        parts += [
            (value.func, f"{path}.func"),
            (value.args, f"{path}.args"),
            (value.keywords, f"{path}.keywords"),
        ]
    if isinstance(fields := getattr(value, "__dict__", None), dict) and not isinstance(value, type):
        parts += [(part, f"{path}.{name}") for name, part in fields.items()]
    return parts


def _short(value: Any) -> str:
    try:
        return f"{value!r:.60}"
    except Exception:  # noqa: BLE001 - the user's
        return f"<{type(value).__qualname__}>"


def _is_full(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - empty until its variable is bound
    except ValueError:
        return False
    return True


def names(code: CodeType) -> set[str]:
    """The names that a code object and the functions in it may look up; attributes among them do no harm."""
    found = set(code.co_names)
    for const in code.co_consts:
        if isinstance(const, CodeType):
            found |= names(const)
    return found
