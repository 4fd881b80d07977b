"""Values of every size: equal on the other side, travelling once, the task's own, and bounded in memory."""

from __future__ import annotations

import array
import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import OpenClient, RunPython, until
from gate import Gate, wait_at

from zmqtasks import Client, current
from zmqtasks.nodes.local import LocalCluster

np: Any = pytest.importorskip("numpy")

MB = 1 << 20
BORDERS = (32 << 10, 64 << 10, MB)
SIZES = sorted({0, 1, *(border + more for border in BORDERS for more in (-64, -1, 0, 1, 2))})


@pytest.fixture(scope="module")
def values_client(open_client: OpenClient, _module_leaves_nothing: None) -> Iterator[Client]:
    """Yield one client for many tests."""
    client = open_client()
    client.submit(int).result()
    yield client
    client._host.close(wait=True, cancel=True, kill=True)


@pytest.fixture
def shared_client(_leaves_nothing: None, values_client: Client) -> Iterator[Client]:
    """Yield it; afterwards it forgets what it keeps in case it comes again."""
    yield values_client
    values_client._calls._shelf.clear()


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    with Gate(tmp_path) as gate:
        yield gate


def memory_files(pid: int | str = "self") -> list[str]:
    """Return the inodes of the memory files with buffers that a process has open, one for each descriptor."""
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            if entry.readlink().name.startswith("memfd:zmqtasks ("):
                found.append(str(entry.stat().st_ino))
        except FileNotFoundError:
            continue
    return found


