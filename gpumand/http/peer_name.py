"""The name of a client, for logs and limits: its address over TCP, its uid on a Unix socket."""

from __future__ import annotations

import asyncio
import socket
import struct


def peer_name(transport: asyncio.Transport) -> str:
    """Return the client of a connection: ``uid N`` on a Unix socket, its address over TCP; "" where it is unknown."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family == socket.AF_UNIX:
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return f"uid {struct.unpack('3i', credentials)[1]}"
    return str((transport.get_extra_info("peername") or ("",))[0])
