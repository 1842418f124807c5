"""A device is its UUID: what stands on it moves along when its index changes."""

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
    """Two cards, and a lease on each consumer at its index."""
    ledger = Ledger(SchedulerSettings())
    ledger.configure(SchedulerSettings(), [ConsumerSpec(name, 1000) for name in devices])
    ledger.take_reading(reading("GPU-a", "GPU-b"), None)
    for name, index in devices.items():
        owner = Owner(":1.1", 1000)
        ledger.add_lease(Lease(name, name, str(index), owner, LeaseLifetime.TTL, 1), (index,), 1.0)
    return ledger


def places(ledger: Ledger) -> dict[str, tuple[tuple[int, ...], str]]:
    return {name: (state.devices, ledger.leases[name].device) for name, state in ledger.consumers.items()}


def test_cards_that_change_places_take_their_leases_along() -> None:
    ledger = ledger_with(on_a=0, on_b=1)
    ledger.take_reading(reading("GPU-b", "GPU-a"), None)
    assert places(ledger) == {"on_a": ((1,), "1"), "on_b": ((0,), "0")}
    assert ledger.view(2.0).leases == {0: 1, 1: 1}


def test_card_behind_one_that_was_pulled_moves_up() -> None:
    ledger = ledger_with(on_b=1)
    ledger.take_reading(reading("GPU-b"), None)
    assert places(ledger) == {"on_b": ((0,), "0")}
    ledger.take_reading(reading("GPU-a", "GPU-b"), None)
    assert places(ledger) == {"on_b": ((1,), "1")}


def test_reading_without_uuids_moves_nothing() -> None:
    ledger = ledger_with(on_a=0, on_b=1)
    ledger.take_reading(reading("", ""), None)
    ledger.take_reading(Reading(error="driver-not-loaded: no module"), None)
    ledger.take_reading(reading("GPU-a", "GPU-b"), None)
    assert places(ledger) == {"on_a": ((0,), "0"), "on_b": ((1,), "1")}


def test_what_is_being_loaded_stays_with_its_job() -> None:
    ledger = ledger_with(on_a=0, on_b=1)
    ledger.begin(Job((0,), "on_a"))
    ledger.take_reading(reading("GPU-b", "GPU-a"), None)
    assert places(ledger)["on_a"] == ((0,), "0")


def test_a_lease_from_before_a_start_is_where_its_card_is_by_now() -> None:
    """Its record has the index of then."""
    owner, ledger = Owner(":1.1", 1000), Ledger(SchedulerSettings())
    ledger.configure(SchedulerSettings(), [ConsumerSpec("on_b", 1000), ConsumerSpec("wide", 1000, device_count=2)])
    ledger.add_lease(Lease("on_b", "on_b", "1", owner, LeaseLifetime.TTL, 1, uuids=("GPU-b",)), (1,), 1.0)
    both = Lease("wide", "wide", "0,1", owner, LeaseLifetime.TTL, 1, uuids=("GPU-a", "GPU-b"))
    ledger.add_lease(both, (0, 1), 1.0)

    ledger.take_reading(Reading(error="driver-not-loaded: no module"), None)
    assert places(ledger)["on_b"] == ((1,), "1")
    ledger.take_reading(reading("GPU-b", "GPU-c", "GPU-a"), None)

    assert places(ledger) == {"on_b": ((0,), "0"), "wide": ((0, 2), "0,2")}
    assert ledger.leases["wide"].uuids == ("GPU-b", "GPU-a")
    assert ledger.view(2.0).leases == {0: 2, 2: 1}


def test_a_lease_on_two_cards_follows_both() -> None:
    ledger = ledger_with(on_a=0)
    owner = Owner(":1.1", 1000)
    ledger.configure(SchedulerSettings(), [ConsumerSpec("wide", 1000, device_count=2)])
    ledger.add_lease(Lease("wide", "wide", "0,1", owner, LeaseLifetime.TTL, 1), (0, 1), 1.0)

    ledger.take_reading(reading("GPU-b", "GPU-c", "GPU-a"), None)

    assert places(ledger)["wide"] == ((0, 2), "0,2")
    assert set(ledger.consumers["wide"].baseline_mib) == {0, 2}
    assert ledger.view(2.0).leases == {0: 1, 2: 2}
