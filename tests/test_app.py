"""Apps without a broker: tasks with names, their options, how they travel."""

from __future__ import annotations

import os
import pickle
import sys
import threading
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import TYPE_CHECKING, Any

import cloudpickle
import pytest
from conftest import until

import zmqtasks
from zmqtasks import App, Retry, Task, UnknownTask, current, signature
from zmqtasks.flow import Workflow

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import RunPython

SHOP = """\
import os
from zmqtasks import App, Task, current

app = App("shop", workers=1)
loads = []

@app.task(queue="mail", priority=7, tags={"kind": "mail"})
def send(to: str, body: str = "") -> str:
    return f"{to}: {body}"

@app.task
def about():
    me = current()
    return me.name, me.tags, loads

@app.task
def sends(to):
    return send.delay(to, "from a task").result()

@app.task
def sends_by_name(to):
    return app.send("shop.send", (to,)).result()

class Counter(Task):
    calls = 0

    def run(self, by=1):
        self.calls += by
        return os.getpid(), self.calls

counter = app.task(Counter)
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Yield a module with an app, which workers of this machine can import."""
    (tmp_path / "shop.py").write_text(SHOP)
    monkeypatch.syspath_prepend(tmp_path)
    import shop  # type: ignore[import-not-found]  # written above

    shop.loads.append("changed here")  # what goes by reference does not see it
    yield shop
    shop.app.close()
    del sys.modules["shop"]


@pytest.fixture
def app() -> Iterator[App]:
    """Yield an app with one worker."""
    with App("test", workers=1) as app:
        yield app


def test_a_call_is_an_ordinary_call(app: App) -> None:
    """Nothing is started, and it takes and returns what the function does."""

    @app.task
    def add(x: int, y: int = 1) -> int:
        """Sum."""
        return x + y

    assert add(2) == 3
    assert add(x=2, y=3) == 5
    assert (add.__name__, add.__doc__, add.name) == ("add", "Sum.", "test.add")
    assert dict(app.tasks) == {"test.add": add}
    assert threading.active_count() == len(threading.enumerate())
    assert app._client is None


def test_delay_and_apply_async_run_it_in_a_worker(app: App) -> None:
    """By value, with what it refers to."""
    own = os.getpid()

    @app.task
    def add(x: int, y: int = 1) -> tuple[int, bool]:
        return x + y, os.getpid() == own

    assert add.delay(2).result() == (3, False)
    assert add.delay(2, y=2).result() == (4, False)
    assert add.apply_async((2, 5)).result() == (7, False)
    assert add.apply_async([2], {"y": 6}).result() == (8, False)
    assert add.delay(add.delay(1), 1).exception() is not None  # a tuple and an int: the future was waited for


@pytest.mark.parametrize(
    ("args", "kwargs", "why"),
    [
        ((), {}, "missing a required argument: 'x'"),
        ((1, 2, 3), {}, "too many positional arguments"),
        ((1,), {"z": 2}, "got an unexpected keyword argument 'z'"),
        ((1,), {"x": 2}, "multiple values for argument 'x'"),
    ],
)
def test_a_wrong_argument_is_an_error_at_the_call(
    app: App, args: tuple[int, ...], kwargs: dict[str, int], why: str
) -> None:
    """And nothing is submitted."""

    @app.task
    def add(x: int, y: int = 1) -> int:
        return x + y

    for call in (lambda: add.delay(*args, **kwargs), lambda: add.apply_async(args, kwargs)):
        with pytest.raises(TypeError, match=r"^test\.add\(x: 'int', y: 'int' = 1\)") as caught:
            call()
        assert why in str(caught.value)
    assert app.client._host._dispatcher.ledger.submitted == 0  # type: ignore[attr-defined]  # the embedded one's


def test_what_must_come_by_its_name_is_missed(app: App) -> None:
    """However many arguments there are."""

    @app.task
    def pick(*many: int, one: int) -> int:
        return many[one]

    with pytest.raises(TypeError, match="'one'"):
        pick.delay(1, 2)
    assert pick.delay(1, 2, one=1).result() == 2


