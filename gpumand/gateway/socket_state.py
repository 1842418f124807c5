"""The state of a connection that asyncio does not report: unsent and unread bytes in the kernel, and a closed peer."""

from __future__ import annotations

import contextlib
import fcntl
import select
import socket
import termios
from array import array


def has_unsent(connection: socket.socket) -> bool:
    """Whether the kernel holds bytes that the peer has not received yet."""
    count = array("i", [0])
    with contextlib.suppress(OSError):
        fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, count)
    return count[0] > 0


def has_input(connection: socket.socket) -> bool:
    """Whether the peer has sent something that was not read yet, or has closed its side."""
    return _polled(connection, select.POLLIN) != 0


def has_peer_left(connection: socket.socket) -> bool:
    """Whether the peer has closed its side. asyncio does not notice that while reading is paused."""
    return _polled(connection, select.POLLRDHUP) & (select.POLLRDHUP | select.POLLHUP | select.POLLERR) != 0


def _polled(connection: socket.socket, events: int) -> int:
    poll = select.poll()
    poll.register(connection.fileno(), events)
    return next((found for _, found in poll.poll(0)), 0)
