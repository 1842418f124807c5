"""Recording events of the arbiter as history entries."""

from __future__ import annotations

from dataclasses import replace

from gpumand.domain.events import (
    ConsumersChanged,
    Event,
    EvictionDeferred,
    EvictionFailed,
    EvictionOccurred,
    EvictionReport,
    LeaseEnded,
    LeaseGranted,
    LoadFinished,
    RequestGranted,
    RequestRefused,
    SummaryChanged,
)
from gpumand.domain.history import EntryKind, HistoryEntry
from gpumand.domain.lease import Lease, LeaseEnd, LeaseLifetime, Owner
from gpumand.domain.reservation import Holder, Reservation
from gpumand.history import HistoryRecorder
from gpumand.testing.archive import MemoryArchive
from gpumand.testing.clock import FakeClock

LEASE = Lease("abc", "tts", "0", Owner(":1.1", 1000), LeaseLifetime.TTL, 0, 2, 900.0, "a film", "")
REPORT = EvictionReport("llm", "0", 6000, "http", "tts", why="least recently used", duration_usec=1_500_000)


def recorded_entries(event: Event) -> list[HistoryEntry]:
    archive, clock = MemoryArchive(), FakeClock()
    HistoryRecorder(archive, clock).publish(event)
    return [replace(entry, at_usec=0) for entry in archive.noted]


def test_eviction_is_recorded_with_its_reason() -> None:
    assert recorded_entries(EvictionOccurred(REPORT)) == [
        HistoryEntry(0, EntryKind.EVICTION, "llm", "0", 1_500_000, 6000, "http", "tts", "least recently used")
    ]


def test_failed_eviction_is_recorded_with_its_error() -> None:
    (entry,) = recorded_entries(EvictionFailed(replace(REPORT, error="HTTP 500")))
    assert (entry.kind, entry.detail) == (EntryKind.EVICTION_FAILED, "HTTP 500")
    (entry,) = recorded_entries(EvictionDeferred(replace(REPORT, error="1 client is connected")))
    assert (entry.kind, entry.detail) == (EntryKind.EVICTION_DEFERRED, "1 client is connected")


def test_unmeasured_memory_is_not_recorded_as_zero() -> None:
    (entry,) = recorded_entries(EvictionOccurred(replace(REPORT, freed_mib=0, verified=False)))
    assert entry.mib is None


def test_successful_and_failed_loads_are_recorded() -> None:
    assert recorded_entries(LoadFinished("tts", "0", 9)) == [HistoryEntry(0, EntryKind.LOAD, "tts", "0", 9)]
    assert recorded_entries(LoadFinished("tts", "0", 9, "no")) == [
        HistoryEntry(0, EntryKind.LOAD_FAILED, "tts", "0", 9, detail="no")
    ]


def test_grant_is_recorded_once_with_its_wait() -> None:
    assert recorded_entries(RequestGranted("tts", 5, LEASE)) == [
        HistoryEntry(0, EntryKind.GRANT, "tts", "0", 5, detail="a film", uid=1000, lease="abc")
    ]
    assert recorded_entries(LeaseGranted(LEASE)) == []


def test_reservation_is_recorded_without_a_consumer_and_with_its_amount() -> None:
    reservation = Reservation("abcdef", 5000, holder=Holder(program="python"))
    lease = replace(LEASE, consumer=reservation.name, reservation=reservation)
    (grant,) = recorded_entries(RequestGranted("", 5, lease))
    assert (grant.consumer, grant.detail) == ("", "5000 MiB reserved for python; a film")
    (end,) = recorded_entries(LeaseEnded(lease, LeaseEnd.RELEASED))
    assert (end.consumer, end.detail) == ("", "released")
    whole = replace(lease, reason="", reservation=Reservation("abcdef", 0, whole_device=True))
    assert recorded_entries(RequestGranted("", 5, whole))[0].detail == "the whole device reserved"


def test_refusal_is_recorded_with_the_error_name() -> None:
    (entry,) = recorded_entries(RequestRefused("tts", 1000, "org.gpumand1.Error.TimedOut", "waited 20 s"))
    assert (entry.kind, entry.detail, entry.uid) == (EntryKind.REFUSAL, "TimedOut: waited 20 s", 1000)


def test_end_of_a_lease_is_recorded_with_its_duration() -> None:
    archive, clock = MemoryArchive(), FakeClock()
    lease = replace(LEASE, granted_usec=clock.realtime_usec() - 3_000_000)
    HistoryRecorder(archive, clock).publish(LeaseEnded(lease, LeaseEnd.EXPIRED))
    (entry,) = archive.noted
    assert (entry.kind, entry.duration_usec, entry.detail) == (EntryKind.END, 3_000_000, "expired")
    assert entry.at_usec == clock.realtime_usec()


def test_monotonic_duration_of_a_lease_takes_precedence() -> None:
    (entry,) = recorded_entries(LeaseEnded(replace(LEASE, granted_usec=5), LeaseEnd.RELEASED, held_sec=1.5))
    assert entry.duration_usec == 1_500_000


def test_state_changes_are_not_recorded() -> None:
    assert recorded_entries(SummaryChanged()) == []
    assert recorded_entries(ConsumersChanged(frozenset({"tts"}))) == []
