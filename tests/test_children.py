"""Children that die are replaced, only what killed them is blamed, and nothing outlives the client, however it goes."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic

import msgspec
import psutil
import pytest
from conftest import Belongings, RunPython, kept, python_environment, until
from gate import Gate, note, wait_at
from marks import MARK, marked, names_in

from zmqtasks import Client, State, WorkerLost, current, wire

UNKNOWN, HELLO = msgspec.msgpack.encode(["nonsense", 1]), msgspec.msgpack.encode(["hello", 1])
GONE_S = 15.0
"""Within a second or two, the issue says; a busy machine may take its time."""


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    with Gate(tmp_path) as gate:
        yield gate


@pytest.fixture
def client() -> Iterator[Client]:
    """A client with two children of its own: this is about children, with a broker see test_fleet.py."""
    with Client(workers=2) as client:
        yield client


@pytest.fixture
def lone() -> Iterator[Client]:
    """A client with one child; what hangs in a failed test is ended with it."""
    client = Client(workers=1)
    yield client
    client._host.close(wait=True, cancel=True, kill=True)


# ---- ways to die -------------------------------------------------------------------------------------------------


def ways() -> dict[str, tuple[Callable[[], None], str]]:
    """Return them with what is said of them. As closures they travel by value: no child imports pytest for them."""

    def exits() -> None:
        os._exit(0)

    def killed() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def terminated() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    def segfault() -> None:
        import ctypes

        ctypes.string_at(0)

    def aborts() -> None:
        os.abort()

    return {
        "exit": (exits, "exited with status 0"),
        "SIGKILL": (killed, "SIGKILL"),
        "SIGTERM": (terminated, "SIGTERM"),
        "segfault": (segfault, "SIGSEGV"),
        "abort": (aborts, "SIGABRT"),
    }


WAYS = ways()


@pytest.mark.parametrize("way", WAYS)
def test_a_task_that_kills_its_process_is_dead_after_three(lone: Client, way: str) -> None:
    fn, reason = WAYS[way]
    before = lone.submit(os.getpid).result()
    future = lone.submit(fn)
    with pytest.raises(WorkerLost, match=reason):
        future.result(30)
    assert (future.state, future.attempts) == (State.DEAD, 3)
    after = lone.submit(os.getpid).result()
    assert after != before


@pytest.mark.parametrize("deliveries", [1, 2, 5])
def test_max_deliveries(lone: Client, tmp_path: Path, deliveries: int) -> None:
    def work(log: str) -> None:
        note(log, current().attempt)
        os._exit(3)

    log = tmp_path / "attempts"
    future = lone.options(max_deliveries=deliveries).submit(work, str(log))
    with pytest.raises(WorkerLost, match="status 3"):
        future.result(30)
    assert log.read_text().split() == [str(attempt) for attempt in range(1, deliveries + 1)]
    assert future.attempts == deliveries


def test_a_task_that_survives_its_second_attempt(lone: Client) -> None:
    def work() -> int:
        if current().attempt < 3:
            os._exit(1)
        return current().attempt

    future = lone.submit(work)
    assert future.result(30) == 3
    assert (future.state, future.attempts) == (State.SUCCEEDED, 3)


def test_a_child_killed_from_outside_costs_an_attempt(lone: Client, gate: Gate) -> None:
    def work(path: str) -> int:
        wait_at(path, os.getpid())
        return current().attempt

    future = lone.submit(work, gate.path)
    pid = int(until(gate.arrived)[0])
    began = monotonic()
    os.kill(pid, signal.SIGKILL)
    until(lambda: len(gate.arrived()) == 2)
    assert monotonic() - began < GONE_S
    gate.open()
    assert (future.result(30), future.attempts) == (2, 2)


def test_an_idle_child_that_dies_costs_nothing(client: Client) -> None:
    for _ in range(5):
        os.kill(client.submit(os.getpid).result(), signal.SIGKILL)
        futures = [client.submit(abs, index) for index in range(20)]
        assert client.gather(futures) == list(range(20))
        assert max(future.attempts for future in futures) <= 2


def test_only_the_poison_among_singles_is_blamed(client: Client) -> None:
    def some(index: int) -> int:
        if index == 50:
            os._exit(1)
        return index

    futures = [client.submit(some, index) for index in range(100)]
    for index, future in enumerate(futures):
        if index == 50:
            assert isinstance(future.exception(30), WorkerLost)
            assert (future.state, future.attempts) == (State.DEAD, 3)
        else:
            assert future.result(30) == index
            assert future.state is State.SUCCEEDED


def test_only_the_poison_within_spans_is_blamed(client: Client, tmp_path: Path) -> None:
    log = str(tmp_path / "ran")

    def some(index: int) -> int:
        note(log, index)
        if index in {0, 33, 34, 99}:
            os._exit(1)
        return index

    futures = client.submit_many(some, range(100))
    for index, future in enumerate(futures):
        if index in {0, 33, 34, 99}:
            assert isinstance(future.exception(30), WorkerLost), index
            assert future.state is State.DEAD
        else:
            assert future.result(30) == index
    ran = [int(line) for line in Path(log).read_text().split()]
    assert all(ran.count(index) == 3 for index in (0, 33, 34, 99))
    assert set(ran) == set(range(100))


def test_map_raises_what_became_of_the_poison(lone: Client) -> None:
    def some(index: int) -> int:
        if index == 7:
            os._exit(1)
        return index

    values = lone.map(some, range(20))
    assert [next(values) for _ in range(7)] == list(range(7))
    with pytest.raises(WorkerLost):
        next(values)


def test_memory_that_runs_out(client: Client) -> None:
    def with_a_limit() -> None:
        room = 256 << 20
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + room, size + room))
        bytearray(4 << 30)

    error = client.options(max_deliveries=1).submit(with_a_limit).exception(30)
    assert isinstance(error, (MemoryError, WorkerLost))
    assert client.submit(lambda: len(bytearray(64 << 20))).result(30) == 64 << 20
    assert client.gather([client.submit(abs, index) for index in range(50)]) == list(range(50))


# ---- what a task does to its process -----------------------------------------------------------------------------


def test_numeric_libraries_share_the_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MKL_NUM_THREADS", "77")
    workers = len(os.sched_getaffinity(0))
    with Client(workers=workers) as client:
        assert client.submit(lambda: [os.environ.get(name) for name in names]).result() == ["1", "1", "77"]
    assert "OMP_NUM_THREADS" not in os.environ, "only there"


def test_ctrl_c_in_the_terminal_is_not_for_children(lone: Client, gate: Gate) -> None:
    future = lone.submit(wait_at, gate.path, 1)
    until(gate.arrived)
    child = next(child for child in psutil.Process().children() if child.pid not in kept)
    assert os.getpgid(child.pid) != os.getpgid(0)
    gate.open()
    assert future.result() == 1


def harms() -> list[Callable[[], None]]:
    """Return what a task may do to its process."""

    def changes_everything() -> None:
        os.chdir("/")
        os.environ.clear()
        sys.path.clear()
        sys.modules.clear()
        sys.stdout = sys.stderr = None
        os.umask(0)
        signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))

    def lowers_its_limits() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
        sys.setrecursionlimit(100)

    def traces() -> None:
        sys.settrace(lambda *_: None)
        sys.setprofile(lambda *_: None)

    def closes_every_descriptor() -> None:
        os.closerange(3, 256)

    def breaks_builtins() -> None:
        import builtins

        builtins.len = builtins.isinstance = builtins.type = None  # type: ignore[assignment, misc]

    def is_interrupted_later() -> None:
        import threading

        threading.Timer(0.02, lambda: os.kill(os.getpid(), signal.SIGINT)).start()

    return [
        *(changes_everything, lowers_its_limits, traces, closes_every_descriptor),
        *(breaks_builtins, is_interrupted_later),
    ]


@pytest.mark.parametrize("harm", harms(), ids=lambda harm: harm.__name__)
def test_whatever_a_task_does_to_its_process_the_next_is_fine(lone: Client, harm: Callable[[], None]) -> None:
    future = lone.submit(harm)
    assert future.exception(30) is None or future.state is State.DEAD
    assert lone.gather([lone.submit(abs, index) for index in range(20)]) == list(range(20))
    assert list(lone.map(abs, range(20))) == list(range(20))


@pytest.mark.parametrize("many", [False, True], ids=["single", "map"])
def test_who_breaks_its_links_is_blamed_for_it(lone: Client, tmp_path: Path, many: bool) -> None:
    log = tmp_path / "log"
    path = str(log)

    def breaks(_: int) -> None:
        os.write(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), b"begun\n")  # no slower than that
        os.closerange(3, 256)

    for _ in range(5):  # what is sent at once and what is sent later is chance
        log.unlink(missing_ok=True)
        future = lone.submit_many(breaks, range(1))[0] if many else lone.submit(breaks, 0)
        assert isinstance(future.exception(30), WorkerLost)
        assert len(log.read_text().split()) == future.attempts == 3


GARBAGE = {
    "noise": b"\xff" * 1000,
    "zeros": bytes(1000),
    "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50,
    "an unknown message": wire.PREFIX.pack(len(UNKNOWN), 0, 0) + UNKNOWN,
    "descriptors that do not come": wire.PREFIX.pack(len(HELLO), 0, 3) + HELLO,
    "a frame of an exbibyte": wire.PREFIX.pack(len(HELLO), 1, 0) + struct.pack("<Q", 1 << 60) + HELLO,
    "a hello again": wire.PREFIX.pack(len(HELLO), 0, 0) + HELLO,
}


@pytest.mark.parametrize("garbage", GARBAGE)
def test_a_task_that_writes_into_its_links(lone: Client, garbage: str) -> None:
    def write(noise: bytes) -> None:
        import stat

        for file in range(3, 64):
            with contextlib.suppress(OSError):
                if stat.S_ISSOCK(os.fstat(file).st_mode):
                    os.write(file, noise)

    future = lone.submit(write, GARBAGE[garbage])
    assert future.exception(30) is None or (
        isinstance(future.exception(), WorkerLost) and future.attempts == 3
    )
    assert lone.gather([lone.submit(abs, index) for index in range(20)]) == list(range(20))


def test_a_task_that_forks_and_returns_twice(lone: Client) -> None:
    def forks() -> str:
        return "copy" if os.fork() == 0 else "task"

    for _ in range(10):
        assert lone.submit(forks).result(10) == "task"
        futures = [lone.submit(abs, index) for index in range(100)]
        assert [future.result(10) for future in futures] == list(range(100))


# ---- nothing is left ---------------------------------------------------------------------------------------------


SPAWNS = """
import multiprocessing, os, signal, subprocess, sys, threading, time
from zmqtasks import Client

