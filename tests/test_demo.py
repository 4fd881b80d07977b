"""The command line and its demo: the report is right, it is shown well, and errors are one line."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from conftest import python_environment, until
from terminal import COLUMNS, on_a_terminal

import zmqtasks
from zmqtasks.cli import main
from zmqtasks.cli.stdlib_report import FileReport, Function, Imported, analyse, merge, python_files

if TYPE_CHECKING:
    from conftest import RunPython

    from zmqtasks import Client


CODE = {
    "top.py": "import os, os.path\nimport sys as system\n\ndef first():\n    return 1\n",
    "package/__init__.py": "",
    "package/inner.py": (
        "from os import path\nfrom . import sibling\nfrom ..top import first\n"
        "class Outer:\n"
        "    async def method(self):\n"
        "        def within():\n"
        "            import json.decoder\n"
        "        return lambda: within\n"
        "    class Inner:\n"
        "        if True:\n"
        "            def deep(self): pass\n"
        "try:\n    pass\nexcept OSError:\n    def late():\n        match 1:\n            case 1:\n"
        "                class Last: ...\n"
    ),
    "package/broken.py": "def half(:\n",
    "package/zero.py": "x = 1\0",
    "package/site-packages/other.py": "def not_ours(): pass\n",
    "package/odd.py": "# \xe9\npattern = '\\d'",
    "package/notes.txt": "not Python",
}


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """Return a directory of a few files, of which one knows what they hold."""
    root = tmp_path / "code"
    for name, text in CODE.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, "utf-8")
    return root


@pytest.fixture
def _other_broker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the environment says of brokers and workers is not for the demo."""
    monkeypatch.setenv("ZMQTASKS_BROKER", "tcp://127.0.0.1:1")
    monkeypatch.setenv("ZMQTASKS_KEY", "nowhere.key")
    (tmp_path / "pyproject.toml").write_text("[tool.zmqtasks.worker]\nconcurrency = 7\n")


def test_a_file_is_analysed(code: Path) -> None:
    inner = code / "package" / "inner.py"
    found = analyse(inner)
    assert (found.path, found.skipped) == (inner, False)
    assert (found.lines, found.classes, found.functions) == (18, 3, 4)
    assert [(function.lines, function.name) for function in found.longest] == [
        (4, "late"),
        (4, "Outer.method"),
        (2, "Outer.method.within"),
        (1, "Outer.Inner.deep"),
    ]
    assert {function.file for function in found.longest} == {str(inner)}
    assert found.imports == {"os", "json"}


def test_what_cannot_be_read_or_parsed_is_skipped(code: Path) -> None:
    for name in ("package/broken.py", "package/zero.py", "package/gone.py"):
        assert analyse(code / name) == FileReport(code / name, skipped=True)


def test_reports_merge_in_any_order(code: Path) -> None:
    paths = python_files(code)
    assert [path.relative_to(code).as_posix() for path in paths] == [
        "top.py",
        *(f"package/{name}.py" for name in ("__init__", "broken", "inner", "odd", "zero")),
    ]
    reports = [analyse(path) for path in paths]
    expected = merge(reports, code)
    assert expected.files == 6
    assert expected.skipped == ("package/broken.py", "package/zero.py")
    assert (expected.lines, expected.classes, expected.functions) == (25, 3, 5)
    assert expected.longest[0] == Function(4, "late", "package/inner.py")
    assert expected.longest[2:4] == (
        Function(2, "first", "top.py"),
        Function(2, "Outer.method.within", "package/inner.py"),
    )
    assert expected.imported == (
        Imported("os", 2, (("package", 1), ("top", 1))),
        Imported("json", 1, (("package", 1),)),
        Imported("sys", 1, (("top", 1),)),
    )
    for seed in range(20):
        random.Random(seed).shuffle(reports)
        assert merge(reports, code) == expected


def test_workers_load_neither_typer_nor_rich_for_it(shared_client: Client, code: Path) -> None:
    def loaded(report: FileReport) -> tuple[int, list[str]]:
        import sys

        assert "zmqtasks.cli.stdlib_report" in sys.modules
        unwanted = {"typer", "rich", "zmqtasks.cli.demo", "zmqtasks.cli.demonstration"}
        return report.functions, sorted(unwanted & sys.modules.keys())

    report = shared_client.submit(analyse, code / "top.py")
    assert shared_client.submit(loaded, report).result() == (1, [])


def said(errors: str) -> str:
    """What a demo says, without how far it is: on a busy machine that is said too."""
    return re.sub(r"^.*: \d of 6 \(.*\n", "", errors, flags=re.MULTILINE)


