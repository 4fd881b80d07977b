"""What travels: functions and classes of any kind, what they captured when they were submitted, and their way home."""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import math
import operator
import types
from collections.abc import Callable
from typing import Any

import pytest

from zmqtasks import Client, current

SCALE = 10
TABLE = {"a": 1}


def here(x: int) -> int:
    return x * SCALE


class Base:
    factor = 2

    def __init__(self, value: int) -> None:
        self.value = value

    def times(self, other: int) -> int:
        return self.value * other * self.factor


# ---- kinds of callables ------------------------------------------------------------------------------------------


def kinds() -> dict[str, tuple[Callable[..., Any], tuple[Any, ...], Any]]:
    """Callables of all kinds, with arguments and what comes of them."""

    def factorial(n: int) -> int:
        return 1 if n < 2 else n * factorial(n - 1)

    def even(n: int) -> bool:
        return n == 0 or odd(n - 1)

    def odd(n: int) -> bool:
        return n != 0 and even(n - 1)

    def outer(a: int) -> Callable[[int], Callable[[int], int]]:
        return lambda b: lambda c: a * 100 + b * 10 + c

    def defaults(a: int, b: int = 2, *, c: int = 3) -> tuple[int, int, int]:
        return a, b, c

    @functools.wraps(here)
    def wrapped(x: int) -> int:
        return here(x) + 1

    @functools.lru_cache
    def cached(x: int) -> int:
        return x + 1

    class Adder:
        def __init__(self, n: int) -> None:
            self.n = n

        def __call__(self, x: int) -> int:
            return self.n + x

        def method(self, x: int) -> int:
            return self(x) * 2

        @classmethod
        def made(cls, x: int) -> str:
            return f"{cls.__name__} {x}"

        @staticmethod
        def still(x: int) -> int:
            return -x

    class Deeper(Adder):
        def method(self, x: int) -> int:
            return super().method(x) + 1

    return {
        "a lambda": (lambda x: x + 1, (1,), 2),
        "a closure": (outer(1)(2), (3,), 123),
        "a recursive function": (factorial, (20,), math.factorial(20)),
        "functions that call each other": (even, (10,), True),
        "defaults": (defaults, (1,), (1, 2, 3)),
        "a function of this module": (here, (4,), 40),
        "a decorated function": (wrapped, (4,), 41),
        "a cached function": (cached, (1,), 2),
        "a builtin": (len, ("abc",), 3),
        "a function of a module": (math.gcd, (12, 18), 6),
        "a class": (Base, (3,), None),
        "a builtin class": (dict, ([(1, 2)],), {1: 2}),
        "an operator": (operator.itemgetter(1), ("abc",), "b"),
        "a method of a builtin value": ("-".join, (["a", "b"],), "a-b"),
        "a method of a builtin class": (str.upper, ("a",), "A"),
        "a partial": (functools.partial(pow, 2, mod=7), (10,), 1024 % 7),
        "a partial of a lambda": (functools.partial(lambda a, b: (a, b), 1), (2,), (1, 2)),
        "a callable object": (Adder(5), (1,), 6),
        "a bound method": (Adder(5).method, (1,), 12),
        "a bound method of this module": (Base(5).times, (3,), 30),
        "a method with super()": (Deeper(5).method, (1,), 13),
        "a class method": (Adder.made, (1,), "Adder 1"),
        "a class method of a subclass": (Deeper.made, (1,), "Deeper 1"),
        "a static method": (Adder.still, (1,), -1),
        "a coroutine's name only": (operator.attrgetter("__name__"), (here,), "here"),
    }


KINDS = kinds()


@pytest.mark.parametrize("kind", KINDS)
def test_callables_of_all_kinds(shared_client: Client, kind: str) -> None:
    fn, args, expected = KINDS[kind]
    values = [shared_client.submit(fn, *args).result(), *shared_client.map(fn, *([arg] * 3 for arg in args))]
    for value in values:
        if kind == "a class":
            assert type(value) is fn
            assert value.value == 3
        else:
            assert value == expected


# ---- what was captured -------------------------------------------------------------------------------------------


def test_a_cell_is_what_it_was_at_submit(shared_client: Client) -> None:
    count = 0

    def read() -> int:
        return count

    futures = []
    for count in range(50):  # noqa: B007 - `read` uses it
        futures.append(shared_client.submit(read))  # noqa: PERF401 - a comprehension's would be another
    assert shared_client.gather(futures) == list(range(50))


def test_a_mutated_list_is_what_it_was_at_submit(shared_client: Client) -> None:
    words: list[int] = []
    nested = {"words": words}

    def read() -> list[int]:
        return words

    futures = []
    for number in range(20):
        words.append(number)
        futures += [
            shared_client.submit(read),
            shared_client.submit(lambda: nested["words"]),
            shared_client.submit(list, words),
            shared_client.submit_many(lambda _: words, [1])[0],
        ]
    for number in range(20):
        assert [future.result() for future in futures[4 * number : 4 * number + 4]] == [
            list(range(number + 1))
        ] * 4