def test_options_of_the_task_and_of_the_call(app: App) -> None:
    """The call's own stand before the task's."""

    @app.task(tags={"a": "1"}, name="other", retry=Retry(2, delay=0))
    def about() -> tuple[str, dict[str, str], int]:
        if current().attempt < 3:
            raise OSError
        return current().name, current().tags, current().attempt

    assert about.name == "other"
    assert about.delay().result() == ("other", {"a": "1"}, 3)
    assert about.apply_async(tags={"b": "2"}, name="shown").result() == ("shown", {"b": "2"}, 3)
    with pytest.raises(OSError):
        about.apply_async(retry=None).result()


def test_an_eta_is_a_time(app: App) -> None:
    """In the past, it is now; a countdown beside it is one too many."""

    @app.task
    def one() -> int:
        return 1

    assert one.apply_async(eta=datetime(2001, 1, 1)).result() == 1  # noqa: DTZ001 - local time
    late = one.apply_async(eta=datetime.now(UTC) + timedelta(hours=1))
    assert late.state == "SCHEDULED"
    assert late.cancel()
    with pytest.raises(ValueError, match="one or the other"):
        one.apply_async(eta=datetime.now(UTC), countdown=1)
    with pytest.raises(TypeError, match="datetime"):
        one.apply_async(eta=12)


@pytest.mark.parametrize(
    "option", ["soft_time_limit", "rate_limit", "max_concurrency", "limit_key", "ignore_result", "result_ttl",
               "unique", "serializer", "resources"],
)  # fmt: skip
def test_what_is_not_there_is_refused(app: App, option: str) -> None:
    """When the task is made, and at a call."""
    with pytest.raises(TypeError, match=f"no such option: {option}"):
        app.task(**{option: 1})
    task = app.task(len)
    with pytest.raises(TypeError, match=f"no such option: {option}"):
        task.apply_async(([],), **{option: 1})
    with pytest.raises(TypeError, match=f"no such option: {option}"):
        app.send("test.len", ([],), **{option: 1})


@pytest.mark.parametrize(("option", "value"), [("priority", 10), ("queue", ""), ("time_limit", 0)])
def test_what_is_out_of_range_is_refused(app: App, option: str, value: object) -> None:
    """When the task is made."""
    with pytest.raises(ValueError, match=option):
        app.task(**{option: value})
    with pytest.raises(TypeError, match="retry is"):
        app.task(retry=3)


def test_send_names_a_task(app: App) -> None:
    """One of the app's own, where there is no broker, or it is an error at once."""

    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    assert app.send("test.add", (1, 2)).result() == 3
    assert app.send("test.add", [1], {"y": 3}).result() == 4
    with pytest.raises(TypeError, match="missing"):
        app.send("test.add", (1,))
    with pytest.raises(UnknownTask, match=r"no task 'test.ad' here, did you mean 'test.add'\?"):
        app.send("test.ad", (1, 2))


def test_a_name_is_given_once(app: App) -> None:
    """But for a function that is defined again, as a notebook's cell does."""

    def make(result: int) -> Task[[], int]:
        @app.task
        def one() -> int:
            return result

        return one

    first, second = make(1), make(2)
    assert app.tasks["test.one"] is second
    assert (first.delay().result(), second.delay().result()) == (1, 2)

    def one() -> int:
        return 3

    with pytest.raises(ValueError, match=r"has a task 'test.one' already \(test_app.*one\): name= gives"):
        app.task(one)


@pytest.mark.parametrize("no_task", [3, "text", int, None])
def test_what_no_task_can_be_made_of(app: App, no_task: Any) -> None:
    """It is said when it is tried."""
    if no_task is None:
        with pytest.raises(TypeError, match="has no run"):
            app.task(type("Empty", (Task,), {}))
    else:
        with pytest.raises(TypeError, match="a task is a function"):
            app.task(no_task)


def test_tasks_submit_tasks(shop: ModuleType) -> None:
    """In a worker the app's client is the task's: what is submitted there comes to the same dispatcher."""
    assert shop.sends.delay("a@b.c").result() == "a@b.c: from a task"
    assert shop.sends_by_name.delay("a@b.c").result() == "a@b.c: "


