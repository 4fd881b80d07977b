"""Commands: replacement strings as GNU parallel has them, inputs that are never code, and how a command can end."""

from __future__ import annotations

import json
import os
import pickle
import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from zmqtasks.errors import CommandFailed
from zmqtasks.stream import command as commands
from zmqtasks.stream.batch import Unit
from zmqtasks.stream.command import Command
from zmqtasks.stream.item import BadInput
from zmqtasks.stream.rendering import RenderedCommand
from zmqtasks.stream.template import template


def printed(text: str, item: Any = "a", index: int = 0) -> str:
    """Return what a command prints."""
    return Command(text).run(index, item)[0].decode()


# ---- templates --------------------------------------------------------------------------------------------------

PARTS = "{} {.} {/} {//} {/.} {#}"


@pytest.mark.parametrize(
    ("item", "parts"),  # as GNU parallel 20221122 has them
    [
        ("a/b.c.txt", ["a/b.c.txt", "a/b.c", "b.c.txt", "a", "b.c", "5"]),
        ("/x", ["/x", "/x", "x", "/", "x", "5"]),
        ("x.", ["x.", "x.", "x.", ".", "x.", "5"]),
        (".bashrc", [".bashrc", "", ".bashrc", ".", "", "5"]),
        ("a/.b", ["a/.b", "a/", ".b", "a", "", "5"]),
        ("dir.d/file", ["dir.d/file", "dir.d/file", "file", "dir.d", "file", "5"]),
        ("", ["", "", "", ".", "", "5"]),
        ("/", ["/", "/", "", "/", "", "5"]),
        ("a/", ["a/", "a/", "", ".", "", "5"]),
    ],
)
def test_replacement_strings_are_gnu_parallels(item: str, parts: list[str]) -> None:
    known = template(f"x {PARTS}")
    assert known.arguments(item, 4)[1:] == parts
    assert known.parameters(item, 4) == parts


@pytest.mark.parametrize(
    ("text", "out"),
    [
        ("echo", "a b\n"),
        ("echo {#}", "1\n"),
        ("echo x{}y{}", "xa bya b\n"),
        ("echo --name={} 'it is' \"so\"", "--name=a b it is so\n"),
        ("echo {} | tr a x", "x b\n"),
        ("echo '{}'; echo \"{}\"; echo {}", "a b\na b\na b\n"),
        ('echo "<$(echo "{}")>" `echo {}`', "<a b> a b\n"),
        ("echo $(echo ')' {}) \"'{}'\"", ") a b 'a b'\n"),
        ('echo ${NOTHING:-{}} \\{} \'\\\' "\\""', 'a b {} \\ "\n'),
        ("(echo {}) # don't {}\necho $((1+2))", "a b\n3\n"),
        ("exit 0 {}", ""),
        ('echo "{}"', "a b\n"),
    ],
)
def test_an_input_is_one_word_wherever_it_stands(text: str, out: str) -> None:
    assert printed(text, "a b") == out


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "an empty command"),
        ("  ", "an empty command"),
        ("echo 'a", "' is not closed"),
        ("echo $(a", r"\$\( is not closed"),
        ("echo $(( {} + 1 ))", r"cannot stand within \$\(\( \)\)"),
        ('echo "$(( 1 + $(echo {}) ))"', "cannot stand within"),
        ("a\0b", "characters that no command has"),
    ],
)
def test_what_makes_no_command_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Command(text)


def test_a_shell_is_only_started_where_one_is_needed() -> None:
    for direct in (
        "true",
        "gzip -k {}",
        "printf '%s' {}",
        'echo "a b"',
        "./run --to={.}.gz",
        "convert {} {.}.png",
    ):
        assert template(direct).words, direct
    for script in (
        "a | b",
        "a > b",
        "a; b",
        "$X",
        "echo *",
        "A=1 env",
        "~/run",
        "{}",
        "a & b",
        "echo `a`",
        "echo !",
    ):
        assert not template(script).words, script


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
shell = [
    "'",
    '"',
    "$(echo no)",
    "`echo no`",
    "\\",
    "\n",
    " ",
    "-n",
    "*",
    ";",
    "{}",
    "${1}",
    "é",
    "%s",
    "!",
    "~",
    "#",
]
nasty = st.lists(st.sampled_from(shell), max_size=6).map("".join)
EVERYWHERE = """printf '%s|%s|%s|' {} '{}' "{}"; printf %s "$(printf '%s.' "{}")" | sed '$s/.$//'"""


@settings(max_examples=60)
@given(texts | nasty)
@example("-e $(touch /tmp/never)")
def test_no_input_is_code(item: str) -> None:
    assert printed("printf %s {}", item) == item
    assert printed(EVERYWHERE, item) == "|".join([item] * 4)