@pytest.mark.usefixtures("_other_broker")
def test_the_demo_as_json(code: Path, run_python: RunPython) -> None:
    ended = run_python("-m", "zmqtasks", "demo", "--workers", "2", "--path", str(code), "--json")
    assert ended.returncode == 0, ended.stderr
    answer = json.loads(ended.stdout)
    assert {name: answer[name] for name in ("files", "lines", "classes", "functions", "workers")} == {
        "files": 6,
        "lines": 25,
        "classes": 3,
        "functions": 5,
        "workers": 2,
    }
    assert answer["skipped"] == ["package/broken.py", "package/zero.py"]
    assert answer["longest"][-1] == {"lines": 1, "name": "Outer.Inner.deep", "file": "package/inner.py"}
    assert answer["imported"][0] == {"module": "os", "files": 2, "importers": {"package": 1, "top": 1}}
    assert answer["counts_equal"] is True
    assert answer["path"] == str(code)
    assert answer["bytes"] == sum(path.stat().st_size for path in python_files(code))
    assert min(answer["seconds"], answer["serial_seconds"], answer["speedup"]) >= 0
    assert re.fullmatch(r"2 workers: 6 of 6 in .*\none process: 6 of 6 in .*\n", said(ended.stderr))


def test_the_demo_in_plain_lines(code: Path, run_python: RunPython) -> None:
    ended = run_python("-m", "zmqtasks", "demo", "--workers", "1", "--path", str(code))
    assert ended.returncode == 0, ended.stderr
    assert "\x1b" not in ended.stdout
    lines = ended.stdout.splitlines()
    assert lines[0] == f"{code}: 6 files, 0.0 MB"
    assert lines[1:6] == ["files: 6", "lines: 25", "classes: 3", "functions: 5", "skipped: 2"]
    assert "longest function: 1 lines, Outer.Inner.deep, package/inner.py" in lines
    assert "most imported: os, 2 files, mostly in package 1, top 1" in lines
    assert [re.sub(r"\d+\.\d\d", "N", line) for line in lines[-4:]] == [
        "one process: N s",
        "1 worker: N s",
        "speed-up: Nx",
        "counts equal",
    ]


def test_the_demo_on_a_terminal() -> None:
    import asyncio

    code, written = on_a_terminal("-m", "zmqtasks", "demo", "--path", str(Path(asyncio.__file__).parent))
    assert code == 0, written
    lines = re.split(r"[\r\n]+", written)
    assert max(map(len, lines)) <= COLUMNS
    for seen in ("Functions", "Longest functions", "Most imported modules", "Wall time", "counts equal"):
        assert seen in written
    bars = [line for line in lines if "━" in line and "/s" in line]
    files = len(list(Path(asyncio.__file__).parent.rglob("*.py")))
    assert len([bar for bar in bars if f"{files}/{files}" in bar]) >= 2  # one for each pass


def test_counts_that_differ_are_an_error(
    code: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from zmqtasks.cli import demonstration

    def lies(path: Path) -> FileReport:
        return analyse(path)._replace(lines=1)

    honest = demonstration.Pass(merge(map(analyse, python_files(code)), code), seconds=1.0)
    monkeypatch.setattr(demonstration, "analyse", lies)
    monkeypatch.setattr(demonstration, "_in_one_process", lambda work: honest)
    assert main(["demo", "--workers", "1", "--path", str(code)]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "counts differ: lines"


def test_ctrl_c_ends_the_demo_without_a_traceback() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "zmqtasks", "demo", "--workers", "2"],
        env=python_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert "standard library" in process.stdout.readline()
            children = until(lambda: psutil.Process(process.pid).children())
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to the children too
            rest, errors = process.communicate(timeout=40)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    assert process.returncode == 130
    assert rest == ""
    assert "Traceback" not in errors
    psutil.wait_procs(children, timeout=40)
    assert not [child for child in children if child.is_running()]


def test_the_version(run_python: RunPython) -> None:
    ended = run_python("-m", "zmqtasks", "--version")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"zmqtasks {zmqtasks.__version__}\n", "")


def test_without_a_command_there_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    written = capsys.readouterr()
    assert "Usage: zmqtasks" in written.out
    assert "demo" in written.out
    assert written.err == ""


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nothing"], "zmqtasks: No such command 'nothing' (see zmqtasks --help)"),
        (["--nothing"], "zmqtasks: No such option: --nothing (see zmqtasks --help)"),
        (["demo", "--workers", "none"], "zmqtasks: Invalid value for '--workers'"),
        (["demo", "--workers", "0"], "zmqtasks: Invalid value for '--workers'"),
        (["demo", "--path", "/no/such"], "zmqtasks: Invalid value for '--path'"),
        (["demo", "--path", __file__], "zmqtasks: Invalid value for '--path'"),
        (["demo", "--broker", "--pipeline"], "zmqtasks: Invalid value: --broker excludes --pipeline"),
        (["demo", "more"], "zmqtasks: Got unexpected extra argument"),
    ],
    ids=str,
)
def test_a_wrong_command_is_one_line(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    written = capsys.readouterr()
    assert written.out == ""
    assert written.err.startswith(complaint)
    assert written.err.endswith("--help)\n")
    assert written.err.count("\n") == 1


def test_a_directory_without_python_is_a_wrong_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--path", str(tmp_path)]) == 2
    assert "there are no Python files below" in capsys.readouterr().err


def test_an_error_is_one_line_and_with_debug_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: Path
) -> None:
    from zmqtasks.cli import demonstration

    def fails(work: object) -> None:
        raise OSError("first\nsecond")

    monkeypatch.setattr(demonstration, "_in_parallel", fails)
    arguments = ["demo", "--path", str(code)]
    assert main(arguments) == 1
    assert capsys.readouterr().err == "zmqtasks: OSError: first second\n"
    for debug in (["--debug", *arguments], [*arguments, "--debug"]):
        assert main(debug) == 1
        assert capsys.readouterr().err.endswith("OSError: first\nsecond\n")
    monkeypatch.setenv("ZMQTASKS_DEBUG", "1")
    assert main(arguments) == 1
    assert capsys.readouterr().err.startswith("Traceback (most recent call last):")