def daemon():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            while True:
                time.sleep(3600)
        os._exit(0)

def popen():
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"], start_new_session=True)

def process():
    multiprocessing.get_context("fork").Process(target=time.sleep, args=(3600,)).start()

def spin(ready):
    daemon()
    open(ready, "w").close()
    while True:
        pass

def main(ready, ending):
    client = Client(workers=2)
    for fn in (daemon, popen, process):
        client.submit(fn).result()
    client.submit(time.sleep, 3600)
    client.submit(spin, ready)
    many = client.submit_many(time.sleep, [3600] * 100)
    while not os.path.exists(ready):
        time.sleep(0.01)
    print("ready", flush=True)
    exec(ending)
"""

ENDINGS = {
    "kill -9": ("time.sleep(3600)", signal.SIGKILL),
    "SIGTERM": ("time.sleep(3600)", signal.SIGTERM),
    "SIGHUP": ("time.sleep(3600)", signal.SIGHUP),
    "Ctrl-C in a result": ("client.submit(time.sleep, 3600).result()", signal.SIGINT),
    "Ctrl-C in a with": ("\nwith client:\n    time.sleep(3600)", signal.SIGINT),
    "os._exit": ("os._exit(0)", None),
    "abort": ("os.abort()", None),
    "sys.exit after close": ("client._host.close(wait=True, cancel=True, kill=True); sys.exit(3)", None),
    "execv": ("os.execv(sys.executable, [sys.executable, '-c', ''])", None),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_whatever_a_task_started_ends_with_the_client(tmp_path: Path, ending: str) -> None:
    code, number = ENDINGS[ending]
    mark = f"{os.getpid()}-{ending}"
    script = tmp_path / "script.py"
    script.write_text(f"{SPAWNS}\nmain({str(tmp_path / 'ready')!r}, {code!r})\n")
    temporary = tmp_path / "temporary"  # its own: other tests run beside this one
    temporary.mkdir()
    shared = names_in("/dev/shm")
    with subprocess.Popen(
        [sys.executable, str(script)],
        env={**python_environment(), MARK: mark, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd=tmp_path,
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"ready\n"
            if number is not None:
                assert len(marked(mark)) >= 7, "client, fork server, two children, three that they started"
                os.killpg(process.pid, number)
            began = monotonic()
            until(lambda: not marked(mark), GONE_S)
            assert monotonic() - began < GONE_S
            process.wait(20)
        finally:
            left = marked(mark)
            for each in left:
                each.kill()
            process.kill()
    assert not left
    assert {name for name in names_in("/dev/shm") - shared if "zmqtasks" in name} == set()
    assert names_in(temporary) == set()


def test_the_end_at_a_random_moment_leaves_nothing(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("""
import subprocess, sys
from zmqtasks import Client, current
print("ready", flush=True)
with Client(workers=2) as client:
    while True:
        futures = [client.submit(abs, n) for n in range(50)]
        nested = client.submit(lambda: sum(current().client.map(abs, range(20))))
        started = client.submit(subprocess.run, ["sleep", "0.01"])
        client.gather(futures), nested.result(), started.result()
        sum(client.map(abs, range(300)))
