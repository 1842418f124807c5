"""Finds the processes of programs that hold reservations, by the tree of processes in /proc.

Every function here blocks and is called in a thread. Where /proc hides the processes of other users (``hidepid=``),
nothing is found: the reservation then stays whole, and the memory of its program counts as foreign.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from gpumand.domain.lease import LeaseLifetime, Owner
from gpumand.domain.reservation import Holder, ProcessKey
from gpumand.vram.process import command_name, stat_fields

MAX_DEPTH = 4096
"""Steps from a process to its ancestors; more can only come from a table that changed while it was read."""

_USER_MANAGER = re.compile(r"user@[0-9]{1,10}\.service")


MAX_ANCESTORS = 64
"""Ancestors of a process that are looked at; a longer chain is cut off."""


@dataclass(frozen=True, slots=True)
class ProcessEntry:
    """A process in the table of processes.

    Attributes:
        parent: pid of its parent; 0 = none.
        session: id of its session.
        started: start time in clock ticks since boot.
    """

    parent: int
    session: int
    started: int


Table = Mapping[int, ProcessEntry]


def read_entry(pid: int) -> ProcessEntry | None:
    """One process; None if /proc does not show it."""
    fields = stat_fields(pid)
    try:
        return ProcessEntry(int(fields[1]), int(fields[3]), int(fields[19]))
    except (IndexError, ValueError):
        return None


def read_table() -> dict[int, ProcessEntry]:
    """All processes that /proc shows."""
    try:
        pids = [int(name) for name in os.listdir("/proc") if name.isascii() and name.isdigit()]
    except OSError:
        return {}
    entries = ((pid, read_entry(pid)) for pid in pids)
    return {pid: entry for pid, entry in entries if entry is not None}


def ancestors(pid: int) -> tuple[int, ...]:
    """Process ids of the ancestors of a process, its parent first, without the first process of the host."""
    found: list[int] = []
    entry = read_entry(pid) if pid > 0 else None
    while entry is not None and entry.parent > 1 and len(found) < MAX_ANCESTORS:
        parent = read_entry(entry.parent)
        # A parent that started later is another process with the number of one that has ended.
        if parent is None or parent.started > entry.started:
            break
        found.append(entry.parent)
        entry = parent
    return tuple(found)


def identify(owner: Owner, lifetime: LeaseLifetime) -> Holder:
    """The processes that a reservation of this client is for.

    For the lifetime ``unit`` these are the processes of the client's unit, unless that is the manager of a user, which
    runs all of the user's programs. Otherwise they are the client's process and its descendants. A lease of the
    lifetime ``ttl`` outlives its client, whose place its parent takes, or its service.
    """
    unit = "" if _USER_MANAGER.fullmatch(owner.unit) else owner.unit
    is_by_unit, is_ttl = lifetime is LeaseLifetime.UNIT, lifetime is LeaseLifetime.TTL
    entry = read_entry(owner.pid) if owner.pid > 0 else None
    return Holder(
        ProcessKey() if entry is None else ProcessKey(owner.pid, entry.started),
        _parent_in_session(entry) if entry is not None and is_ttl else ProcessKey(),
        unit if is_by_unit else "",
        unit if is_ttl and unit.endswith(".service") else "",
        "" if entry is None else command_name(owner.pid),
    )


def _parent_in_session(entry: ProcessEntry) -> ProcessKey:
    """The parent of a process, if it is in the same session: a shell script, but not the service manager."""
    parent = read_entry(entry.parent) if entry.parent > 1 else None
    is_related = parent is not None and parent.session == entry.session and parent.started <= entry.started
    return ProcessKey(entry.parent, parent.started) if parent is not None and is_related else ProcessKey()


class HolderTree:
    """Assigns processes to reservations. A process that was assigned once stays so when its parent has ended.

    Attributes:
        units: unit -> reservation, of the reservations whose processes are those of a unit at the last assignment.
    """

    def __init__(self) -> None:
        self._members: dict[ProcessKey, str] = {}
        self.units: dict[str, str] = {}

    def assign(self, holders: Mapping[str, Holder], pids: Iterable[int], table: Table) -> dict[int, str]:
        """Find the reservation of each process.

        Args:
            holders: name of the reservation -> its processes; of several with the same process, the first counts.
            pids: the processes to find.
            table: all processes.

        Returns:
            pid -> name of its reservation, without the processes that belong to none.
        """
        roots = _roots(holders, table)
        self.units = _units(holders, set(roots.values()))
        former = {key: name for key, name in self._members.items() if name in holders}
        found = {pid: name for pid in table if (name := _name_of(pid, table, roots, former))}
        self._members = {ProcessKey(pid, table[pid].started): name for pid, name in found.items()}
        return {pid: found[pid] for pid in pids if pid in found}


def _roots(holders: Mapping[str, Holder], table: Table) -> dict[int, str]:
    """The processes at which the trees of reservations begin. A parent counts only after its process has ended."""
    roots: dict[int, str] = {}
    tree_holders = [(name, holder) for name, holder in holders.items() if not holder.unit]
    for name, holder in tree_holders:
        if _is_alive(holder.process, table):
            roots.setdefault(holder.process.pid, name)
    for name, holder in tree_holders:
        if not _is_alive(holder.process, table) and _is_alive(holder.parent, table):
            roots.setdefault(holder.parent.pid, name)
    return roots


def _units(holders: Mapping[str, Holder], rooted: Collection[str]) -> dict[str, str]:
    """The units whose processes count; a service counts as the last resort of a reservation whose tree has no root."""
    units: dict[str, str] = {}
    for name, holder in holders.items():
        unit = holder.unit or ("" if name in rooted else holder.last_unit)
        if unit:
            units.setdefault(unit, name)
    return units


def _is_alive(key: ProcessKey, table: Table) -> bool:
    entry = table.get(key.pid) if key.pid else None
    return entry is not None and entry.started == key.started


def _name_of(pid: int, table: Table, roots: Mapping[int, str], former: Mapping[ProcessKey, str]) -> str:
    """The reservation of the nearest ancestor that has one; else the one that it was assigned to before."""
    member = ""
    for _ in range(MAX_DEPTH):
        if pid in roots:
            return roots[pid]
        entry = table.get(pid)
        if entry is None:
            break
        member = member or former.get(ProcessKey(pid, entry.started), "")
        parent = table.get(entry.parent)
        # A parent that started later is another process with a reused pid.
        if parent is None or parent.started > entry.started:
            break
        pid = entry.parent
    return member
