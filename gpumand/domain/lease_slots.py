"""The lease slots that active leases use on devices, and the devices that exclusive leases hold."""

from __future__ import annotations

from collections.abc import Mapping

from gpumand.domain.lease import Lease, LeaseLifetime
from gpumand.domain.lease_table import LeaseTable
from gpumand.domain.view import ConsumerState, StandingLease


def standing(lease: Lease, consumers: Mapping[str, ConsumerState]) -> StandingLease:
    """What a decision needs to know of a lease.

    A lease that the consumer's own unit holds while it runs uses no slot: it protects the consumer from eviction
    but does not mean that the consumer is working, and it would block the device for all others all that time.
    """
    return StandingLease(lease.consumer, takes_slot=_takes_slot(lease, consumers), exclusive=lease.exclusive)


def _takes_slot(lease: Lease, consumers: Mapping[str, ConsumerState]) -> bool:
    return not lease.yielded and not _is_own(lease, consumers)


def _is_own(lease: Lease, consumers: Mapping[str, ConsumerState]) -> bool:
    return lease.lifetime is LeaseLifetime.UNIT and lease.owner.unit == consumers[lease.consumer].spec.unit


def used(leases: LeaseTable, consumers: Mapping[str, ConsumerState]) -> dict[int, int]:
    """Number of lease slots in use on each device."""
    without_slot = [one.consumer for one in leases.special.values() if not one.yielded and _is_own(one, consumers)]
    slots: dict[int, int] = {}
    for consumer, active in leases.by_consumer.items():
        count = len(active) - without_slot.count(consumer)
        for device in consumers[consumer].devices if count else ():
            slots[device] = slots.get(device, 0) + count
    return slots


def exclusive(leases: LeaseTable, consumers: Mapping[str, ConsumerState]) -> dict[int, str]:
    """The devices that an exclusive lease holds, and the consumer of that lease."""
    return {
        device: lease.consumer
        for lease in leases.special.values()
        if lease.exclusive and not lease.yielded
        for device in consumers[lease.consumer].devices
    }
