"""Every example runs as it stands, prints what is true, and is short enough to be read."""

from __future__ import annotations

import configparser
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from conftest import ROOT, free_port
from program import Program, World, stub

import zmqtasks
from zmqtasks.cli import main

if TYPE_CHECKING:
    from conftest import RunPython


EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SCRIPTS = sorted((ROOT / "examples").rglob("*.sh"))
LINES_MAX = 60

PRINTED = {
    "01_closures": """\
a lambda: 42
a map: 332833500
a closure: Price(net=180.0, gross=216.0) True
before and after: 42 63
an error: KeyError('missing')
""",
    "02_futures_as_arguments": """\
north: mean 12.17, spread 11.39
south: mean 15.83, spread 9.65
sum of squares: 1240
after a failure: True UPSTREAM_FAILED
""",
    "03_monte_carlo": """\
3,142,416 of 4,000,000 darts hit
pi is about 3.1424, off by 0.0008
as one process counts: True
""",
    "05_asyncio": """\
27 takes 111 steps
below 200, 171 takes most steps: 124
powers of two: [(1, 0), (2, 1), (4, 2), (8, 3), (16, 4)]
an error: TypeError
""",
    "09_generator": """\
2**p - 1 is prime for p = 3 5 7 13 17 19 31 61
read no further than needed: True
""",
    "12_errors": """\
fail_fast: unsupported operand type(s) for +: 'int' and 'str'
wait: (TypeError("unsupported operand type(s) for +: 'int' and 'str'"),)
collect: [80, "refused: unsupported operand type(s) for +: 'int' and 'str'", 70]
a body that never ran: True UPSTREAM_FAILED
""",
}
"""What each example prints. What depends on the Python, or on files, has tests of its own."""


def run(path: Path, run_python: RunPython, *arguments: str) -> tuple[str, str]:
    """Run an example, which must end well; what it printed, and what it wrote on standard error."""
    ended = run_python(str(path), *arguments)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout, ended.stderr


def example(name: str) -> Path:
    return ROOT / "examples" / f"{name}.py"


@pytest.mark.parametrize("name", PRINTED)
def test_an_example_prints(name: str, run_python: RunPython) -> None:
    assert run(example(name), run_python) == (PRINTED[name], "")


def test_the_report_of_the_standard_library(run_python: RunPython) -> None:
    root = Path(sysconfig.get_path("stdlib"))
    elsewhere = ("site-packages", "test", "tests")
    files = sum(not any(name in path.parts for name in elsewhere) for path in root.rglob("*.py"))
    printed, progress = run(example("04_stdlib_report"), run_python)
    totals, *lines = printed.splitlines()
    counts = {word: int(number) for number, word in (part.split() for part in totals.split(", "))}
    assert counts["files"] == files
    assert 0 <= counts["skipped"] < files / 20
    assert counts["functions"] > files > counts["classes"] / 100 > 0
    assert [line.split(":")[0] for line in lines] == ["longest"] * 3 + ["imported most"] * 3
    assert progress.splitlines()[-1].startswith(f"parsing: {files:,} of {files:,} in ")


def test_the_report_of_another_directory(tmp_path: Path, run_python: RunPython) -> None:
    below = tmp_path / "below"
    below.mkdir()
    (tmp_path / "a.py").write_text(
        "import os, sys\nclass A:\n    def long(self):\n        import os\n        x = 1\n"
    )
    (below / "b.py").write_text("from os import path\nfrom . import c\nasync def short(): pass\n")
    (below / "broken.py").write_text("def (")
    printed, _ = run(example("04_stdlib_report"), run_python, str(tmp_path))
    assert printed == (
        "3 files, 2 functions, 1 classes, 1 skipped\n"
        "longest: long in a.py, 3 lines\n"
        f"longest: short in {Path('below', 'b.py')}, 1 lines\n"
        "imported most: os, by 2 files\n"
        "imported most: sys, by 1 files\n"
    )


def test_a_map_reduce_of_other_files(tmp_path: Path, run_python: RunPython) -> None:
    paths = [tmp_path / name for name in ("a.py", "b.py")]
    paths[0].write_text("import os\nx = 1\ny = 2\nif x:\n    z = 3\n")
    paths[1].write_text("import sys\n")
    printed, _ = run(example("11_map_reduce"), run_python, *map(str, paths))
    assert printed == "Assign: 3\nImport: 2\nIf: 1\n2 files; as one process counts: True\n"


def test_a_crawl(run_python: RunPython) -> None:
    printed, _ = run(example("13_crawl"), run_python)
    modules, steps = printed.splitlines()
    found = re.fullmatch(r"logging needs (\d+) modules, itself among them", modules)
    assert found is not None
    assert 10 < int(found[1]) < 200
    assert steps == "steps down, four at most: 4"


