"""The proxy between two plain sockets: what it passes on, and each way in which it takes the network away."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from conftest import until
from proxy import RESET, Proxy

SILENCE_S = 0.2
"""How long nothing may arrive where nothing is to arrive, in seconds."""

MANY = 32_000_000
"""More bytes than the system holds for two connections in a row."""


@contextmanager
def listening() -> Iterator[socket.socket]:
    """Yield a socket that listens on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        yield server


def port_of(server: socket.socket) -> int:
    return server.getsockname()[1]


@contextmanager
def connected(proxy: Proxy, server: socket.socket) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Yield a client that went through the proxy and the server's end of its connection."""
    with socket.create_connection(("127.0.0.1", proxy.port), 10) as near, server.accept()[0] as far:
        far.settimeout(10)
        yield near, far


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with listening() as server:
        yield server


@pytest.fixture
def proxy(server: socket.socket) -> Iterator[Proxy]:
    with Proxy(("127.0.0.1", port_of(server))) as proxy:
        yield proxy


@pytest.fixture
def pair(proxy: Proxy, server: socket.socket) -> Iterator[tuple[socket.socket, socket.socket]]:
    with connected(proxy, server) as pair:
        yield pair


def read(end: socket.socket, size: int) -> bytes:
    """Read exactly that many bytes."""
    parts = bytearray()
    while len(parts) < size:
        part = end.recv(size - len(parts))
        assert part, f"the stream ended after {len(parts)} of {size} bytes"
        parts += part
    return bytes(parts)


def is_silent(end: socket.socket) -> bool:
    """Whether nothing arrives for a while, not even the end of the connection."""
    end.settimeout(SILENCE_S)
    try:
        end.recv(1)
    except TimeoutError:
        return True
    finally:
        end.settimeout(10)
    return False


def test_bytes_pass_both_ways_and_are_counted(proxy, pair) -> None:
    near, far = pair
    assert proxy.address == f"tcp://127.0.0.1:{proxy.port}"
    near.sendall(b"there")
    assert read(far, 5) == b"there"
    far.sendall(b"and back")
    assert read(near, 8) == b"and back"
    assert (proxy.bytes_to_target, proxy.bytes_from_target) == (5, 8)
    assert (proxy.connections, proxy.connections_to_target, proxy.open_connections) == (1, 1, 1)


