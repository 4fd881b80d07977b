"""CPython's own tests of executors and futures, run over `zmqtasks.Client` and `zmqtasks.Future`.

The tests are those of the running Python, `test.test_concurrent_futures`, where they are installed with it (Debian:
`libpython3.X-testsuite`); no line of them is here. They are mixins over an executor, so each class below is one of
their mixins with the Client as the executor. What they test of ProcessPoolExecutor's own insides is left out by name,
with the reason, and tried here in the Client's own terms where it means something to a user.
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
import pickle
import re
import sys
import unittest
import warnings
from concurrent import futures
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from unittest import mock

import psutil
import pytest
from conftest import has_ended, until

import zmqtasks
from zmqtasks import messages, payload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

NAME = "test_concurrent_futures"
ROOMS = {  # where a thing is, from Python 3.12 on; before, all was one module
    "BaseTestCase": "util",
    "ExecutorMixin": "util",
    "ProcessPoolExecutorTest": "test_process_pool",
    "ExecutorShutdownTest": "test_shutdown",
    "WaitTests": "test_wait",
    "AsCompletedTests": "test_as_completed",
    "ExecutorDeadlockTest": "test_deadlock",
    "FutureTests": "test_future",
}


def cpython_rooms() -> dict[str, ModuleType]:
    """Import CPython's tests; the module that each thing of theirs is in. Children must be able to import them too."""
    debian = Path(f"/usr/lib/python3.{sys.version_info.minor}/test")
    package = f"test.{NAME}"
    with warnings.catch_warnings(action="ignore"):
        try:
            found = importlib.import_module(package)
        except ModuleNotFoundError as error:
            if error.name != package or not list(debian.glob(f"{NAME}*")):
                raise
            sys.path.append(str(debian))  # the system's tests for another build of the same Python
            package = NAME
            found = importlib.import_module(package)
        whole = not hasattr(found, "__path__")
        return {
            name: found if whole else importlib.import_module(f"{package}.{at}") for name, at in ROOMS.items()
        }


try:
    CPYTHON = cpython_rooms()
except (ImportError, unittest.SkipTest) as reason:
    pytest.skip(f"CPython's own tests are not installed with this Python: {reason}", allow_module_level=True)


class PoolNamed(zmqtasks.Client):
    """The Client under the arguments of ProcessPoolExecutor."""

    def __init__(self, max_workers: int | None = None, mp_context: None = None, **options: Any) -> None:
        assert mp_context is None
        super().__init__(workers=max_workers, **options)


PoolNamed.__name__ = "Client"  # what the scripts of the tests import


class ClientMixin(CPYTHON["ExecutorMixin"].ExecutorMixin):  # type: ignore[misc, name-defined]  # CPython's tests have no types
    """Makes `self.executor`."""

    executor_type = PoolNamed
    worker_count = 2

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    @pytest.fixture(autouse=True)
    def _collects_its_own(self) -> Iterator[None]:
        """These tests have all collected, again and again: what was there before need not be looked at."""
        gc.freeze()
        yield
        gc.unfreeze()

    def get_context(self) -> None:
        """Return no context of multiprocessing."""


def derive(mixin: str, without: dict[str, str] | None = None, bases: tuple[type, ...] = ()) -> type:
    """Make the mixin's test case over the Client, without what `without` names and gives a reason for."""
    left_out = dict.fromkeys(without or {})  # None in place of a method: no test
    own = (*bases, getattr(CPYTHON[mixin], mixin), ClientMixin, CPYTHON["BaseTestCase"].BaseTestCase)
    return type(f"{mixin}OverClient", own, left_out)


INSIDES = "looks at ProcessPoolExecutor's own attributes"

ProcessPoolBase = derive(
    "ProcessPoolExecutorTest",
    {
        "test_max_workers_negative": "asks for 'max_workers' in the message; here it is 'workers', see below",
        "test_killed_child": "there one lost child breaks the pool; here its task runs again",
        "test_traceback": "asks for a private class as the cause; see below",
        "test_ressources_gced_in_workers": "a manager's proxy needs multiprocessing's key in the children; see below",
        "test_saturation": INSIDES,
        "test_idle_process_reuse_one": INSIDES,
        "test_idle_process_reuse_multiple": INSIDES,
        "test_max_tasks_per_child": INSIDES,
        "test_max_tasks_per_child_defaults_to_spawn_context": INSIDES,
        "test_max_tasks_early_shutdown": "max_tasks_per_child is no option of the Client",
        "test_python_finalization_error": INSIDES,
        "test_force_shutdown_workers": INSIDES,
        "test_force_shutdown_workers_invalid_op": INSIDES,
        "test_kill_workers": INSIDES,
        "test_terminate_workers": INSIDES,
        "test_process_fork_from_a_threaded_process": "the Client forks nothing",
    },
)


