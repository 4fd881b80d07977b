"""Where options come from: the command line, the environment, files; what files complain of; units; completion."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pytest
import typer
from conftest import python_environment
from hypothesis import given
from hypothesis import strategies as st

from zmqtasks import cli
from zmqtasks.cli import config, main
from zmqtasks.cli.exits import CommandError, Exit, exit_of
from zmqtasks.cli.options import duration, json_object, size
from zmqtasks.units import bytes_of, seconds_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import RunPython

Debug = Annotated[bool, typer.Option("--debug", envvar="ZMQTASKS_DEBUG")]
Key = Annotated[Path | None, typer.Option("--key", envvar="ZMQTASKS_KEY", help="A key file.")]
DEFAULTS = {
    "address": None,
    "concurrency": 1,
    "timeout": 30.0,
    "memory": None,
    "queues": None,
    "burst": False,
    "watch": True,
    "key": None,
    "debug": False,
}


class Small:
    """A program of three commands, one of them in a group; `seen` is what a command was given."""

    def __init__(self) -> None:
        self.seen: dict[str, Any] = {}
        app, queue = typer.Typer(), typer.Typer()

        def program(context: typer.Context, debug: Debug = False) -> None:
            config.read_files(context)

        def worker(
            address: Annotated[str | None, typer.Argument(envvar="ZMQTASKS_BROKER")] = None,
            concurrency: Annotated[int, typer.Option("-c", "--concurrency", min=1)] = 1,
            timeout: Annotated[
                float, typer.Option("--shutdown-timeout", parser=duration, metavar="DURATION")
            ] = 30.0,
            memory: Annotated[int | None, typer.Option("--max-memory", parser=size)] = None,
            queues: Annotated[list[str] | None, typer.Option("-Q", "--queue")] = None,
            burst: Annotated[bool, typer.Option("--burst")] = False,
            watch: Annotated[bool, typer.Option("--watch/--no-watch")] = True,
            key: Key = None,
            debug: Debug = False,
        ) -> None:
            self.seen = {name: value for name, value in locals().items() if name != "self"}

        def status(
            broker: Annotated[str, typer.Option(envvar="ZMQTASKS_BROKER")] = "", key: Key = None
        ) -> None:
            self.seen = {"broker": broker, "key": key}

        def add(target: str, limit: Annotated[int, typer.Option("--rate-limit")] = 0) -> None:
            self.seen = {"target": target, "limit": limit}

        app.callback()(program)
        app.command()(worker)
        app.command()(status)
        queue.command()(add)
        app.add_typer(queue, name="work-queue")
        self.tree: Any = typer.main.get_command(app)
        config.name_variables(self.tree)

    def __call__(self, *arguments: str) -> dict[str, Any]:
        """Run it with these arguments; what the command was given."""
        self.tree.main(list(arguments), prog_name="small", standalone_mode=False)
        return self.seen

    def complaint(self, *arguments: str) -> str:
        """Return what it says of arguments that are no good."""
        usage_error: Any = typer.BadParameter.__mro__[1]
        with pytest.raises((usage_error, CommandError)) as raised:
            self(*arguments)
        if isinstance(raised.value, CommandError):
            assert raised.value.code is Exit.USAGE
            return str(raised.value)
        return config.complaint(raised.value)


@pytest.fixture
def small() -> Small:
    """Return a program of three commands."""
    return Small()


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a project with a directory to work in, two below its root; the root is returned."""
    root = tmp_path / "project"
    (root / "a" / "b").mkdir(parents=True)
    (root / ".git").mkdir()
    monkeypatch.chdir(root / "a" / "b")
    return root


