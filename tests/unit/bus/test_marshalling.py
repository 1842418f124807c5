from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from dbus_fast import Message, MessageType, Variant

from gpumand.bus.marshalling import (
    EVICTION_SIGNATURE,
    eviction_body,
    grant_entry,
    history_entry,
    learned_entry,
    outcome_entry,
    owner_label,
    plan_entry,
    status_entry,
    variant,
)
from gpumand.bus.variants import unwrap
from gpumand.bus.wire_text import text
from gpumand.domain.assumed_times import Start
from gpumand.domain.consumer import EvictionMethod
from gpumand.domain.device import ProcessUse
from gpumand.domain.events import EvictionReport
from gpumand.domain.footprint import Footprint
from gpumand.domain.history import EntryKind, HistoryEntry
from gpumand.domain.learning import LearnedTimes
from gpumand.domain.lease import Lease, LeaseLifetime, Owner
from gpumand.domain.request import Grant, ManualResult, PlannedEviction, PlanReport, SparedConsumer, Verdict
from gpumand.domain.status import ConsumerStatus, DeviceStatus, Stats, Status, WaitingStatus

OWNER = Owner(":1.7", 1000, 4711, "job.service")
LEASE = Lease("abc", "ollama", "0", OWNER, LeaseLifetime.TTL, 10, 20, 5.0, "why")


def marshalled(signature: str, *body: Any) -> bytes:
    message = Message(
        message_type=MessageType.SIGNAL, path="/a", interface="a.b", member="C", signature=signature, body=list(body)
    )
    return bytes(message._marshall(False))


def types_of(entry: dict[str, Variant]) -> dict[str, str]:
    return {key: value.signature for key, value in entry.items()}


def test_empty_status_marshals_with_empty_lists() -> None:
    entry = status_entry(Status("1.0", ""))
    assert types_of(entry) == {
        "version": "s",
        "degraded": "s",
        "devices": "aa{sv}",
        "consumers": "aa{sv}",
        "leases": "aa{sv}",
        "queue": "aa{sv}",
        "stats": "a{sv}",
        "configured_usec": "t",
        "driver_state": "s",
        "history_usec": "at",
    }
    assert entry["queue"].value == []
    assert marshalled("a{sv}", entry)


def test_limit_of_leases_is_left_out_where_there_is_none() -> None:
    entry = status_entry(Status("1.0", "", concurrent_leases=2))
    assert types_of(entry)["concurrent_leases"] == "u"
    assert unwrap(entry)["concurrent_leases"] == 2
    assert marshalled("a{sv}", entry)
    assert "concurrent_leases" not in status_entry(Status("1.0", ""))


def test_device_entry_has_the_documented_keys() -> None:
    device = DeviceStatus(1, "GPU-1", "RTX", "nvml", 24564, 100, 24464, 7, 3, 99, "")
    entry = status_entry(Status("1.0", "", devices=(device,)))["devices"].value[0]
    assert types_of(entry) == {
        "index": "u",
        "uuid": "s",
        "name": "s",
        "source": "s",
        "total_mib": "t",
        "used_mib": "t",
        "free_mib": "t",
        "reserved_mib": "t",
        "foreign_mib": "t",
        "sampled_usec": "t",
        "error": "s",
        "foreign": "aa{sv}",
        "pool": "s",
        "integrated": "b",
        "attribution": "s",
        "asleep": "b",
        "aliases": "as",
    }
    assert unwrap(entry)["reserved_mib"] == 7
    hidden = replace(device, attribution_gap="gpumand runs in a container. Run it on the host")
    entry = unwrap(status_entry(Status("1.0", "", devices=(hidden,))))["devices"][0]
    assert entry["attribution_gap"] == hidden.attribution_gap


def test_foreign_process_entry_contains_only_known_values() -> None:
    known = ProcessUse(4711, 2150, "firefox", "session-2.scope", uid=1000, user="alice", container="web")
    unknown = ProcessUse(9, None)
    device = DeviceStatus(0, "", "", "nvml", 1, 1, 1, 0, 1, 0, "", foreign=(known, unknown))
    entry = status_entry(Status("1.0", "", devices=(device,)))
    assert marshalled("a{sv}", entry)
    assert unwrap(entry)["devices"][0]["foreign"] == [
        {"pid": 4711, "name": "firefox", "unit": "session-2.scope", "uid": 1000, "user": "alice", "used_mib": 2150}
        | {"container": "web"},
        {"pid": 9, "name": "", "unit": "", "user": ""},
    ]


