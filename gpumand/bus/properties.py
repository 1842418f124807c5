"""The property values of each D-Bus object.

An object has two groups of properties. *State* is announced when it changes. *Live values* change all the time, are
never announced, and are read when a client asks for them. None stands for an unknown value.
"""

from __future__ import annotations

from typing import Any

from gpumand.bus.marshalling import learned_entry, owner_label
from gpumand.domain.lease import Lease
from gpumand.domain.status import AnnouncedConsumer, ConsumerStatus, DeviceStatus, Summary

Values = dict[str, Any]


def manager_state(version: str, summary: Summary) -> Values:
    """Return the announced properties of org.gpumand1.Manager."""
    return {
        "Version": version,
        "Degraded": summary.degraded,
        "QueueLength": summary.queue_length,
        "LeaseCount": summary.lease_count,
        "EvictionCount": summary.eviction_count,
    }


def device_state(device: DeviceStatus) -> Values:
    """Return the announced properties of an org.gpumand1.Device."""
    return {
        "Index": device.index,
        "Uuid": device.uuid,
        "Name": device.name,
        "Source": device.source,
        "TotalMib": device.total_mib,
        "Error": device.error,
        "Pool": device.pool,
        "Integrated": device.integrated,
        "Attribution": device.attribution,
        "Asleep": device.asleep,
        "Aliases": device.aliases,
    }


def device_live_values(device: DeviceStatus) -> Values:
    """Return the live values of an org.gpumand1.Device."""
    return {
        "UsedMib": device.used_mib,
        "FreeMib": device.free_mib,
        "ReservedMib": device.reserved_mib,
        "ForeignMib": device.foreign_mib,
        "UnnamedMib": device.unnamed_mib,
        "UtilizationPercent": device.telemetry.utilization_percent,
        "TemperatureCelsius": device.telemetry.temperature_celsius,
        "TemperatureLimitCelsius": device.telemetry.temperature_limit_celsius,
        "PowerWatts": device.telemetry.power_watts,
        "PowerLimitWatts": device.telemetry.power_limit_watts,
    }


def consumer_state(consumer: AnnouncedConsumer | ConsumerStatus) -> Values:
    """Return the announced properties of an org.gpumand1.Consumer."""
    return {
        "Name": consumer.name,
        "Residency": consumer.residency,
        "Device": consumer.device,
        "VramResidentMib": consumer.vram_resident_mib,
        "VramAuto": consumer.vram_auto,
        "Leases": consumer.leases,
        "Pinned": consumer.pinned,
        "VramManaged": consumer.vram_managed,
        "Unit": consumer.unit,
        "Container": consumer.container,
        "LastUsedUsec": consumer.last_used_usec,
        "Error": consumer.error,
    }


def consumer_live_values(consumer: ConsumerStatus) -> Values:
    """Return the live values of an org.gpumand1.Consumer."""
    learned = learned_entry(consumer.memory, consumer.times)
    return {"UsedMib": consumer.used_mib, "Busy": consumer.busy, "Learned": learned}


def lease_state(lease: Lease) -> Values:
    """Return the announced properties of an org.gpumand1.Lease."""
    reservation = lease.reservation
    return {
        "Id": lease.id,
        "Consumer": lease.public_consumer,
        "Device": lease.device,
        "OwnerUid": lease.owner.uid,
        "Owner": owner_label(lease.owner),
        "Lifetime": str(lease.lifetime),
        "GrantedUsec": lease.granted_usec,
        "ExpiresUsec": lease.expires_usec,
        "Reason": lease.reason,
        "VramMib": reservation.vram_mib if reservation is not None else 0,
        "WholeDevice": reservation is not None and reservation.whole_device,
        "Restore": lease.restore,
        "Degraded": lease.degraded,
        "Program": reservation.holder.program if reservation is not None else "",
        "Exclusive": lease.exclusive,
        "Yielded": lease.yielded,
        "Yields": lease.yields,
    }
