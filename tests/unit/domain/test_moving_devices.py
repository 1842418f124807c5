"""A device is identified by its UUID: leases and consumers follow it when its index changes."""

from __future__ import annotations

from gpumand.domain.consumer import ConsumerSpec, SchedulerSettings
from gpumand.domain.device import Reading, Sample
from gpumand.domain.lease import Lease, LeaseLifetime, Owner
from gpumand.domain.ledger import Ledger
from gpumand.domain.view import Job

TOTAL_MIB = 24576


def reading(*uuids: str) -> Reading:
    return Reading(
        tuple(Sample(index, uuid, "GPU", "nvml", TOTAL_MIB, 0, TOTAL_MIB) for index, uuid in enumerate(uuids))
    )


def ledger_with(**devices: int) -> Ledger:
    """Two devices, and a lease on each consumer at its index."""
    ledger = Ledger(SchedulerSettings())
    ledger.configure(SchedulerSettings(), [ConsumerSpec(name, 1000) for name in devices])
    ledger.apply_reading(reading("GPU-a", "GPU-b"), None)
    for name, index in devices.items():
        owner = Owner(":1.1", 1000)
        ledger.add_lease(Lease(name, name, str(index), owner, LeaseLifetime.TTL, 1), (index,), 1.0)
    return ledger


def devices_by_consumer(ledger: Ledger) -> dict[str, tuple[tuple[int, ...], str]]:
    return {name: (state.devices, ledger.leases[name].device) for name, state in ledger.consumers.items()}


def test_leases_follow_devices_that_swap_their_indices() -> None:
    ledger = ledger_with(on_a=0, on_b=1)
    ledger.apply_reading(reading("GPU-b", "GPU-a"), None)
    assert devices_by_consumer(ledger) == {"on_a": ((1,), "1"), "on_b": ((0,), "0")}
    assert ledger.view(2.0).leases == {0: 1, 1: 1}


def test_a_lease_follows_its_device_after_another_was_removed() -> None:
    ledger = ledger_with(on_b=1)
    ledger.apply_reading(reading("GPU-b"), None)
    assert devices_by_consumer(ledger) == {"on_b": ((0,), "0")}
    ledger.apply_reading(reading("GPU-a", "GPU-b"), None)
    assert devices_by_consumer(ledger) == {"on_b": ((1,), "1")}


def test_reading_without_uuids_moves_no_lease() -> None:
    ledger = ledger_with(on_a=0, on_b=1)
    ledger.apply_reading(reading("", ""), None)
    ledger.apply_reading(Reading(error="driver-not-loaded: no module"), None)
    ledger.apply_reading(reading("GPU-a", "GPU-b"), None)
    assert devices_by_consumer(ledger) == {"on_a": ((0,), "0"), "on_b": ((1,), "1")}


def test_a_consumer_that_is_being_loaded_stays_with_its_job() -> None:
    ledger = ledger_with(on_a=0, on_b=1)
    ledger.begin_job(Job((0,), "on_a"))
    ledger.apply_reading(reading("GPU-b", "GPU-a"), None)
    assert devices_by_consumer(ledger)["on_a"] == ((0,), "0")


def test_a_restored_lease_is_on_the_present_index_of_its_device() -> None:
    """The record of the lease has the index from before the restart."""
    owner, ledger = Owner(":1.1", 1000), Ledger(SchedulerSettings())
    ledger.configure(SchedulerSettings(), [ConsumerSpec("on_b", 1000), ConsumerSpec("wide", 1000, device_count=2)])
    ledger.add_lease(Lease("on_b", "on_b", "1", owner, LeaseLifetime.TTL, 1, uuids=("GPU-b",)), (1,), 1.0)
    both = Lease("wide", "wide", "0,1", owner, LeaseLifetime.TTL, 1, uuids=("GPU-a", "GPU-b"))
    ledger.add_lease(both, (0, 1), 1.0)

    ledger.apply_reading(Reading(error="driver-not-loaded: no module"), None)
    assert devices_by_consumer(ledger)["on_b"] == ((1,), "1")
    ledger.apply_reading(reading("GPU-b", "GPU-c", "GPU-a"), None)

    assert devices_by_consumer(ledger) == {"on_b": ((0,), "0"), "wide": ((0, 2), "0,2")}
    assert ledger.leases["wide"].uuids == ("GPU-b", "GPU-a")
    assert ledger.view(2.0).leases == {0: 2, 2: 1}


def test_a_lease_on_two_devices_follows_both() -> None:
    ledger = ledger_with(on_a=0)
    owner = Owner(":1.1", 1000)
    ledger.configure(SchedulerSettings(), [ConsumerSpec("wide", 1000, device_count=2)])
    ledger.add_lease(Lease("wide", "wide", "0,1", owner, LeaseLifetime.TTL, 1), (0, 1), 1.0)

    ledger.apply_reading(reading("GPU-b", "GPU-c", "GPU-a"), None)

    assert devices_by_consumer(ledger)["wide"] == ((0, 2), "0,2")
    assert set(ledger.consumers["wide"].baseline_mib) == {0, 2}
    assert ledger.view(2.0).leases == {0: 1, 2: 2}
