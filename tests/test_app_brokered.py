"""Apps with a broker: tasks by their names on workers that have registered them, and by value on any worker."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import kept, until
from program import World

from zmqtasks import App, Client, Task, UnknownTask
from zmqtasks.cli.apps import find
from zmqtasks.cli.target import TargetError
from zmqtasks.options import Options

SHOP = """\
import os, sys
from pathlib import Path
import zmqtasks
from zmqtasks import App, Retry, Task, current

print("imported by", os.getpid(), flush=True)
app = App("shop", broker="tcp://127.0.0.1:1")

class Late(Exception):
    pass

@app.task(queue="mail", priority=7, tags={"kind": "mail"}, retry=Retry(2, on=Late, delay=0))
def send(to, body=""):
    me = current()
    if body == "late" and me.attempt < 3:
        raise Late
    return to, me.name, me.attempt, me.tags

@app.task
def asks(to):
    return send.delay(to).result(), app.send("shop.send", (to,)).result(), os.getpid()

@app.task
class Counter(Task):
    calls = 0

    def run(self, by=1):
        self.calls += by
        return self.calls
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, _module_leaves_nothing: None) -> Iterator[World]:
    """Yield a machine with a broker and a worker that has an app, `shop.py`."""
    with World(tmp_path_factory.mktemp("shop")) as world, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZMQTASKS_KEYS", str(world.keys))
        (world.folder / "shop.py").write_text(SHOP)
        _, world.address = world.broker()  # type: ignore[attr-defined]  # for the tests
        world.crew = world.worker(world.address, "-A", "shop:app", "-c", "1", "--name", "shop")  # type: ignore[attr-defined]  # see above
        kept.add(world.crew.pid)  # type: ignore[attr-defined]  # its processes come and go
        yield world
        kept.discard(world.crew.pid)  # type: ignore[attr-defined]  # see above


@pytest.fixture
def address(world: World) -> str:
    """Return the broker's."""
    return str(world.address)  # type: ignore[attr-defined]  # see above


@pytest.fixture
def app(address: str, _leaves_nothing: None) -> Iterator[App]:
    """Yield an app without the tasks of that worker's."""
    app = App("other", broker=address)
    yield app
    if app._client is not None:  # what waits for ever in a failed test ends with it
        app._client._host.close(wait=True, cancel=True, kill=True)


def test_a_task_is_sent_by_its_name(app: App) -> None:
    """From a program without its code; the options that the worker has registered hold."""
    assert app.send("shop.send", ("a@b.c",)).result() == ("a@b.c", "shop.send", 1, {"kind": "mail"})
    assert app.send("shop.send", ["a"], {"body": "late"}).result()[2] == 3
    assert app.send("shop.send", ("a",), tags={"kind": "other"}).result()[3] == {"kind": "other"}
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        app.send("shop.send").result()


def test_what_was_registered_is_seen(app: App) -> None:
    """Where the tasks are, and which queue and priority one has."""
    assert app.client.inspect._host.inquire("registered") == {  # type: ignore[attr-defined]  # its words are not public yet
        name: ["shop"] for name in ("shop.send", "shop.asks", "shop.Counter")
    }
    future = app.send("shop.send", ("a",), countdown=3600)
    assert future.accepted(10)
    seen = app.client.inspect.explain(future.id)  # type: ignore[attr-defined]  # of a client
    assert (seen["queue"], seen["priority"], seen["name"]) == ("mail", 7, "shop.send")
    assert future.cancel()


def test_tasks_of_a_worker_submit_tasks(app: App, world: World) -> None:
    """By value, to whichever worker, and by their names; its one process has imported the app once."""
    by_value, by_name, pid = app.send("shop.asks", ("x",)).result()
    assert by_value == by_name == ("x", "shop.send", 1, {"kind": "mail"})
    assert world.crew.out.count(f"imported by {pid}\n") == 1


def test_a_class_keeps_what_it_has(app: App) -> None:
    """In the worker's process."""
    first = app.send("shop.Counter").result()
    assert [app.send("shop.Counter", (2,)).result() for _ in range(2)] == [first + 2, first + 4]


