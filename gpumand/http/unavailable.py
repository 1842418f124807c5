"""Refuses waiting HTTP connections with status 503 when the daemon exits and must not be started again.

systemd starts the service as long as a connection waits at its socket, even if the client has disconnected. Connections
that will not be served must therefore be accepted and closed. Otherwise a single request would make systemd start a
daemon with an invalid configuration again and again.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable, Iterator

from gpumand.http.limits import MAX_HEAD_BYTES

MAX_REFUSED = 4096
"""Maximum number of connections refused per socket, so that a flood of connections cannot keep the daemon from ending.
"""


def refuse_waiting_connections(listeners: Iterable[socket.socket], why: str) -> int:
    """Refuse all waiting connections without blocking, and close the sockets.

    Args:
        listeners: non-blocking listening sockets.
        why: the reason, sent to the clients as the body of the response.

    Returns:
        The number of refused connections.
    """
    body = f"{why}\n".encode()
    head = b"HTTP/1.1 503 Service Unavailable\r\nServer: gpumand\r\nContent-Type: text/plain; charset=utf-8\r\n"
    answer = head + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    count = 0
    for listener in listeners:
        with listener:
            for connection in _accept_waiting(listener):
                count += 1
                _respond_and_close(connection, answer)
    return count


def _accept_waiting(listener: socket.socket) -> Iterator[socket.socket]:
    for _ in range(MAX_REFUSED):
        try:
            yield listener.accept()[0]
        except OSError:
            return


def _respond_and_close(connection: socket.socket, answer: bytes) -> None:
    with connection, contextlib.suppress(OSError):  # the client may have disconnected
        connection.setblocking(False)
        connection.send(answer)
        # Closing a socket with unread data resets the connection, and the client might not receive the response.
        connection.recv(MAX_HEAD_BYTES)