def test_unknown_values_are_left_out_and_zero_is_kept() -> None:
    device = DeviceStatus(0, "", "", "none", None, None, None, 0, None, 0, "no driver")
    consumer = ConsumerStatus("a", "unknown", "", 5, None, 0, 0, False, True, "", "")
    entry = unwrap(status_entry(Status("1.0", "nvml-missing: x", devices=(device,), consumers=(consumer,))))
    assert not {"total_mib", "used_mib", "free_mib", "foreign_mib"} & set(entry["devices"][0])
    assert entry["devices"][0]["reserved_mib"] == 0
    assert not {"used_mib", "measured_mib"} & set(entry["consumers"][0])
    assert entry["consumers"][0]["last_used_usec"] == 0


def test_learned_entry_has_the_documented_keys() -> None:
    memory = Footprint().with_stay(4000, 4600).with_residual(300)
    times = LearnedTimes().observe_load(2.0, Start.PARKED).observe_unload(EvictionMethod.HTTP, 0.5).observe_hold(60.0)
    load = {"start": "parked", "count": 1, "mean_usec": 2_000_000, "max_usec": 2_000_000}
    unload = {"method": "http", "count": 1, "mean_usec": 500_000, "max_usec": 500_000}
    assert unwrap(learned_entry(memory, times)) == {
        "steady_mib": 4000,
        "peak_mib": 4600,
        "residual_mib": 300,
        "stays": 1,
        "loads": [load],
        "unloads": [unload],
        "holds": {"count": 1, "mean_usec": 60_000_000, "max_usec": 60_000_000},
    }


def test_learned_entry_without_measurements_has_counts_only() -> None:
    holds = {"count": 0, "mean_usec": 0, "max_usec": 0}
    assert unwrap(learned_entry(Footprint(), LearnedTimes())) == {
        "stays": 0,
        "loads": [],
        "unloads": [],
        "holds": holds,
    }


def test_history_entry_leaves_out_unknown_values() -> None:
    entry = unwrap(history_entry(HistoryEntry(7, EntryKind.LOAD_FAILED, "llm", "0", 9, detail="no \0 such")))
    assert entry == {
        "at_usec": 7,
        "kind": "load-failed",
        "consumer": "llm",
        "device": "0",
        "duration_usec": 9,
        "method": "",
        "trigger": "",
        "detail": "no \ufffd such",
        "lease": "",
    }


def test_consumer_lease_queue_and_stats_have_the_documented_keys() -> None:
    consumer = ConsumerStatus("a", "loading", "0", 5, 4, 1, 8, True, False, "a.service", "", "loading for 1 s", 9)
    consumer = replace(consumer, memory=Footprint().with_stay(4, 5))
    waiting = WaitingStatus("a", 1, -3, 10, "b", 1000, "why")
    status = Status("1.0", "", (), (consumer,), (LEASE,), (waiting,), Stats(1, 2, 3, 4, 5, 6, 7, 8, 9))
    entry = status_entry(status)
    assert types_of(entry["consumers"].value[0]) == {
        "name": "s",
        "residency": "s",
        "device": "s",
        "vram_resident_mib": "t",
        "used_mib": "t",
        "vram_auto": "b",
        "measured_mib": "t",
        "leases": "u",
        "last_used_usec": "t",
        "pinned": "b",
        "vram_managed": "b",
        "unit": "s",
        "error": "s",
        "doing": "s",
        "since_usec": "t",
        "endpoint": "s",
        "priority": "i",
        "evict": "as",
        "lazy": "b",
    }
    assert types_of(entry["leases"].value[0]) == {
        "id": "s",
        "consumer": "s",
        "device": "s",
        "owner_uid": "u",
        "owner": "s",
        "lifetime": "s",
        "granted_usec": "t",
        "expires_usec": "t",
        "reason": "s",
    }
    assert types_of(entry["queue"].value[0]) == {
        "consumer": "s",
        "position": "u",
        "priority": "i",
        "waited_usec": "t",
        "waiting_for": "s",
        "owner_uid": "u",
        "reason": "s",
    }
    assert unwrap(entry["stats"]) == {
        "evictions": 1,
        "eviction_failures": 2,
        "grants": 3,
        "refusals": 4,
        "loads": 5,
        "load_failures": 6,
        "wait_usec": 7,
        "load_usec": 8,
        "unload_usec": 9,
    }
    assert set(types_of(entry["stats"].value).values()) == {"t"}
    assert marshalled("a{sv}", entry)