def test_each_option_has_a_variable_and_its_own_only_if_it_says_none(small: Small) -> None:
    variables = {
        (name, max(parameter.opts, key=len)): parameter.envvar
        for name, command in small.tree.commands.items()
        for parameter in command.params
    }
    assert variables == {
        ("worker", "address"): "ZMQTASKS_BROKER",
        ("worker", "--concurrency"): "ZMQTASKS_WORKER_CONCURRENCY",
        ("worker", "--shutdown-timeout"): "ZMQTASKS_WORKER_SHUTDOWN_TIMEOUT",
        ("worker", "--max-memory"): "ZMQTASKS_WORKER_MAX_MEMORY",
        ("worker", "--queue"): "ZMQTASKS_WORKER_QUEUE",
        ("worker", "--burst"): "ZMQTASKS_WORKER_BURST",
        ("worker", "--watch"): "ZMQTASKS_WORKER_WATCH",
        ("worker", "--key"): "ZMQTASKS_KEY",
        ("worker", "--debug"): "ZMQTASKS_DEBUG",
        ("status", "--broker"): "ZMQTASKS_BROKER",
        ("status", "--key"): "ZMQTASKS_KEY",
    }
    (add,) = small.tree.commands["work-queue"].commands.values()
    assert [p.envvar for p in add.params] == [None, "ZMQTASKS_WORK_QUEUE_ADD_RATE_LIMIT"]