def test_every_example_has_a_test() -> None:
    others = {"04_stdlib_report", "06_word_counts", "11_map_reduce", "13_crawl", "words"}
    assert {path.stem for path in EXAMPLES} == {*PRINTED, *others}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_needs_no_guard(path: Path) -> None:
    text = path.read_text("utf-8")
    assert len(text.splitlines()) < LINES_MAX
    assert '"__main__"' not in text
    assert text.startswith('"""')


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: f"{path.parent.name} {path.stem}")
def test_a_script_is_short_too(path: Path) -> None:
    text = path.read_text("utf-8")
    assert len(text.splitlines()) < LINES_MAX
    assert text.startswith("#!/bin/sh\n# ")


# ---- pipelines --------------------------------------------------------------------------------------------------

TEXTS = {"a.txt": "the cat\nthe dog\n", "b and c.txt": "The end.\n", "d's.txt": "$HOME is the place\n"}


@pytest.fixture
def texts(tmp_path: Path) -> list[str]:
    """Write a few files; their paths."""
    (tmp_path / "texts").mkdir()
    paths = [tmp_path / "texts" / name for name in TEXTS]
    for path in paths:
        path.write_text(TEXTS[path.name])
    return [str(path) for path in paths]


def test_word_counts(run_python: RunPython, texts: list[str]) -> None:
    printed, errors = run(example("06_word_counts"), run_python, *texts)
    assert errors == ""
    assert (
        printed
        == "3 files, 10 words, 7 different ones\nthe: 4\ncat: 1\ndog: 1\nas one process counts: True\n"
    )


def script(world: World, name: str, *arguments: str) -> Program:
    """Run a script of the examples in the world's folder, to its end."""
    if not (world.folder / "bin").exists():
        world.environment["PATH"] = f"{stub(world.folder).parent}{os.pathsep}{os.environ['PATH']}"
    program = world.run("sh", str(ROOT / "examples" / f"{name}.sh"), *arguments)
    program.wait()
    return program


def test_word_counts_by_the_program(tmp_path: Path, texts: list[str]) -> None:
    with World(tmp_path) as world:
        ended = script(world, "07_word_counts", f"{tmp_path}/texts/*.txt")
        assert ended.wait() == 0, ended.err
        assert ended.out.splitlines() == [
            '"the":4',
            *(f'"{word}":1' for word in ("cat", "dog", "end", "home", "is", "place")),
        ]


def test_checksums_by_the_program(tmp_path: Path, texts: list[str]) -> None:
    sums = [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in texts]
    with World(tmp_path) as world:
        ended = script(world, "08_checksums", *texts)
        assert (ended.wait(), ended.out) == (
            0,
            "".join(f"{found}  {path}\n" for found, path in zip(sums, texts, strict=True)),
        )
        ended = script(world, "08_checksums", texts[0], "none")
        assert (ended.wait(), ended.out) == (1, f"{sums[0]}  {texts[0]}\n")
        assert "none: No such file or directory" in ended.err