def raise_with_a_remark() -> None:
    raise RuntimeError(123)  # some comment


class WritesAtItsEnd:
    """Makes a file when it is collected in another process than it was made in."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.home = os.getpid()

    def __del__(self) -> None:
        if os.getpid() != self.home:
            self.path.touch()


class ClientAsProcessPoolTest(ProcessPoolBase):  # type: ignore[misc, valid-type]  # likewise
    def test_workers_below_one(self) -> None:
        for number in (0, -1):
            with self.assertRaisesRegex(ValueError, "workers"):
                self.executor_type(max_workers=number)

    def test_the_workers_traceback_is_shown(self) -> None:
        with pytest.raises(RuntimeError) as caught:
            self.executor.submit(raise_with_a_remark).result()
        assert caught.type is RuntimeError
        assert caught.value.args == (123,)
        told = "\n".join([*getattr(caught.value, "__notes__", []), str(caught.value.__cause__)])
        assert "raise RuntimeError(123)  # some comment" in told

    def test_an_argument_is_let_go_of_after_its_task(self) -> None:
        self.executor.submit(id, WritesAtItsEnd(self.folder / "collected")).result()
        until((self.folder / "collected").exists)

    def test_a_callback_that_raises_stops_no_other(self) -> None:
        future = self.executor.submit(until_exists, self.folder / "go")
        called: list[object] = []
        for callback in (called.append, lambda _: 1 / 0, called.append):
            future.add_done_callback(callback)
        with self.assertLogs("zmqtasks", "ERROR") as log:
            (self.folder / "go").touch()
            until(lambda: len(called) == 2)
            until(lambda: log.output)
        assert called == [future, future]
        assert "ZeroDivisionError" in log.output[0]

    def test_a_killed_child_costs_nothing(self) -> None:
        waiting = self.executor.submit(until_exists, self.folder / "go")
        victim = int(until(lambda: read(self.folder / "go.pid")))
        psutil.Process(victim).kill()
        until(lambda: read(self.folder / "go.pid") not in {"", str(victim)})
        (self.folder / "go").touch()
        assert waiting.result() != victim
        assert self.executor.submit(pow, 2, 8).result() == 256


def until_exists(path: Path) -> int:
    """Say who runs this in a file beside `path`, and wait for `path`."""
    path.with_suffix(".new").write_text(str(os.getpid()))
    path.with_suffix(".new").rename(path.with_suffix(".pid"))
    until(path.exists)
    return os.getpid()


def read(path: Path) -> str:
    """Return the text of a file, nothing if there is none."""
    return path.read_text() if path.exists() else ""


ClientWaitTest = derive("WaitTests")
ClientAsCompletedTest = derive("AsCompletedTests")
ShutdownBase = derive(
    "ExecutorShutdownTest",
    {"test_cancel_futures": "wants one of its tasks to have started at once; see below"},
)


def over_client(assert_python_ok: Any) -> Any:
    """Make what runs the tests' scripts run them with the Client, from the same path as here."""

    def run(option: str, script: str, *more: str) -> tuple[int, bytes, bytes]:
        script = script.replace("from concurrent.futures import Client", "from zmqtasks import Client")
        script = script.replace("Client(5)", "Client(workers=2)").replace(
            "Client(max_workers=3)", "Client(workers=2)"
        )
        script = script.replace(f"test.{NAME}", CPYTHON["WaitTests"].__name__.removesuffix(".test_wait"))
        assert "zmqtasks" in script
        code, output, errors = assert_python_ok(
            option, f"import sys; sys.path[:] = {sys.path!r}\n{script}", *more
        )
        # what a task prints has its name before it, and being closed is a RuntimeError with a name
        output = re.sub(rb"(?m)^.*sleep_and_print\S*\s+", b"", output)
        return code, output, errors.replace(b"zmqtasks.errors.ClientClosed: ", b"RuntimeError: ")

    return run