def test_tasks_of_a_module_go_by_reference(shop: ModuleType) -> None:
    """Workers of this machine have it."""
    name, tags, loads = shop.about.delay().result()
    assert (name, tags, loads) == ("shop.about", {}, [])
    assert b"shop" in pickle.dumps(shop.send)
    assert pickle.loads(pickle.dumps(shop.send)) is shop.send
    assert pickle.loads(pickle.dumps(shop.app)) is shop.app
    assert cloudpickle.loads(cloudpickle.dumps(shop.counter)) is shop.counter


def test_tasks_are_chained_where_nothing_but_the_app_was_imported(run_python: RunPython) -> None:
    script = """
from zmqtasks import App

app = App("main")

@app.task
def add(a: int, b: int) -> int:
    return a + b

print((add.s(1, 2) | add.s(3)).apply())
"""
    assert run_python("-c", script).stdout == "6\n"


def test_tasks_of_the_main_module_are_pickled_too(run_python: RunPython) -> None:
    """There the task has taken its function's name, by which `pickle` would look for that."""
    script = """
import pickle
from zmqtasks import App, group

app = App("main")

@app.task
def countdown(n: int) -> int:
    return countdown(n - 1) if n else 0

made = group([countdown.s(3), countdown.s(4)]) | countdown.s().set(priority=3)
sent = pickle.dumps((made, app))
assert pickle.loads(sent) == (made, app)
assert pickle.loads(sent)[1] is app
print(sent.hex())
"""
    loads = "import pickle; made, app = pickle.loads(bytes.fromhex(input())); print(made.header.apply(), app)"
    sent = run_python("-c", script)
    there = run_python("-c", loads, stdin=sent.stdout)
    assert (there.stdout, there.stderr) == ("[0, 0] <app 'main' at this machine>\n", "")


def test_a_class_keeps_what_it_has_between_calls(shop: ModuleType, app: App) -> None:
    """There is one instance a process."""
    pids, counts = zip(*(shop.counter.delay(2).result() for _ in range(3)), strict=True)
    assert len(set(pids)) == 1
    assert counts == (2, 4, 6)
    assert shop.counter(1) == (os.getpid(), 1)

    @app.task
    class Local(Task):
        """By value."""

        def __init__(self) -> None:
            self.calls = 0

        def run(self, by: int) -> int:
            self.calls += by
            return self.calls

    assert Local.name == "test.Local"
    assert [Local.delay(2).result() for _ in range(3)] == [2, 4, 6]
    with pytest.raises(TypeError, match="'by'"):
        Local.delay()


def test_a_function_may_have_a_base(app: App) -> None:
    """What its class says of a call holds in workers too."""

    class Loud(Task):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return f"{super().__call__(*args, **kwargs)}!"

    @app.task(base=Loud)
    def say(text: str) -> str:
        return text

    assert say("ho") == "ho!"
    assert say.delay("ho").result() == "ho!"


def test_a_task_by_value_sees_what_it_captured(app: App) -> None:
    """When it was submitted, itself and through tasks that it names."""
    factor = 2

    @app.task
    def inner(x: int) -> int:
        return x * factor

    @app.task
    def outer(x: int) -> int:
        return inner(x) + inner.delay(x).result()

    assert outer.delay(1).result() == 4
    factor = 3
    assert outer.delay(1).result() == 6


def test_a_task_comes_home(app: App) -> None:
    """As an argument and a result it is the very task."""

    @app.task
    def itself(task: Any) -> Any:
        return task, task.name

    assert itself.delay(itself).result() == (itself, "test.itself")
    assert app.client.submit(lambda: itself).result() is itself
    assert app.client.submit(lambda: app).result() is app
    assert app.client.submit(itself, 3).exception() is not None  # an int has no name: it was called


