"""Leases: permission to use a resident consumer, and who holds it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class LeaseLifetime(StrEnum):
    """What ends a lease besides Release."""

    TTL = "ttl"
    CONNECTION = "connection"
    UNIT = "unit"


class LeaseEnd(StrEnum):
    """Why a lease ended, as ``LeaseEnded`` says it."""

    RELEASED = "released"
    EXPIRED = "expired"
    OWNER_VANISHED = "owner-vanished"
    UNIT_STOPPED = "unit-stopped"
    REVOKED = "revoked"
    SHUTDOWN = "shutdown"


@dataclass(frozen=True, slots=True)
class Owner:
    """A client, known by what the bus and systemd say of it; never by what it says of itself.

    Attributes:
        bus_name: unique name; never reused on one bus.
        uid: user id of the connection.
        pid: process id at the time of connecting, 0 when unknown.
        unit: the systemd unit it runs in, "" when unknown or none.
        invocation_id: that unit's run, so that a restart is told apart.
    """

    bus_name: str
    uid: int
    pid: int = 0
    unit: str = ""
    invocation_id: str = ""


@dataclass(frozen=True, slots=True)
class Lease:
    """One lease.

    Attributes:
        id: unguessable; serves as handle and, since Release checks the owner, as public name.
        consumer: what it is for.
        device: index of the device, as text ("0"), of several "0,1"; "" when no device is known.
        owner: who holds it.
        lifetime: what ends it.
        granted_usec: CLOCK_REALTIME microseconds.
        expires_usec: CLOCK_REALTIME microseconds; 0 = no limit.
        ttl_sec: what ``Renew`` with 0 grants again; 0.0 when not a ttl lease.
        reason: what the client said it is for.
        token: idempotency token of its owner, or "".
        uuids: of its devices, in their order; () where nobody knows any. Indices may change, these do not.
    """

    id: str
    consumer: str
    device: str
    owner: Owner
    lifetime: LeaseLifetime
    granted_usec: int
    expires_usec: int = 0
    ttl_sec: float = 0.0
    reason: str = ""
    token: str = ""
    uuids: tuple[str, ...] = ()