""")
    chance = random.Random(7)
    for run, number in enumerate([signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGINT] * 2):
        mark = f"{os.getpid()}-random-{run}"
        with subprocess.Popen(
            [sys.executable, str(script)],
            env={**python_environment(), MARK: mark},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd=tmp_path,
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            with contextlib.suppress(subprocess.TimeoutExpired):
                # It does not end by itself: the moment is what is random here.
                process.wait(chance.random() * 0.4)
            os.killpg(process.pid, number)
            try:
                until(lambda mark=mark: not marked(mark), GONE_S)
                assert process.wait(20) == (-number if number != signal.SIGINT else -signal.SIGINT)
            finally:
                for each in marked(mark):
                    each.kill()


def test_what_a_task_leaves_running_ends_with_its_child(lone: Client, tmp_path: Path) -> None:
    def leaves() -> tuple[int, int]:
        started = subprocess.Popen(["sleep", "3600"])
        return os.getpid(), started.pid

    child, started = lone.submit(leaves).result()
    assert psutil.pid_exists(started)
    os.kill(child, signal.SIGKILL)
    until(lambda: not psutil.pid_exists(started), GONE_S)
    assert lone.submit(abs, -1).result() == 1


def test_closing_leaves_no_descriptor_and_no_thread() -> None:
    import gc
    import threading

    def held() -> tuple[list[str], int]:
        files = []
        for entry in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):
                files.append(str(entry.readlink()).split(":")[0])
        return sorted(file for file in files if not file.endswith("/fd")), threading.active_count()

    with Client(workers=1) as client:
        client.submit(abs, 1).result()
    del client
    gc.collect()
    before = held()
    for _ in range(3):
        with Client(workers=2) as client:
            assert client.submit(len, bytes(3 << 20)).result() == 3 << 20
            value = client.submit(bytes, 3 << 20)
            assert client.submit(len, value).result() == 3 << 20
            list(client.map(abs, range(100)))
            value.add_done_callback(print)
            with pytest.raises(WorkerLost):
                client.options(max_deliveries=1).submit(os._exit, 1).result()
        del value
        until(lambda: held()[1] == before[1])
        assert not Belongings.now().children
    del client
    gc.collect()
    assert held() == before


def test_deleting_the_client_ends_its_children() -> None:
    import gc

    client = Client(workers=2)
    assert client.submit(abs, -1).result() == 1
    children = Belongings.now().children
    assert len(children) >= 2
    del client
    gc.collect()
    until(lambda: not any(child.is_running() for child in children), GONE_S)


def test_the_interpreter_ends_without_close(run_python: RunPython) -> None:
    done = run_python(
        "-c",
        "import sys\nfrom zmqtasks import Client\nclient = Client(workers=2)\n"
        "future = client.submit(print, 'hello')\nsys.exit(3)",
    )
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout.endswith("hello\n"), "what was submitted is done first"


# ---- output ------------------------------------------------------------------------------------------------------


def test_what_a_task_prints_and_logs_has_its_name_before_it(run_python: RunPython, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("""
import logging, os, sys, threading
from zmqtasks import Client
logging.basicConfig(level=logging.INFO, format="main %(message)s")