def test_signatures_of_a_task(app: App) -> None:
    """Values that know its name; what it does not take is an error when they are made."""

    @app.task(priority=3)
    def add(x: int, y: int = 1) -> int:
        return x + y

    assert add.s(1) == signature(add, 1) == signature("test.add", 1)
    assert add.si(1, y=2) == add.signature((1,), {"y": 2}, immutable=True)
    assert add.signature((1,), priority=5) == add.s(1).set(priority=5)
    assert add.s(2).apply() == 3
    assert (add.map(range(2)).items, add.map([1]).apply()) == ((0, 1), [2])
    assert add.starmap([(1, 2), (3,)]).apply() == [3, 4]
    assert add.chunks([(1,), (2,), (3,)], 2).apply() == [[2, 3], [4]]
    assert Workflow.from_json(add.s(1).to_json()).task == "test.add"
    for wrong in (lambda: add.s(1, 2, 3), lambda: add.s(z=1), add.si, lambda: add.si(1, 2, 3)):  # type: ignore[call-arg]  # that is the point
        with pytest.raises(TypeError, match=r"^test\.add\(x: 'int', y: 'int' = 1\)"):
            wrong()
    assert add.s(2).delay().result() == 3


def test_an_app_without_tasks_in_flight_is_opened_and_closed(app: App) -> None:
    """Its client is made when it is needed, once for all threads, and again after a close."""
    task = app.task(len)
    clients: list[object] = []
    threads = [threading.Thread(target=lambda: clients.append(app.client)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, clients))) == 1
    app.close()
    app.close()
    assert task.delay([1]).result() == 1
    assert app.client is not clients[0]


def test_what_an_app_is_made_of() -> None:
    """Its options are a client's."""
    with pytest.raises(TypeError, match="has a name"):
        App("")
    with pytest.raises(TypeError, match="speed"):
        App("test", speed=3)  # type: ignore[call-arg]  # that is the point
    with App("test", workers=0) as app, pytest.raises(ValueError, match="workers is 1 or more"):
        app.task(len).delay([])
    with App("test", workers=3, queue_max=9) as app:
        assert app.client._host.workers == 3
    assert repr(app) == "<app 'test' at this machine>"


MAIN = """\
import os
from zmqtasks import App, Task

app = App("main", workers=2)

@app.task
def fib(n):
    return n if n < 2 else sum(f.result() for f in (fib.delay(n - 1), fib.delay(n - 2)))

@app.task
def named(n):
    return app.send("main.fib", (n,)).result()

@app.task
class Count(Task):
    calls = 0
    def run(self):
        self.calls += 1
        return self.calls

print(fib.delay(6).result(), named.delay(5).result(), Count.delay().result())
if os.fork() == 0:  # the copy has a client of its own
    print("forked", fib.delay(5).result(), flush=True)
    app.close()
    os._exit(0)
os.wait()
print("parent", fib.delay(4).result())
"""


def test_a_script_needs_no_guard(run_python: RunPython, tmp_path: Path) -> None:
    """Its tasks name each other and the app, in workers that never import it; a fork has a client of its own."""
    (tmp_path / "script.py").write_text(MAIN)
    done = run_python("script.py")
    assert (done.stdout.splitlines(), done.stderr) == (["8 5 1", "forked 5", "parent 3"], "")


def test_the_package_exports_them() -> None:
    """Loaded when they are first used."""
    assert {"App", "Task"} <= set(zmqtasks.__all__)


def test_what_is_linked_is_run_after_it(app: App, tmp_path: Path) -> None:
    """With its result, or with its failure, by `delay`'s longer form and by `send`."""

    @app.task
    def half(x: int) -> int:
        if x % 2:
            raise ValueError(x)
        return x // 2

    @app.task
    def note(what: Any, name: str) -> None:
        (tmp_path / name).write_text(str(getattr(what, "exception", what)))

    def noted(name: str) -> str:
        return str(until(lambda: (tmp_path / name).exists() and (tmp_path / name).read_text()))

    assert half.apply_async((4,), link=[note.s("a"), note.s("b")], link_error=note.s("never")).result() == 2
    assert half.apply_async((3,), link=note.s("never"), link_error=note.s("c")).exception() is not None
    assert app.send("test.half", (8,), link=note.s("d"), name="shown").result() == 4
    assert [noted(name) for name in "abcd"] == ["2", "2", "3", "4"]
    assert (half.s(8) | half.s() | note.s("e")).delay().result() is None
    assert noted("e") == "2"
    assert not (tmp_path / "never").exists()
    with pytest.raises(TypeError, match="no signature"):
        half.apply_async((4,), link=note)  # type: ignore[arg-type]  # that is the point