def test_grant_entry() -> None:
    entry = grant_entry(Grant(LEASE, 7, ("b",), True, "http://x"))
    assert types_of(entry) == {
        "consumer": "s",
        "device": "s",
        "waited_usec": "t",
        "evicted": "as",
        "loaded": "b",
        "expires_usec": "t",
        "endpoint": "s",
    }
    assert unwrap(entry)["expires_usec"] == 20


def test_plan_entry_leaves_unknown_out_and_marshals_when_empty() -> None:
    empty = plan_entry(PlanReport("a", Verdict.REFUSE, error="org.gpumand1.Error.InsufficientVram", message="no"))
    assert "need_mib" not in empty
    assert "free_mib" not in empty
    assert marshalled("a{sv}", empty)
    victim, spared = PlannedEviction("b", None, "http", "old"), SparedConsumer("c", "pinned")
    full = plan_entry(PlanReport("a", Verdict.GRANT, "0", False, True, 10, 5, (victim,), (spared,)))
    assert not {"expected_usec", "victims_usec"} & full.keys()
    timed = plan_entry(PlanReport("a", Verdict.GRANT, expected_sec=12.5, victims_sec=0.0))
    assert (unwrap(timed)["expected_usec"], unwrap(timed)["victims_usec"]) == (12_500_000, 0)
    assert types_of(timed)["expected_usec"] == types_of(timed)["victims_usec"] == "t"
    assert types_of(full) == {
        "consumer": "s",
        "verdict": "s",
        "device": "s",
        "resident": "b",
        "load": "b",
        "need_mib": "t",
        "free_mib": "t",
        "evictions": "aa{sv}",
        "spared": "aa{sv}",
        "error": "s",
        "message": "s",
    }
    assert unwrap(full)["evictions"] == [{"consumer": "b", "method": "http", "why": "old", "parks": False}]
    assert unwrap(full)["spared"] == [{"consumer": "c", "why": "pinned"}]
    assert unwrap(full)["verdict"] == "grant"


def test_outcome_entry() -> None:
    entry = outcome_entry(ManualResult("a", "0", True, ("b", "c"), "http", 5, 6))
    assert types_of(entry) == {
        "consumer": "s",
        "device": "s",
        "changed": "b",
        "evicted": "as",
        "method": "s",
        "freed_mib": "t",
        "duration_usec": "t",
    }


def test_eviction_body_fits_its_signature() -> None:
    report = EvictionReport("a", "0", 5, "http", "b", "old", None, True, 6, ("http", "unit-stop"), "")
    body = eviction_body(report)
    assert body[:5] == ("a", "0", 5, "http", "b")
    assert types_of(body[5]) == {"duration_usec": "t", "verified": "b", "tried": "as", "why": "s", "error": "s"}
    assert marshalled(EVICTION_SIGNATURE, *body)


def test_negative_values_are_clamped_for_unsigned_types() -> None:
    plan = plan_entry(PlanReport("a", Verdict.WAIT, need_mib=1, free_mib=-300))
    assert plan["free_mib"].value == 0
    assert marshalled("a{sv}", plan)


@pytest.mark.parametrize("bad", ["a\0b", "a\ud800b", "ü\0", "x" * 100_000, "ü" * 100_000])
def test_invalid_text_is_sanitized(bad: str) -> None:
    made = text(bad)
    assert "\0" not in made
    assert len(made.encode()) <= 4 * 4096
    assert marshalled("s", made)


def test_integers_are_clamped_to_their_type() -> None:
    assert variant("t", 2**70).value == 2**64 - 1
    assert variant("u", -1).value == 0
    assert variant("i", -(2**40)).value == -(2**31)


def test_owner_label_prefers_unit_then_pid_then_bus_name() -> None:
    assert owner_label(OWNER) == "job.service"
    assert owner_label(Owner(":1.7", 1000, 4711)) == "pid 4711"
    assert owner_label(Owner(":1.7", 1000)) == ":1.7"


@pytest.mark.parametrize("busy", [True, False, None])
def test_busy_is_included_if_known(busy: bool | None) -> None:
    consumer = ConsumerStatus("a", "resident", "0", 5, 4, 0, 8, False, False, "", "", busy=busy)
    (entry,) = unwrap(status_entry(Status("1.0", "", consumers=(consumer,))))["consumers"]
    assert entry.get("busy") is busy
