"""Counting the clients of a local server by the kernel's socket table."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from gpumand.host.tcp_table import ESTABLISHED, LISTENING, TcpConnections, TcpSocket, count_clients, parse_table

SERVER, CLIENT, OTHER = ("127.0.0.1", 8080), ("127.0.0.1", 40000), ("192.168.1.9", 40001)
NOWHERE = ("0.0.0.0", 0)
LISTENER = TcpSocket(SERVER, NOWHERE, LISTENING, 1)
URL = "http://127.0.0.1:8080"
CLOSE_WAIT = "08"


def connected(remote: tuple[str, int], state: str = ESTABLISHED) -> list[TcpSocket]:
    """The rows of a connection: the server's end, and the client's where that is on this host."""
    ends = [TcpSocket(SERVER, remote, state, 2)]
    return [*ends, TcpSocket(remote, SERVER, state, 3)] if remote[0].startswith("127.") else ends


@pytest.mark.parametrize(
    ("rows", "own", "clients"),
    [
        ([LISTENER], frozenset(), 0),
        ([LISTENER, *connected(CLIENT)], frozenset(), 1),
        ([LISTENER, *connected(CLIENT), *connected(OTHER)], frozenset(), 2),
        ([LISTENER, *connected(CLIENT)], frozenset({3}), 0),
        ([LISTENER, *connected(CLIENT), *connected(OTHER)], frozenset({3}), 1),
        ([LISTENER, *connected(CLIENT, CLOSE_WAIT)], frozenset(), 0),
        (connected(CLIENT), frozenset(), None),
    ],
    ids=["idle", "client", "two clients", "own keep-alive", "own and a client", "client has gone", "no listener here"],
)
def test_established_connections_of_others_are_counted(
    rows: list[TcpSocket], own: frozenset[int], clients: int | None
) -> None:
    assert count_clients(rows, URL, own) == clients


@pytest.mark.parametrize(
    ("listening", "url", "is_known"),
    [
        ("0.0.0.0", "http://127.0.0.1:8080", True),
        ("::", "http://localhost:8080/v1", True),
        ("127.0.0.1", "http://localhost:8080", True),
        ("127.0.0.1", "http://172.17.0.2:8080", False),
        ("0.0.0.0", "http://172.17.0.2:8080", False),
        ("127.0.0.1", "http://127.0.0.1:8081", False),
        ("127.0.0.1", "http://gpu-box:8080", False),
        ("127.0.0.1", "http://127.0.0.1:99999", False),
    ],
)
def test_server_outside_this_network_namespace_is_unknown(listening: str, url: str, is_known: bool) -> None:
    rows = [TcpSocket((listening, 8080), NOWHERE, LISTENING, 1)]

    assert count_clients(rows, url, frozenset()) == (0 if is_known else None)


def test_rows_of_another_shape_are_skipped() -> None:
    rows = ["  sl  local_address rem_address   st", "0: xyz:1F90 0:0 01 0 0 0 0 0 77", "short"]
    good = "0: 0100007F:1F90 0100007F:9C40 01 00000000:00000000 00:00000000 00000000  1000 0 77 1"

    assert list(parse_table([*rows, good])) == [TcpSocket(SERVER, CLIENT, ESTABLISHED, 77)]


@contextmanager
def connected_process(port: int) -> Iterator[None]:
    """Another process with a connection to a port of this host."""
    code = f"import socket,sys;s=socket.create_connection(('127.0.0.1',{port}));print(1,flush=True);sys.stdin.read()"
    command = [sys.executable, "-I", "-S", "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        yield
        process.stdin.close()


async def test_own_connections_are_not_counted_by_the_real_table() -> None:
    """The client is another process, since every socket of this one is its own."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = server.getsockname()[1]
        url, connections = f"http://127.0.0.1:{port}", TcpConnections()
        stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        assert await connections.clients_of(url) == 0

        with connected_process(port):
            assert await connections.clients_of(url) == 1
