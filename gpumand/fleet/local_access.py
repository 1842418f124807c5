"""Which users of this host may lease and load through the fleet: those that may do it in the local gpumand.

polkit allows the user of gpumand-fleet to acquire consumers, whichever client it acts for. So gpumand-fleet itself must
refuse the clients that gpumand would refuse.
"""

from __future__ import annotations

import asyncio
import grp
import os
import pwd
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass

from gpumand.domain.errors import AccessDenied

GROUP = "gpumand"
"""The group whose members may acquire consumers (org.gpumand1.rules)."""

SERVICES = ("_gpumand-gateway",)
"""Users of services that may acquire consumers for their clients (org.gpumand1-gateway.rules)."""

_SO_PEERGROUPS = 59
_MAX_BYTES = 1024
"""The most that Python passes to the kernel, which is enough for 256 groups."""

LOOKUP_SEC = 2.0


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end of a Unix socket, when it connected.

    Attributes:
        uid: its user.
        gids: its groups.
    """

    uid: int
    gids: frozenset[int]


def peer_of(sock: socket.socket | None) -> Peer | None:
    """The peer of a Unix socket; None for other sockets, and where the kernel does not name it."""
    if sock is None or sock.family != socket.AF_UNIX:
        return None
    try:
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    except OSError:
        return None
    _, uid, gid = struct.unpack("3i", credentials)
    try:
        groups = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MAX_BYTES)
    except OSError:  # more groups than fit
        groups = b""
    return Peer(uid, frozenset((gid, *(number for (number,) in struct.iter_unpack("=I", groups)))))


def service_uids() -> frozenset[int]:
    """The user ids of root, of this process and of the services that act for many clients. Blocks."""
    found = {0, os.getuid()}
    for name in SERVICES:
        with suppress(KeyError):
            found.add(pwd.getpwnam(name).pw_uid)
    return frozenset(found)


async def check_local(peer: Peer | None) -> None:
    """Return if a client may lease and load through this host. Raises AccessDenied."""
    if peer is None:
        raise AccessDenied("Permission denied: the user of the connection is unknown.")
    if peer.uid in (0, os.getuid()):
        return
    try:
        async with asyncio.timeout(LOOKUP_SEC):
            # A directory service may be asked.
            is_allowed, name = await asyncio.to_thread(_look_up, peer)
    except TimeoutError:
        raise AccessDenied("Permission denied: the groups of the user cannot be looked up. Try again.") from None
    if not is_allowed:
        add = f"Add {name} to the {GROUP} group (sudo gpasswd --add {name} {GROUP}, then log in again), or use sudo"
        raise AccessDenied(f"Permission denied: user {name} may not acquire consumers through the fleet. {add}.")


def _look_up(peer: Peer) -> tuple[bool, str]:
    """Whether the peer is allowed, and its login name."""
    try:
        name = pwd.getpwuid(peer.uid).pw_name
    except (KeyError, OverflowError):
        name = f"uid {peer.uid}"
    try:
        is_member = grp.getgrnam(GROUP).gr_gid in peer.gids
    except KeyError:
        is_member = False
    return is_member or name in SERVICES, name