def test_a_global_is_what_it_was_at_submit(shared_client: Client) -> None:
    module = types.ModuleType("made_up_here")
    exec("a = 1\nb = [1]\ndef inner(): return a\ndef f(): return inner(), b", module.__dict__)
    scope = module.__dict__
    scope["__name__"] = "__main__"
    first = shared_client.submit(scope["f"])
    scope["a"] = 2
    second = shared_client.submit(scope["f"])
    scope["b"].append(2)
    third = shared_client.submit(scope["f"])
    exec("def inner(): return 'new'", scope)
    fourth = shared_client.submit(scope["f"])
    exec("def f(): return 'quite new'", scope)
    fifth = shared_client.submit(scope["f"])
    values = shared_client.gather([first, second, third, fourth, fifth])
    assert values == [(1, [1]), (2, [1]), (2, [1, 2]), ("new", [1, 2]), "quite new"]


def test_a_global_that_comes_later_is_seen(shared_client: Client) -> None:
    scope: dict[str, Any] = {"__name__": "__main__"}
    exec("def f(): return later", scope)
    with pytest.raises(NameError, match="later"):
        shared_client.submit(scope["f"]).result()
    scope["later"] = 5
    assert shared_client.submit(scope["f"]).result() == 5
    del scope["later"]
    with pytest.raises(NameError, match="later"):
        shared_client.submit(scope["f"]).result()


def test_a_helper_in_a_cell_may_change(shared_client: Client) -> None:
    factor = 2

    def helper(x: int) -> int:
        return x * factor

    def outer(x: int) -> int:
        return helper(x)

    first = shared_client.submit(outer, 1)
    factor = 3
    second = shared_client.submit(outer, 1)

    def helper(x: int) -> int:  # type: ignore[no-redef]  # noqa: F811 - the cell has another now
        return -x

    third = shared_client.submit(outer, 1)
    assert shared_client.gather([first, second, third]) == [2, 3, -1]


def test_defaults_may_change(shared_client: Client) -> None:
    def f(a: Any = 1, *, b: Any = 1) -> tuple[Any, Any]:
        return a, b

    first = shared_client.submit(f)
    f.__defaults__ = (2,)
    second = shared_client.submit(f)
    f.__kwdefaults__["b"] = 2
    third = shared_client.submit(f)
    f.__defaults__ = ([],)
    fourth = shared_client.submit(f)
    assert shared_client.gather([first, second, third, fourth]) == [(1, 1), (2, 1), (2, 2), ([], 2)]


def test_lambdas_of_one_line_do_not_take_each_others_place(shared_client: Client) -> None:
    fns = [lambda x, n=n: x * n for n in range(40)]
    assert [shared_client.submit(fn, 2) for fn in fns][39].result() == 78
    assert shared_client.gather([shared_client.submit(fn, 2) for fn in fns]) == [2 * n for n in range(40)]
    made = [eval(f"lambda x: x + {n}") for n in range(200)]  # each dies, and its id may come again
    assert shared_client.gather([shared_client.submit(fn, 1) for fn in made]) == list(range(1, 201))
    del made
    for n in range(200):
        assert shared_client.submit(eval(f"lambda x: x - {n}"), 1).result() == 1 - n


def test_an_object_is_what_it_was_at_submit(shared_client: Client) -> None:
    base = Base(1)
    first, times = shared_client.submit(base.times, 1), shared_client.submit(lambda: base.times(1))
    base.value = 2
    second, again = shared_client.submit(base.times, 1), shared_client.submit(lambda: base.times(1))
    assert shared_client.gather([first, times, second, again]) == [2, 2, 4, 4]


def test_what_a_task_changes_only_it_sees(shared_client: Client) -> None:
    words = ["a"]

    def change() -> list[str]:
        words.append("b")
        return words

    assert [shared_client.submit(change).result() for _ in range(4)] == [["a", "b"]] * 4
    assert words == ["a"]


def test_generators_are_no_arguments_but_feed_a_map(shared_client: Client) -> None:
    assert list(shared_client.map(lambda x: x * 2, (x for x in range(5)))) == [0, 2, 4, 6, 8]
    with pytest.raises(TypeError, match=r"args\[0\]"):
        shared_client.submit(list, (x for x in range(5)))


# ---- classes come home -------------------------------------------------------------------------------------------