def test_a_run_that_is_killed_and_resumed(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        ended = script(world, "10_resume", "500")
        assert ended.wait() == 0, ended.err
        assert re.fullmatch(r"killed: 137\nlines: +500\ndifferent inputs: +500\n", ended.out)
        found = [json.loads(line) for line in (tmp_path / "factors.jsonl").read_text().splitlines()]
    assert {line["input"]: line["result"]["stdout"] for line in found} == factors(500)


def factors(last: int) -> dict[str, str]:
    """What the program `factor` says of the numbers from 1 on."""
    numbers = [str(number) for number in range(1, last + 1)]
    said = subprocess.run(["factor", *numbers], capture_output=True, text=True, check=True).stdout
    return dict(zip(numbers, said.splitlines(keepends=True), strict=True))


def test_a_pipeline_of_two_machines(tmp_path: Path) -> None:
    folder = ROOT / "examples" / "two_machines_pipeline"
    with World(tmp_path) as world:
        world.environment["PATH"] = f"{stub(tmp_path).parent}{os.pathsep}{os.environ['PATH']}"
        port = str(free_port())
        for name in ("ventilator.sh", "worker.sh"):
            (tmp_path / name).write_text((folder / name).read_text("utf-8").replace("5557", port))
        ventilator = world.run("sh", "ventilator.sh")
        ventilator.says(rf"zmqtasks worker --ventilator tcp://\S+:{port}")
        shutil.copy(world.keys / "worker.key", tmp_path)
        worker = world.run("sh", "worker.sh", "127.0.0.1", ZMQTASKS_KEYS=str(tmp_path / "none"))
        assert ventilator.wait() == 0, ventilator.err
        assert worker.wait() == 0
        found = [json.loads(line) for line in (tmp_path / "factors.jsonl").read_text().splitlines()]
    assert len(found) == 1000
    assert {line["input"]: line["result"]["stdout"] for line in found} == factors(1000)


# ---- folders ----------------------------------------------------------------------------------------------------

TWO_MACHINES = ROOT / "examples" / "two_machines"
FLEET = ROOT / "examples" / "fleet"
DOCKERFILE = ROOT / "examples" / "container" / "Dockerfile"


def test_two_machines(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        world.environment["PATH"] = f"{stub(tmp_path).parent}{os.pathsep}{os.environ['PATH']}"
        # Its port may be another program's here.
        port = str(free_port())
        for name in ("broker.sh", "worker.sh"):
            (tmp_path / name).write_text((TWO_MACHINES / name).read_text("utf-8").replace("5555", port))
        world.run("sh", "broker.sh").says(rf"listens at tcp://0\.0\.0\.0:{port}")
        for role in ("worker", "client"):
            shutil.copy(world.keys / f"{role}.key", tmp_path)
        elsewhere = {"ZMQTASKS_KEYS": str(tmp_path / "none")}
        world.run("sh", "worker.sh", "127.0.0.1", **elsewhere).says("at a time")
        address = {"ZMQTASKS_BROKER": f"tcp://127.0.0.1:{port}", "ZMQTASKS_KEY": "client.key"}
        ended = world.run(sys.executable, str(TWO_MACHINES / "program.py"), **elsewhere, **address)
        assert ended.wait() == 0, ended.err
        assert ended.out == "perfect: [6, 28, 496]\nmachines: 1\n"


def test_the_program_for_two_machines_runs_on_one_too(run_python: RunPython) -> None:
    printed, _ = run(TWO_MACHINES / "program.py", run_python)
    assert printed == "perfect: [6, 28, 496]\nmachines: 1\n"


def unit(path: Path) -> configparser.ConfigParser:
    parsed = configparser.ConfigParser(strict=False, interpolation=None)
    parsed.optionxform = str  # type: ignore[assignment,method-assign]  # names as they are written
    parsed.read_string(path.read_text("utf-8"))
    return parsed


@pytest.mark.parametrize("path", sorted(FLEET.iterdir()), ids=lambda path: path.stem)
def test_a_unit_of_systemd(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    service = unit(path)["Service"]
    for name in ("ExecStartPre", "ExecStart"):
        program, *arguments = service.get(name, "/usr/local/bin/zmqtasks --version").split()
        assert program == "/usr/local/bin/zmqtasks"
        assert main([*arguments, "--help"]) == 0, "every command and option in it is one of ours"
    assert service["SuccessExitStatus"] == "143"
    (stop_s,) = re.findall(r"--shutdown-timeout (\d+)s", service["ExecStart"])
    assert int(stop_s) < int(service["TimeoutStopSec"]), "systemd kills later than we end"
    if "worker" in path.stem:
        assert service["KillMode"] == "mixed", "or the children get TERM as well, and their tasks are lost"
    analyze = shutil.which("systemd-analyze")
    if analyze is not None:
        copy = tmp_path / path.name
        copy.write_text(path.read_text("utf-8").replace("/usr/local/bin/zmqtasks", str(stub(tmp_path))))
        verified = subprocess.run([analyze, "verify", copy], capture_output=True, text=True, check=False)
        assert (verified.returncode, verified.stderr) == (0, "")


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions: word and rest."""
    text = re.sub(r"\\\n", " ", DOCKERFILE.read_text("utf-8"))
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in lines]


def test_the_dockerfile(capsys: pytest.CaptureFixture[str]) -> None:
    found = dict(instructions())
    known = {"FROM", "COPY", "RUN", "USER", "WORKDIR", "ENV", "VOLUME", "ENTRYPOINT", "CMD"}
    assert found.keys() == known
    assert re.fullmatch(r"python:3\.\d+-slim", found["FROM"])
    assert found["USER"] != "root"
    # As a list, and not through a shell: signals come to the program itself.
    command = [*json.loads(found["ENTRYPOINT"]), *json.loads(found["CMD"])]
    assert command == ["zmqtasks", "worker"]
    typed = re.findall(r"^#   docker run .* zmqtasks( .*)?$", DOCKERFILE.read_text("utf-8"), re.MULTILINE)
    assert len(typed) == 3
    for arguments in typed:
        assert main([*(arguments.split() or ["worker"]), "--help"]) == 0


def test_what_the_dockerfile_installs_runs(tmp_path: Path) -> None:
    """Its pip line, without the network: only this package, with the tools that are here to build it."""
    (line,) = [rest for word, rest in instructions() if word == "RUN" and rest.startswith("pip install")]
    _, _, *arguments = shlex.split(line.partition("&&")[0].replace("/src", str(ROOT)))
    offline = (
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
        "--quiet",
        "--target",
        str(tmp_path / "site"),
    )
    subprocess.run([sys.executable, "-m", "pip", "install", *offline, *arguments], check=True)
    ended = subprocess.run(
        [sys.executable, "-m", "zmqtasks", "--version"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout == f"zmqtasks {zmqtasks.__version__}\n"
    assert (tmp_path / "site" / "zmqtasks" / "cli" / "broker.py").is_file()
