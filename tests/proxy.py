"""A TCP proxy that stands for the network between two processes, so that a test can take it away.

    with Proxy(("127.0.0.1", port)) as proxy:
        Client(proxy.address)
        proxy.cut()  # every connection is reset, new ones are refused ...
        proxy.heal()  # ... until now
        proxy.freeze()  # every connection stays and nothing moves on any of them ...
        proxy.thaw()  # ... until now, when what was held is delivered

One thread does all of it. Each call returns once it is done: after `cut` no connection is left, after `freeze`
no byte moves. What the ends do to each other is passed on as it is, an end of stream as that, a reset as a reset.
"""

from __future__ import annotations

import errno
import select
import selectors
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Self

CHUNK_BYTES_MAX = 65_536
ASKED_S_MAX = 10.0
"""How long a call waits for the proxy's thread, which never blocks, in seconds."""

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER on, for no time: closing sends RST, and drops what was not sent yet."""


class End:
    """One end of a link: its socket, and what came from the other end and has not been sent on yet."""

    __slots__ = ("connected", "finished", "held", "silent", "socket")

    def __init__(self, connection: socket.socket, *, connected: bool) -> None:
        self.socket = connection
        self.connected = connected
        self.held = b""
        self.silent = False  # it will send no more
        self.finished = False  # it has been told that the other will send no more
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def interest(self, other: End) -> int:
        """Say which events to wait for: it is read once the other end has taken what it sent before."""
        if not self.connected:
            return selectors.EVENT_WRITE
        reads = other.connected and not other.held and not self.silent
        return selectors.EVENT_READ * reads | selectors.EVENT_WRITE * bool(self.held)

    def push(self, other: End) -> None:
        """Send on what is held, as far as it goes, and after it the other end's end of stream."""
        if not self.connected:
            return
        if self.held:
            self.held = self.held[self.socket.send(self.held) :]
        if other.silent and not self.held and not self.finished:
            self.socket.shutdown(socket.SHUT_WR)
            self.finished = True


class Link:
    """A connection through the proxy: the client's end and the target's."""

    __slots__ = ("client", "target")

    def __init__(self, client: socket.socket, target: socket.socket) -> None:
        self.client = End(client, connected=True)
        self.target = End(target, connected=False)

    def both_ways(self) -> tuple[tuple[End, End], tuple[End, End]]:
        """Each end with its other."""
        return (self.client, self.target), (self.target, self.client)


