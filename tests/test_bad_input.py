"""Whatever is thrown at the client: a clear error soon, and the next task is fine."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from conftest import OpenClient, RunPython

from zmqtasks import (
    Client,
    ClientClosed,
    ForeignFuture,
    ForkedClient,
    NotPicklable,
    RemoteError,
    State,
    ZmqTasksError,
    current,
)

SOON_S = 5.0
"""Within a second, the issue says; a machine that is busy with other things may take its time."""


class Holder:
    """Something with attributes."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)


def locked() -> Any:
    return threading.Lock()


def outcome(client: Client, fn: Callable[..., Any], *args: Any) -> BaseException:
    """Return what the task raised; the next one is fine, and it all took little time."""
    began = monotonic()
    error = client.submit(fn, *args).exception(30)
    assert error is not None
    assert monotonic() - began < SOON_S
    assert client.submit(abs, -7).result(30) == 7
    many = client.submit_many(lambda _: fn(*args), [1])[0].exception(30)
    assert type(many) is type(error), "as an item of many"
    return error


# ---- arguments that cannot travel --------------------------------------------------------------------------------


def unpicklable() -> dict[str, tuple[tuple[Any, ...], dict[str, Any], str]]:
    """Arguments that hold something that cannot be pickled, and the path to it."""

    class Refuses:
        def __reduce_ex__(self, protocol: object) -> Any:
            raise RuntimeError("not me")

    class Unspeakable(Refuses):
        def __repr__(self) -> str:
            raise RuntimeError("nor this")

        __str__ = __repr__

    class BaseRefuses:
        def __reduce_ex__(self, protocol: object) -> Any:
            raise KeyboardInterrupt

    deep = Holder(config=Holder(lock=locked()))
    long: list[Any] = list(range(20_000))
    long[12_345] = locked()
    return {
        "attributes": ((deep,), {}, r"args\[0\]\.config\.lock cannot be pickled: lock"),
        "second": ((1, [2, {"key": locked()}]), {}, r"args\[1\]\[1\]\['key'\] cannot be pickled: lock"),
        "keyword": ((), {"word": (deep,)}, r"kwargs\['word'\]\[0\]\.config\.lock"),
        "long list": ((long,), {}, r"args\[0\]\[12345\]"),
        "generator": (((x for x in "abc"),), {}, r"args\[0\] cannot be pickled: generator"),
        "frame": (([sys._getframe()],), {}, r"args\[0\]\[0\] cannot be pickled: frame"),
        "refuses": (
            ({"a": [Refuses()]},),
            {},
            r"args\[0\]\['a'\]\[0\] cannot be pickled: .*Refuses .*not me",
        ),
        "unspeakable": ((Unspeakable(),), {}, r"args\[0\] cannot be pickled: .*Unspeakable"),
        "unspeakable in a set": (({Unspeakable()},), {}, r"args\[0\].* cannot be pickled: .*Unspeakable"),
        "key": (({locked(): 1},), {}, r"args\[0\] key .*lock"),
        "captured": ((lambda: deep,), {}, r"args\[0\] captures deep\.config\.lock"),
    }


UNPICKLABLE = unpicklable()


@pytest.mark.parametrize("kind", UNPICKLABLE)
def test_what_cannot_be_pickled_is_named(shared_client: Client, kind: str) -> None:
    args, kwargs, message = UNPICKLABLE[kind]
    began = monotonic()
    with pytest.raises(NotPicklable, match=message) as caught:
        shared_client.submit(lambda *args, **kwargs: None, *args, **kwargs)
    assert isinstance(caught.value, TypeError)
    assert caught.value.__cause__ is not None
    assert monotonic() - began < SOON_S
    assert shared_client.submit(abs, -1).result() == 1


def test_an_item_that_cannot_be_pickled_is_named(shared_client: Client) -> None:
    items = [*range(500), locked(), *range(500)]
    with pytest.raises(NotPicklable, match=r"\[\d+\].* cannot be pickled: lock"):
        shared_client.submit_many(repr, items)
    with pytest.raises(NotPicklable, match=r"\[\d+\].* cannot be pickled: lock"):
        list(shared_client.map(repr, items))
    with pytest.raises(NotPicklable, match="cannot be pickled: lock"):
        list(shared_client.map(repr, items, buffersize=3, chunksize=None))
    assert list(shared_client.map(abs, range(3))) == [0, 1, 2]


