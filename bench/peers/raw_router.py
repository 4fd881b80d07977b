"""The ceiling: what pyzmq itself leaves to a system with a ROUTER between client and workers.

Client, broker and workers share one port. Calls travel in batches, a worker has at most `CREDIT` of those, and each
frame is sent and received by itself (`send_multipart` and `recv_multipart` cost three times as much). There are no
leases, no retries, no futures, and no errors: a task that raises ends its worker, and the client waits for ever.

    client  -> broker   ""      batch  body
    worker  -> broker   client  batch  body     seconds and values; first one to "" with no batch: it is there
    broker  -> worker   client  batch  body
    broker  -> client           batch  body
"""

from __future__ import annotations

import multiprocessing
import pickle
import time
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import zmq

from bench.contestants import CHUNK, Pool

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.connection import Connection

BATCH_MAX = 128
"""Calls a batch at most, once there is enough to do."""

BATCH_S = 0.001
"""Seconds of work a batch, by what the calls before took: with more, one worker ends long before another."""

CREDIT = 4
"""Batches that a worker may have."""

COPIED_BYTES_MAX = 65_536
"""Up to here it costs less to copy a message than to keep count of who uses it."""

PROTOCOL = 5


@dataclass(frozen=True, slots=True)
class Keys:
    """CURVE: the broker's key pair. Every other key is let in; strangers are not what is measured here."""

    public: bytes
    secret: bytes


def absent() -> str | None:
    """Say why it cannot take part, None if it can, as always: pyzmq is what zmqtasks is made of."""
    return None


def absent_with_curve() -> str | None:
    """Say why it cannot take part with CURVE, None if it can."""
    return None if zmq.has("curve") else "this libzmq was built without CURVE"


def _socket(context: zmq.Context[zmq.Socket[bytes]], kind: int) -> zmq.Socket[bytes]:
    socket = context.socket(kind)
    socket.linger = 0
    socket.set_hwm(0)  # a ROUTER drops what is over the limit
    return socket


def _connected(context: zmq.Context[zmq.Socket[bytes]], address: str, keys: Keys | None) -> zmq.Socket[bytes]:
    socket = _socket(context, zmq.DEALER)
    if keys is not None:
        socket.curve_serverkey = keys.public
        socket.curve_publickey, socket.curve_secretkey = zmq.curve_keypair()
    socket.connect(address)
    return socket


def _send(socket: zmq.Socket[bytes], value: object) -> None:
    body = pickle.dumps(value, PROTOCOL)
    socket.send(body, copy=len(body) <= COPIED_BYTES_MAX)


def broker(answer: Connection, keys: Keys | None) -> None:
    """Pass batches on to the worker with most credit, first come first served, until killed."""
    with zmq.Context() as context, _socket(context, zmq.ROUTER) as socket:
        if keys is not None:
            socket.curve_server = True
            socket.curve_publickey, socket.curve_secretkey = keys.public, keys.secret
        socket.bind("tcp://127.0.0.1:*")
        answer.send(socket.last_endpoint.decode())
        send, recv, more = socket.send, socket.recv, zmq.SNDMORE
        credit: dict[bytes, int] = {}
        waiting: deque[tuple[bytes, bytes, Any]] = deque()
        while True:
            sender, client, batch, body = recv(), recv(), recv(), recv(copy=False)
            if client:
                send(client, more)
                send(batch, more)
                send(body, copy=False)
                credit[sender] += 1
            elif batch:
                waiting.append((sender, batch, body))
            else:
                credit[sender] = CREDIT
            while waiting and credit:
                worker = max(credit, key=credit.__getitem__)
                if not credit[worker]:
                    break
                credit[worker] -= 1
                client, batch, body = waiting.popleft()
                send(worker, more)
                send(client, more)
                send(batch, more)
                send(body, copy=False)


