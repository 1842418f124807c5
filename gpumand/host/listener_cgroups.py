"""Which cgroups the listening TCP sockets of this host were created in, by the kernel's sock_diag. Blocking code.

Needs no privilege, but sockets of the family AF_NETLINK, which the daemon's unit does not allow: gpumanctl uses it.
Linux reports the cgroup since version 5.7. It is that of the process that created the socket: of a socket unit, init's.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

CGROUP_ROOT = Path("/sys/fs/cgroup")
MAX_CGROUPS = 20000
"""Maximum number of cgroups that are looked through for the names of those that listen."""

MAX_BYTES = 16 * 2**20
TIMEOUT_SEC = 2.0

_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY = 4, 20
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_LISTEN = 1 << 10
_INET_DIAG_CGROUP_ID = 21
_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBBBI48x")
_SOCKET = struct.Struct("=4x48x3I2I")
_ATTRIBUTE = struct.Struct("=HH")
_ID = struct.Struct("=Q")
_ERROR = struct.Struct("=i")


def listener_cgroups(root: Path = CGROUP_ROOT) -> dict[int, str]:
    """Path of the cgroup of each listening TCP socket, by the socket's inode. Raises OSError.

    Sockets whose cgroup is unknown are left out: those of the root cgroup, which hosts with cgroup version 1 report for
    all, and those of cgroups outside of the caller's cgroup namespace.

    Args:
        root: where cgroup version 2 is mounted.
    """
    ids = {inode: number for family in (socket.AF_INET, socket.AF_INET6) for inode, number in _dump(family)}
    paths = _paths_of(set(ids.values()), root)
    return {inode: paths[number] for inode, number in ids.items() if number in paths}


def parse_messages(data: bytes) -> Iterator[tuple[int, int]]:
    """Inode and cgroup id of each socket in a datagram of sock_diag; sockets without an id are left out.

    Raises:
        OSError: the kernel has refused the request.
        EOFError: the dump is complete.
    """
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, at)
        body = data[at + _HEADER.size : at + length]
        if kind == _NLMSG_DONE:
            raise EOFError
        if kind == _NLMSG_ERROR:
            raise _refusal(body)
        if kind == _SOCK_DIAG_BY_FAMILY and len(body) >= _SOCKET.size:
            *_, inode = _SOCKET.unpack_from(body)
            number = _cgroup_id(body[_SOCKET.size :])
            if number is not None:
                yield inode, number
        if length < _HEADER.size:
            return
        at += (length + 3) & ~3


def _refusal(body: bytes) -> OSError:
    """The error of a message of the type NLMSG_ERROR, which begins with a negative errno."""
    number = -_ERROR.unpack_from(body)[0] if len(body) >= _ERROR.size else 0
    if number not in errno.errorcode:
        return OSError(errno.EPROTO, "the kernel has sent an error without a number that is known")
    return OSError(number, os.strerror(number))


def _cgroup_id(attributes: bytes) -> int | None:
    at = 0
    while at + _ATTRIBUTE.size <= len(attributes):
        length, kind = _ATTRIBUTE.unpack_from(attributes, at)
        if length < _ATTRIBUTE.size:
            return None
        if kind == _INET_DIAG_CGROUP_ID and length == _ATTRIBUTE.size + _ID.size <= len(attributes) - at:
            return int(_ID.unpack_from(attributes, at + _ATTRIBUTE.size)[0])
        at += (length + 3) & ~3
    return None


def _dump(family: int) -> Iterator[tuple[int, int]]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as link:
        link.settimeout(TIMEOUT_SEC)
        link.bind((0, 0))
        request = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, _LISTEN)
        flags = _NLM_F_REQUEST | _NLM_F_DUMP
        link.send(_HEADER.pack(_HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, flags, 1, 0) + request)
        read = 0
        while read < MAX_BYTES:
            data = link.recv(65536)
            read += len(data)
            try:
                yield from parse_messages(data)
            except EOFError:
                return


def _paths_of(ids: set[int], root: Path) -> Mapping[int, str]:
    """Paths of cgroups by their id, which is the inode of their folder; {} where root is not of version 2."""
    if not ids or not (root / "cgroup.controllers").is_file():
        return {}
    found: dict[int, str] = {}
    for seen, (folder, names, _) in enumerate(os.walk(root)):
        if seen >= MAX_CGROUPS or len(found) == len(ids):
            break
        for name in names:
            path = os.path.join(folder, name)
            try:
                number = os.stat(path, follow_symlinks=False).st_ino
            except OSError:
                continue
            if number in ids:
                found[number] = "/" + os.path.relpath(path, root)
    return found