def speak(word):
    print("one", word)
    print("two\\nthree", end="")
    print("error", file=sys.stderr)
    logging.getLogger("lib").info("logged %s", word)
    logging.getLogger("lib").debug("not this")

def partial():
    sys.stdout.write("no end")

def binary():
    sys.stdout.buffer.write(b"raw\\n")
    sys.stdout.flush()

def low():
    os.write(1, b"low level\\n")

with Client(workers=1) as client:
    for fn, args in ((speak, ("word",)), (partial, ()), (binary, ()), (low, ()), (lambda: print("x"), ())):
        client.submit(fn, *args).result()
    client.options(name="north").submit(print, "named").result()
    list(client.map(print, ["a", "b"]))
""")
    done = run_python("script.py")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    for line in (
        *(
            "[speak] one word",
            "[speak] two",
            "[speak] three",
            "[partial] no end",
            "low level",
            "[<lambda>] x",
        ),
        *("[north] named", "[print] a", "[print] b"),
    ):
        assert line in lines, line
    assert any(line.endswith("raw") for line in lines)
    assert sorted(done.stderr.splitlines()) == ["[speak] INFO lib: logged word", "[speak] error"]


def test_megabytes_of_output(run_python: RunPython) -> None:
    script = (
        "from zmqtasks import Client\n"
        "def loud(n):\n    for i in range(10000): print(n, i, 'x' * 80)\n"
        "with Client(workers=2) as client: list(client.map(loud, range(4), chunksize=1))\n"
    )
    done = run_python("-c", script)
    lines = done.stdout.splitlines()
    assert len(lines) == 40_000
    assert set(lines) == {f"[loud] {n} {i} {'x' * 80}" for n in range(4) for i in range(10000)}, (
        "no line is torn"
    )


def test_output_that_nobody_reads_harms_no_task(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "import sys\nfrom zmqtasks import Client\n"
        "def loud(n):\n    for i in range(2000): print(n, i, 'x' * 80)\n    return n\n"
        "with Client(workers=2) as client: values = list(client.map(loud, range(8), chunksize=1))\n"
        "print(values, file=sys.stderr)\n"
    )
    command = f"{sys.executable} script.py | head -2"
    done = subprocess.run(
        command,
        shell=True,
        cwd=tmp_path,
        env=python_environment(),
        capture_output=True,
        text=True,
        timeout=80,
        check=False,
    )
    assert len(done.stdout.splitlines()) == 2
    assert done.stderr == "[0, 1, 2, 3, 4, 5, 6, 7]\n"
    for closed in (">&-", "2>&-", ">&- 2>&-"):
        script = f"exec {sys.executable} script.py {closed}"
        ended = subprocess.run(
            ["sh", "-c", script],
            cwd=tmp_path,
            env=python_environment(),
            timeout=80,
            stdout=subprocess.PIPE,
            check=False,
        )
        assert ended.returncode == 0, closed
