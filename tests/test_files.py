"""Memory files are written again once their only reader has let go of them, and never while somebody may read them."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import RunPython

from zmqtasks import Client, Retry, files
from zmqtasks.blobs import FILE_BYTES_MIN, Buffer, hold, received
from zmqtasks.nodes.local import LocalCluster

SIZE = FILE_BYTES_MIN + 1000

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="no memory files here")


@pytest.fixture
def _keeping() -> Iterator[None]:
    """Files are kept."""
    files.begin_keeping()
    yield
    gc.collect()
    files.end_keeping()
    assert not files._kept


def make(letter: bytes, size: int = SIZE) -> Buffer:
    return hold(memoryview(letter * size))


def arrive(buffer: Buffer) -> Buffer:
    """Return what a peer has that was sent the buffer."""
    buffer.readers += 1
    return received(os.dup(buffer.file), buffer.nbytes, buffer.digest, fixed=buffer.fixed)


def inode(buffer: Buffer) -> int:
    return os.fstat(buffer.file).st_ino


def is_used_again(use: Callable[[Buffer], object]) -> bool:
    """Tell whether a file is, after `use` of it, written to by the next who needs one."""
    files.close_kept()
    first = make(b"a")
    number, kept = inode(first), os.dup(first.file)  # while it is open nobody else gets its number
    left = use(first)
    del first
    second = make(b"b")
    again = inode(second) == number
    assert os.pread(kept, SIZE, 0) == (b"b" if again else b"a") * SIZE
    os.close(kept)
    del left
    return again


@pytest.mark.usefixtures("_keeping")
def test_what_its_reader_has_let_go_of_is_written_again() -> None:
    def read(buffer: Buffer) -> None:
        assert arrive(buffer).map() == b"a" * SIZE

    assert is_used_again(read)
    assert is_used_again(arrive) is False, "the reader has it still"
    assert is_used_again(lambda _: None), "it was never sent"


@pytest.mark.usefixtures("_keeping")
def test_a_longer_value_and_a_shorter_one_are_whole() -> None:
    for size in (SIZE, 3 * SIZE, SIZE + 1, 2 * SIZE, SIZE):
        buffer = make(b"x", size)
        assert arrive(buffer).map() == b"x" * size
        del buffer
    assert len(files._kept) == 1


def read_by_two(buffer: Buffer) -> Any:
    arrive(buffer)
    return arrive(buffer)


def passed_on(buffer: Buffer) -> Any:
    between = arrive(buffer)
    return arrive(between)


def looked_at(buffer: Buffer) -> Any:
    return arrive(buffer).view()


def looked_at_here(buffer: Buffer) -> Any:
    arrive(buffer)
    return buffer.view()


def named_by_its_hash(buffer: Buffer) -> Any:
    buffer.digest = b"d" * 32
    return arrive(buffer).map()


def is_writable(buffer: Buffer) -> Any:
    buffer.fixed = False
    return arrive(buffer).map()


def forked_meanwhile(buffer: Buffer) -> Any:
    arrived = arrive(buffer)
    if (pid := os.fork()) == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return arrived.map()


def forked_by_its_reader(buffer: Buffer) -> Any:
    """Here maker and reader are one process; as if they were two."""
    arrived = arrive(buffer)
    if (pid := os.fork()) == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    buffer._age = files.age
    return arrived.map()


@pytest.mark.parametrize(
    "use",
    [
        read_by_two,
        passed_on,
        looked_at,
        looked_at_here,
        named_by_its_hash,
        is_writable,
        forked_meanwhile,
        forked_by_its_reader,
    ],
)
@pytest.mark.usefixtures("_keeping")
def test_what_others_may_read_is_not_written_again(use: Callable[[Buffer], Any]) -> None:
    assert not is_used_again(use)


@pytest.mark.usefixtures("_keeping")
def test_few_are_kept() -> None:
    buffers = [make(b"a") for _ in range(2 * files.KEPT_MAX)]
    opened = Buffer.files_open
    buffers.clear()
    assert len(files._kept) == files.KEPT_MAX
    assert Buffer.files_open == opened - 2 * files.KEPT_MAX
    large = [make(b"a", files.KEPT_BYTES_MAX // 4) for _ in range(6)]
    large.clear()
    assert sum(nbytes for _, nbytes, _ in files._kept) <= files.KEPT_BYTES_MAX
    make(b"a", files.KEPT_BYTES_MAX + 1)
    assert not files._kept


def test_nothing_is_kept_where_nobody_asks_for_it() -> None:
    make(b"a")
    assert not files._kept
    files.begin_keeping()
    files.begin_keeping()
    make(b"a")
    files.end_keeping()
    assert len(files._kept) == 1
    late = make(b"b")
    make(b"a")
    files.end_keeping()
    assert not files._kept
    del late
    assert not files._kept


def test_a_forked_process_keeps_none(run_python: RunPython) -> None:
    ended = run_python(
        "-c",
        "import os\n"
        "from zmqtasks import files\n"
        "from zmqtasks.blobs import hold\n"
        "files.begin_keeping()\n"
        "hold(memoryview(bytes(300_000)))\n"
        "assert len(files._kept) == 1\n"
        "if os.fork() == 0:\n"
        "    os._exit(len(files._kept))\n"
        "print(os.waitstatus_to_exitcode(os.wait()[1]), len(files._kept))\n",
    )
    assert (ended.stdout, ended.stderr) == ("0 1\n", "")


# ---- between processes -------------------------------------------------------------------------------------------


def test_files_go_to_and_fro(lone: Client) -> None:
    def inodes(_: bytes) -> set[int]:
        import gc

        return {os.fstat(each.file).st_ino for each in gc.get_objects() if type(each).__name__ == "Buffer"}

    if not isinstance(lone._host, LocalCluster):
        pytest.skip("what crosses a network lies in no memory file")
    seen = set[int]()
    for number in range(50):
        seen |= lone.submit(inodes, bytes([number]) * SIZE).result()
    assert len(seen) < 10, "the same few files"


def test_a_closed_client_keeps_none() -> None:
    with Client(workers=1) as client:
        for number in range(5):
            client.submit(len, bytes([number]) * SIZE).result()
        assert files._kept
    assert not files._kept


def test_what_is_kept_stays_what_it_was(client: Client) -> None:
    def keep(value: bytes) -> tuple[bytes, int]:
        kept: list[bytes] = vars(os).setdefault("kept_by_a_test", [])
        kept.append(value)
        return value, sum(each != each[:1] * len(each) for each in kept)

    def text(number: int) -> bytes:
        return bytes([number]) * (SIZE + number)

    unread = [client.submit(bytes.upper, text(number)) for number in range(40)]
    for round_ in range(3):
        futures = [client.submit(keep, text(number)) for number in range(40)]
        again = [client.submit(keep, text(number)) for number in range(40)]
        passed = [client.submit(lambda pair: pair[0], future) for future in futures]
        client.gather(again)
        for number in range(40):
            value, wrong = futures[number].result()
            assert (value, wrong) == (text(number), 0), round_
            assert passed[number].result() == value
            assert again[number].result() == (value, again[number].result()[1])
    assert [future.result() for future in unread] == [text(number).upper() for number in range(40)]


def test_an_argument_is_whole_at_each_attempt(client: Client, tmp_path: Any) -> None:
    def fail_twice(value: bytes, path: str, how: str) -> bytes:
        with open(path, "ab") as file:  # noqa: PTH123
            file.write(b".")
        if os.path.getsize(path) < 3:  # noqa: PTH202
            if how == "die":
                os._exit(1)
            raise ValueError(how)
        return value

    value = os.urandom(SIZE)
    for how in ("raise", "die"):
        options = client.options(retry=Retry(max=3, delay=0.01), max_deliveries=3)
        future = options.submit(fail_twice, value, str(tmp_path / how), how)
        others = [client.submit(len, bytes([number]) * SIZE) for number in range(20)]
        assert client.gather(others) == [SIZE] * 20
        assert future.result() == value


def test_a_process_forked_from_a_client_reads_what_it_had(run_python: RunPython) -> None:
    ended = run_python(
        "-c",
        "import os\n"
        "from zmqtasks import Client\n"
        "with Client(workers=1) as client:\n"
        "    future = client.submit(lambda x: x, b'a' * 300_000)\n"
        "    while not future.done():\n"
        "        client.submit(len, b'').result()\n"
        "    here, there = os.pipe()\n"
        "    if (pid := os.fork()) == 0:\n"
        "        os.read(here, 1)\n"
        "        os._exit(future.result() != b'a' * 300_000)\n"
        "    assert future.result() == b'a' * 300_000\n"
        "    for _ in range(40):\n"
        "        client.submit(lambda x: x, b'b' * 300_000).result()\n"
        "    os.write(there, b'.')\n"
        "    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n",
    )
    assert (ended.stdout, ended.stderr) == ("0\n", "")


def test_a_process_forked_by_a_task_reads_what_it_had(lone: Client) -> None:
    def fork(value: bytes) -> tuple[int, int]:
        here, there = os.pipe()
        if (pid := os.fork()) == 0:
            os.read(here, 1)
            os._exit(value != b"a" * SIZE)
        return pid, there

    def ended(pid: int, there: int) -> int:
        os.write(there, b".")
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    pid, there = lone.submit(fork, b"a" * SIZE).result()
    for _ in range(40):
        assert lone.submit(lambda x: x, b"b" * SIZE).result() == b"b" * SIZE
    assert lone.submit(ended, pid, there).result() == 0