@pytest.mark.parametrize(
    "text",
    [
        "cat <<E\n{}\nE\n",
        "echo x # {}",
        "case a in a) echo {};; esac",
        "echo $(case a in a) echo {};; esac)",
        "echo 'a'\\''{}'",
    ],
)
def test_not_even_where_the_script_is_misread(text: str, tmp_path: Path) -> None:
    touch = f"touch {tmp_path}/x"
    for item in (f"$({touch})", f"`{touch}`", f"\n{touch}\n", f"';{touch};'", f'";{touch};"'):
        Command(text).run(0, item)
    assert list(tmp_path.iterdir()) == []


# ---- runs -------------------------------------------------------------------------------------------------------


def failure(text: str, item: Any = "a") -> CommandFailed:
    with pytest.raises(CommandFailed) as caught:
        Command(text).run(0, item)
    return caught.value


@pytest.mark.parametrize(
    ("text", "status", "message"),
    [
        ("exit 3 #", 3, "exit status 3"),
        ("false", 1, "exit status 1"),
        ("echo oops >&2; exit 4 #", 4, "exit status 4: oops"),
        ("kill -9 $$ #", 137, "ended by SIGKILL"),
        ("no-such-program", 127, "command not found: "),
        ("no-such-program; exit 127 #", 127, "command not found: "),
        ("./no-such-program {}", 127, "command not found: ./no-such-program"),
        ("/ {}", 126, "/ cannot be run: Permission denied"),
    ],
)
def test_how_a_command_can_fail(text: str, status: int, message: str) -> None:
    error = failure(text)
    assert error.exit == status
    assert str(error).startswith(message)


def test_an_input_that_no_command_can_be_given() -> None:
    assert str(failure("true", "a\0b")) == "the input has a NUL, which no command can be given"
    assert str(failure("true", "a" * (1 << 20))) == "the input is too long for the arguments of a command"


def test_megabytes_on_both_sides_do_not_block() -> None:
    out, err = Command("head -c 3000000 /dev/zero; head -c 3000000 /dev/zero >&2 #").run(0, "")
    assert (len(out), len(err)) == (3_000_000, 3_000_000)


def test_endless_output_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "OUTPUT_BYTES_MAX", 1 << 20)
    error = failure("yes")
    assert (error.exit, str(error)) == (137, "it wrote more than 1 MiB, and was ended")


def test_it_reads_nothing_and_ignores_no_signal() -> None:
    assert printed("cat #") == ""
    ignored = next(row for row in printed("cat /proc/self/status #").splitlines() if row.startswith("SigIgn"))
    mask = int(ignored.split()[1], 16)
    assert not mask & (1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1))


def test_it_is_of_the_group_that_is_killed_with_its_child() -> None:
    assert int(printed("cut -d' ' -f5 /proc/$$/stat #")) == os.getpgrp()


def test_values_are_given_as_json() -> None:
    assert printed("echo", {"a": [1, "ü"]}) == '{"a":[1,"ü"]}\n'
    assert printed("echo", 3) == "3\n"


# ---- in the output ----------------------------------------------------------------------------------------------


def test_a_commands_line() -> None:
    rendered = pickle.loads(pickle.dumps(RenderedCommand("printf '\\377%s' {}; echo e >&2")))
    assert json.loads(rendered(1, "x")) == {
        "index": 1,
        "input": "x",
        "result": {"exit": 0, "stdout": "\\xffx", "stderr": "e\n"},
        "attempts": 1,
    }
    failed = RenderedCommand("echo out; echo err >&2; exit 3 #")(1, "x")
    assert json.loads(failed.out)["error"] == {
        "type": "zmqtasks.errors.CommandFailed",
        "message": "exit status 3: err",
        "traceback": "",
        "exit": 3,
        "stdout": "out\n",
        "stderr": "err\n",
    }


def test_a_commands_output_as_it_is() -> None:
    assert RenderedCommand("printf '\\377'; printf {}", text=True)(1, "x") == b"\xffx"
    assert RenderedCommand("echo {} >&2", text=True)(1, "x") == Unit(b"", b"x\n", False)
    assert RenderedCommand("echo o; echo e >&2; exit 3 #", text=True)(1, "x") == Unit(
        b"o\n", b'e\nzmqtasks: input 1, "x": exit status 3: e\n', True
    )


def test_a_command_is_tried_again_too() -> None:
    with pytest.raises(CommandFailed, match="exit status 1"):
        RenderedCommand("false", retries=1)(0, "a")
    last = RenderedCommand("false", retries=1)
    last.attempt = 2
    assert last(0, "a").failed
    assert RenderedCommand("false", retries=1)(0, BadInput("f", 1, "no", b"x")).failed


def test_a_failed_command_travels() -> None:
    error = pickle.loads(pickle.dumps(CommandFailed("no", 3, b"a", b"b")))
    assert (str(error), error.exit, error.stdout, error.stderr) == ("no", 3, b"a", b"b")
