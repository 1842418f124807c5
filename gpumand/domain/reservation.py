"""Reservations: leases on an amount of VRAM instead of a consumer, for a program that is no configured service.

In the ledger a reservation is a consumer of its own that exists for one request and its lease. It has no unit, no
routes and no eviction methods, so the rules of scheduling apply to it without being repeated: it makes room like a
load, its amount counts once, and nothing evicts it. Clients see it as a lease with an empty consumer name.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

NAME_PREFIX = "reservation "
"""Names of reservations contain a space, so that no configured consumer has one of them."""

PUBLIC_LABEL = "reservation"
"""The word that stands for all reservations where a consumer is named: trigger of an eviction, text for people."""

MAX_VRAM_MIB = 1 << 24
"""The largest amount that can be reserved: 16 TiB, more than any device has."""

SHORT_ID = 6
"""Characters of the lease id in the name of a reservation."""


@dataclass(frozen=True, slots=True)
class ProcessKey:
    """A process beyond its lifetime, because the kernel reuses process ids.

    Attributes:
        pid: process id; 0 = none.
        started: start time in clock ticks since boot.
    """

    pid: int = 0
    started: int = 0


@dataclass(frozen=True, slots=True)
class Holder:
    """The processes whose memory counts against a reservation.

    Attributes:
        process: the process that made the request; its descendants belong to the reservation too.
        parent: its parent, where that is part of the same session. It takes the place of a process that has ended: a
            shell script that calls ``gpumanctl acquire`` goes on while that command is gone.
        unit: the systemd unit whose processes count instead, for the lifetime ``unit``; "" = none.
        last_unit: the service whose processes count when neither the process nor its parent is left; "" = none. That is
            a service that calls ``gpumanctl acquire`` in ``ExecStartPre=``.
        program: short name of the program that made the request, for people; "" = unknown.
    """

    process: ProcessKey = ProcessKey()
    parent: ProcessKey = ProcessKey()
    unit: str = ""
    last_unit: str = ""
    program: str = ""


@dataclass(frozen=True, slots=True)
class Reservation:
    """What is reserved, and for which processes.

    Attributes:
        lease_id: id of its lease.
        vram_mib: MiB on each of its devices; 0 with ``whole_device``.
        whole_device: everything on its devices that can be had.
        holder: the processes that use it.
    """

    lease_id: str
    vram_mib: int
    whole_device: bool = False
    holder: Holder = Holder()

    @property
    def name(self) -> str:
        """Its name in the ledger and in messages."""
        return f"{NAME_PREFIX}{self.lease_id[:SHORT_ID]}"


def is_reservation(name: str) -> bool:
    """Whether a name in the ledger is that of a reservation."""
    return name.startswith(NAME_PREFIX)


def public_name(name: str) -> str:
    """The consumer's name for clients: "" for a reservation."""
    return "" if is_reservation(name) else name


def public_trigger(name: str) -> str:
    """The cause of an eviction for clients: the consumer, or the word for all reservations."""
    return PUBLIC_LABEL if is_reservation(name) else name


def public_names(names: Iterable[str]) -> frozenset[str]:
    """The names that are not those of reservations."""
    return frozenset(name for name in names if not name.startswith(NAME_PREFIX))