def test_a_name_that_nobody_has_waits(app: App, world: World, address: str) -> None:
    """Which one may have been meant is said; when a worker comes that has it, it runs."""
    future = app.send("shop.sned", ("a",))
    explain = app.client.inspect.explain  # type: ignore[attr-defined]  # of a client
    assert future.accepted(10)
    why = "waiting for a worker with -A ... that has task 'shop.sned', did you mean 'shop.send'?"
    assert explain(future.id)["why"] == why
    assert future.cancel()
    later = app.send("later.one", queue="slow")
    assert later.accepted(10)
    assert "that has task 'later.one'" in explain(later.id)["why"]
    (world.folder / "later.py").write_text(
        "from zmqtasks import App\nthe_app = App('later')\n@the_app.task\ndef one():\n    return 1\n"
    )
    worker = world.worker(address, "-A", "later", "-Q", "default", "-c", "1")
    assert until(lambda: "takes the queue 'slow'" in explain(later.id)["why"])
    worker.end()
    worker = world.worker(address, "-A", str(world.folder / "later.py"), "-c", "1")
    assert later.result(20) == 1
    worker.end()


def test_tasks_travel_by_value(app: App, address: str) -> None:
    """What this program has made runs on that worker too."""

    @app.task
    def double(x: int) -> int:
        return 2 * x

    @app.task
    def quadruple(x: int) -> int:
        return double.delay(2 * x).result()

    class Sum(Task):
        total = 0

        def run(self, x: int) -> tuple[int, int]:
            self.total += x
            return self.total, os.getpid()

    total = app.task(Sum)
    assert quadruple.delay(3).result() == 12
    sums = [total.delay(1).result() for _ in range(4)]
    assert len({pid for _, pid in sums}) == 1 or {value for value, _ in sums} < {1, 2, 3, 4}
    assert sum(value == 1 for value, _ in sums) == len({pid for _, pid in sums})
    with Client(address) as client:
        assert client.submit(double, 4).result() == 8


def test_an_embedded_client_knows_no_names(app: App) -> None:
    """There is no worker with -A, and none will come: it is an error at once."""
    with Client(workers=1) as client, pytest.raises(UnknownTask, match=r"no task .shop.send. here"):
        client.enqueue("shop.send", (), {})


SCRIPT = """\
import sys
from zmqtasks import App

app = App("script", broker=sys.argv[1])

@app.task
def fib(n):
    return n if n < 2 else fib.delay(n - 1).result() + fib(n - 2)

print(fib.delay(6).result(), app.send("shop.send", ("x",)).result()[1])
"""


def test_a_script_has_tasks_for_any_worker(world: World, address: str) -> None:
    """Its own travel, those of others are named."""
    (world.folder / "script.py").write_text(SCRIPT)
    program = world.run(sys.executable, "script.py", address)
    assert (program.wait(), program.out, program.err) == (0, "8 shop.send\n", "")


def test_a_task_is_submitted_by_its_name_from_a_shell(world: World, address: str) -> None:
    """One that a worker has; else it may be a slip."""
    submit = ("submit", "--broker", address, "--wait", "--json")
    code, out, err = world.ended(*submit, "shop.send", "a@b.c", "--kwargs", '{"body": "hi"}')
    assert (code, err, json.loads(out)["result"][:2]) == (0, "", ["a@b.c", "shop.send"]), out
    assert world.ended(*submit, "shop.sned") == (
        3, "", "zmqtasks: no worker has a task 'shop.sned', did you mean 'shop.send'?\n",
    )  # fmt: skip


# ---- discovery --------------------------------------------------------------------------------------------------

