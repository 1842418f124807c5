"""The lists of the screen: their rows, the keys of the rows, and their orders."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from gpumand.cli.top.processes import Facts

Entry = Mapping[str, Any]


class Section(StrEnum):
    """A list of the screen; the value is its name for the user."""

    DEVICES = "GPUs"
    CONSUMERS = "consumers"
    LEASES = "leases"
    QUEUE = "queue"
    PROCESSES = "processes"
    EVENTS = "events"


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a list.

    Attributes:
        key: identifies it in the next status too.
        entry: what is shown.
    """

    key: str
    entry: Entry


def device_rows(status: Entry, _: str = "") -> list[Row]:
    """The devices, by index."""
    return [Row(str(one["index"]), one) for one in status["devices"]]


def consumer_rows(status: Entry, order: str = "") -> list[Row]:
    """The consumers: as configured, or in an order of ORDERS."""
    rows = [Row(str(one["name"]), one) for one in status["consumers"]]
    return _ordered(rows, _CONSUMER_ORDERS.get(order))


def lease_rows(status: Entry, order: str = "") -> list[Row]:
    """The leases, the oldest first, or in an order of ORDERS."""
    return _ordered([Row(str(one["id"]), one) for one in status["leases"]], _LEASE_ORDERS.get(order))


def queue_rows(status: Entry, _: str = "") -> list[Row]:
    """The waiting requests in queue order."""
    return [Row(str(one.get("id") or f"position {one['position']}"), one) for one in status["queue"]]


def process_rows(status: Entry, facts: Mapping[int, Facts], order: str = "") -> list[Row]:
    """Processes that hold memory, of consumers and others; one row for each process and device.

    Args:
        status: an answer of GetStatus.
        facts: what /proc says of them, by pid.
        order: an order of ORDERS; "" = the largest first.
    """
    rows = []
    for device in status["devices"]:
        for number, one in enumerate([*device.get("processes", ()), *device.get("foreign", ())]):
            # A unit as a whole has the pid 0: its place in the list tells two of them apart.
            name = one.get("pid") or f"{one.get('unit')} {number}"
            known = facts.get(int(one.get("pid") or 0))
            entry = {**one, "device": str(device["index"]), "facts": known}
            rows.append(Row(f"{device['index']} {name}", entry))
    return _ordered(rows, _PROCESS_ORDERS.get(order, _by_memory))


def event_rows(recent: Sequence[Entry]) -> list[Row]:
    """The last evictions, the newest first."""
    return [Row(f"{one['at_usec']} {number}", one) for number, one in enumerate(recent)]


def _ordered(rows: list[Row], key: Callable[[Entry], Any] | None) -> list[Row]:
    return sorted(rows, key=lambda row: key(row.entry)) if key is not None else rows


def _by_memory(entry: Entry) -> int:
    return -int(entry.get("used_mib") or 0)


def _by_end(lease: Entry) -> tuple[bool, int]:
    """Leases without a time of their end are last."""
    return not lease.get("expires_usec"), int(lease.get("expires_usec") or 0)


def _by_cpu(process: Entry) -> float:
    facts = process.get("facts")
    return -(facts.cpu_percent or 0.0) if facts else 0.0


_CONSUMER_ORDERS: dict[str, Callable[[Entry], Any]] = {
    "memory": _by_memory,
    "name": lambda entry: str(entry["name"]),
    "last use": lambda entry: (-int(entry.get("leases") or 0), -int(entry.get("last_used_usec") or 0)),
}
_LEASE_ORDERS: dict[str, Callable[[Entry], Any]] = {
    "end": _by_end,
    "user": lambda entry: (str(entry.get("owner_user") or ""), int(entry["owner_uid"])),
    "consumer": lambda entry: str(entry["consumer"]),
}
_PROCESS_ORDERS: dict[str, Callable[[Entry], Any]] = {
    "memory": _by_memory,
    "CPU": _by_cpu,
    "user": lambda entry: str(entry.get("user") or ""),
    "pid": lambda entry: int(entry.get("pid") or 0),
}

ORDERS: Mapping[Section, tuple[str, ...]] = {
    Section.CONSUMERS: ("configuration", *_CONSUMER_ORDERS),
    Section.LEASES: ("start", *_LEASE_ORDERS),
    Section.PROCESSES: tuple(_PROCESS_ORDERS),
}
"""Orders of the lists that have several, the first at the start."""
