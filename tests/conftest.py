"""What every test gets: no process, thread or descriptor outlives the test that made it, whatever the test is about.

Tests wait on facts, never on the clock: `until(fact)` asks again and again until a deadline, and a test that
needs longer than it should fails with the fact's name.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import psutil
import pytest
from hypothesis import settings

from zmqtasks.nodes.cpus import cpus

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from brokered import Clusters
    from namespaces import Machine

    from zmqtasks import Client

ROOT = Path(__file__).resolve().parents[1]

# Cores are shared: a slow example is no failure.
settings.register_profile("zmqtasks", deadline=None, print_blob=True)
settings.load_profile("zmqtasks")

LEFT_BEHIND_S = 20.0
"""How long what a test started may take to vanish after it, in seconds."""

STANDARD_DESCRIPTOR_MAX = 2  # the runner's own: they change hands as it captures output
WATCHED_DESCRIPTORS = ("socket:", "pipe:", "anon_inode:", "/memfd:", "/dev/shm/")
"""The kinds of descriptor, as `/proc/self/fd` calls them, that must not pile up. Other systems have no such list."""


FACT_S = 30.0
"""How long a fact may take to come about where nothing is said of that: this machine may be busy with other things."""


def until(fact: Callable[[], Any], within_s: float = FACT_S, every_s: float = 0.01) -> Any:
    """Return the first true value of `fact()`, or fail once `within_s` seconds have gone by.

    What takes long to find out is asked less often than `every_s` says: looking must not keep it from happening.
    """
    began, tick = time.monotonic(), threading.Event()
    deadline = began + within_s
    while not (value := fact()):
        ended = time.monotonic()
        if ended > deadline:
            pytest.fail(f"not within {within_s} s: {getattr(fact, '__doc__', None) or fact}")
        tick.wait(max(every_s, 3 * (ended - began)))
        began = time.monotonic()
    return value


FIRST_PORT, PORTS_END = 10_000, 32_768


def free_port() -> int:
    """Return a port of 127.0.0.1 for who binds it later, or again: none of those that the system gives away itself."""
    while True:
        port = random.SystemRandom().randrange(FIRST_PORT, PORTS_END)
        with contextlib.suppress(OSError):
            socket.create_server(("127.0.0.1", port)).close()
            return port


def has_ended(pid: int) -> bool:
    """Whether no process of this id runs: a zombie that nobody has reaped yet has ended too."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


kept: set[int] = set()
"""Processes that are meant to outlive the test that first needed them, as `brokered.py` starts them."""


def descendants(process: psutil.Process) -> list[psutil.Process]:
    """The children of a process at any depth; none if it has ended."""
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def own_children() -> list[psutil.Process]:
    """The children of this process. Each test asks twice: where the system lists them, nobody else is looked at."""
    listings = list(Path("/proc/self/task").glob("*/children"))
    if not listings:
        return psutil.Process().children()
    found = []
    for listing in listings:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, psutil.NoSuchProcess):
            found += [psutil.Process(int(pid)) for pid in listing.read_text().split()]
    return found


@dataclass(frozen=True, slots=True)
class Belongings:
    """What this process holds at one moment: children at any depth, threads of ours, watched descriptors."""

    children: dict[
        psutil.Process, psutil.Process
    ]  # with the child of this very process that each is below, or is
    threads: frozenset[threading.Thread]
    descriptors: frozenset[str]

    @classmethod
    def now(cls) -> Belongings:
        """Look."""
        own = [child for child in own_children() if child.pid not in kept]
        return cls(
            {below: child for child in own for below in (child, *descendants(child))},
            frozenset(thread for thread in threading.enumerate() if thread.name.startswith("zmqtasks")),
            frozenset(watched_descriptors()),
        )

    def more_than(self, before: Belongings) -> dict[str, list[str]]:
        """Name what is here now and was not before. What took the place of something that is gone is not more.

        Processes of what outlives a test, a module's node say, may be on their way at either moment.
        """
        pairs = {
            "children": (self._but_below(before.children), before._but_below(self.children)),
            "threads": (self.threads, before.threads),
            "descriptors": (self.descriptors, before.descriptors),
        }
        return {
            kind: sorted(map(str, now - then)) for kind, (now, then) in pairs.items() if len(now) > len(then)
        }

    def _but_below(self, others: Collection[psutil.Process]) -> frozenset[psutil.Process]:
        """The children, but those that are below one of the `others`."""
        return frozenset(child for child, own in self.children.items() if child == own or own not in others)