def worker(address: str, keys: Keys | None) -> None:
    """Do what comes, until killed."""
    with zmq.Context() as context, _connected(context, address, keys) as socket:
        send, recv, more = socket.send, socket.recv, zmq.SNDMORE
        send(b"", more)
        send(b"", more)
        send(b"")
        while True:
            client, batch, body = recv(), recv(), recv(copy=False)
            calls = pickle.loads(body.buffer)
            start = time.perf_counter()
            values = [fn(*args) for fn, args in calls]
            send(client, more)
            send(batch, more)
            _send(socket, (time.perf_counter() - start, values))


class RawClient:
    """The client: numbers calls, sends them in batches, keeps the values that came until they are asked for."""

    def __init__(self, socket: zmq.Socket[bytes], batches_unasked_max: int) -> None:
        self._socket = socket
        self._batches_unasked_max = batches_unasked_max
        self._calls: list[tuple[Callable[..., object], tuple[object, ...]]] = []
        self._next = 0
        self._batches_out = 0
        self._batch = 1
        self._values: dict[int, object] = {}

    def submit(self, fn: Callable[..., object], *args: object) -> int:
        """Take a call; it waits for company only while the workers have enough to do."""
        self._calls.append((fn, args))
        number = self._next
        self._next += 1
        if self._batches_out < self._batches_unasked_max or len(self._calls) >= self._batch:
            self._flush()
        return number

    def result(self, number: int) -> object:
        """Wait for the value of a call, and forget it."""
        self._flush()
        while number not in self._values:
            self._receive()
        return self._values.pop(number)

    def collect(self, numbers: Sequence[int]) -> list[object]:
        """Wait for the values of calls, and forget them."""
        return [self.result(number) for number in numbers]

    def bulk(self, fn: Callable[[int], object], items: Sequence[int]) -> list[object]:
        """Map in tasks of `CHUNK` items, a batch each."""
        numbers = []
        for at in range(0, len(items), CHUNK):
            numbers.append(self.submit(_map_chunk, fn, items[at : at + CHUNK]))
            self._flush()
        values: Any = self.collect(numbers)
        return [value for chunk in values for value in chunk]

    def _flush(self) -> None:
        if self._calls:
            self._socket.send(b"", zmq.SNDMORE)
            self._socket.send(b"%d" % (self._next - len(self._calls)), zmq.SNDMORE)
            _send(self._socket, self._calls)
            self._calls = []
            self._batches_out += 1

    def _receive(self) -> None:
        first, body = int(self._socket.recv()), self._socket.recv(copy=False)
        took_s, values = pickle.loads(body.buffer)
        self._values.update(enumerate(values, first))
        self._batches_out -= 1
        self._batch = max(1, min(BATCH_MAX, int(BATCH_S * len(values) / took_s)))


def _map_chunk(fn: Callable[[int], object], items: Sequence[int]) -> list[object]:
    return [fn(item) for item in items]


def open_pool(workers: int, keys: Keys | None = None) -> Pool:
    """Start a broker and workers as processes of their own and connect to it."""
    # Forked ones would have our threads' locks, and spawned is what every other broker's workers are.
    start = multiprocessing.get_context("spawn").Process
    with ExitStack() as stack:
        ours, theirs = multiprocessing.Pipe(duplex=False)
        for end in (ours, theirs):
            stack.enter_context(end)

        def run(target: Callable[..., None], *args: object) -> None:
            process = start(target=target, args=args, daemon=True)
            process.start()
            stack.callback(process.join)
            stack.callback(process.kill)

        run(broker, theirs, keys)
        theirs.close()  # so that a broker that does not start is an end of file
        address = ours.recv()
        for _ in range(workers):
            run(worker, address, keys)
        context: zmq.Context[zmq.Socket[bytes]] = stack.enter_context(zmq.Context())
        client = RawClient(stack.enter_context(_connected(context, address, keys)), CREDIT * workers)
        close = stack.pop_all().close
    return Pool(client.submit, client.result, client.collect, client.bulk, close)


def open_pool_with_curve(workers: int) -> Pool:
    """Start the same with every connection encrypted."""
    return open_pool(workers, Keys(*zmq.curve_keypair()))