def test_a_function_that_cannot_be_pickled_is_named(shared_client: Client) -> None:
    lock = locked()
    with pytest.raises(NotPicklable, match="function captures lock cannot be pickled: lock"):
        shared_client.submit(lambda: lock)
    with pytest.raises(NotPicklable, match=r"function.*lock"):
        shared_client.submit(Holder(lock=lock).__init__)
    with pytest.raises(NotPicklable, match="lock"):
        shared_client.scatter(lock)
    assert shared_client.submit(abs, -1).result() == 1


def test_endless_recursion_in_an_argument(shared_client: Client) -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    began = monotonic()
    with pytest.raises(NotPicklable, match=r"cannot be pickled: .*(recursion|depth|stack)"):
        shared_client.submit(len, deep)
    assert monotonic() - began < SOON_S
    own: list[Any] = []
    own.append(own)
    assert shared_client.submit(lambda own: own[0][0] is own, own).result()
    while deep:
        deep = deep.pop()


def test_a_base_exception_while_pickling_is_not_swallowed(shared_client: Client) -> None:
    class Interrupts:
        def __reduce_ex__(self, protocol: object) -> Any:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shared_client.submit(abs, Interrupts())
    assert shared_client.submit(abs, -1).result() == 1


def test_clients_and_futures_do_not_travel(shared_client: Client) -> None:
    with pytest.raises(NotPicklable, match=r"args\[0\].*current\(\)\.client"):
        shared_client.submit(lambda client: None, shared_client)
    error = outcome(shared_client, lambda: current().client.submit(abs, 1))
    assert "future" in str(error)


# ---- what cannot be unpickled there ------------------------------------------------------------------------------


def blow_up(why: str) -> None:
    raise OverflowError(why)


class ExplodesThere:
    """Unpickling it raises."""

    def __reduce__(self) -> Any:
        return blow_up, ("on arrival",)


def test_unpickling_raises_there(shared_client: Client) -> None:
    error = shared_client.submit(lambda x: x, ExplodesThere()).exception(30)
    assert type(error) is OverflowError
    assert "on arrival" in str(error)
    for future in shared_client.submit_many(lambda x: x, [1, ExplodesThere()]):
        assert "on arrival" in str(future.exception(30)) or future.result() == 1
    assert shared_client.submit(abs, -1).result() == 1


def test_unpickling_raises_here(shared_client: Client) -> None:
    future = shared_client.submit(lambda: ExplodesThere())  # noqa: PLW0108 - made within the task
    for _ in range(2):
        with pytest.raises(OverflowError, match="on arrival"):
            future.result(30)
    assert type(shared_client.submit(lambda: [ExplodesThere()]).exception(30)) is OverflowError
    with pytest.raises(OverflowError, match="on arrival"):
        list(shared_client.map(lambda _: ExplodesThere(), range(3)))
    assert shared_client.submit(abs, -1).result() == 1


def test_a_module_that_is_missing_there(
    tmp_path: Path, shared_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "only_here_module.py").write_text("def f(): return 1\nclass C: pass\n")
    monkeypatch.syspath_prepend(str(folder))  # the children have started with another path
    import only_here_module

    for fn, args in ((only_here_module.f, ()), (repr, (only_here_module.C(),))):
        error = outcome(shared_client, fn, *args)
        assert isinstance(error, ModuleNotFoundError)
        assert "only_here_module" in str(error)


# ---- results and exceptions that cannot travel -------------------------------------------------------------------


def test_results_that_cannot_be_pickled(shared_client: Client) -> None:
    def deep() -> Any:
        return {"a": [1, {"lock": __import__("threading").Lock()}]}

    error = outcome(shared_client, deep)
    assert isinstance(error, NotPicklable)
    assert "result['a'][1]['lock']" in str(error)
    for fn in (lambda: (x for x in "a"), lambda: __import__("sys")._getframe()):
        error = outcome(shared_client, fn)
        assert isinstance(error, NotPicklable)
        assert "result" in str(error)


