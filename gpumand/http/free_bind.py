"""Binds to an address that this host may have only later, as at boot."""

from __future__ import annotations

import errno
import logging
import socket

log = logging.getLogger(__name__)

# linux/in.h and linux/in6.h; the module socket has no names for them.
_FREEBIND = {
    socket.AF_INET: (socket.IPPROTO_IP, 15),  # IP_FREEBIND
    socket.AF_INET6: (socket.IPPROTO_IPV6, 78),  # IPV6_FREEBIND
}


def bind_now_or_later(listener: socket.socket, host: str, port: int) -> None:
    """Bind to an address that this host has, or may have later.

    At boot the address of a bridge or a VPN, or one from DHCP, may come after the program that listens on it. A refusal
    would keep all its listeners down, since systemd does not restart a program after an invalid configuration.

    Args:
        listener: a TCP socket.
        host: the IP address.
        port: the port; 0 = any.

    Raises OSError.
    """
    try:
        listener.bind((host, port))
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL:
            raise
        listener.setsockopt(*_FREEBIND[socket.AddressFamily(listener.family)], 1)
        listener.bind((host, port))
        log.warning("%s is no address of this host at present: clients get an answer there once it is", host)