def own_classes() -> dict[str, Any]:
    """Make classes that exist nowhere else, as a main module's."""

    class Plain:
        def __init__(self, x: Any) -> None:
            self.x = x

        def __eq__(self, other: object) -> bool:
            return type(other) is type(self) and self.x == other.x  # type: ignore[attr-defined]  # it has

        def __hash__(self) -> int:
            return hash(self.x)

    class Colour(enum.Enum):
        RED = 1
        BLUE = 2

    class Level(enum.IntEnum):
        LOW = 1

    @dataclasses.dataclass(frozen=True, slots=True)
    class Point:
        x: int
        y: int = 0

    class Child(Plain):
        def __init__(self, x: Any) -> None:
            super().__init__([x])

    class Words(dict[str, int]):
        pass

    class Slots:
        __slots__ = ("a",)

        def __init__(self, a: Any) -> None:
            self.a = a

        def __eq__(self, other: object) -> bool:
            return type(other) is type(self) and self.a == other.a  # type: ignore[attr-defined]  # it has

        __hash__ = None  # type: ignore[assignment]  # how Python says it

    Pair = collections.namedtuple("Pair", "a b")  # noqa: PYI024 - the old kind travels too
    return {
        "plain": Plain(1),
        "enum": Colour.BLUE,
        "int enum": Level.LOW,
        "dataclass": Point(1, 2),
        "subclass with super": Child(1),
        "subclass of dict": Words(a=1),
        "slots": Slots(3),
        "namedtuple": Pair(1, 2),
        "instance in an instance": Plain(Child(Point(1))),
    }


OWN = own_classes()


@pytest.mark.parametrize("kind", OWN)
def test_an_instance_comes_back_as_that_very_class(shared_client: Client, kind: str) -> None:
    value = OWN[kind]
    once = shared_client.submit(lambda x: x, value)
    for back in (
        once.result(),
        shared_client.submit(lambda: value).result(),
        shared_client.submit(lambda x: x, once).result(),
        next(shared_client.map(lambda x: x, [value])),
        shared_client.submit(lambda: [value]).result()[0],
    ):
        assert type(back) is type(value)
        assert back == value
    if isinstance(value, enum.Enum):
        assert once.result() is value
    assert shared_client.submit(lambda x: isinstance(x, type(value)), once).result()
    assert shared_client.submit(type, value).result() is type(value)


def test_instances_come_back_through_other_tasks(shared_client: Client) -> None:
    def through(values: dict[str, Any]) -> dict[str, Any]:
        client = current().client
        return {kind: client.submit(lambda x: x, value).result() for kind, value in values.items()}

    for kind, back in shared_client.submit(through, OWN).result().items():
        assert type(back) is type(OWN[kind])
        assert back == OWN[kind]


def test_a_class_that_a_task_made_is_one_class_here(shared_client: Client) -> None:
    def make(x: int) -> Any:
        class Made:
            def __init__(self, x: int) -> None:
                self.x = x

        current().client  # noqa: B018 - made when it is looked at
        return Made(x)

    made = shared_client.submit(make, 3)
    assert made.result().x == 3
    assert type(made.result()).__name__ == "Made"
    assert shared_client.submit(lambda one: one.x, made).result() == 3
    assert shared_client.submit(lambda one: one.x, made.result()).result() == 3
    assert type(shared_client.submit(lambda one: one, made.result()).result()) is type(made.result())


def test_exceptions_of_an_own_class_come_home(shared_client: Client) -> None:
    class Own(Exception):
        def __init__(self, code: int, why: str) -> None:
            super().__init__(code, why)
            self.code = code

    class Deeper(Own):
        pass

    def fail(depth: int) -> None:
        if depth:
            current().client.submit(fail, depth - 1).result()
        raise Deeper(7, "why")

    for depth in (0, 2):
        with pytest.raises(Own) as caught:
            shared_client.submit(fail, depth).result()
        assert type(caught.value) is Deeper
        assert (caught.value.code, caught.value.args) == (7, (7, "why"))
        assert "in fail" in "".join(caught.value.__notes__)
    with pytest.raises(Deeper):
        list(shared_client.map(fail, [0, 0]))
    back = shared_client.submit(lambda: Deeper(1, "a")).result()
    assert type(back) is Deeper


def test_the_state_of_a_class_travels(shared_client: Client) -> None:
    class Config:
        level = 1

        @classmethod
        def read(cls) -> int:
            return cls.level

    assert shared_client.submit(lambda: Config.level).result() == 1
    assert shared_client.submit(Config.read).result() == 1
    Config.level = 2
    assert shared_client.submit(lambda: Config.level).result() == 2
    assert shared_client.submit(Config.read).result() == 2


def test_a_redefined_class_is_another(shared_client: Client) -> None:
    def define(number: int) -> type:
        class Thing:
            def read(self) -> int:
                return number

        return Thing

    things = [define(number)() for number in range(5)]
    values = [shared_client.submit(lambda thing: (thing, thing.read()), thing) for thing in things]
    for thing, future in zip(things, values, strict=True):
        back, number = future.result()
        assert type(back) is type(thing)
        assert back.read() == number == thing.read()
