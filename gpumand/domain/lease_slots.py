"""The lease slots that active leases use on devices, and the devices that exclusive leases hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gpumand.domain.lease import Lease, LeaseLifetime
from gpumand.domain.view import ConsumerState, StandingLease


def standing(lease: Lease, consumers: Mapping[str, ConsumerState]) -> StandingLease:
    """What a decision needs to know of a lease.

    A lease that the consumer's own unit holds while it runs uses no slot: it protects the consumer from eviction
    but does not mean that the consumer is working, and it would block the device for all others all that time.
    """
    return StandingLease(lease.consumer, takes_slot=_takes_slot(lease, consumers), exclusive=lease.exclusive)


def _takes_slot(lease: Lease, consumers: Mapping[str, ConsumerState]) -> bool:
    is_own = lease.lifetime is LeaseLifetime.UNIT and lease.owner.unit == consumers[lease.consumer].spec.unit
    return not is_own and not lease.yielded


def used(leases: Iterable[Lease], consumers: Mapping[str, ConsumerState]) -> dict[int, int]:
    """Number of lease slots in use on each device."""
    slots: dict[int, int] = {}
    for lease in leases:
        for device in consumers[lease.consumer].devices if _takes_slot(lease, consumers) else ():
            slots[device] = slots.get(device, 0) + 1
    return slots


def exclusive(leases: Iterable[Lease], consumers: Mapping[str, ConsumerState]) -> dict[int, str]:
    """The devices that an exclusive lease holds, and the consumer of that lease."""
    return {
        device: lease.consumer
        for lease in leases
        if lease.exclusive and not lease.yielded
        for device in consumers[lease.consumer].devices
    }