def test_a_reader_who_leaves_early_is_no_traceback(code: Path) -> None:
    command = [sys.executable, "-m", "zmqtasks", "demo", "--workers", "1", "--path", str(code)]
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        ended = subprocess.run(
            command, stdout=closed, stderr=subprocess.PIPE, text=True, env=python_environment(), check=False
        )
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert "BrokenPipe" not in ended.stderr


# ---- on a broker of its own -------------------------------------------------------------------------------------


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """Make a folder for temporary files that no other demo has."""
    (tmp_path / "temporary").mkdir()
    return tmp_path / "temporary"


@pytest.mark.usefixtures("_other_broker")
def test_the_demo_on_a_broker_of_its_own(code: Path, run_python: RunPython, temporary: Path) -> None:
    arguments = ("--broker", "--workers", "3", "--path", str(code), "--json")
    ended = run_python("-m", "zmqtasks", "demo", *arguments, env={"TMPDIR": str(temporary)})
    assert ended.returncode == 0, ended.stderr
    answer = json.loads(ended.stdout)
    assert (answer["files"], answer["workers"], answer["broker"], answer["counts_equal"]) == (
        6,
        4,
        True,
        True,
    )
    assert re.fullmatch(
        r"a broker, 2 workers of 2: 6 of 6 in .*\none process: 6 of 6 in .*\n", said(ended.stderr)
    ), "and nothing else is said"
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_the_broker_and_the_workers_end_with_the_demo(number: int, temporary: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "zmqtasks", "demo", "--broker", "--workers", "2"],
        env={**python_environment(), "TMPDIR": str(temporary)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            demo = psutil.Process(process.pid)
            # A broker, and two workers that have a fork server and a child each.
            until(lambda: len(demo.children(recursive=True)) >= 7, within_s=30)
            assert list(temporary.iterdir())
            family = demo.children(recursive=True)
            process.send_signal(number)
            assert process.wait(30) == (130 if number == signal.SIGINT else -signal.SIGKILL)
        except BaseException:
            process.kill()
            raise
    gone, alive = psutil.wait_procs(family, timeout=40)
    assert not alive
    assert len(gone) == len(family)
    until(lambda: not list(temporary.iterdir()))


# ---- through a pipeline -----------------------------------------------------------------------------------------


def test_the_demo_through_a_pipeline(code: Path, run_python: RunPython) -> None:
    ended = run_python(
        "-m", "zmqtasks", "demo", "--pipeline", "--workers", "2", "--path", str(code), "--json"
    )
    assert ended.returncode == 0, ended.stderr
    answer = json.loads(ended.stdout)
    found = {name: answer[name] for name in ("files", "lines", "workers", "pipeline", "counts_equal")}
    assert found == {"files": 6, "lines": 25, "workers": 2, "pipeline": True, "counts_equal": True}
    assert answer["skipped"] == ["package/broken.py", "package/zero.py"]
    assert re.fullmatch(
        r"a pipeline, 2 workers: 6 of 6 in .*\none process: 6 of 6 in .*\n", said(ended.stderr)
    ), "and nothing else is said"


def test_counts_of_a_pipeline_that_differ_are_an_error(
    code: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from zmqtasks.cli import demonstration

    def lies(path: Path) -> FileReport:
        return analyse(path)._replace(classes=1)

    honest = demonstration.Pass(merge(map(analyse, python_files(code)), code), seconds=1.0)
    monkeypatch.setattr(demonstration, "analyse", lies)
    monkeypatch.setattr(demonstration, "_in_one_process", lambda work: honest)
    assert main(["demo", "--pipeline", "--workers", "1", "--path", str(code)]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "counts differ: classes"


def test_ctrl_c_ends_a_demo_that_is_a_pipeline() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "zmqtasks", "demo", "--pipeline", "--workers", "2"],
        env=python_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            demo = psutil.Process(process.pid)
            # A worker, with a fork server and two children.
            until(lambda: len(demo.children(recursive=True)) >= 4, within_s=30)
            family = demo.children(recursive=True)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=40)
        except BaseException:
            process.kill()
            raise
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert not psutil.wait_procs(family, timeout=40)[1]
