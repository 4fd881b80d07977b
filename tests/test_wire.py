"""The wire: the bytes of each message as they must stay, and streams that come in pieces, or as garbage."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmqtasks import codec, visit, wire
from zmqtasks.blobs import FRAME_BYTES_MIN, Buffer, hold
from zmqtasks.messages import (
    CANCELLED,
    FAILED,
    SUCCEEDED,
    UPSTREAM_FAILED,
    Beat,
    Deep,
    Done,
    Ended,
    Ends,
    Leaving,
    Part,
    Recall,
    Resumed,
    Returned,
    Run,
    Slots,
    Task,
    Unwanted,
    Value,
    Waiting,
)
from zmqtasks.nodes.link import Closed, Link, Malformed, pair
from zmqtasks.options import Options
from zmqtasks.payload import Packed

LARGE = FRAME_BYTES_MIN


@pytest.fixture
def ends() -> Iterator[tuple[Link, Link]]:
    """Two ends of a link, neither of which blocks."""
    links = [Link(sock) for sock in pair()]
    for link in links:
        link.sock.setblocking(False)
    yield links[0], links[1]
    for link in links:
        link.close()


def stream(message: wire.Message) -> bytes:
    """The bytes of a message."""
    return b"".join(bytes(part) for part in message.parts())


def write(sock: socket.socket, *pieces: bytes) -> None:
    """Write pieces, as far as somebody reads them, and close."""
    with contextlib.suppress(OSError), sock:
        for piece in pieces:
            sock.sendall(piece)


def arrive(ends: tuple[Link, Link], *messages: wire.Message) -> list[wire.Arrived]:
    """Send messages, however large, and return what arrives."""
    here, there = ends
    arrived: list[wire.Arrived] = []
    for message in messages:
        here.post(message)
    while len(arrived) < len(messages):
        here.flush()
        arrived += there.read()
    return arrived


def contents(payload: Any) -> Any:
    """A payload as plain bytes."""
    if isinstance(payload, Packed):
        data = payload.data.map() if isinstance(payload.data, Buffer) else payload.data
        return bytes(data), [bytes(buffer.map()) for buffer in payload.buffers]
    return payload


def task(id_: int, payload: Any = b"p", **fields: Any) -> Task:
    return Task(id=id_, fn=fields.pop("fn", 7), payload=payload, **{"attempt": 1, **fields})


OPTIONS_BYTES = "9905cb0000000000000000a16e81a161a16203a764656661756c74c0c0c0"


def messages() -> dict[str, tuple[wire.Message, str]]:
    """Messages of every kind, with their bytes."""
    options = Options(priority=5, name="n", tags={"a": "b"})
    span = task(100, b"items", count=3, offset=2, span=True)
    return {
        "hello": (wire_message(wire.Hello(42)), "92a568656c6c6f2a"),
        "recall": (codec.simple(Recall()), "92a67369676e616ca6726563616c6c"),
        "deep": (codec.simple(Deep()), "92a67369676e616ca464656570"),
        "resumed": (codec.simple(Resumed()), "92a67369676e616ca7726573756d6564"),
        "waiting": (codec.simple(Waiting(9)), "92a777616974696e6709"),
        "unwanted": (codec.simple(Unwanted(9)), "92a8756e77616e74656409"),
        "returned": (
            wire_message(wire.Rest([(3, 0, 1), (4, 5, 2)])),
            "93a872657475726e656492930300019304050290",
        ),
        "run of one function": (
            codec.run(Run(1, [task(10), task(11)]), set(), [(7, "f", b"code")]),
            "95a372756e01919401070a92c40170c40170919307a166c404636f646590",
        ),
        "run of others": (
            codec.run(Run(1, [span, task(5, options=options, attempt=2)]), set(), []),
            "95a372756e019299020764c4056974656d7303020190c099020705c4017000000290" + OPTIONS_BYTES + "9090",
        ),
        "done": (
            codec.done(
                Done(3, [b"a", b"b"], [1], [Part(4, 0, 2, failed=False, payload=b"v")], [(7, 2, 0.5)])
            ),
            "98a4646f6e650392c40161c4016291019195040002c2c4017691930702cb3fe00000000000009090",
        ),
        "settled": (
            codec.settled([task(5, b"v", state=SUCCEEDED)]),
            "95a7736574746c656491920591c401769090ff",
        ),
        "asked": (
            codec.asked([task(5, needs=(4,))], {4: (SUCCEEDED, Value(b"v", 2))}, []),
            "9ca561736b65649199020705c4017000000190c0810591049091940406c40176029090909192000180c290",
        ),
        "cancel": (
            wire_message(wire.CancelAsked(5, terminate=True, token=1, count=1)),
            "95a663616e63656c05c30101",
        ),
        "answer": (wire_message(wire.CancelAnswer(9, 1, cancelled=True)), "94a6616e737765720901c3"),
        "progress": (
            wire_message(wire.Progress(5, 1.0, None, "m", {})),
            "96a870726f677265737305cb3ff0000000000000c0a16d80",
        ),
        "forget": (wire_message(wire.Forget([b"d"])), "92a6666f7267657491c40164"),
        "ends": (
            codec.simple(Ends([Ended(3, 1, 2, CANCELLED, "why")])),
            "92a4656e6473919603010208a377687900",
        ),
        "slots": (codec.simple(Slots(5)), "94a5736c6f7473059090"),
        "slots and who waits": (codec.simple(Slots(5, [7])), "94a5736c6f747305910790"),
        "beat": (codec.simple(Beat()), "92a67369676e616ca462656174"),
        "leaving": (codec.simple(Leaving()), "92a67369676e616ca76c656176696e67"),
        "fetched": (
            wire_message(wire.Fetched(7, SUCCEEDED, 1, b"v", -1, [])),
            "97a766657463686564070601c40176ff90",
        ),
        "enter": (
            wire_message(visit.Enter("client", "n", 1, "3.12", "session", 2, pid=9, host="h")),
            "9ea5656e746572a6636c69656e74a16e01a4332e3132a773657373696f6e02c3009090a1680980",
        ),
        "welcome": (
            wire_message(visit.Welcome("cluster", 7, -1, 4, 0.5)),
            "96a777656c636f6d65a7636c757374657207ff04cb3fe0000000000000",
        ),
        "refused": (wire_message(visit.Refused("why")), "93a772656675736564a3776879c3"),
        "taken": (wire_message(visit.Taken(3)), "92a574616b656e03"),
        "got": (wire_message(visit.Got(3)), "92a3676f7403"),
        "fetch": (wire_message(visit.Fetch(7, 9, wait=True)), "94a566657463680709c3"),
        "inquiry": (
            wire_message(visit.Inquiry(7, "explain", {"id": 9})),
            "94a7696e717569727907a76578706c61696e81a2696409",
        ),
        "report": (
            wire_message(visit.Report(7, {"state": "QUEUED"})),
            "94a67265706f72740781a57374617465a6515545554544a0",
        ),
    }


def wire_message(head: Any) -> wire.Message:
    return codec.simple(head)


MESSAGES = messages()


@pytest.mark.parametrize("kind", MESSAGES)
def test_the_bytes_stay_as_they_are(kind: str) -> None:
    message, head = MESSAGES[kind]
    sent = stream(message)
    assert sent[wire.PREFIX.size :].hex() == head
    assert wire.PREFIX.unpack(sent[: wire.PREFIX.size])[-3:] == (len(head) // 2, 0, 0)


# ---- there and back ----------------------------------------------------------------------------------------------


def test_tasks_arrive_as_they_were_sent(ends: tuple[Link, Link]) -> None:
    options = Options(name="n", max_deliveries=1)
    sent = [
        *(task(id_, bytes([id_])) for id_ in range(1, 6)),
        task(9, b"other", fn=8),
        task(20, Packed(b"stream", [Buffer(3, memory=b"abc")])),
        task(21, b"x" * LARGE),
        task(30, b"items", count=4, offset=1, span=True),
        task(40, b"args", options=options, attempt=3, inputs=(Value(b"v"), Value(b"list", 2))),
    ]
    (message,) = arrive(ends, codec.run(Run(17, sent), set(), [(7, "f", b"code"), (8, "g", None)]))
    assert message.head.functions == [(7, "f", b"code"), (8, "g", None)]
    arrived = list(codec.tasks(message))
    assert [ordinal for ordinal, *_ in arrived] == list(range(17, 17 + len(sent)))
    for (_, fn, id_, payload, more), original in zip(arrived, sent, strict=True):
        assert (fn, id_) == (original.fn, original.id)
        expected = contents(original.payload)
        assert contents(payload) in (expected, (expected, []))
        if more is not None:
            assert more.count == (original.count if original.span else 0)
            assert (more.offset, more.attempt) == (original.offset, original.attempt)
            assert [(contents(value.payload), value.index) for value in more.inputs] == [
                (value.payload, value.index) for value in original.inputs
            ]
    assert arrived[-1][4] is not None
    assert arrived[-1][4].options == options


def test_outcomes_arrive_as_they_were_sent(ends: tuple[Link, Link]) -> None:
    large = os.urandom(LARGE)
    sent = Done(
        5,
        [b"small", large, Packed(b"stream", [Buffer(len(large), memory=large)])],
        [1],
        [Part(9, 3, 2, failed=False, payload=large), Part(9, 5, 1, failed=True, payload=b"error")],
        [(7, 3, 0.25)],
    )
    (message,) = arrive(ends, codec.done(sent))
    heard = codec.core_message(message)
    assert (heard.first, heard.failed, heard.pace) == (5, [1], [(7, 3, 0.25)])
    assert [contents(payload) for payload in heard.payloads] == [b"small", (large, []), (b"stream", [large])]
    assert [(part.ordinal, part.offset, part.items, part.failed) for part in heard.parts] == [
        (9, 3, 2, False),
        (9, 5, 1, True),
    ]
    assert [contents(part.payload) for part in heard.parts] == [(large, []), b"error"]


@pytest.mark.parametrize("words", [Recall(), Deep(), Resumed(), Waiting(4), Returned([(1, 0, 2)])])
def test_words_arrive_as_they_were_sent(ends: tuple[Link, Link], words: Any) -> None:
    sent = wire.Rest(words.rest) if isinstance(words, Returned) else words
    (message,) = arrive(ends, codec.simple(sent))
    assert codec.core_message(message) == words


def test_failures_upstream_nest(ends: tuple[Link, Link]) -> None:
    outcome = (3, UPSTREAM_FAILED, (2, UPSTREAM_FAILED, (1, FAILED, b"error" * LARGE)))
    (message,) = arrive(ends, codec.settled([task(4, outcome, state=UPSTREAM_FAILED)]))
    ((id_, count, state, attempt, value),) = message.head.outcomes
    assert (id_, count, state, attempt) == (4, 1, UPSTREAM_FAILED, 1)
    first = message.outcome(state, value)
    assert first[:2] == (3, UPSTREAM_FAILED)
    assert first[2][2][:2] == (1, FAILED)
    assert contents(first[2][2][2]) == (b"error" * LARGE, [])


def test_a_shared_buffer_travels_once_in_the_stream(ends: tuple[Link, Link]) -> None:
    shared = Buffer(LARGE, memory=os.urandom(LARGE), digest=b"d" * 32)
    known: set[bytes] = set()
    sent = [codec.run(Run(n, [task(n, Packed(b"s", [shared]))]), known, []) for n in range(3)]
    assert [len(stream(message)) > LARGE for message in sent] == [True, False, False]
    there = ends[1]
    for n, message in enumerate(arrive(ends, *sent)):
        for blob in message.head.blobs:
            there.blobs[blob.digest] = message.buffer(blob.buffer, blob.digest)
        ((_, _, id_, payload, _),) = codec.tasks(message)
        assert id_ == n
        assert contents(payload) == (b"s", [shared.memory])


def test_descriptors_travel_beside_the_bytes(ends: tuple[Link, Link]) -> None:
    words = [os.urandom(2 << 20) for _ in range(5)]
    buffers = [hold(memoryview(bytearray(word))) for word in words]
    assert all(buffer.file >= 0 for buffer in buffers)
    sent = [
        codec.done(Done(0, [Packed(b"first", buffers[:2])])),
        codec.done(Done(1, [b"no file"])),
        codec.done(Done(2, [Packed(b"third", buffers[2:])])),
    ]
    assert all(len(stream(message)) < 1000 for message in sent)
    arrived = [codec.core_message(message).payloads[0] for message in arrive(ends, *sent)]
    assert [contents(payload) for payload in arrived] == [
        (b"first", words[:2]),
        b"no file",
        (b"third", words[2:]),
    ]


def test_more_descriptors_than_a_message_takes(ends: tuple[Link, Link]) -> None:
    buffers = [hold(memoryview(bytearray(b"%07d" % n * 150_000))) for n in range(wire.FILES_MAX + 5)]
    (message,) = arrive(ends, codec.done(Done(0, [Packed(b"s", buffers)])))
    payload = codec.core_message(message).payloads[0]
    assert [bytes(buffer.map())[:7] for buffer in payload.buffers] == [
        b"%07d" % n for n in range(len(buffers))
    ]


# ---- in pieces ---------------------------------------------------------------------------------------------------


def mixed() -> tuple[bytes, list[Any]]:
    """A stream of messages of several sizes, with frames, and what it says."""
    frames = [os.urandom(LARGE), os.urandom(LARGE + 3), b"\0" * (3 * LARGE)]
    sent = [
        Done(1, [b"a"]),
        Done(2, [Packed(b"stream", [Buffer(len(frame), memory=frame) for frame in frames])]),
        Done(3, [b"x" * n for n in range(300)]),
        Done(4, [frames[0]]),
        Done(5, []),
    ]
    expected = [[contents(payload) for payload in message.payloads] for message in sent]
    return b"".join(stream(codec.done(message)) for message in sent), expected


def heard(message: wire.Arrived) -> list[Any]:
    return [contents(payload) for payload in codec.core_message(message).payloads]


def same(arrived: list[list[Any]], expected: list[list[Any]]) -> bool:
    """Whether they say the same: a large payload arrives as a stream without buffers."""
    flat = [
        [payload if isinstance(payload, tuple) else (payload, []) for payload in each] for each in expected
    ]
    return [[p if isinstance(p, tuple) else (p, []) for p in each] for each in arrived] == flat


def test_a_stream_cut_at_every_byte_of_its_small_part(ends: tuple[Link, Link]) -> None:
    data = b"".join(stream(codec.done(Done(n, [b"payload" * n], [], [], [(1, 2, 3.0)]))) for n in range(4))
    raw, link = ends[0].sock, ends[1]
    for cut in range(1, len(data)):
        arrived: list[wire.Arrived] = []
        for piece in (data[:cut], data[cut:]):
            raw.sendall(piece)
            arrived += link.read()
        assert [message.head.first for message in arrived] == [0, 1, 2, 3], cut
        assert [heard(message) for message in arrived] == [[b"payload" * n] for n in range(4)], cut


def test_a_stream_byte_by_byte(ends: tuple[Link, Link]) -> None:
    data = stream(codec.done(Done(1, [b"abc"]))) + stream(codec.simple(wire.Hello(7)))
    arrived: list[wire.Arrived] = []
    for byte in data:
        ends[0].sock.sendall(bytes([byte]))
        arrived += ends[1].read()
    assert [type(message.head) for message in arrived] == [wire.Outcomes, wire.Hello]


def test_frames_cut_around_every_border() -> None:
    data, expected = mixed()
    borders = [0]
    for piece in (12, LARGE, 2 * LARGE, 5 * LARGE, len(data) - 12):
        borders += range(max(1, piece - 3), min(len(data) - 1, piece + 40))
    for cut in borders[1::3]:
        here, there = pair()
        link = Link(there)
        sender = threading.Thread(target=write, args=(here, data[:cut], data[cut:]))
        sender.start()
        arrived: list[list[Any]] = []
        with pytest.raises(Closed):
            while True:
                arrived += [heard(message) for message in link.read()]
        sender.join()
        link.close()
        assert same(arrived, expected), cut


@given(seed=st.integers(0, 1 << 32), largest=st.sampled_from([7, 100, 5000, LARGE, 300_000]))
def test_a_stream_in_random_pieces(seed: int, largest: int) -> None:
    chance = random.Random(seed)
    small = largest < 5000
    data, expected = (
        (stream(codec.done(Done(2, [b"ab", b"c"]))) * 5, [[b"ab", b"c"]] * 5) if small else mixed()
    )
    here, there = pair()
    link = Link(there)
    there.setblocking(False)
    arrived: list[list[Any]] = []
    rest = memoryview(data)
    while rest:
        size = chance.randint(1, largest)
        here.sendall(rest[:size])
        rest = rest[size:]
        if chance.random() < 0.7 or len(rest) == 0:
            try:
                while True:
                    arrived += [heard(message) for message in link.read()]
            except BlockingIOError:
                pass
    here.close()
    with pytest.raises(Closed):
        link.read()
    link.close()
    assert same(arrived, expected)


def test_a_writer_whose_reader_is_slow(ends: tuple[Link, Link]) -> None:
    here, there = ends
    for end in ends:
        end.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    frames = [os.urandom(LARGE * (n + 1)) for n in range(6)]
    sent = [codec.done(Done(0, [Packed(b"s", [Buffer(len(frame), memory=frame)])])) for frame in frames]
    finished = [here.post(message) for message in sent]
    assert not all(finished)
    assert here.pending
    arrived: list[Any] = []
    while len(arrived) < len(frames):
        here.flush()
        try:
            arrived += [heard(message)[0] for message in there.read()]
        except BlockingIOError:
            continue
    assert not here.pending
    assert arrived == [(b"s", [frame]) for frame in frames]


def test_a_head_larger_than_the_buffer(ends: tuple[Link, Link]) -> None:
    payloads = [os.urandom(1000) for _ in range(2000)]
    first, second = arrive(ends, codec.done(Done(0, list(payloads))), codec.done(Done(9, [b"z"])))
    assert codec.core_message(first).payloads == payloads
    assert codec.core_message(second).payloads == [b"z"]


# ---- ends and garbage --------------------------------------------------------------------------------------------


def test_a_stream_that_ends_early_is_closed(ends: tuple[Link, Link]) -> None:
    data, _ = mixed()
    for cut in (0, 1, 7, 8, 20, 500, LARGE, len(data) - 1):
        here, there = pair()
        link = Link(there)
        writer = threading.Thread(target=write, args=(here, data[:cut]))
        writer.start()
        with pytest.raises(Closed):
            while True:
                link.read()
        writer.join()
        link.close()


def test_writing_to_nobody_is_closed(ends: tuple[Link, Link]) -> None:
    here, there = ends
    there.close()
    with pytest.raises(Closed):
        here.post(codec.simple(wire.Hello(1)))
    with pytest.raises(Closed):
        here.post(codec.done(Done(0, [b"x" * LARGE])))


def test_descriptors_that_nobody_took_are_closed() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    ours, theirs = pair()
    link = Link(theirs)
    files = os.pipe()
    socket.send_fds(ours, [b"\1"], files)
    link.read()
    for file in files:
        os.close(file)
    link.close()
    ours.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def refuses(data: bytes) -> None:
    """Reading this, and then the end of the stream, raises `Closed` or an error, and takes no memory for it."""
    here, there = pair()
    link = Link(there)
    try:
        writer = threading.Thread(target=write, args=(here, data))
        writer.start()
        with pytest.raises((Closed, Malformed)):
            while True:
                link.read()
        there.close()
        writer.join()
    finally:
        link.close()
        here.close()


@given(st.binary(max_size=3000))
def test_random_bytes_are_refused(data: bytes) -> None:
    refuses(data)


@given(
    st.sampled_from([stream(message) for message, _ in MESSAGES.values()]),
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_flipped_bytes_do_no_more_than_be_refused(data: bytes, flips: list[tuple[int, int]]) -> None:
    changed = bytearray(data)
    for place, byte in flips:
        changed[place % len(changed)] = byte
    refuses(bytes(changed))


@pytest.mark.parametrize(
    ("head", "frames"),
    [
        (["nonsense", 1], []),
        (["hello"], []),
        (["hello", "x"], []),
        ({"hello": 1}, []),
        (1, []),
        (["hello", 1], [1 << 60]),
        (["hello", 1], [(1 << 64) - 1]),
    ],
)
def test_malformed_messages_are_refused(head: Any, frames: list[int]) -> None:
    data = msgspec.msgpack.encode(head)
    sizes = struct.pack(f"<{len(frames)}Q", *frames)
    fields = (len(data), len(frames), 0)
    prefix = wire.PREFIX.pack(*wire.PREFIX.unpack(bytes(wire.PREFIX.size))[: -len(fields)], *fields)
    refuses(prefix + sizes + data)
