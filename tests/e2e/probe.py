"""Tries operations that are denied to the daemon; runs as ExecStartPre= of its unit, under the same confinement.

Copied into the machine and run by its Python, so that nothing but the standard library is used. Writes a JSON object
into the file named by its argument: the result of each attempt: "ok" or the name of the error.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

CLONE_NEWUSER = 0x10000000
ADDR_NO_RANDOMIZE = 0x0040000
libc = ctypes.CDLL(None, use_errno=True)


def outcome(action: Callable[[], object]) -> str:
    try:
        action()
    except TimeoutError:
        return "timeout"
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "ok"


def call(name: str, *arguments: object) -> None:
    """Call a function of libc that returns -1 and sets errno."""
    if getattr(libc, name)(*arguments) == -1:
        raise OSError(ctypes.get_errno(), name)


def writable_and_executable() -> None:
    mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)


def made_executable() -> None:
    page = mmap.mmap(-1, mmap.PAGESIZE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    call("mprotect", ctypes.c_void_p(address), mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_EXEC)


def callback() -> None:
    """Create a ctypes callback, which needs writable code with an old libffi."""
    order = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(lambda left, right: 0)
    numbers = (ctypes.c_int * 2)(2, 1)
    libc.qsort(numbers, 2, ctypes.sizeof(ctypes.c_int), order)


def setuid_file() -> None:
    file = Path("/run/gpumand/e2e-setuid")
    file.touch()
    try:
        file.chmod(0o4700)
    finally:
        file.unlink()


def opened(path: str, flags: int = os.O_RDWR) -> Callable[[], object]:
    return lambda: os.close(os.open(path, flags))


def connected(address: str, port: int) -> None:
    socket.create_connection((address, port), timeout=3).close()


ATTEMPTS: dict[str, Callable[[], object]] = {
    "mount": lambda: call("mount", b"none", b"/run/gpumand", b"tmpfs", 0, None),
    "new user namespace": lambda: call("unshare", CLONE_NEWUSER),
    "personality": lambda: call("personality", ADDR_NO_RANDOMIZE),
    "own priority": lambda: os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0)),
    "clock": lambda: time.clock_settime(time.CLOCK_REALTIME, time.time()),
    "host name": lambda: socket.sethostname("e2e"),
    "memory both writable and executable": writable_and_executable,
    "memory made executable": made_executable,
    "callback of ctypes": callback,
    "setuid file": setuid_file,
    "packet socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close(),
    "netlink socket": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close(),
    "unix socket": lambda: socket.socket(socket.AF_UNIX).close(),
    "name of this host": lambda: socket.getaddrinfo("localhost", 80, flags=socket.AI_ADDRCONFIG),
    "address elsewhere": lambda: connected("192.0.2.1", 8000),
    "own state": lambda: Path("/var/lib/gpumand/e2e-probe").touch(),
    "folder open to all": lambda: Path("/srv/e2e-open/file").touch(),
    "home folders": lambda: os.listdir("/home"),
    "file in the common /tmp": lambda: Path("/tmp/e2e-common").stat(),
    "kernel log": opened("/proc/kmsg", os.O_RDONLY),
    "kernel setting": opened("/proc/sys/vm/swappiness"),
    "name of another's process": lambda: Path("/proc/1/comm").read_bytes(),
    "driver's files in /proc": lambda: os.listdir("/proc/driver"),
    "nvidiactl": opened("/dev/nvidiactl"),
    "nvidia0": opened("/dev/nvidia0"),
    "another device": opened("/dev/e2e-other"),
    "null": opened("/dev/null"),
}

if __name__ == "__main__":
    ended = {what: outcome(action) for what, action in ATTEMPTS.items()}
    Path(sys.argv[1]).write_text(json.dumps(ended), encoding="utf-8")
