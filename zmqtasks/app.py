"""Apps: tasks with names, and where they are submitted."""

from __future__ import annotations

import os
import secrets
import sys
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, Self, TypeVar, Unpack, overload

from zmqtasks.named import unknown
from zmqtasks.names import NAMED
from zmqtasks.nodes import child
from zmqtasks.options import Retry, checked
from zmqtasks.task import Task, linked
from zmqtasks.whole import Whole

if TYPE_CHECKING:
    from zmqtasks.client import Client
    from zmqtasks.future import Future
    from zmqtasks.options import Given, Shown
    from zmqtasks.submitter import Submitter
    from zmqtasks.task import Links

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)


class Runs(Protocol[P, R_co]):
    """What a class of tasks has."""

    def run(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Do it."""


class App(Whole):
    """Tasks by name, and a client for them, made when the first is submitted, one a process.

    `broker`: its address, as `Client` takes it; None: workers of this machine, unless `ZMQTASKS_BROKER` says otherwise.
    The other options are those of `Client`. Inside a task its client is `zmqtasks.current().client`.
    """

    def __init__(
        self,
        name: str,
        broker: str | None = None,
        *,
        workers: int | None = None,
        queue_max: int | None = None,
        key: str | os.PathLike[str] | None = None,
        on_full: str | None = None,
        connect_timeout: float | None = None,
        retry: Retry | None = None,
    ) -> None:
        if not isinstance(name, str) or not name:  # type: ignore[redundant-expr]  # anything may be passed
            raise TypeError(f"an app has a name, and {name!r} is none")
        about = {
            "workers": workers, "queue_max": queue_max, "key": key, "on_full": on_full,
            "connect_timeout": connect_timeout, "retry": retry,
        }  # fmt: skip
        options = {option: value for option, value in about.items() if value is not None}
        self.begin(secrets.token_hex(8), name, broker, options)
        self.is_home = True
        self.__module__ = sys._getframe(1).f_globals.get("__name__", "__main__")  # noqa: SLF001 - as namedtuple does

    @property
    def rebuild(self) -> Callable[[type[Task], tuple[Any, ...], str], Task]:
        """What makes a task of its class, its app's address and its name, in whatever process it is."""
        return _task_of

    def begin(self, id_: str, name: str, broker: str | None, options: dict[str, Any]) -> None:
        """Be the app of that id, here or in another process than the one that made it."""
        self.__module__ = "__main__"
        self.is_home = False
        self.name = name
        self.broker = broker
        self.address = (id_, name, broker, options)  # what another process makes one of
        self._tasks: dict[str, Task[..., Any]] = {}
        self._client: Client | None = None
        self._opening = threading.Lock()
        _APPS[id_] = self

    @property
    def tasks(self) -> Mapping[str, Task[..., Any]]:
        """Its tasks by name, as far as this process has made them."""
        return MappingProxyType(self._tasks)

    # ---- tasks ---------------------------------------------------------------------------------------------------

    @overload
    def task(
        self, runs: type[Runs[P, R_co]], /, *, name: str | None = None, **options: Unpack[Given]
    ) -> Task[P, R_co]: ...
    @overload
    def task(
        self,
        runs: Callable[P, R_co],
        /,
        *,
        base: type[Task] = Task,
        name: str | None = None,
        **options: Unpack[Given],
    ) -> Task[P, R_co]: ...
    @overload
    def task(
        self, /, *, base: type[Task] = Task, name: str | None = None, **options: Unpack[Given]
    ) -> Callable[[Callable[P, R_co]], Task[P, R_co]]: ...
    def task(
        self, runs: Any = None, /, *, base: type[Task] = Task, name: str | None = None, **options: Any
    ) -> Any:
        """Make a task of a function, or of a subclass of `Task` with a `run`: `@app.task`, `@app.task(queue="mail")`.

        `name`: by default the app's and the function's, as "shop.send". `base`: the class that a function becomes an
        instance of. The `options` are those of `Client.options`, for each call that does not say otherwise.
        """
        options = checked(options)
        if runs is None:
            return lambda runs: self.task(runs, base=base, name=name, **options)
        if isinstance(runs, type) and issubclass(runs, Task):
            base, fn = runs, None
        elif callable(runs) and not isinstance(runs, (type, Task)):
            fn = runs
        else:
            raise TypeError(f"a task is a function or a subclass of zmqtasks.Task, not {runs!r}")
        name = (
            name
            or getattr(base, "name", None)
            or f"{self.name}.{getattr(runs, '__name__', type(runs).__name__)}"
        )
        task: Task[..., Any] = base()
        task.bind(self, name, options, fn)
        before = self._tasks.get(name)  # of the same place: its module, or a notebook's cell, runs again
        if before is not None and _place(before) != _place(task):
            raise ValueError(
                f"the app {self.name!r} has a task {name!r} already ({'.'.join(_place(before))}): name= gives another"
            )
        self._tasks[name] = NAMED[name] = task
        return task

    # ---- submitting ----------------------------------------------------------------------------------------------

    @property
    def client(self) -> Submitter:
        """Its client in this process; inside a task, the task's."""
        if child.RUNNING is not None and child.RUNNING.current is not None:
            from zmqtasks.context import current

            return current().client
        client = self._client
        if client is None:
            from zmqtasks.client import Client

            with self._opening:
                if self._client is None:
                    _, name, broker, options = self.address
                    self._client = Client(broker, name=name, **options)
                client = self._client
        return client

    def send(
        self,
        name: str,
        /,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        link: Links = None,
        link_error: Links = None,
        **options: Unpack[Shown],
    ) -> Future[Any]:
        """Run the task of that name in a worker that has it, one started with `-A`, whose options for it hold.

        Without a broker it is one of this app's own: `UnknownTask` if there is none. With one it waits for a worker.
        """
        if not (self.broker or os.environ.get("ZMQTASKS_BROKER")):
            if (task := self._tasks.get(name)) is None:
                raise unknown(name, self._tasks)
            return task.apply_async(args, kwargs, link=link, link_error=link_error, **options)
        if link or link_error:
            return self.client.run(linked(name, tuple(args), dict(kwargs or {}), options, link, link_error))
        return self.client.options(**options).enqueue(name, tuple(args), dict(kwargs or {}))

    def close(self) -> None:
        """Wait for what is pending, and leave nothing behind; what is submitted later has a new client."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.__exit__(kind, error, traceback)

    def forked(self) -> None:
        """Be in a new process, which has no client yet."""
        self._client, self._opening = None, threading.Lock()

    # ---- travelling ----------------------------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        if name == "__qualname__":  # the name that it has in its module: nobody has told it
            module = vars(sys.modules.get(self.__module__, object))
            return next((name for name, value in module.items() if value is self), "<app>")
        raise AttributeError(f"an app has no {name!r}")

    def parts(self) -> tuple[Any, ...]:
        """Its address and its tasks, which another process may know by their names only."""
        return app_of, self.address, dict(self._tasks)

    def __setstate__(self, tasks: dict[str, Task[..., Any]]) -> None:
        if not self.is_home:
            self._tasks.update(tasks)

    def __repr__(self) -> str:
        return f"<app {self.name!r} at {self.broker or 'this machine'}>"


_APPS: weakref.WeakValueDictionary[str, App] = weakref.WeakValueDictionary()


def app_of(id_: str, name: str, broker: str | None, options: dict[str, Any]) -> App:
    """The app of that id in this process."""
    app = _APPS.get(id_)
    if app is None:
        app = App.__new__(App)
        app.begin(id_, name, broker, options)
    return app


_MADE: dict[
    tuple[type, str], Task
] = {}  # those that came here, of classes that may keep something between calls


def _task_of(cls: type[Task], address: tuple[Any, ...], name: str) -> Task:
    """The task of that name in this process."""
    app = app_of(*address)
    task = app.tasks.get(name) if app.is_home else None
    if task is None and cls is not Task:
        task = _MADE.get((cls, name))
    if task is None:
        task = cls()
        task.app, task.name = app, name
        NAMED.setdefault(name, task)
        if cls is not Task:
            _MADE[cls, name] = task
    return task


def _place(task: Task[..., Any]) -> tuple[str, str]:
    return task.__module__, task.__qualname__


def _forked() -> None:
    for app in list(_APPS.values()):
        app.forked()


os.register_at_fork(after_in_child=_forked)