def test_only_the_item_whose_result_cannot_be_pickled_fails(shared_client: Client) -> None:
    def some(index: int) -> Any:
        return (x for x in "a") if index == 70 else index

    futures = shared_client.submit_many(some, range(100))
    for index, future in enumerate(futures):
        if index == 70:
            with pytest.raises(NotPicklable, match="result"):
                future.result()
        else:
            assert future.result() == index


def test_a_result_that_recurses_without_end(shared_client: Client) -> None:
    def deep() -> Any:
        value: list[Any] = []
        for _ in range(100_000):
            value = [value]
        return value

    error = outcome(shared_client, deep)
    assert isinstance(error, (NotPicklable, RecursionError))


def test_a_result_whose_pickling_raises(shared_client: Client) -> None:
    class Refuses:
        def __reduce_ex__(self, protocol: object) -> Any:
            raise OverflowError("not me")

        def __repr__(self) -> str:
            raise OverflowError("nor this")

    error = outcome(shared_client, Refuses)
    assert isinstance(error, NotPicklable)
    assert "not me" in str(error)


def rebuilt_badly() -> dict[str, Callable[[], Any]]:
    """Tasks whose exceptions cannot be rebuilt."""

    class Demanding(Exception):
        def __init__(self, one: int, two: int) -> None:
            super().__init__(f"{one} and {two}")

    class WithLock(Exception):
        def __init__(self) -> None:
            super().__init__("locked")
            self.lock = __import__("threading").Lock()

    class Explodes(Exception):
        def __reduce__(self) -> Any:
            return blow_up, ("while it is rebuilt",)

    class Refuses(Exception):
        def __reduce__(self) -> Any:
            raise RuntimeError("not me")

    class Another(Exception):
        def __reduce__(self) -> Any:
            return KeyError, ("another",)

    def demanding() -> None:
        raise Demanding(1, 2)

    def with_lock() -> None:
        raise WithLock

    def explodes() -> None:
        raise Explodes("message")

    def refuses() -> None:
        raise Refuses("message")

    def another() -> None:
        raise Another("message")

    return {
        "Demanding: 1 and 2": demanding,
        "WithLock: locked": with_lock,
        "Explodes: message": explodes,
        "Refuses: message": refuses,
        "Another: message": another,
    }


REBUILT_BADLY = rebuilt_badly()


@pytest.mark.parametrize("message", REBUILT_BADLY)
def test_exceptions_that_cannot_be_rebuilt_are_told(shared_client: Client, message: str) -> None:
    error = outcome(shared_client, REBUILT_BADLY[message])
    assert isinstance(error, RemoteError)
    assert message in str(error)
    assert error.type_name.endswith(message.partition(":")[0])
    assert error.message == message.split(": ")[1]
    assert "test_bad_input.py" in error.traceback
    assert message.partition(":")[0] in error.traceback


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, BaseException])
def test_what_must_not_be_raised_here(shared_client: Client, kind: type[BaseException]) -> None:
    def fail() -> None:
        raise kind("so")

    error = outcome(shared_client, fail)
    assert isinstance(error, RemoteError)
    assert (error.type_name, error.message) == (kind.__name__, "so")
    assert "in fail" in error.traceback


def test_exits_of_a_task(shared_client: Client) -> None:
    for args in ((), (0,), (3,), ("with a word",)):
        error = outcome(shared_client, sys.exit, *args)
        assert isinstance(error, RemoteError)
        assert error.type_name == "SystemExit"

    class Own(BaseException):
        pass

    def fail() -> None:
        raise Own("so")

    error = outcome(shared_client, fail)
    assert isinstance(error, RemoteError)
    assert error.type_name.endswith("Own")


