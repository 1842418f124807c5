"""URLs of servers that listen on a Unix socket, as nginx writes them: ``http://unix:/run/x.sock:/base/path``."""

from __future__ import annotations

PREFIX = "http://unix:"


def split_socket_url(url: str) -> tuple[str, str] | None:
    """Split the URL of a server on a Unix socket into the socket's path and the base path of its routes.

    Args:
        url: any URL.

    Returns:
        The path of the socket, and the base path, "" without one; None for a URL with a host.
    """
    if not url.startswith(PREFIX):
        return None
    socket, _, base = url.removeprefix(PREFIX).partition(":")
    return socket, base.rstrip("/")