class Proxy:
    """A proxy from a free port of 127.0.0.1 to `target`, host and port, which need not be there yet.

    Use it with `with`; at the end every connection is reset. A client whose target refuses is reset too. With
    `bytes_per_s` no more than that passes in a second, both ways together.
    """

    def __init__(self, target: tuple[str, int], *, bytes_per_s: float = 0.0) -> None:
        self.target = target
        self._bytes_per_s = bytes_per_s
        self.bytes_to_target = 0
        """Bytes taken from clients: counted before they are passed on, so what has arrived has been counted."""
        self.bytes_from_target = 0
        """Bytes taken from the target, counted likewise."""
        self.breaks_after = 0
        """After so many bytes more the connection that brings the last of them is reset, once; 0: that is off."""
        self.connections = 0
        """Connections taken from clients, ever."""
        self.connections_to_target = 0
        """Those of them that reached the target."""
        self.port = 0
        """Where clients connect to."""
        self._links: set[Link] = set()
        self._listener: socket.socket | None = None
        self._frozen = self._over = False
        self._asked: deque[tuple[Callable[[], None], Future[None]]] = deque()

    def __enter__(self) -> Self:
        self._selector = selectors.DefaultSelector()
        # Bound and never listening, it keeps the port ours while we refuse connections.
        self._reserved = self._bound()
        self.port = self._reserved.getsockname()[1]
        self._waker, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._heal()
        self._thread = threading.Thread(target=self._run, name="zmqtasks-test-proxy", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ask(self._end)
        self._thread.join()
        for each in (self._waker, self._woken, self._reserved, self._selector):
            each.close()

    @property
    def address(self) -> str:
        """Where clients connect to, as `tcp://127.0.0.1:PORT`."""
        return f"tcp://127.0.0.1:{self.port}"

    @property
    def open_connections(self) -> int:
        """Connections there are now, those too whose target has not answered yet."""
        return len(self._links)

    def cut(self) -> None:
        """Reset every connection at both ends, lose what is on its way, and refuse new ones until `heal`."""
        self._ask(self._cut)

    def heal(self) -> None:
        """Take connections again."""
        self._ask(self._heal)

    def freeze(self) -> None:
        """Move nothing until `thaw`: connections stay, and new ones are made but lead nowhere yet."""
        self._ask(lambda: self._freeze(frozen=True))

    def thaw(self) -> None:
        """Move bytes again, those first that were held."""
        self._ask(lambda: self._freeze(frozen=False))

    def retarget(self, port: int) -> None:
        """Lead new connections to another port of the target's host. Those that are there stay (see `cut`)."""
        self._ask(lambda: setattr(self, "target", (self.target[0], port)))

    def _ask(self, do: Callable[[], None]) -> None:
        """Have the thread do it; what it raises is raised here."""
        done: Future[None] = Future()
        self._asked.append((do, done))
        self._waker.send(b"\0")
        done.result(ASKED_S_MAX)

    def _run(self) -> None:
        while not self._over:
            for key, events in self._selector.select():
                if key.fileobj is self._woken:
                    self._woken.recv(1)  # a byte a question
                    self._answer(*self._asked.popleft())
                elif key.data is not None:
                    self._move(*key.data, events)
                elif key.fileobj is self._listener:
                    self._accept(self._listener)

    @staticmethod
    def _answer(do: Callable[[], None], done: Future[None]) -> None:
        try:
            do()
        except BaseException as error:  # noqa: BLE001 - it is the caller's, who raises it
            done.set_exception(error)
        else:
            done.set_result(None)

    def _bound(self) -> socket.socket:
        bound = socket.socket()
        bound.setblocking(False)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", self.port))
        return bound

    def _heal(self) -> None:
        if self._listener is None:
            self._listener = self._bound()
            self._listener.listen()
            self._watch(self._listener, selectors.EVENT_READ)

    def _cut(self) -> None:
        if self._listener is not None:  # first, lest somebody comes back at once
            self._watch(self._listener, 0)
            self._listener.close()
            self._listener = None
        for link in list(self._links):
            self._reset(link)

    def _freeze(self, *, frozen: bool) -> None:
        self._frozen = frozen
        if self._listener is not None:
            self._watch(self._listener, selectors.EVENT_READ)
        for link in self._links:
            self._watch_both(link)

    def _end(self) -> None:
        self._cut()
        self._over = True

    def _watch(self, watched: socket.socket, events: int, data: tuple[Link, End, End] | None = None) -> None:
        if watched in self._selector.get_map():
            self._selector.unregister(watched)
        if events and not self._frozen:
            self._selector.register(watched, events, data)

    def _watch_both(self, link: Link) -> None:
        for end, other in link.both_ways():
            self._watch(end.socket, end.interest(other), (link, end, other))

    def _accept(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except OSError:  # it has gone again
            return
        self.connections += 1
        link = Link(client, socket.socket())
        self._links.add(link)
        if link.target.socket.connect_ex(self.target) in {0, errno.EINPROGRESS}:
            self._watch_both(link)
        else:
            self._reset(link)

    def _move(self, link: Link, end: End, other: End, events: int) -> None:
        """Do what the events on one end of a link allow."""
        if link not in self._links or self._frozen:  # since this very look at the sockets
            return
        try:
            if not end.connected:
                self._connected(end)
            elif events & selectors.EVENT_READ and not other.held:
                self._take(link, end, other)
            for to, from_ in link.both_ways():
                to.push(from_)
        except BlockingIOError:
            pass
        except OSError:
            self._reset(link)
            return
        if link.client.finished and link.target.finished:
            self._drop(link)
        else:
            self._watch_both(link)

    def _connected(self, end: End) -> None:
        if error := end.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(error, "the target refused")
        end.connected = True
        self.connections_to_target += 1

    def _take(self, link: Link, end: End, other: End) -> None:
        chunk = end.socket.recv(CHUNK_BYTES_MAX)
        if end is link.client:
            self.bytes_to_target += len(chunk)
        else:
            self.bytes_from_target += len(chunk)
        if self.breaks_after:
            self.breaks_after = max(0, self.breaks_after - len(chunk))
            if not self.breaks_after:
                raise ConnectionResetError("as asked for")
        other.held = chunk
        end.silent = not chunk
        if self._bytes_per_s:
            select.select((), (), (), len(chunk) / self._bytes_per_s)

    def _reset(self, link: Link) -> None:
        for end, _ in link.both_ways():
            end.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self._drop(link)

    def _drop(self, link: Link) -> None:
        self._links.remove(link)
        for end, _ in link.both_ways():
            self._watch(end.socket, 0)
            end.socket.close()
