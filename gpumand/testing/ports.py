"""Ports of this host that nothing listens on."""

from __future__ import annotations

import socket


def free_ports(number: int) -> list[int]:
    """Ports of 127.0.0.1 that are free at the moment, all different."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [int(one.getsockname()[1]) for one in probes]
    for one in probes:
        one.close()
    return ports


def free_port() -> int:
    """A port of 127.0.0.1 that is free at the moment."""
    (port,) = free_ports(1)
    return port
