"""Leases: permission to use a resident consumer, held by an owner until it ends."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from gpumand.domain.reservation import Reservation


class LeaseLifetime(StrEnum):
    """The event that ends a lease, apart from Release."""

    TTL = "ttl"
    CONNECTION = "connection"
    UNIT = "unit"


class LeaseEnd(StrEnum):
    """Why a lease ended, as the D-Bus signal ``LeaseEnded`` reports it."""

    RELEASED = "released"
    EXPIRED = "expired"
    OWNER_VANISHED = "owner-vanished"
    UNIT_STOPPED = "unit-stopped"
    REVOKED = "revoked"
    SHUTDOWN = "shutdown"
    NOT_RESTORED = "not-restored"
    """Its consumer was given back for a nested lease and could not be made resident again."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The client that owns a lease or request, identified by the bus and systemd, never by its own claims.

    Attributes:
        bus_name: unique name; never reused on one bus.
        uid: user id of the connection.
        pid: process id at the time of connecting, 0 when unknown.
        unit: the systemd unit it runs in, "" when unknown or none.
        invocation_id: id of the current run of that unit, so that a restart can be recognised.
        user: login name of the user, "" when unknown. For people only, like ``program``: it is neither compared nor
            stored, and looked up again after a restart.
        program: short name of the process, "" when unknown.
    """

    bus_name: str
    uid: int
    pid: int = 0
    unit: str = ""
    invocation_id: str = ""
    user: str = field(default="", compare=False)
    program: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease on a consumer.

    Attributes:
        id: unguessable; used as handle. It may be public, since Release checks the owner.
        consumer: the leased consumer.
        device: index of the device as text ("0"), of several "0,1"; "" when no device is known.
        owner: the client that holds it.
        lifetime: the event that ends it.
        granted_usec: CLOCK_REALTIME microseconds.
        expires_usec: CLOCK_REALTIME microseconds; 0 = no limit.
        ttl_sec: seconds that ``Renew`` with 0 grants; 0.0 when not a ttl lease.
        reason: the purpose that the client stated.
        token: idempotency token of the owner, or "".
        uuids: UUIDs of the devices, in the order of ``device``; () where unknown. Indices may change, UUIDs do not.
        reservation: what is reserved where there is no consumer; ``consumer`` is then the reservation's name.
        restore: the consumer is loaded again, once, when it loses its model or its process during the lease.
        degraded: why the leased consumer is not resident, in one line; "" = it is resident. Not stored:
            observations of the consumer show it again after a restart.
        exclusive: nothing else is leased on its devices.
        yielded: its consumer is given back at the moment, for a nested lease; it is loaded again when that ends.
        yields: id of the lease that was given back for this one; "" = none.
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
    reservation: Reservation | None = None
    restore: bool = False
    degraded: str = field(default="", compare=False)
    exclusive: bool = False
    yielded: bool = False
    yields: str = ""

    @property
    def public_consumer(self) -> str:
        """The name of its consumer for clients; "" for a reservation."""
        return "" if self.reservation is not None else self.consumer


TokenKey = tuple[int, LeaseLifetime, str, str, str]


def token_key(owner: Owner, lifetime: LeaseLifetime, token: str) -> TokenKey:
    """Key under which requests with the same idempotency token count as the same request.

    It has the user and the token, and for lifetimes bound to more than the user also the connection or the run of the
    unit. For a ttl lease, two ``busctl call`` of one script are two connections but the same owner.
    """
    bus_name = owner.bus_name if lifetime is LeaseLifetime.CONNECTION else ""
    run = f"{owner.unit}/{owner.invocation_id}" if lifetime is LeaseLifetime.UNIT else ""
    return owner.uid, lifetime, bus_name, run, token
