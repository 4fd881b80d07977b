"""Templates of commands: where in them the item stands, and whether a shell is needed.

The replacement strings are GNU parallel's, and mean what they mean there::

    {}    the item                      a/b.tar.gz
    {.}   without its extension         a/b.tar
    {/}   without its directory         b.tar.gz
    {//}  its directory alone           a
    {/.}  without both                  b.tar
    {#}   its number, from 1 on         1

A backslash before one leaves it as it is.
"""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Callable
from typing import NamedTuple

_NAMES: dict[str, Callable[[str, int], str]] = {
    "{}": lambda text, _index: text,
    "{.}": lambda text, _index: _stem(text),
    "{/}": lambda text, _index: _base(text),
    "{//}": lambda text, _index: _folder(text),
    "{/.}": lambda text, _index: _stem(_base(text)),
    "{#}": lambda _text, index: str(index + 1),
}
_NAME = re.compile("|".join(re.escape(name) for name in _NAMES))
_MARK = 0xF0000  # of a private plane: a character that no template has, while shlex splits it
_SHELLS = re.compile(r"[|&;<>()$`*?\[\]#~!{}\n]")
"""What a shell alone understands; quotes and backslashes are read here as it reads them."""
_PROGRAM = re.compile(r"[\w./+:@%,-]+")

Word = list[str]  # text and names in turn, text first


class Template(NamedTuple):
    """A command as it is started: `words` without a shell, unless they are empty; or `script` by one.

    The script's parameters from ${1} on are those that `names` have.
    """

    text: str
    words: tuple[Word, ...]
    script: str
    names: tuple[str, ...]

    @property
    def program(self) -> str:
        """What the words start; "" if a shell is needed."""
        return self.words[0][0] if self.words else ""

    def arguments(self, item: str, index: int) -> list[str]:
        """Return the words for an item."""
        return [
            "".join(
                [part if place % 2 == 0 else _NAMES[part](item, index) for place, part in enumerate(word)]
            )
            for word in self.words
        ]

    def parameters(self, item: str, index: int) -> list[str]:
        """Return the parameters of the script for an item."""
        return [_NAMES[name](item, index) for name in self.names]


def template(text: str) -> Template:
    """Read a template; a `ValueError` if it is none."""
    if not text.strip():
        raise ValueError("an empty command")
    if any(ord(character) >= _MARK for character in text) or "\0" in text:
        raise ValueError("a command of characters that no command has")
    given = text if _NAME.search(text) else f"{text} {{}}"
    script, names = _script(given)
    return Template(text, _words(given), script, names)


def _words(text: str) -> tuple[Word, ...]:
    """Split a template that needs no shell, none if it needs one."""
    names = list(_NAMES)
    marked = _NAME.sub(lambda match: chr(_MARK + names.index(match[0])), text)
    if _SHELLS.search(marked) or not _PROGRAM.fullmatch(shlex.split(marked)[0]):
        return ()
    parts = re.compile(f"([{chr(_MARK)}-{chr(_MARK + len(names))}])")
    return tuple(
        [part if place % 2 == 0 else names[ord(part) - _MARK] for place, part in enumerate(parts.split(word))]
        for word in shlex.split(marked)
    )


def _script(text: str) -> tuple[str, tuple[str, ...]]:
    """Put parameters where names are, quoted as the quotes around them want it.

    Where this misreads a script (a `case` within `$( )`, a here-document), the shell still sees parameters there, which
    are never code.
    """
    names: dict[str, int] = {}
    out: list[str] = []
    within = [
        ""
    ]  # of what it is within: '' (nothing), ' or " (quotes), ` or ( or $( (commands), (( (arithmetic), ${
    at = 0
    while at < len(text):
        inner, rest = within[-1], text[at : at + 3]
        match = _NAME.match(text, at)
        taken = 1
        if match:
            if "((" in within:
                raise ValueError(f"{match[0]} cannot stand within $(( )), which a shell evaluates")
            number = names.setdefault(match[0], len(names) + 1)
            out.append(_QUOTED.get(inner, '"${%d}"') % number)
            at = match.end()
            continue
        if inner == "'":
            if rest[0] == "'":
                within.pop()
        elif rest[0] == "\\":
            taken = 2
        elif rest[0] == inner or (inner in _CLOSES and rest.startswith(_CLOSES[inner])):
            taken = len(_CLOSES.get(inner, inner))
            within.pop()
        elif rest == "$((":
            within.append("((")
            taken = 3
        elif rest[:2] in ("$(", "${"):
            within.append(rest[:2])
            taken = 2
        elif rest[0] in '"`' or (rest[0] in "'(" and inner not in ('"', "${")):
            within.append(rest[0])
        elif rest[0] == "#" and inner != '"' and (at == 0 or text[at - 1].isspace()):
            taken = len(text[at:].partition("\n")[0])
        out.append(text[at : at + taken])
        at += taken
    if len(within) > 1:
        raise ValueError(f"{within[-1]} is not closed in {text!r}")
    return "".join(out), tuple(names)


_QUOTED = {"'": "'\"${%d}\"'", '"': "${%d}"}
_CLOSES = {"(": ")", "$(": ")", "((": "))", "${": "}"}


def _stem(text: str) -> str:
    return re.sub(r"\.[^/.]+\Z", "", text)


def _base(text: str) -> str:
    return text.rpartition("/")[2]


def _folder(text: str) -> str:
    return posixpath.dirname(text.rstrip("/")) or ("/" if text.startswith("/") else ".")
