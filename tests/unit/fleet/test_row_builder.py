"""The row of a host, made of gpumand's status."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from gpumand.domain.residency_states import Residency
from gpumand.fleet.row_builder import HostFacts, host_row
from gpumand.fleet.row_json import encode_host, parse_host
from gpumand.fleet.rows import ConsumerRow, DeviceRow
from tests.unit.cli import samples
from tests.unit.fleet.fleet_rows import machine_id

FACTS = HostFacts(machine_id(1), "gpu1", "https://gpu1:8447", "http://gpu1:8770")


def consumer(**more: Any) -> dict[str, Any]:
    return {"name": "chat", "residency": "resident", "leases": 2, "evict": ["http", "unit-stop"], "device": "0"} | more


def test_row_has_memory_leases_queue_and_learned_times() -> None:
    status = {
        "version": "1.2",
        "devices": [{"uuid": "GPU-1", "total_mib": 24564, "free_mib": 10000, "reserved_mib": 4000}],
        "consumers": [consumer(vram_resident_mib=14000, fleet="unique"), consumer(name="image", residency="parked")],
        "queue": [{"consumer": "chat"}, {"consumer": "chat"}, {"consumer": ""}],
    }
    learned = {
        "chat": {
            "loads": [{"start": "cold", "count": 3, "mean_usec": 9_000_000}, {"start": "parked", "count": 0}],
            "unloads": [
                {"method": "unit-stop", "count": 1, "mean_usec": 4_000_000},
                {"method": "http", "count": 1, "mean_usec": 500_000},
            ],
            "holds": {"count": 2, "mean_usec": 7_000_000},
        }
    }

    row = host_row(FACTS, status, learned, draining=True, ram_mib=64000)

    assert row.devices == (DeviceRow("GPU-1", 24564, 6000),), "promised memory is not free"
    assert (row.queue, row.draining, row.ram_mib, row.version) == (3, True, 64000, "1.2")
    assert (row.name, row.url, row.gateway) == ("gpu1", "https://gpu1:8447", "http://gpu1:8770")
    assert row.consumers["chat"] == ConsumerRow(
        Residency.RESIDENT,
        need_mib=14000,
        leases=2,
        queue=2,
        load_ms=9000,
        park_ms=500,
        hold_ms=7000,
        device=0,
        unique=True,
    )
    assert row.consumers["image"].residency is Residency.PARKED
    assert row.consumers["image"].load_ms is None, "what was never measured is unknown and not 0"


def test_unknown_memory_stays_unknown() -> None:
    row = host_row(FACTS, {"devices": [{"uuid": "GPU-1"}], "consumers": [consumer()], "queue": []}, {})
    assert row.devices == (DeviceRow("GPU-1", None, None),)
    assert row.consumers["chat"].need_mib is None


def test_host_without_gpumand_has_no_consumers() -> None:
    row = host_row(FACTS, {}, {})
    assert (row.consumers, row.devices, row.queue) == ({}, (), 0)


def test_consumer_on_several_devices_has_no_single_one() -> None:
    row = host_row(FACTS, {"consumers": [consumer(device="0,1"), consumer(name="b", device="")], "queue": []}, {})
    assert [one.device for one in row.consumers.values()] == [None, None]


def test_real_status_gives_a_row_that_can_be_published() -> None:
    row = host_row(FACTS, samples.status(), {})
    assert row.consumers
    assert parse_host(encode_host(row)) == row


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
entries = st.dictionaries(
    st.sampled_from(["name", "residency", "leases", "device", "evict", "uuid", "free_mib", "vram_resident_mib"]), values
)


@example({"devices": 1}, {})
@given(
    st.dictionaries(
        st.sampled_from(["devices", "consumers", "queue", "leases", "version"]), st.lists(entries, max_size=3) | values
    ),
    st.dictionaries(st.text(max_size=4), st.dictionaries(st.sampled_from(["loads", "unloads", "holds"]), values)),
)
def test_any_status_gives_a_row(status: dict[str, Any], learned: dict[str, dict[str, Any]]) -> None:
    assert host_row(FACTS, status, learned).machine_id == machine_id(1)


def test_row_with_extreme_values_of_the_status_is_one_that_other_hosts_accept() -> None:
    device = {"uuid": "GPU-1\n" + "x" * 500, "total_mib": 2**63, "free_mib": -1}
    status = {
        "version": "1.0\x1b[31m" + "9" * 100,
        "devices": [device],
        "consumers": [{"name": "llm", "leases": 2**70}],
    }
    row = host_row(HostFacts("1" * 32, "gpu1", "https://gpu1:8447"), status, {})
    found = parse_host(encode_host(row))
    assert (found.version[:3], len(found.version)) == ("1.0", 64)
    assert (found.devices[0].uuid[:6], found.devices[0].total_mib) == ("GPU-1x", None)