def test_exceptions_come_as_they_are(shared_client: Client) -> None:
    def stop() -> None:
        raise StopIteration(5)

    def group() -> None:
        raise ExceptionGroup("several", [ValueError(1), ExceptionGroup("more", [KeyError("k")])])

    def chain() -> None:
        try:
            raise KeyError("cause")  # noqa: TRY301 - the chain is what is looked at
        except KeyError as error:
            raise ValueError("effect") from error

    def os_error() -> None:
        open("/nowhere/at/all")  # noqa: SIM115, PTH123 - it raises

    def unicode() -> None:
        b"\xff".decode()

    def noted() -> None:
        error = ValueError("noted")
        error.add_note("a note of its own")
        raise error

    error = outcome(shared_client, stop)
    assert type(error) is StopIteration
    assert error.value == 5
    error = outcome(shared_client, group)
    assert type(error) is ExceptionGroup
    assert [type(each) for each in error.exceptions] == [ValueError, ExceptionGroup]
    error = outcome(shared_client, chain)
    assert type(error) is ValueError
    assert "KeyError: 'cause'" in "".join(error.__notes__)
    error = outcome(shared_client, os_error)
    assert type(error) is FileNotFoundError
    assert error.filename == "/nowhere/at/all"
    assert type(outcome(shared_client, unicode)) is UnicodeDecodeError
    assert "a note of its own" in outcome(shared_client, noted).__notes__
    error = outcome(shared_client, asserts)
    assert type(error) is AssertionError
    assert "in asserts" in "".join(error.__notes__)
    # As in the standard library: map's values come from a generator.
    with pytest.raises(RuntimeError) as caught:
        list(shared_client.map(lambda _: stop(), [1])).append(None)
    assert type(caught.value.__cause__) is StopIteration


def asserts() -> None:
    raise AssertionError


def test_endless_recursion_in_a_task(shared_client: Client) -> None:
    def forever(n: int) -> int:
        return forever(n + 1) + 1

    assert type(outcome(shared_client, forever, 0)) is RecursionError


def test_huge_messages(shared_client: Client) -> None:
    def fail() -> None:
        raise ValueError("x" * (20 << 20))

    error = outcome(shared_client, fail)
    assert len(str(error)) == 20 << 20


def test_broken_exceptions(shared_client: Client) -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

        __repr__ = __str__

    class BaseBroken(Exception):
        def __str__(self) -> str:
            raise KeyboardInterrupt

    def fail(kind: type[Exception]) -> None:
        raise kind("so")

    for kind in (Broken, BaseBroken):
        error = outcome(shared_client, fail, kind)
        assert isinstance(error, (kind, RemoteError))


def test_broken_objects(shared_client: Client) -> None:
    class Broken:
        def __del__(self) -> None:
            raise RuntimeError("in __del__")

        def __repr__(self) -> str:
            raise RuntimeError("in __repr__")

        def __eq__(self, other: object) -> bool:
            raise RuntimeError("in __eq__")

        def __bool__(self) -> bool:
            raise RuntimeError("in __bool__")

        def __len__(self) -> int:
            raise RuntimeError("in __len__")

        __hash__ = None  # type: ignore[assignment]  # how Python says it

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            raise RuntimeError(f"in __getattr__: {name}")

    def task() -> str:
        Broken()
        return "fine"

    assert shared_client.submit(task).result() == "fine"
    assert shared_client.submit(abs, -1).result() == 1
    error = outcome(shared_client, lambda: [Broken(), (x for x in "a")])
    assert isinstance(error, NotPicklable)


def test_a_failing_del_of_a_result(client: Client) -> None:
    class Leaves:
        def __init__(self) -> None:
            self.home = os.getpid()

        def __del__(self) -> None:
            if os.getpid() != self.home:
                os.close(-1)

    assert client.submit(lambda leaves: None, Leaves()).result() is None
    assert client.submit(abs, -1).result() == 1


def test_a_large_result(shared_client: Client) -> None:
    gib = int(os.environ.get("ZMQTASKS_TEST_GIB", "0"))
    size = gib << 30 or 200 << 20
    value = shared_client.submit(bytes, size).result()
    assert type(value) is bytes
    assert len(value) == size
    assert not value[0]
    assert not value[-1]


# ---- futures and clients that are not at home --------------------------------------------------------------------