def leaves(command: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield each command of a tree that has none below it, with the names that lead to it."""
    below = getattr(command, "commands", {})
    for name, one in below.items():
        yield from leaves(one, *path, name)
    if not below:
        yield path, command


COMMANDS = dict(leaves(cli.tree()))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_shows_the_variable_of_each_option(
    path: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main([*path, "--help"]) == 0
    written = capsys.readouterr().out
    options = [one for one in COMMANDS[path].params if one.param_type_name == "option"]
    assert options
    for option in options:
        assert option.envvar.startswith("ZMQTASKS_")
        assert f"[env var: {option.envvar}]" in written


def test_the_command_line_the_environment_each_file_and_the_default(
    small: Small, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def concurrency(*arguments: str) -> int:
        return small("worker", *arguments)["concurrency"]

    assert concurrency() == 1
    (project / "pyproject.toml").write_text("[tool.zmqtasks.worker]\nconcurrency = 2\nburst = true\n")
    assert concurrency() == 2
    (project / "zmqtasks.toml").write_text("[worker]\nconcurrency = 3\n")
    assert concurrency() == 3
    assert small.seen["burst"], "the one file says nothing of it, the other counts"
    (project / "a" / "zmqtasks.toml").write_text("[worker]\nconcurrency = 4\n")
    assert concurrency() == 4
    monkeypatch.setenv("ZMQTASKS_WORKER_CONCURRENCY", "5")
    assert concurrency() == 5
    assert concurrency("-c", "6") == 6


def test_everything_that_a_file_can_set(small: Small, project: Path) -> None:
    (project / "zmqtasks.toml").write_text("""
broker = "tcp://10.0.0.1:5555"
key = "keys/all.key"
[worker]
concurrency = 4
shutdown_timeout = "1m30s"
max-memory = "500M"
queue = ["gpu", "mail"]
burst = true
watch = false
key = "/etc/one.key"
[work_queue.add]
rate_limit = 7
""")
    assert small("worker") == {
        "address": "tcp://10.0.0.1:5555",
        "concurrency": 4,
        "timeout": 90.0,
        "memory": 500 * 2**20,
        "queues": ["gpu", "mail"],
        "burst": True,
        "watch": False,
        "key": Path("/etc/one.key"),
        "debug": False,
    }
    assert small("worker", "tcp://here:1", "--watch", "-Q", "one", "--shutdown-timeout", "2")["queues"] == [
        "one"
    ]
    assert (small.seen["address"], small.seen["watch"], small.seen["timeout"]) == ("tcp://here:1", True, 2.0)
    assert small("status") == {"broker": "tcp://10.0.0.1:5555", "key": project / "keys/all.key"}
    assert small("work-queue", "add", "x") == {"target": "x", "limit": 7}


def test_a_table_counts_more_than_what_is_for_all_wherever_it_stands(small: Small, project: Path) -> None:
    (project / "pyproject.toml").write_text(
        '[tool.zmqtasks.status]\nbroker = "tcp://one:1"\n[tool.zmqtasks]\nbroker = "tcp://all:1"\n'
    )
    assert small("status")["broker"] == "tcp://one:1"
    assert small("worker")["address"] == "tcp://all:1"


def test_the_search_ends_at_the_root_of_the_project(small: Small, project: Path, tmp_path: Path) -> None:
    (tmp_path / "zmqtasks.toml").write_text("[worker]\nconcurrency = 9\n")
    assert small("worker") == DEFAULTS
    (project / ".git").rmdir()
    assert small("worker")["concurrency"] == 9
    (project / "a" / "pyproject.toml").write_text("[tool.other]\nx = 1\n")
    assert small("worker") == DEFAULTS


def test_no_directory_no_files(small: Small, project: Path) -> None:
    (project / "a" / "b").rmdir()
    assert small("worker") == DEFAULTS


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[worker]\nconcurency = 4", "worker.concurency: no such setting, did you mean 'concurrency'?"),
        ("[wroker]\nburst = true", "wroker: no such setting, did you mean 'worker'?"),
        ("brokr = 'x'", "brokr: no such setting, did you mean 'broker'?"),
        ("zzz = 1", "zzz: no such setting (there are: broker, key, status, work-queue, worker)"),
        ("debug = true", "debug: no such setting (there are: broker, key, status, work-queue, worker)"),
        ("[status]\nqqq = 1", "status.qqq: no such setting (there are: broker, key)"),
        ("[work-queue.add]\ntarget = 'x'", "work-queue.add.target: no such setting (there are: rate-limit)"),
        ("worker = 4", "worker: is a table, not 4"),
        ("[work-queue]\nadd = 'x'", "work-queue.add: is a table, not 'x'"),
        ("[worker]\nburst = 'yes'", "worker.burst: is true or false, not 'yes'"),
        ("[worker]\nconcurrency = true", "worker.concurrency: is text or a number, not true"),
        ("[worker]\nconcurrency = [4]", "worker.concurrency: is text or a number, not a list"),
        ("[worker.concurrency]\nx = 4", "worker.concurrency: is text or a number, not a table"),
        ("[worker]\nqueue = [true]", "worker.queue: is a list, or text or a number, not true"),
        (
            "[worker]\nshutdown_timeout = 12:30:00",
            "worker.shutdown_timeout: is text or a number, not 12:30:00",
        ),
    ],
    ids=lambda value: value if "\n" not in value else None,
)
def test_what_is_wrong_in_a_file_is_said_whatever_the_command(
    small: Small, project: Path, text: str, complaint: str
) -> None:
    (project / "zmqtasks.toml").write_text(text)
    for command in (("worker",), ("status",), ("work-queue", "add", "x")):
        assert small.complaint(*command) == f"{project / 'zmqtasks.toml'}: {complaint}"


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("concurrency = 'four'", "worker.concurrency: "),
        ("concurrency = 0", "worker.concurrency: "),
        ("concurrency = 1.5", "worker.concurrency: "),
        (
            "shutdown-timeout = 'soon'",
            "worker.shutdown-timeout: 'soon' is no duration, such as 90, 1.5s or 1h30m",
        ),
        ("max_memory = 'much'", "worker.max_memory: 'much' is no size, such as 4096, 500M or 1.5G"),
    ],
    ids=str,
)
def test_a_value_that_the_option_cannot_be_is_said_by_its_command(
    small: Small, project: Path, line: str, complaint: str
) -> None:
    (project / "pyproject.toml").write_text(f"[tool.zmqtasks.worker]\n{line}\n")
    said = small.complaint("worker")
    assert said.startswith(f"{project / 'pyproject.toml'}: tool.zmqtasks.{complaint}")
    assert len(said) > len(f"{project / 'pyproject.toml'}: tool.zmqtasks.worker.concurrency: ")
    assert small("status") == {"broker": "", "key": None}
    assert small("worker", "-c", "1", "--shutdown-timeout", "1", "--max-memory", "1")["concurrency"] == 1


def test_the_same_on_the_command_line_names_the_option_and_in_the_environment_the_variable(
    small: Small, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "zmqtasks.toml").write_text("[worker]\nconcurrency = 4\n")
    assert small.complaint("worker", "-c", "many").startswith("Invalid value for '-c' / '--concurrency'")
    monkeypatch.setenv("ZMQTASKS_WORKER_CONCURRENCY", "many")
    assert re.fullmatch(r"ZMQTASKS_WORKER_CONCURRENCY: .*valid int(eger)?.*", small.complaint("worker"))


@pytest.mark.parametrize("content", [b"[worker", b"x = '\xff'", b"a = 1\na = 2"], ids=str)
@pytest.mark.parametrize("name", ["zmqtasks.toml", "pyproject.toml"])
def test_a_file_that_is_no_toml(small: Small, project: Path, name: str, content: bytes) -> None:
    (project / name).write_bytes(content)
    assert small.complaint("worker").startswith(f"{project / name}: not TOML: ")


def test_a_table_of_ours_that_is_none(small: Small, project: Path) -> None:
    (project / "pyproject.toml").write_text("tool = 5\n")
    assert small("worker") == DEFAULTS
    (project / "pyproject.toml").write_text("[tool]\nzmqtasks = 5\n")
    assert small.complaint("worker") == f"{project / 'pyproject.toml'}: tool.zmqtasks: is a table, not 5"


def test_a_file_that_anybody_may_have_put_there_is_refused(
    small: Small, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "zmqtasks.toml").write_text("[worker]\nconcurrency = 4\n")
    project.chmod(0o777)
    assert small("worker")["concurrency"] == 4
    if os.geteuid() == 0:  # root's files are fine, and root may give this one away
        os.chown(project / "zmqtasks.toml", 4321, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 4321)
    with pytest.raises(CommandError, match="belongs to another user") as raised:
        small("worker")
    assert exit_of(raised.value) == 78
    project.chmod(0o755)
    assert small("worker")["concurrency"] == 4


def test_the_program_reads_the_files_and_says_in_one_line_what_is_wrong(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = project / "zmqtasks.toml"
    file.write_text('[demo]\npath = "code"\n')
    (project / "code").mkdir()
    assert main(["demo"]) == 2
    assert f"no Python files below {project / 'code'}" in capsys.readouterr().err
    file.write_text('[demo]\nworkers = "none"\n')
    assert main(["demo"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"zmqtasks: {file}: demo.workers: ")
    assert said.endswith(" (see zmqtasks demo --help)\n")
    file.write_text("[demo]\nworkrs = 1\n")
    assert main(["demo"]) == 2
    assert capsys.readouterr().err == (
        f"zmqtasks: {file}: demo.workrs: no such setting, did you mean 'workers'?\n"
    )
    assert main(["--help"]) == 0
    written = capsys.readouterr()
    assert "Usage: zmqtasks" in written.out
    assert written.err == ""


def test_a_group_that_shows_its_help_has_no_complaint(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app, group = typer.Typer(), typer.Typer(no_args_is_help=True)
    group.command("one")(lambda: None)
    app.add_typer(group, name="group")
    monkeypatch.setattr(cli, "tree", lambda: typer.main.get_command(app))
    assert main(["group"]) == 0
    written = capsys.readouterr()
    assert "Usage: zmqtasks group" in written.out
    assert written.err == ""


DURATIONS = {
    "90": 90,
    "0": 0,
    "1.5s": 1.5,
    ".5": 0.5,
    "1h30m": 5400,
    " 1H 30M ": 5400,
    "2d": 172800,
    "1w1d1h1m1s1ms": 694861.001,
    "250ms": 0.25,
    "5 m": 300,
}
NO_DURATIONS = [
    "",
    " ",
    "soon",
    "-1",
    "1x",
    "m",
    "30m1h",
    "1h1h",
    "1h30",
    "1 2",
    "inf",
    "nan",
    "1e3",
    "9" * 400,
]
SIZES = {
    "0": 0,
    "4096": 4096,
    "64k": 65536,
    "500M": 500 * 2**20,
    "1.5GiB": 3 * 2**29,
    "2GB": 2 * 10**9,
    "1 TiB": 2**40,
    "12 b": 12,
}
NO_SIZES = ["", "M", "-1", "1x", "1ib", "1e3", "nan", "1 2", "9" * 400]


@pytest.mark.parametrize(("text", "seconds"), DURATIONS.items())
def test_durations(text: str, seconds: float) -> None:
    assert seconds_of(text) == pytest.approx(seconds)


@pytest.mark.parametrize(("text", "size"), SIZES.items())
def test_sizes(text: str, size: int) -> None:
    assert bytes_of(text) == size


@pytest.mark.parametrize(
    ("parse", "text"), [*((seconds_of, one) for one in NO_DURATIONS), *((bytes_of, one) for one in NO_SIZES)]
)
def test_what_is_no_quantity(parse: Callable[[str], float], text: str) -> None:
    with pytest.raises(ValueError, match=r"is no|is too"):
        parse(text)


@given(st.text("0123456789.wdhms kbi", max_size=12))
def test_any_text_is_a_quantity_or_a_value_error(text: str) -> None:
    for parse in (seconds_of, bytes_of):
        try:
            quantity = parse(text)
        except ValueError:
            continue
        assert quantity >= 0


def test_what_was_read_already_stays_as_it_is() -> None:
    assert (duration(1.5), size(7), json_object({"a": 1})) == (1.5, 7, {"a": 1})
    assert (duration("2m"), size("1k"), json_object('{"a": 1}')) == (120.0, 1024, {"a": 1})
    for text in ("[1]", "{", "1", "", '{"a": NaN}', "[" * 100_000):
        with pytest.raises(typer.BadParameter):
            json_object(text)


def bash(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a script in which `zmqtasks` is the program under test."""
    program = folder / "bin" / "zmqtasks"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m zmqtasks "$@"\n')
    program.chmod(0o755)
    environment = python_environment()
    environment |= {"PATH": f"{program.parent}:{environment['PATH']}", "HOME": str(folder)}
    return subprocess.run(
        ["bash", "--norc", "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


COMPLETE = """
complete_line() {
    COMP_WORDS=($1) COMP_CWORD=$(( $(wc -w <<< "$1") - 1 ))
    _zmqtasks_completion zmqtasks
    echo "${COMPREPLY[@]}"
}
"""


def test_bash_completes_commands_and_options(tmp_path: Path) -> None:
    ended = bash(
        f'eval "$(zmqtasks --show-completion)"\n{COMPLETE}\n'
        "complete_line 'zmqtasks d'; complete_line 'zmqtasks demo --w'; complete -p zmqtasks\n",
        tmp_path,
    )
    assert ended.stderr == ""
    assert ended.stdout.splitlines() == [
        "demo",
        "--workers",
        "complete -o default -F _zmqtasks_completion zmqtasks",
    ]


def test_completion_installs_itself(tmp_path: Path) -> None:
    # the shell is still there for the last of them: bash turns into what is the end of its script
    ended = bash("zmqtasks --install-completion && zmqtasks --install-completion; exit", tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert (tmp_path / ".bashrc").read_text().count("source ") == 1
    assert "_zmqtasks_completion" in (tmp_path / ".bash_completions" / "zmqtasks.sh").read_text()


def test_importing_the_command_line_loads_neither_typer_nor_rich(run_python: RunPython) -> None:
    loaded = "import zmqtasks.cli, sys; print([n for n in ('typer', 'rich', 'click') if n in sys.modules])"
    assert run_python("-c", loaded).stdout.strip() == "[]"
