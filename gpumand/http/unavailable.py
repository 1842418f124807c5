"""Connections that nobody is going to serve, since the daemon ends and is not to be tried again.

systemd starts a service for as long as a connection waits at its socket, also one whose client has long gone. What is
not served must be taken from there, then, or one reader of the status would have a daemon whose configuration is bad
started, and fail, for ever.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable, Iterator

from gpumand.http.limits import MAX_HEAD_BYTES

MAX_TURNED_AWAY = 4096
"""Of one socket; whoever connects faster than this keeps us no longer from ending."""


def turn_away(listeners: Iterable[socket.socket], why: str) -> int:
    """Tell all who wait why they are not served, and close the sockets; how many they were. Waits for nobody."""
    body = f"{why}\n".encode()
    head = b"HTTP/1.1 503 Service Unavailable\r\nServer: gpumand\r\nContent-Type: text/plain; charset=utf-8\r\n"
    answer = head + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    count = 0
    for listener in listeners:
        with listener:
            for connection in _waiting(listener):
                count += 1
                _end(connection, answer)
    return count


def _waiting(listener: socket.socket) -> Iterator[socket.socket]:
    for _ in range(MAX_TURNED_AWAY):
        try:
            yield listener.accept()[0]
        except OSError:
            return


def _end(connection: socket.socket, answer: bytes) -> None:
    with connection, contextlib.suppress(OSError):
        connection.setblocking(False)
        connection.send(answer)
        connection.recv(MAX_HEAD_BYTES)  # what is left unread would be an error to who sent it, and hide the answer
