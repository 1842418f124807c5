"""The number of leases that each consumer of this host can have at once, from gpumand's status.

``concurrent_leases`` is a limit of each device, which all leases there share, and an exclusive lease takes a whole
device. So the limit of a consumer is the number of its leases, and of those that its device still has room for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Entry = Mapping[str, Any]


def lease_limits(status: Mapping[str, Any], consumers: Sequence[Entry], leases: Sequence[Entry]) -> dict[str, int]:
    """The limit of each consumer that has one, by its name.

    Args:
        status: the answer of GetStatus as plain values.
        consumers: its consumers.
        leases: its leases.
    """
    own_units = {str(one.get("name", "")): str(one.get("unit") or "") for one in consumers}
    standing = [one for one in leases if _takes_slot(one, own_units)]
    listed = status.get("devices")
    devices = {str(one.get("index")) for one in listed if isinstance(one, dict)} if isinstance(listed, list) else set()
    limit = status.get("concurrent_leases")
    slots = limit if isinstance(limit, int) and limit > 0 else None
    free = {device: _free(device, standing, slots) for device in devices}
    found = {str(one.get("name", "")): _limit(one, free) for one in consumers}
    return {name: one for name, one in found.items() if one is not None}


def _takes_slot(lease: Entry, own_units: Mapping[str, str]) -> bool:
    """Whether a lease counts, as ``domain.lease_slots`` has it."""
    unit = own_units.get(str(lease.get("consumer", "")), "")
    is_own = lease.get("lifetime") == "unit" and unit != "" and lease.get("owner") == unit
    return not lease.get("yielded") and not is_own


def _free(device: str, leases: Iterable[Entry], slots: int | None) -> int | None:
    """Number of leases that a device still has room for; None = any number."""
    here = [one for one in leases if device in _devices(one)]
    if any(one.get("exclusive") for one in here):
        return 0
    return None if slots is None else max(0, slots - len(here))


def _limit(consumer: Entry, free: Mapping[str, int | None]) -> int | None:
    """The limit of a consumer; one that is on no device goes to the best one."""
    placed = [free[one] for one in _devices(consumer) if one in free]
    known = [one for one in placed or free.values() if one is not None]
    if not known or (not placed and len(known) < len(free)):
        return None
    leases = consumer.get("leases")
    return (leases if isinstance(leases, int) else 0) + (min(known) if placed else max(known))


def _devices(entry: Entry) -> list[str]:
    return [one for one in str(entry.get("device") or "").split(",") if one]