def watched_descriptors() -> Iterator[str]:
    """Yield each watched descriptor as 'number target', where the system lists them."""
    listing = Path("/proc/self/fd")
    for entry in listing.iterdir() if listing.is_dir() else ():
        try:
            target = str(entry.readlink())
        except FileNotFoundError:  # the listing's own
            continue
        if target.startswith(WATCHED_DESCRIPTORS) and int(entry.name) > STANDARD_DESCRIPTOR_MAX:
            yield f"{entry.name} {target}"


def assert_nothing_more_than(before: Belongings) -> None:
    """Fail, naming what is left, unless this process holds no more than `before` soon."""
    deadline, tick = time.monotonic() + LEFT_BEHIND_S, threading.Event()
    if Belongings.now().more_than(before):
        gc.collect()  # a failed test's traceback, say, still holds what it used
    while more := Belongings.now().more_than(before):
        if time.monotonic() > deadline:
            pytest.fail(f"left behind after {LEFT_BEHIND_S} s: {more}")
        tick.wait(0.01)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """`-n auto`: three for two CPUs, for tests of processes wait as often as they work."""
    return max(2, cpus() * 3 // 2)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Each worker has neighbours, which share a module's client or broker; at the end it takes over from others."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log) if config.getoption("dist") == "load" else None


@pytest.fixture(autouse=True, scope="session")
def _plain_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests do not see the caller's own zmqtasks settings and keys, and make none there."""
    with pytest.MonkeyPatch.context() as patch:
        ours = ("ZMQTASKS_TEST_", "ZMQTASKS_SIM_")  # the tests' own: how large a run is asked for
        for name in [
            name for name in os.environ if name.startswith("ZMQTASKS_") and not name.startswith(ours)
        ]:
            patch.delenv(name)
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        yield


@pytest.fixture(autouse=True, scope="session")
def _zero_copy() -> None:
    """What pyzmq starts at the first message that is sent without a copy, and never ends, is there before any test."""
    import zmq

    with zmq.Context() as context, context.socket(zmq.PAIR) as one, context.socket(zmq.PAIR) as other:
        one.bind("inproc://one")
        other.connect("inproc://one")
        one.send(bytes(1 << 20), copy=False)
        other.recv(copy=False)


@pytest.fixture(autouse=True, scope="module")
def _module_leaves_nothing() -> Iterator[None]:
    """A module's own fixtures leave nothing behind either: checked once more, after them."""
    before = Belongings.now()
    yield
    assert_nothing_more_than(before)


@pytest.fixture(autouse=True)
def _leaves_nothing(_module_leaves_nothing: None) -> Iterator[None]:
    """After each test: no child, no thread of ours, no descriptor more than before it."""
    from zmqtasks import files

    before = Belongings.now()
    yield
    files.close_kept()  # those of clients that other tests use too
    assert_nothing_more_than(before)


class OpenClient(Protocol):
    """Open a client of the topology under test."""

    def __call__(self, workers: int = 2) -> Client:
        """One with so many children: its own ones, or those of a broker's one node."""


@pytest.fixture(scope="session")
def _clusters() -> Iterator[Clusters]:
    """The brokers with a node of this run, started when they are needed."""
    from brokered import Clusters

    clusters = Clusters()
    yield clusters
    clusters.end()


@pytest.fixture(scope="module", params=["embedded", "brokered"])
def open_client(
    request: pytest.FixtureRequest, _clusters: Clusters, _module_leaves_nothing: None
) -> OpenClient:
    """Return a function that opens a client: once each test runs with workers of its own, once with a broker's."""
    from zmqtasks import Client

    def embedded(workers: int = 2) -> Client:
        return Client(workers=workers)

    def brokered(workers: int = 2) -> Client:
        return _clusters.get(workers).client()

    return embedded if request.param == "embedded" else brokered


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out with a broker what is marked to be about the embedded topology, and the other way round."""
    if odd := [item.nodeid for item in items if " at 0x" in item.nodeid]:
        raise pytest.UsageError(f"an address is another in each process, and so is the id of {odd[0]}")
    out = []
    for item in items:
        topology = item.callspec.params.get("open_client") if hasattr(item, "callspec") else None
        if topology is not None:
            other = {"embedded": "brokered_only", "brokered": "embedded_only"}[topology]
            out += [item] if item.get_closest_marker(other) else []
    if out:
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if item not in set(out)]


@pytest.fixture
def client(open_client: OpenClient, _leaves_nothing: None) -> Iterator[Client]:
    """Yield a client with two children, closed after the test."""
    with open_client() as client:
        yield client


@pytest.fixture
def lone(open_client: OpenClient, _leaves_nothing: None) -> Iterator[Client]:
    """Yield a client with one child; what hangs in a failed test is ended with it."""
    client = open_client(1)
    yield client
    client._host.close(wait=True, cancel=True, kill=True)


@pytest.fixture(scope="module")
def shared_client(open_client: OpenClient, _module_leaves_nothing: None) -> Iterator[Client]:
    """Yield one client with two children for all the tests of a module that do no harm to it."""
    with open_client() as client:
        client.submit(int).result()  # started, before any test takes stock
        yield client


@pytest.fixture
def machines(_leaves_nothing: None) -> Iterator[tuple[Machine, Machine]]:
    """Yield two machines joined by a cable (`namespaces.py`), or skip where there can be none."""
    from namespaces import Unavailable, two_machines

    with ExitStack() as stack:
        try:
            pair = stack.enter_context(two_machines())
        except Unavailable as reason:
            pytest.skip(str(reason))
        yield pair


class RunPython(Protocol):
    """Run this Python as a process of its own; its end, with what it wrote as text."""

    def __call__(
        self, *arguments: str, stdin: str = "", timeout_s: float = 90, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run it to its end; `timeout_s` seconds at most, with `env` added to the environment."""


def python_environment() -> dict[str, str]:
    """Return an environment in which a script, wherever it lies, imports the zmqtasks that is under test."""
    spec = importlib.util.find_spec("zmqtasks")
    assert spec is not None
    assert spec.origin is not None
    parent = Path(spec.origin).parents[1]
    found = {} if parent.name == "site-packages" else {"PYTHONPATH": str(parent)}
    # From 3.12 on whoever forks with threads about is warned of it; our forks are what the tests are about.
    quiet = {"PYTHONWARNINGS": "ignore:This process (pid=:DeprecationWarning"}
    return {**os.environ, **found, **quiet, "PYTHON_BASIC_REPL": "1", "PYTHONIOENCODING": "utf-8"}


@pytest.fixture
def run_python(tmp_path: Path) -> RunPython:
    """Return a function that runs this Python in the test's folder, and ends its whole group if it hangs."""

    def run(
        *arguments: str, stdin: str = "", timeout_s: float = 90, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        with subprocess.Popen(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env={**python_environment(), **(env or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                output, errors = process.communicate(stdin, timeout=timeout_s)
            except BaseException as reason:
                os.killpg(process.pid, signal.SIGKILL)
                output, errors = process.communicate()
                if isinstance(reason, subprocess.TimeoutExpired):
                    pytest.fail(f"still running after {timeout_s} s\nstdout: {output}\nstderr: {errors}")
                raise
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    return run