class ClientShutdownTest(ShutdownBase):  # type: ignore[misc, valid-type]  # likewise
    def setUp(self) -> None:
        room = CPYTHON["ExecutorShutdownTest"]
        self.enterContext(mock.patch.object(room, "assert_python_ok", over_client(room.assert_python_ok)))
        super().setUp()

    def children_of(self, executor: zmqtasks.Client) -> list[psutil.Process]:
        executor.submit(int).result()
        ours = {p.pid for p in psutil.Process().children(recursive=True)}
        return [psutil.Process(pid) for pid in ours & set(executor.map(getpid, range(50)))]

    def ended(self, children: Iterable[psutil.Process]) -> None:
        until(lambda: all(has_ended(child.pid) for child in children))

    def test_what_has_not_started_is_cancelled(self) -> None:
        running = self.executor.submit(until_exists, self.folder / "go")
        until(running.running)
        waiting = [self.executor.submit(until_exists, self.folder / "go") for _ in range(50)]
        self.executor.shutdown(wait=False, cancel_futures=True)
        until(lambda: sum(future.cancelled() for future in waiting) >= 49)  # one may run in the other child
        (self.folder / "go").touch()
        self.executor.shutdown()
        assert all(future.done() for future in waiting)
        assert running.result() > 0

    def test_its_context_shuts_it_down(self) -> None:
        with self.executor_type(max_workers=2) as executor:
            children = self.children_of(executor)
            assert list(executor.map(abs, range(-5, 5))) == [5, 4, 3, 2, 1, 0, 1, 2, 3, 4]
        assert children
        assert all(has_ended(child.pid) for child in children)

    def test_shutdown_without_waiting_finishes_what_was_submitted(self) -> None:
        executor = self.executor_type(max_workers=2)
        children = self.children_of(executor)
        results = executor.map(abs, range(-5, 5))
        executor.shutdown(wait=False)
        assert list(results) == [5, 4, 3, 2, 1, 0, 1, 2, 3, 4]
        self.ended(children)

    def test_an_executor_that_is_let_go_of_finishes_and_ends(self) -> None:
        executor = self.executor_type(max_workers=2)
        children = self.children_of(executor)
        results = executor.map(abs, range(-5, 5))
        del executor
        gc.collect()
        assert list(results) == [5, 4, 3, 2, 1, 0, 1, 2, 3, 4]
        del results
        gc.collect()
        self.ended(children)


def getpid(_: object) -> int:
    """Return the process that this runs in."""
    return os.getpid()


DeadlockBase = derive(
    "ExecutorDeadlockTest",
    {
        "test_shutdown_deadlock_pickle": INSIDES + "; and what cannot be pickled raises in submit",
        "test_gh105829_should_not_deadlock_if_wakeup_pipe_full": INSIDES,
    },
)


CRASHES: dict[str, Any] = {  # there, most of these break the pool; here each fails its one task
    "test_error_at_task_pickle": (pickle.PicklingError, zmqtasks.ZmqTasksError),
    "test_exit_at_task_unpickle": zmqtasks.RemoteError,
    "test_error_at_task_unpickle": (pickle.UnpicklingError, zmqtasks.RemoteError),
    "test_crash_at_task_unpickle": zmqtasks.WorkerLost,
    "test_crash_during_func_exec_on_worker": zmqtasks.WorkerLost,
    "test_exit_during_func_exec_on_worker": zmqtasks.RemoteError,
    "test_error_during_func_exec_on_worker": RuntimeError,
    "test_crash_during_result_pickle_on_worker": zmqtasks.WorkerLost,
    "test_exit_during_result_pickle_on_worker": zmqtasks.RemoteError,
    "test_error_during_result_pickle_on_worker": (pickle.PicklingError, zmqtasks.ZmqTasksError),
    "test_error_during_result_unpickle_in_result_handler": (pickle.UnpicklingError, zmqtasks.RemoteError),
    "test_exit_during_result_unpickle_in_result_handler": zmqtasks.RemoteError,
}


class ClientDeadlockTest(DeadlockBase):  # type: ignore[misc, valid-type]  # likewise
    """Children that crash, exit or raise at each moment of a task: an error, never a hang, and the pool goes on."""

    def setUp(self) -> None:
        self.enterContext(
            mock.patch.object(CPYTHON["ExecutorDeadlockTest"], "BrokenProcessPool", zmqtasks.WorkerLost)
        )
        # One of the objects replaces it where it is unpickled.
        self.addCleanup(setattr, sys, "stderr", sys.stderr)
        super().setUp()

    def _check_crash(self, error: object, func: Any, *args: Any, ignore_stderr: bool = False) -> None:
        with self.assertRaises(CRASHES[self._testMethodName]):
            self.executor.submit(func, *args).result(timeout=30)
        assert self.executor.submit(pow, 2, 8).result(timeout=30) == 256