def peak() -> int:
    """Return the largest resident size of this process so far, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) << 10
    raise AssertionError


# ---- equal on the other side -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_bytes_around_each_border(shared_client: Client, size: int) -> None:
    value = os.urandom(min(size, 1000)) * (size // 1000 + 1)
    value = value[:size]
    for kind in (bytes, bytearray):
        given = kind(value)
        echoed = shared_client.submit(lambda x: x, given)
        assert type(echoed.result()) is kind
        assert echoed.result() == given
        assert shared_client.submit(lambda a, word: (len(a), word == a), echoed, word=given).result() == (
            size,
            True,
        )
        assert shared_client.submit(lambda: given).result() == given  # noqa: B023 - captured at the submit
    text = "é" * (size // 2)
    assert shared_client.submit(lambda x: x, text).result() == text
    assert list(shared_client.map(lambda x: (x, x), [value, b""])) == [(value, value), (b"", b"")]


@pytest.mark.parametrize("size", [MB, 10 * MB])
def test_megabytes(shared_client: Client, size: int) -> None:
    value = os.urandom(size)
    assert shared_client.submit(lambda x: x[::-1], value).result() == value[::-1]
    assert shared_client.submit(lambda x: [x, {"again": x}], bytearray(value)).result() == [
        value,
        {"again": value},
    ]
    assert shared_client.gather(shared_client.submit_many(len, [value] * 5)) == [size] * 5


def arrays() -> dict[str, Any]:
    base = np.arange(300_000, dtype=np.float64).reshape(300, 1000)
    fixed = base.copy()
    fixed.flags.writeable = False
    return {
        "plain": base,
        "fortran": np.asfortranarray(base),
        "strided": base[::2, ::3],
        "transposed": base.T,
        "broadcast": np.broadcast_to(np.arange(100_000), (3, 100_000)),
        "fixed": fixed,
        "zero-dimensional": np.array(3.5),
        "empty": np.empty((0, 5)),
        "bool": base % 2 == 0,
        "structured": np.zeros(100_000, dtype=[("a", "i4"), ("b", "f8", 3)]),
        "objects": np.array([{"a": 1}, None, "x" * 100], dtype=object),
        "big-endian": base.astype(">f4"),
        "times": np.arange(200_000).astype("datetime64[s]"),
        "text": np.array(["a", "bc"] * 50_000),
        "scalar": np.float32(1.5),
        "masked": np.ma.masked_less(base, 100),
    }


ARRAYS = arrays()


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_of_all_kinds(shared_client: Client, kind: str) -> None:
    value = ARRAYS[kind]
    for back in (
        shared_client.submit(lambda x: x, value).result(),
        shared_client.submit(lambda: [value]).result()[0],
        shared_client.submit(lambda x: x[0], [value] * 2).result(),
        next(shared_client.map(lambda x: x, [value])),
        shared_client.submit(lambda x: x, shared_client.scatter(value)).result(),
    ):
        assert type(back) is type(value)
        assert back.dtype == value.dtype
        assert back.shape == value.shape
        assert np.array_equal(back, value)


def test_other_things_with_buffers(shared_client: Client) -> None:
    numbers = array.array("d", range(300_000))
    assert shared_client.submit(lambda x: x, numbers).result() == numbers

    class Own(np.ndarray):
        pass

    own = np.arange(200_000).view(Own)
    back = shared_client.submit(lambda x: x + 1, own).result()
    assert type(back) is Own
    assert back[-1] == 200_000


def test_many_buffers_in_one_call(shared_client: Client) -> None:
    small = [np.full(9_000, index) for index in range(600)]
    assert shared_client.submit(lambda x: [int(each[0]) for each in x], small).result() == list(range(600))
    large = [np.full(MB // 8 + 1, index) for index in range(270)]
    # A third of each comes back, which is a file's size too.
    back = shared_client.submit(lambda x: [each[-(len(each) // 3) :].copy() for each in x], large).result()
    assert [int(each[-1]) for each in back] == list(range(270))


# ---- nobody's but the task's own ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, 10_000, 500_000])
def test_what_is_changed_after_submit_is_not_seen(lone: Client, gate: Gate, size: int) -> None:
    numbers, words = np.ones(size), bytearray(size)
    first = lone.submit(wait_at, gate.path)
    until(first.running)
    futures = [
        lone.submit(lambda x, y: (float(x.sum()), sum(y[:10])), numbers, words),
        lone.submit(lambda: float(numbers.sum())),
    ]
    scattered = lone.submit(lambda x: float(x.sum()), lone.scatter(numbers))
    numbers[:] = 2
    words[:] = b"\1" * size
    futures.append(lone.submit(lambda x, y: (float(x.sum()), sum(y[:10])), numbers, words))
    gate.open()
    assert lone.gather([*futures, scattered]) == [(size, 0), size, (2 * size, 10), size]


@pytest.mark.parametrize("size", [10, 10_000, 500_000])
def test_what_a_task_changes_the_next_does_not_see(lone: Client, size: int) -> None:
    numbers = np.ones(size)

    def change(x: Any) -> float:
        total = float(x.sum())
        x *= 3
        return total

    result = lone.submit(lambda x: x + 1, numbers)
    for value, total in ((numbers, size), (lone.scatter(numbers), size), (result, 2 * size)):
        assert [lone.submit(change, value).result() for _ in range(3)] == [total] * 3
    assert list(lone.map(change, [numbers] * 3)) == [size] * 3 if size == 500_000 else True
    assert numbers.sum() == size
    assert result.result().sum() == 2 * size


def test_results_are_writable(lone: Client) -> None:
    for size in (10, 10_000, 500_000):
        future = lone.submit(np.ones, size)
        value = future.result()
        value += 1
        assert value.sum() == 2 * size
        words = lone.submit(bytearray, size).result()
        words[0] = 7
    again = lone.submit(lambda x: float(x.sum()), future)
    assert again.result() in (500_000, 1_000_000), "as it came, or as it is now, but whole"


# ---- once, and bounded -------------------------------------------------------------------------------------------


def test_the_same_array_in_many_tasks_travels_once(client: Client) -> None:
    def inodes(x: Any) -> tuple[float, set[str]]:
        lines = Path("/proc/self/maps").read_text().splitlines()
        return float(x[0] + x[-1]), {line.split()[4] for line in lines if "memfd:zmqtasks (" in line}

    value = np.ones(MB)
    before = set(memory_files())
    futures = [client.submit(inodes, value) for _ in range(20)]
    futures += [client.submit(lambda: inodes(value)) for _ in range(20)]
    results = client.gather(futures)
    assert len(set(memory_files()) - before) == 1, "one copy of it here"
    assert {total for total, _ in results} == {2.0}
    assert len(set.union(*(seen for _, seen in results))) == 1, "and the same memory in all children"


def test_a_scattered_value_travels_once(lone: Client) -> None:
    table = lone.scatter({"numbers": np.ones(MB), "words": "x" * 3 * MB})
    lone.submit(len, table).result()
    child = lone.submit(os.getpid).result()
    there = set(memory_files(child))
    futures = [
        lone.submit(lambda table, key: len(table[key]), table, key) for key in ["numbers", "words"] * 10
    ]
    assert lone.gather(futures) == [MB, 3 * MB] * 10
    assert set(memory_files(child)) == there


def test_an_array_of_100_mb_takes_little_more(lone: Client) -> None:
    lone.submit(lambda: __import__("numpy").ones(1)).result()
    value = np.arange(100 * MB // 8)
    child_before = lone.submit(peak).result()
    Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
    before = peak()
    future = lone.submit(lambda x: x + 1, value)
    back = future.result()
    assert back[0] == 1
    assert back[-1] == len(value)
    assert int(back[::1000].sum()) == int((value[::1000] + 1).sum())
    grown, child_grown = peak() - before, lone.submit(peak).result() - child_before
    # What goes over the network is encrypted as a whole, and what comes is decrypted.
    most = 160 if isinstance(lone._host, LocalCluster) else 360
    assert grown < most * MB, f"here: {grown / MB:.0f} MB"
    assert child_grown < 320 * MB, f"there: {child_grown / MB:.0f} MB"
    del future, back
    assert lone.submit(abs, -1).result() == 1
    gc.collect()


def test_what_is_done_with_is_let_go_of(lone: Client) -> None:
    child = lone.submit(os.getpid).result()
    here, there = len(memory_files()), len(memory_files(child))
    for index in range(60):
        assert lone.submit(lambda x: x * 2, np.full(MB // 4, index)).result()[-1] == 2 * index
    gc.collect()
    assert lone.submit(os.getpid).result() == child
    kept = 256 // 2  # what a client keeps in case it comes again: 256 MB
    assert len(memory_files()) - here <= kept
    until(lambda: len(memory_files(child)) - there <= kept)
    rss = psutil.Process(child).memory_info().rss
    assert rss < 400 * MB, f"{rss / MB:.0f} MB after 60 arrays of 2 MB"


def test_large_values_go_from_task_to_task(client: Client) -> None:
    def parent() -> tuple[int, float]:
        here = current().client
        value = here.submit(__import__("numpy").ones, MB)
        total = here.submit(lambda x: float(x.sum()), value)
        doubled = here.submit(lambda x: x * 2, value.result()).result()
        return int(total.result()), float(doubled.sum())

    assert client.submit(parent).result() == (MB, 2 * MB)
    chained = client.submit(np.ones, MB)
    for _ in range(5):
        chained = client.submit(lambda x: x + 1, chained)
    assert chained.result()[-1] == 6


def test_more_large_results_than_descriptors(run_python: RunPython) -> None:
    done = run_python(
        "-c",
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (160, 160))\n"
        "import numpy\n"
        "from zmqtasks import Client\n"
        "with Client(workers=1) as client:\n"
        "    kept = [client.submit(numpy.full, 150_000, n).result(10) for n in range(200)]\n"
        "    many = client.gather([client.submit(numpy.full, 150_000, n) for n in range(200)])\n"
        "    print([[each[-1] for each in values] == list(range(200)) for values in (kept, many)])\n",
    )
    assert done.stdout == "[True, True]\n", done.stderr[-1000:]
