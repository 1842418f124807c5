"""Reads from /proc in which container a process runs, and which container clients run. Blocking code.

No engine is asked: the cgroup names the container's id, the command line of Podman's monitor its name, and the command
line of ``docker-proxy`` the address behind a published port. The processes of other users are visible without
privilege, unless /proc is mounted with ``hidepid=``. What users can fake counts only from root or the own user.
"""

from __future__ import annotations

import ipaddress
import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from gpumand.domain.cgroups import CgroupContainer, CgroupPlace, parse_cgroup_file
from gpumand.domain.container import CONTAINER_ID
from gpumand.domain.container_clients import (
    CLIENTS,
    MONITORS,
    ContainerClient,
    ContainerMonitor,
    parse_client,
    parse_monitor,
    parse_proxy,
)
from gpumand.domain.container_rules import ProcessPlace

PROC = Path("/proc")
MAX_FILE = 64 * 1024
MAX_PROCESSES = 32768
MAX_ANCESTORS = 64
MAX_CLIENTS = 256

_COMM = 15
"""Length to which the kernel cuts the name of a process: ``containerd-shim-runc-v2`` is ``containerd-shim``."""

_LOCAL = re.compile(r"\|-- ([0-9.]+)\n\s*/32 host LOCAL")
_INTERPRETERS = re.compile(r"python[0-9.]*")


@dataclass(frozen=True, slots=True)
class RunningClient:
    """A running container client.

    Attributes:
        cgroup: its cgroup.
        started: its start in clock ticks since boot.
        command: what its command line says.
        container_id: the id in its ``--cidfile``; "" without one.
    """

    cgroup: CgroupPlace
    started: int
    command: ContainerClient
    container_id: str = ""


@dataclass(frozen=True, slots=True)
class _Process:
    name: str
    parent: int
    started: int


class PlaceReader:
    """Reads places of processes."""

    def __init__(self, proc: Path = PROC, uid: int | None = None) -> None:
        """Set the folder and the user.

        Args:
            proc: the /proc folder.
            uid: the own user; None = that of the calling process.
        """
        self._proc = proc
        self._trusted_uids = (0, os.getuid() if uid is None else uid)

    def place(self, pid: int) -> ProcessPlace:
        """Where a process runs; an empty place if /proc does not show it."""
        cgroup = parse_cgroup_file(self._read(pid, "cgroup"))
        if not cgroup.path:
            return ProcessPlace()
        monitor_pid, monitor_process = self._monitor_of(pid)
        if monitor_process is None:
            return ProcessPlace(cgroup)
        place = ProcessPlace(cgroup, monitor_started=monitor_process.started)
        monitor = parse_monitor(self._words(monitor_pid)) if self._is_trusted(monitor_pid) else None
        return place if monitor is None else self._with_monitor(place, monitor, monitor_pid)

    def _with_monitor(self, place: ProcessPlace, monitor: ContainerMonitor, monitor_pid: int) -> ProcessPlace:
        cgroup, container = place.cgroup, place.cgroup.container
        if container is None and CONTAINER_ID.fullmatch(monitor.id):
            # podman run --cgroups=disabled leaves the container in the cgroup of its client.
            cgroup = replace(cgroup, container=CgroupContainer(monitor.id, "", "podman", cgroup.path))
        elif container is None or container.id != monitor.id:
            return place
        own = parse_cgroup_file(self._read(monitor_pid, "cgroup"))
        return replace(place, cgroup=cgroup, name=monitor.name[:254], monitor_unit=own.user_unit or own.unit)

    def _monitor_of(self, pid: int) -> tuple[int, _Process | None]:
        """The nearest ancestor that is the monitor of a container."""
        for _ in range(MAX_ANCESTORS):
            process = self._process(pid)
            if process is None or process.parent <= 1:
                break
            pid = process.parent
            parent = self._process(pid)
            if parent is not None and parent.name.startswith(MONITORS):
                return pid, parent
        return 0, None

    def clients(self) -> tuple[RunningClient, ...]:
        """All container clients that run, a limited number."""
        found: list[RunningClient] = []
        for pid in self._pids():
            name = self._comm(pid)
            if name not in CLIENTS and not _INTERPRETERS.fullmatch(name):
                continue
            command, process = parse_client(self._words(pid)), self._process(pid)
            if command is not None and process is not None and len(found) < MAX_CLIENTS:
                cgroup = parse_cgroup_file(self._read(pid, "cgroup"))
                found.append(RunningClient(cgroup, process.started, command, id_in_file(command.cid_file)))
        return tuple(found)

    def proxies(self) -> dict[int, str]:
        """The published TCP ports for which a ``docker-proxy`` of root runs: host port -> address of the container."""
        pids = (pid for pid in self._pids() if self._comm(pid) == "docker-proxy" and self._is_trusted(pid))
        parsed = (parse_proxy(self._words(pid)) for pid in pids)
        return dict(one for one in parsed if one is not None)

    def addresses(self, pid: int) -> frozenset[str]:
        """The addresses in the network namespace of a process, without loopback."""
        found = set(_LOCAL.findall(self._read(pid, "net/fib_trie")))
        for line in self._read(pid, "net/if_inet6").splitlines():
            with suppress(ValueError, IndexError):
                found.add(str(ipaddress.IPv6Address(bytes.fromhex(line.split()[0]))))
        return frozenset(one for one in found if not one.startswith("127.") and one != "::1")

    def started(self, pid: int) -> int | None:
        """Start of a process in clock ticks since boot; None if /proc does not show it."""
        process = self._process(pid)
        return None if process is None else process.started

    def _pids(self) -> Iterator[int]:
        with suppress(OSError):
            names = (name for name in os.listdir(self._proc) if name.isascii() and name.isdigit())
            yield from (int(name) for name, _ in zip(names, range(MAX_PROCESSES), strict=False))

    def _process(self, pid: int) -> _Process | None:
        # The name is in brackets and may itself contain blanks and brackets.
        head, _, rest = self._read(pid, "stat").rpartition(")")
        fields = rest.split()
        try:
            return _Process(head.partition("(")[2], int(fields[1]), int(fields[19]))
        except (IndexError, ValueError):
            return None

    def _comm(self, pid: int) -> str:
        return self._read(pid, "comm").rstrip("\n")[:_COMM]

    def _words(self, pid: int) -> list[str]:
        return self._read(pid, "cmdline").split("\0")[:1024]

    def _is_trusted(self, pid: int) -> bool:
        """Whether the process belongs to root or to the own user, so that no other user chose its command line."""
        lines = self._read(pid, "status").splitlines()
        uids = next((line.split()[1:4] for line in lines if line.startswith("Uid:")), [])
        return bool(uids) and all(uid.isdigit() and int(uid) in self._trusted_uids for uid in uids)

    def _read(self, pid: int, name: str) -> str:
        try:
            with (self._proc / str(pid) / name).open("rb") as file:
                return file.read(MAX_FILE).decode(errors="replace")
        except OSError:
            return ""


def id_in_file(path: str) -> str:
    """The container id in a ``--cidfile``; "" where it cannot be read or contains anything else."""
    if not path.startswith("/"):
        return ""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return ""
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return ""
        text = file.read(256).decode(errors="replace").strip()
    return text if CONTAINER_ID.fullmatch(text) else ""
