"""Listening sockets that systemd passed to the daemon (sd_listen_fds).

They belong to systemd. The daemon accepts connections on them and closes its own descriptors. It must never shut one
down or unlink its path, or no client could reach the socket after the next start.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import stat
from collections.abc import Collection, MutableMapping

log = logging.getLogger(__name__)

FIRST_FD = 3
MAX_FDS = 256
HTTP = "http"

_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")
_FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)


def take_listeners(name: str = HTTP, environ: MutableMapping[str, str] = os.environ) -> list[socket.socket]:
    """Return the passed listening stream sockets with this name, and close every other passed descriptor.

    The variables are removed from the environment, so that no child process takes the descriptors for its own. A second
    call therefore returns nothing. Descriptors that were passed to another process are left alone.
    """
    return take_named_listeners({name}, environ).get(name, [])


def take_named_listeners(
    names: Collection[str], environ: MutableMapping[str, str] = os.environ
) -> dict[str, list[socket.socket]]:
    """Return the passed listening stream sockets with these names, by name; the rest is as in ``take_listeners``."""
    variables = {variable: environ.pop(variable, "") for variable in _VARIABLES}
    if variables["LISTEN_PID"] != str(os.getpid()):
        return {}
    fd_names = variables["LISTEN_FDNAMES"].split(":")
    taken: dict[str, list[socket.socket]] = {}
    for index in range(_count(variables["LISTEN_FDS"])):
        fd, fd_name = FIRST_FD + index, fd_names[index] if index < len(fd_names) else ""
        listener = _listener(fd) if fd_name in names else None
        if listener is not None:
            taken.setdefault(fd_name, []).append(listener)
            continue
        log.warning("closed the passed descriptor %d (%.64r): it is not a listening socket of gpumand", fd, fd_name)
        with contextlib.suppress(OSError):
            os.close(fd)
    return taken


def _count(text: str) -> int:
    return min(int(text), MAX_FDS) if text.isascii() and text.isdecimal() and len(text) <= 9 else 0


def _listener(fd: int) -> socket.socket | None:
    """Return the descriptor as a non-blocking socket; None if it is not a listening socket, and then it stays open."""
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            return None
        found = socket.socket(fileno=fd)
    except OSError:
        return None
    if _listens(found):
        found.setblocking(False)
        found.set_inheritable(False)
        return found
    # Closing it is up to the caller: the socket object would close the descriptor when it is garbage-collected.
    found.detach()
    return None


def _listens(found: socket.socket) -> bool:
    streams = found.family in _FAMILIES and found.type == socket.SOCK_STREAM
    return streams and found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
