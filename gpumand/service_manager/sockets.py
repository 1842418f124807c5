"""Sockets that systemd opened for us (sd_listen_fds).

They are systemd's: we accept on them and close our descriptor, but never shut one down or unlink its path, or the
next start would have a socket that nobody can reach.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import stat
from collections.abc import MutableMapping

log = logging.getLogger(__name__)

FIRST_FD = 3
MAX_FDS = 256
HTTP = "http"

_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")
_FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)


def take_listeners(name: str = HTTP, environ: MutableMapping[str, str] = os.environ) -> list[socket.socket]:
    """The listening stream sockets of that name that were passed to this process; every other descriptor is closed.

    What was said of them is taken out of the environment, so that no child believes that it is meant; asked again,
    there are none. Descriptors that were passed to another process are left alone.
    """
    said = {variable: environ.pop(variable, "") for variable in _VARIABLES}
    if said["LISTEN_PID"] != str(os.getpid()):
        return []
    names = said["LISTEN_FDNAMES"].split(":")
    taken = []
    for index in range(_count(said["LISTEN_FDS"])):
        fd, called = FIRST_FD + index, names[index] if index < len(names) else ""
        listener = _listener(fd) if called == name else None
        if listener is not None:
            taken.append(listener)
            continue
        log.warning("passed descriptor %d (%.64r) is no listening socket that gpumand knows; it is closed", fd, called)
        with contextlib.suppress(OSError):
            os.close(fd)
    return taken


def _count(text: str) -> int:
    return min(int(text), MAX_FDS) if text.isascii() and text.isdecimal() and len(text) <= 9 else 0


def _listener(fd: int) -> socket.socket | None:
    """The descriptor as a socket, ready for the loop; None where it is something else, which stays open."""
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
    found.detach()
    return None


def _listens(found: socket.socket) -> bool:
    streams = found.family in _FAMILIES and found.type == socket.SOCK_STREAM
    return streams and found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