def test_a_reader_who_takes_his_time_loses_nothing(proxy, pair) -> None:
    near, far = pair
    sent = memoryview(bytes(range(250)) * (MANY // 250))
    near.setblocking(False)
    begun = 0

    def is_full() -> bool:
        """Nothing more fits, neither here nor in the proxy."""
        nonlocal begun
        before = begun, proxy.bytes_to_target
        try:
            begun += near.send(sent[begun:])
        except BlockingIOError:
            pass
        return begun < len(sent) and before == (begun, proxy.bytes_to_target)

    until(is_full, every_s=0.05)
    got = read(far, begun)
    assert got == sent[:begun]
    assert proxy.bytes_to_target == begun


def test_an_end_of_stream_is_passed_on_and_the_other_way_stays_open(proxy, pair) -> None:
    near, far = pair
    near.sendall(b"question")
    near.shutdown(socket.SHUT_WR)
    assert read(far, 8) == b"question"
    assert far.recv(1) == b""
    far.sendall(b"answer")
    assert read(near, 6) == b"answer"
    far.close()
    assert near.recv(1) == b""
    until(lambda: proxy.open_connections == 0)


@pytest.mark.parametrize("who", [0, 1])
def test_a_reset_is_passed_on(proxy, pair, who) -> None:
    pair[who].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    pair[who].close()
    with pytest.raises(ConnectionResetError):
        pair[1 - who].recv(1)
    assert proxy.open_connections == 0


def test_a_cut_resets_both_ends_and_refuses_until_healed(proxy, server, pair) -> None:
    proxy.cut()
    for end in pair:
        with pytest.raises(ConnectionResetError):
            end.recv(1)
    assert proxy.open_connections == 0
    for _ in range(3):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", proxy.port), 10)
    proxy.cut()  # once more changes nothing
    address = proxy.address
    proxy.heal()
    proxy.heal()
    assert proxy.address == address
    with connected(proxy, server) as (near, far):
        near.sendall(b"again")
        assert read(far, 5) == b"again"
    assert proxy.connections == 2


def test_a_cut_loses_what_is_on_its_way(proxy, pair) -> None:
    near, far = pair
    proxy.freeze()
    near.sendall(b"lost")
    proxy.cut()
    proxy.thaw()
    with pytest.raises(ConnectionResetError):
        far.recv(4)
    assert proxy.bytes_to_target == 0


def test_frozen_bytes_are_held_and_delivered(proxy, pair) -> None:
    near, far = pair
    proxy.freeze()
    near.sendall(b"later")
    far.sendall(b"as well")
    assert is_silent(far)
    assert is_silent(near)
    assert (proxy.bytes_to_target, proxy.bytes_from_target, proxy.open_connections) == (0, 0, 1)
    proxy.thaw()
    assert (read(far, 5), read(near, 7)) == (b"later", b"as well")


def test_a_frozen_network_tells_nobody_of_an_end(proxy, pair) -> None:
    near, far = pair
    proxy.freeze()
    near.sendall(b"my last")
    near.close()
    assert is_silent(far)
    proxy.thaw()
    assert read(far, 7) == b"my last"
    assert far.recv(1) == b""


def test_a_connection_made_while_frozen_leads_nowhere_yet(proxy, server) -> None:
    proxy.freeze()
    with socket.create_connection(("127.0.0.1", proxy.port), 10) as near:
        near.sendall(b"hello?")
        assert is_silent(near)
        assert proxy.connections_to_target == 0
        proxy.thaw()
        with server.accept()[0] as far:
            assert read(far, 6) == b"hello?"


def test_new_connections_go_to_the_new_target(proxy, pair) -> None:
    near, far = pair
    with listening() as other:
        proxy.retarget(port_of(other))
        near.sendall(b"old")
        assert read(far, 3) == b"old"
        with connected(proxy, other) as (newer, there):
            newer.sendall(b"new")
            assert read(there, 3) == b"new"


def test_a_target_that_is_not_there_resets_the_client_until_it_is() -> None:
    with socket.socket() as server:
        server.settimeout(10)
        server.bind(("127.0.0.1", 0))  # the port is ours, and nobody listens
        with Proxy(("127.0.0.1", port_of(server))) as proxy:
            with (
                pytest.raises(ConnectionResetError),  # while connecting even, if it is that quick
                socket.create_connection(("127.0.0.1", proxy.port), 10) as near,
            ):
                near.recv(1)
            assert (proxy.connections, proxy.connections_to_target) == (1, 0)
            server.listen()
            with connected(proxy, server) as (near, far):
                far.sendall(b"here I am")
                assert read(near, 9) == b"here I am"


def test_many_connections_are_cut_in_the_middle_of_their_bytes(proxy, server) -> None:
    with ExitStack() as stack:
        pairs = [stack.enter_context(connected(proxy, server)) for _ in range(50)]
        for near, _ in pairs:
            near.setblocking(False)
            near.send(bytes(MANY))
        assert until(lambda: proxy.bytes_to_target > 0)
        proxy.cut()
        for near, _ in pairs:
            near.setblocking(True)
            with pytest.raises(ConnectionResetError):
                near.recv(1)
    assert proxy.open_connections == 0


def test_leaving_the_block_resets_what_is_left_and_gives_the_port_back(server) -> None:
    with ExitStack() as stack:
        with Proxy(("127.0.0.1", port_of(server))) as proxy:
            pair = stack.enter_context(connected(proxy, server))
            proxy.freeze()
        for end in pair:
            with pytest.raises(ConnectionResetError):
                end.recv(1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", proxy.port), 10)
    socket.create_server(("127.0.0.1", proxy.port)).close()


def test_what_goes_wrong_in_its_thread_is_raised_where_it_was_asked_for(proxy, pair) -> None:
    with pytest.raises(ZeroDivisionError):
        proxy._ask(lambda: 1 // 0)
    pair[0].sendall(b"and it goes on")
    assert read(pair[1], 14) == b"and it goes on"