SETTLED_BY_THE_TASK = "a future of the Client is settled by its task alone, and says so"
FUTURE_WITHOUT = {
    "test_repr": "ours shows the task's id and state",
    "test_cancel": "compares private states; the outcome of cancel() is tested with the Client",
    "test_exception_with_success": "writes private attributes from another thread",
    "test_done_callback_raises": "the client runs the callbacks; see below",
    "test_multiple_set_result": SETTLED_BY_THE_TASK,
    "test_multiple_set_exception": SETTLED_BY_THE_TASK,
}
FutureBase = type(
    "FutureTestsOverFuture", (CPYTHON["FutureTests"].FutureTests,), dict.fromkeys(FUTURE_WITHOUT)
)


class Desk:
    """Stands for what carries the tasks of a client: knows of one task whether it runs, and cancels it."""

    cluster_id = "desk"

    def __init__(self, *, runs: bool) -> None:
        self.runs = runs
        self.future: zmqtasks.Future[Any] | None = None

    def state(self, _id: int, _within_s: float = 0) -> tuple[int, int]:
        return (messages.LEASED, 1) if self.runs else (messages.QUEUED, 0)

    def cancel(self, _id: int, *, terminate: bool) -> bool:
        assert not terminate
        if not self.runs:
            self.future.settle(TASK, messages.CANCELLED, "cancelled")
        return not self.runs

    def wait(self, park: Callable[[], bool], _on: int) -> bool:
        return park()

    def watch(self, _future: object) -> list[Any]:
        return []

    def call_back(self, call: Callable[[], None]) -> None:
        call()  # at once, so that the tests need not wait


TASK = mock.Mock(attempt=1)


class SettableFuture(zmqtasks.Future):  # type: ignore[type-arg]  # of anything
    """Our future, which the test settles in the task's place."""

    def __init__(self, *, runs: bool = False) -> None:
        desk = Desk(runs=runs)
        super().__init__(desk, 1)
        desk.future = self

    def set_result(self, value: object) -> None:  # type: ignore[override]  # settable again
        self.settle(TASK, messages.SUCCEEDED, payload.dump_result(value))

    def set_exception(self, error: BaseException) -> None:  # type: ignore[override]  # settable again
        self.settle(TASK, messages.FAILED, payload.dump_error(error, "", "task"))


def future_in(
    state: str = "PENDING", exception: BaseException | None = None, result: Any = None
) -> SettableFuture:
    """Make a future in a state of concurrent.futures, as their helper of the same arguments does."""
    future = SettableFuture(runs=state == "RUNNING")
    if state.startswith("CANCELLED"):
        assert future.cancel()
    elif exception is not None:
        future.set_exception(exception)
    elif state == "FINISHED":
        future.set_result(result)
    return future


class ClientFutureTest(FutureBase):  # type: ignore[misc, valid-type]  # likewise
    """Their tests of a Future, with ours in its place."""

    def setUp(self) -> None:
        made = {
            "PENDING_FUTURE": future_in("PENDING"),
            "RUNNING_FUTURE": future_in("RUNNING"),
            "CANCELLED_FUTURE": future_in("CANCELLED"),
            "CANCELLED_AND_NOTIFIED_FUTURE": future_in("CANCELLED_AND_NOTIFIED"),
            "EXCEPTION_FUTURE": future_in("FINISHED", exception=OSError()),
            "SUCCESSFUL_FUTURE": future_in("FINISHED", result=42),
        }
        room = CPYTHON["FutureTests"]
        for name, value in {**made, "Future": SettableFuture, "create_future": future_in}.items():
            self.enterContext(mock.patch.object(room, name, value))
        # They look for it on standard error, pytest takes it away.
        log = logging.getLogger("concurrent.futures")
        assert logging.lastResort is not None
        log.addHandler(logging.lastResort)
        self.addCleanup(log.removeHandler, logging.lastResort)
        super().setUp()


# bases of what is collected are not tests themselves
del ProcessPoolBase, ShutdownBase, DeadlockBase, FutureBase


def test_the_client_is_an_executor() -> None:
    assert issubclass(zmqtasks.Client, futures.Executor)
    assert issubclass(zmqtasks.Future, futures.Future)