APP = "from zmqtasks import App\napp = App('a')\n"
MODULES = {
    "two": APP + "other = App('b')\n",
    "none": "x = 1\n",
    "broken": "import json\n\n1 / 0\n",
    "syntax": "def f(:\n",
    "wrong": APP + "@app.task\ndef send(): ...\n",
    "gone": "import os\nos._exit(7)\n",
    "loud": "print('here I am')\n" + APP + "same = app\n",
    "lacks": "import no_such_thing\n",
}


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ("two", r"^'two' has 2 apps: say which, two:app or two:other$"),
        ("none", r"^'none' has no App: zmqtasks.App makes one$"),
        ("none:app", r"^'none' has no 'app'$"),
        ("wrong:appp", r"^'wrong' has no 'appp', did you mean 'app'\?$"),
        ("wrong:send", r"^'wrong:send' is no App: it is of type Task \(its apps: app\)$"),
        ("broken", r"^importing 'broken' raised ZeroDivisionError: division by zero \(.*broken.py:3\)$"),
        ("syntax:app", r"^importing 'syntax' raised SyntaxError: invalid syntax \(.*syntax.py:1\)$"),
        ("lacks", r"^importing 'lacks' raised ModuleNotFoundError: No module named 'no_such_thing' \(.*lacks.py:1\)$"),
        ("wrnog:app", r"^there is no module 'wrnog', did you mean 'wrong'\?$"),
        ("gone:app", r"^importing 'gone:app' ended the process that did it, with status 7$"),
        ("no/such.py:app", r"^there is no file 'no/such.py'"),
    ],
)  # fmt: skip
def test_an_app_that_cannot_be_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, error: str
) -> None:
    """It is said in one line why."""
    for name, text in MODULES.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TargetError, match=error):
        find(target)


def test_an_app_that_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    """Where it is, its broker, its tasks and their options; what it prints is no answer."""
    (tmp_path / "loud.py").write_text(MODULES["loud"])
    (tmp_path / "shop.py").write_text(SHOP)
    monkeypatch.chdir(tmp_path)
    assert find("loud").place == "loud:app"
    assert "here I am" in capfd.readouterr().err
    found = find(f"{tmp_path}/shop.py:app")
    assert (found.place, found.broker) == ("shop:app", "tcp://127.0.0.1:1")
    assert str(tmp_path) in found.path
    assert found.tasks["shop.asks"] == Options()
    assert (found.tasks["shop.send"].queue, found.tasks["shop.send"].priority) == ("mail", 7)


def test_a_worker_without_its_app_does_not_start(world: World, address: str) -> None:
    """The exit code is that of a target that cannot be imported; with its app it goes to the app's own broker."""
    assert world.ended("worker", address, "-A", "shpo") == (
        3, "", "zmqtasks: there is no module 'shpo', did you mean 'shop'?\n",
    )  # fmt: skip
    code, _, err = world.ended("worker", "-A", "shop", "--burst")
    assert (code, "no broker answers at tcp://127.0.0.1:1" in err) == (4, True), err
    code, _, err = world.ended("worker", "--ventilator", address, "-A", "shop")
    assert (code, "is for a broker's worker" in err) == (2, True), err


def test_a_child_that_cannot_import_the_app_says_so(app: App, world: World, address: str) -> None:
    """Where it could be imported when the worker started, but not in its child: its tasks fail with that."""
    (world.folder / "fragile.py").write_text(
        "import os\nfrom zmqtasks import App\napp = App('fragile')\n@app.task\ndef one(): ...\n"
        "if os.path.exists('seen'): raise OSError('no more')\nopen('seen', 'w').close()\n"
    )
    worker = world.worker(address, "-A", "fragile", "-c", "1")
    with pytest.raises(
        UnknownTask, match=r"'fragile.one' here: importing 'fragile' raised OSError in this process: no more"
    ):
        app.send("fragile.one").result(20)
    worker.says(r"OSError: no more")
    worker.end()


def test_what_a_submit_says_stands_before_what_was_registered() -> None:
    """An option that is as nobody has said is as the worker has it."""
    registered = Options(priority=3, queue="mail", expires=5.0, tags={"a": "b"})
    assert Options().over(registered) == registered
    assert Options(priority=5, countdown=2.0).over(registered) == Options(
        5, 2.0, None, {"a": "b"}, 3, "mail", None, None, 5.0
    )
    assert Options(countdown=9.0).over(registered).expires is None