def test_a_future_of_another_client(shared_client: Client, open_client: OpenClient) -> None:
    import concurrent.futures

    with open_client(1) as other:
        foreign = other.submit(abs, -1)
        for args in ((foreign,), ([{"a": foreign}],)):
            with pytest.raises(ForeignFuture, match="another client"):
                shared_client.submit(repr, *args)
        with pytest.raises(ForeignFuture):
            shared_client.submit_many(repr, [1, foreign])
        with pytest.raises(ForeignFuture):
            shared_client.scatter([foreign])
        with pytest.raises(ForeignFuture):
            shared_client.submit(lambda: foreign)
        assert foreign.result() == 1
    with pytest.raises(ForeignFuture):
        shared_client.submit(repr, concurrent.futures.Future())
    assert isinstance(ForeignFuture(""), ValueError)
    assert shared_client.submit(abs, -1).result() == 1


def test_use_after_close(open_client: OpenClient) -> None:
    with open_client(1) as client:
        done = client.submit(abs, -1)
    for use in (
        lambda: client.submit(abs, 1),
        lambda: client.map(abs, [1]),
        lambda: client.map(abs, [1], buffersize=1),
        lambda: client.submit_many(abs, [1]),
        lambda: client.options(priority=1).submit(abs, 1),
        lambda: client.submit(abs, done),
    ):
        with pytest.raises(ClientClosed, match="closed"):
            use()
    with pytest.raises(RuntimeError), client:
        client.submit(abs, 1)
    assert done.result() == 1
    assert done.state is State.SUCCEEDED
    assert not done.cancel()
    began = monotonic()
    assert client.flush(30)
    assert done.accepted()
    assert monotonic() - began < SOON_S


def test_a_fork_does_not_inherit_the_client(client: Client) -> None:
    pending = client.submit(abs, -1)
    assert pending.result() == 1
    reader, writer = os.pipe()
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork of a process with threads
        pid = os.fork()
    if pid == 0:
        said = "nothing"
        try:
            client.submit(abs, 1)
        except ForkedClient as error:
            said = f"ForkedClient {error}"
        except BaseException as error:  # noqa: BLE001 - the parent looks at it
            said = repr(error)
        os.write(writer, said.encode())
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        assert stream.read().startswith(b"ForkedClient this client belongs to the process")
    assert client.submit(abs, -2).result() == 2, "the parent goes on"
    assert isinstance(ForkedClient(""), (RuntimeError, ZmqTasksError))


def test_a_forked_process_opens_a_client_of_its_own(run_python: RunPython) -> None:
    script = """
import multiprocessing, warnings
from zmqtasks import Client, ForkedClient
warnings.simplefilter("ignore")

def child(queue, client, future):
    for use in (lambda: client.submit(abs, 1), lambda: list(client.map(abs, [1])), lambda: future.result(5)):
        try:
            queue.put(use())
        except ForkedClient:
            queue.put("ForkedClient")
    client.close()
    with Client(workers=1) as own:
        queue.put(own.submit(abs, -5).result())

if __name__ == "__main__":
    with Client(workers=1) as client:
        future = client.options(countdown=0.5).submit(abs, -3)
        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        process = context.Process(target=child, args=(queue, client, future))
        process.start()
        print([queue.get(timeout=20) for _ in range(4)])
        process.join(10)
        print(process.exitcode, client.submit(abs, -4).result(), future.result())
"""
    done = run_python("-c", script)
    assert done.stderr == ""
    assert done.stdout == "['ForkedClient', 'ForkedClient', 'ForkedClient', 5]\n0 4 3\n"


def test_a_task_may_use_the_standard_librarys_processes(shared_client: Client) -> None:
    def run() -> str:
        return subprocess.run(
            [sys.executable, "-c", "print('inner')"], capture_output=True, text=True, check=True
        ).stdout

    def pool() -> list[int]:
        with multiprocessing.get_context("fork").Pool(1) as pool:
            return pool.map(abs, [-1, -2])

    assert shared_client.submit(run).result() == "inner\n"
    assert shared_client.submit(pool).result() == [1, 2]
    assert shared_client.submit(os.system, "exit 3").result() >> 8 == 3
