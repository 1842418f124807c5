"""How many leases a consumer can have at once, from gpumand's status."""

from __future__ import annotations

from typing import Any

from gpumand.fleet.row_builder import HostFacts, host_row
from tests.unit.fleet.fleet_rows import machine_id

FACTS = HostFacts(machine_id(1), "gpu1", "https://gpu1:8447")


def consumer(name: str, device: str = "0", **more: Any) -> dict[str, Any]:
    return {"name": name, "residency": "resident", "device": device, "leases": 0} | more


def lease(name: str, device: str = "0", **more: Any) -> dict[str, Any]:
    return {"id": "l", "consumer": name, "device": device, "lifetime": "connection", "owner": "job.service"} | more


def limits(
    consumers: list[dict[str, Any]], leases: list[dict[str, Any]], slots: int | None = None, devices: int = 1
) -> dict[str, int | None]:
    status: dict[str, Any] = {"devices": [{"index": one, "uuid": f"GPU-{one}"} for one in range(devices)]}
    status |= {"consumers": consumers, "leases": leases, "queue": []}
    status |= {} if slots is None else {"concurrent_leases": slots}
    return {name: one.limit for name, one in host_row(FACTS, status, {}).consumers.items()}


def test_host_without_a_limit_has_none() -> None:
    assert limits([consumer("chat", leases=1)], [lease("chat")]) == {"chat": None}


def test_leases_of_other_consumers_on_the_device_use_its_slots() -> None:
    found = limits([consumer("chat", leases=1), consumer("image", leases=1)], [lease("chat"), lease("image")], 3)
    assert found == {"chat": 2, "image": 2}


def test_resident_consumer_whose_device_is_full_can_have_no_more_leases() -> None:
    assert limits([consumer("chat", leases=1), consumer("image")], [lease("chat")], 1) == {"chat": 1, "image": 0}


def test_reservation_uses_a_slot_too() -> None:
    assert limits([consumer("chat")], [lease("")], 1) == {"chat": 0}


def test_exclusive_lease_takes_the_device_without_a_limit() -> None:
    found = limits([consumer("chat", leases=1), consumer("image", "1")], [lease("chat", exclusive=True)], devices=2)
    assert found == {"chat": 1, "image": None}


def test_lease_of_the_consumers_own_unit_and_a_yielded_one_use_no_slot() -> None:
    own = lease("chat", lifetime="unit", owner="chat.service")
    consumers = [consumer("chat", unit="chat.service", leases=1)]
    assert limits(consumers, [own], 1) == {"chat": 2}, "its own lease, and one for a client"
    assert limits(consumers, [lease("chat", yielded=True)], 1) == {"chat": 2}
    assert limits(consumers, [lease("chat", lifetime="unit", owner="other.service")], 1) == {"chat": 1}


def test_consumer_that_is_on_no_device_goes_to_the_best_one() -> None:
    found = limits([consumer("chat", "")], [lease("image", "0"), lease("video", "1")], 2, devices=2)
    assert found == {"chat": 1}
    assert limits([consumer("chat", "")], [lease("image", exclusive=True)], devices=2) == {"chat": None}


def test_consumer_on_several_devices_needs_a_slot_on_each() -> None:
    assert limits([consumer("chat", "0,1")], [lease("image", "1")], 2, devices=2) == {"chat": 1}


def test_values_that_make_no_sense_are_no_limit() -> None:
    for slots in (0, -1, "3", None, 2.5):
        assert limits([consumer("chat")], [lease("chat")], slots) == {"chat": None}  # type: ignore[arg-type]
