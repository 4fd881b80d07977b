"""Tasks: functions with a name and options, of an app."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping, Sequence
from types import FunctionType
from typing import TYPE_CHECKING, Any, Generic, Unpack, overload

from zmqtasks.whole import Whole

if TYPE_CHECKING:
    from typing_extensions import ParamSpec, TypeVar

    from zmqtasks.app import App
    from zmqtasks.flow import Workflow
    from zmqtasks.future import Future
    from zmqtasks.options import Shown
    from zmqtasks.submitter import Submitter
    from zmqtasks.workflow import Map, Signature

    Links = Workflow | list[Workflow] | tuple[Workflow, ...] | None
    P = ParamSpec("P", default=...)
    R_co = TypeVar("R_co", covariant=True, default=Any)
    T = TypeVar("T")
else:
    from typing import ParamSpec, TypeVar

    P = ParamSpec("P")  # from 3.13 on it could say its default here too
    R_co = TypeVar("R_co", covariant=True)
    T = TypeVar("T")


class Task(Whole, Generic[P, R_co]):
    """A function with a name and options: calling it is an ordinary call, `delay` runs it in a worker.

    `App.task` makes one of a function. A subclass with a `run` is made one by it, too: each process makes one instance,
    without arguments, and what `run` keeps in attributes is there at the next call.
    """

    is_zmqtask = True  # to those that do not import this module

    name: str
    app: App
    given: Mapping[str, Any]  # its options, as they were given
    _signature: inspect.Signature | None = None
    _arity: tuple[int, float] = (0, -1)  # so many arguments by position are right whatever they are
    _ready: tuple[Submitter, Submitter] | None = (
        None  # the app's client, and the same with this task's options
    )

    def bind(self, app: App, name: str, given: Mapping[str, Any], fn: Callable[..., Any] | None) -> None:
        """Become the task of that name of `app`, and run `fn`, or what this class has as `run`."""
        self.app, self.name, self.given = app, name, given
        if fn is not None:
            functools.update_wrapper(self, fn)  # inspect.signature, help and picklers look there
            self.__dict__.setdefault("__qualname__", "<task>")  # of what has no name
            self.run = fn
        elif callable(getattr(self, "run", None)):
            self.__qualname__ = type(self).__qualname__
            self.__doc__ = type(self).__doc__
        else:
            raise TypeError(f"{type(self).__qualname__} has no run: that is what a task calls")

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Call it, here and now."""
        value: R_co = self.run(*args, **kwargs)
        return value

    @property
    def function(self) -> Callable[P, R_co]:
        """What is called."""
        return self

    def client(self) -> Submitter:
        """Where it is submitted: its app's client, in a task that one's."""
        return self.app.client

    # ---- submitting ----------------------------------------------------------------------------------------------

    @overload
    def delay(self: Task[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> Future[T]: ...
    @overload
    def delay(self: Task[P, Generator[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> Future[T]: ...
    @overload
    def delay(self, *args: P.args, **kwargs: P.kwargs) -> Future[R_co]: ...
    def delay(self, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run it in a worker; a `TypeError` where it does not take these arguments."""
        self._check(args, kwargs)
        return self._submitter().enqueue(self, args, kwargs)

    @overload
    def apply_async(
        self: Task[..., Coroutine[Any, Any, T]],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        link: Links = None,
        link_error: Links = None,
        **options: Unpack[Shown],
    ) -> Future[T]: ...
    @overload
    def apply_async(
        self: Task[..., Generator[Any, Any, T]],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        link: Links = None,
        link_error: Links = None,
        **options: Unpack[Shown],
    ) -> Future[T]: ...
    @overload
    def apply_async(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        link: Links = None,
        link_error: Links = None,
        **options: Unpack[Shown],
    ) -> Future[R_co]: ...
    def apply_async(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        link: Links = None,
        link_error: Links = None,
        **options: Unpack[Shown],
    ) -> Future[Any]:
        """`delay` with options of this call, as those of `Client.options`.

        `link`: signatures that are run with its result; `link_error`: with a `Failure`, if it fails.
        """
        args, kwargs = tuple(args), dict(kwargs or {})
        self._check(args, kwargs)
        if link or link_error:
            return self.app.client.run(linked(self, args, kwargs, options, link, link_error))
        return self._submitter().options(**options).enqueue(self, args, kwargs)

    # ---- signatures ----------------------------------------------------------------------------------------------

    def s(self, *args: Any, **kwargs: Any) -> Signature:
        """The call as a value; what a step before it in a chain returns comes first."""
        return self.signature(args, kwargs)

    def si(self, *args: P.args, **kwargs: P.kwargs) -> Signature:
        """The call as a value that takes nothing of a step before."""
        return self.signature(args, kwargs, immutable=True)

    def signature(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        immutable: bool = False,
        **options: Unpack[Shown],
    ) -> Signature:
        """The call as a value, with options."""
        from zmqtasks.workflow import Signature

        args, kwargs = tuple(args), dict(kwargs or {})
        self._check(args, kwargs, partial=not immutable)
        made = Signature(self, args, kwargs, immutable=immutable)
        return made.set(**options) if options else made

    def map(self, items: Iterable[Any]) -> Map:
        """It of each item, in parallel: a signature of the list of its values."""
        return self._map(items)

    def starmap(self, items: Iterable[Iterable[Any]]) -> Map:
        """The same with the arguments of a call as each item."""
        return self._map(items, star=True)

    def chunks(self, items: Iterable[Iterable[Any]], size: int) -> Map:
        """`starmap`, `size` neighbours in one go: a signature of a list of lists."""
        return self._map(items, star=True, size=size)

    def _map(self, items: Iterable[Any], **about: Any) -> Map:
        from zmqtasks.workflow import Map

        return Map(self, items, **about)

    # ---- arguments -----------------------------------------------------------------------------------------------

    def _submitter(self) -> Submitter:
        client = self.app.client
        if self._ready is None or self._ready[0] is not client:
            self._ready = client, client.options(**self.given)
        return self._ready[1]

    def _check(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, partial: bool = False) -> None:
        """Raise what the call would raise here; `partial`: others may come first."""
        if not kwargs and self._arity[0] <= len(args) <= self._arity[1]:
            return
        if (signature := self._signature) is None:
            signature = self._signature = inspect.signature(self.run)
            self._arity = _arity(signature)
        try:
            (signature.bind_partial if partial else signature.bind)(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self.name}{signature}: {error}") from None

    # ---- travelling ----------------------------------------------------------------------------------------------

    @property
    def plain(self) -> FunctionType | None:
        """The function that may run in its place: the very one that it was made of, where a call does no more."""
        fn = self.__dict__.get("run")
        return fn if type(fn) is FunctionType and type(self).__call__ is Task.__call__ else None

    def parts(self) -> tuple[Any, ...]:
        """Its class, app and name; and its function, in case it is not there."""
        own = ("name", "given", "run", "__module__", "__name__", "__qualname__", "__doc__", "__wrapped__")
        state = {name: self.__dict__[name] for name in own if name in self.__dict__}
        return self.app.rebuild, (type(self), self.app.address, self.name), state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if not (self.app.is_home and self.name in self.app.tasks):  # else it has come home
            self.__dict__.update(state)

    def __repr__(self) -> str:
        return f"<task {self.name!r}>"


def linked(
    task: Task[..., Any] | str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    options: Mapping[str, Any],
    link: Links,
    link_error: Links,
) -> Workflow:
    """A call with what is run after it."""
    from zmqtasks.workflow import Signature

    def several(links: Links) -> Iterable[Workflow]:
        return links if isinstance(links, list | tuple) else (links,) if links is not None else ()

    call = Signature(task, args, kwargs, immutable=True).set(**options)
    return call.link(*several(link)).link_error(*several(link_error))


def _arity(signature: inspect.Signature) -> tuple[int, float]:
    """How many arguments by position it takes, if nothing has to come by its name."""
    least, most = 0, 0.0
    for parameter in signature.parameters.values():
        required = parameter.default is parameter.empty
        if parameter.kind is parameter.VAR_POSITIONAL:
            most = float("inf")
        elif parameter.kind is parameter.KEYWORD_ONLY and required:
            return 0, -1
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            least += required
            most += 1
    return least, most
