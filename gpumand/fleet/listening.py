"""The listening sockets of the agent and of the local API."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from gpumand.config.validators import split_address
from gpumand.domain.errors import ConfigInvalid
from gpumand.fleet.http_server import BACKLOG
from gpumand.http.free_bind import bind_now_or_later

SOCKET_MODE = 0o666
"""Every user may see the hosts; the local API refuses those that may not lease (``local_access``)."""


def bind_all(addresses: Sequence[str]) -> list[socket.socket]:
    """Listen on addresses of the form IP:PORT. Raises ConfigInvalid, and then none is open."""
    opened: list[socket.socket] = []
    try:
        opened.extend(map(_bind, addresses))
    except BaseException:
        for one in opened:
            one.close()
        raise
    return opened


def bind_unix(path: Path) -> socket.socket:
    """Listen on a Unix socket for all users; an earlier one is replaced. Raises ConfigInvalid."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(mode=0o755, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        listener.bind(str(path))
        os.chmod(path, SOCKET_MODE)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigInvalid(
            f"cannot listen on {path}: {error.strerror or error}. Check the folder and its owner"
        ) from None
    listener.setblocking(False)
    return listener


def with_port(url: str, port: int) -> str:
    """A URL whose port is 0 with the port that was bound; others are not changed."""
    parts = urlsplit(url)
    if parts.port != 0 or parts.hostname is None:
        return url
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return urlunsplit(parts._replace(netloc=f"{host}:{port}"))


def _bind(address: str) -> socket.socket:
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # 0.0.0.0 and [::] are listened on beside each other.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bind_now_or_later(listener, host, port)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigInvalid(
            f"fleet.listen: cannot listen on {address}: {error.strerror}. Choose a free address of this host"
        ) from None
    listener.setblocking(False)
    return listener
