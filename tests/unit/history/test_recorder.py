"""What is kept of what happened."""

from __future__ import annotations

from dataclasses import replace

from gpumand.domain.events import (
    ConsumersChanged,
    Event,
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
from gpumand.domain.history import Entry, EntryKind
from gpumand.domain.lease import Lease, LeaseEnd, LeaseLifetime, Owner
from gpumand.history import HistoryRecorder
from gpumand.testing.archive import MemoryArchive
from gpumand.testing.clock import FakeClock

LEASE = Lease("abc", "tts", "0", Owner(":1.1", 1000), LeaseLifetime.TTL, 0, 2, 900.0, "a film", "")
REPORT = EvictionReport("llm", "0", 6000, "http", "tts", why="least recently used", duration_usec=1_500_000)


def kept_of(event: Event) -> list[Entry]:
    archive, clock = MemoryArchive(), FakeClock()
    HistoryRecorder(archive, clock).publish(event)
    return [replace(entry, at_usec=0) for entry in archive.noted]


def test_eviction_is_kept_with_its_reason() -> None:
    assert kept_of(EvictionOccurred(REPORT)) == [
        Entry(0, EntryKind.EVICTION, "llm", "0", 1_500_000, 6000, "http", "tts", "least recently used")
    ]


def test_failed_eviction_is_kept_with_what_went_wrong() -> None:
    (entry,) = kept_of(EvictionFailed(replace(REPORT, error="HTTP 500")))
    assert (entry.kind, entry.detail) == (EntryKind.EVICTION_FAILED, "HTTP 500")


def test_what_nothing_could_measure_is_not_kept_as_zero() -> None:
    (entry,) = kept_of(EvictionOccurred(replace(REPORT, freed_mib=0, verified=False)))
    assert entry.mib is None


def test_loads_are_kept_well_or_not() -> None:
    assert kept_of(LoadFinished("tts", "0", 9)) == [Entry(0, EntryKind.LOAD, "tts", "0", 9)]
    assert kept_of(LoadFinished("tts", "0", 9, "no")) == [Entry(0, EntryKind.LOAD_FAILED, "tts", "0", 9, detail="no")]


def test_grant_is_kept_with_its_wait_once() -> None:
    assert kept_of(RequestGranted("tts", 5, LEASE)) == [
        Entry(0, EntryKind.GRANT, "tts", "0", 5, detail="a film", uid=1000, lease="abc")
    ]
    assert kept_of(LeaseGranted(LEASE)) == []


def test_refusal_is_kept_with_the_errors_name() -> None:
    (entry,) = kept_of(RequestRefused("tts", 1000, "org.gpumand1.Error.TimedOut", "waited 20 s"))
    assert (entry.kind, entry.detail, entry.uid) == (EntryKind.REFUSAL, "TimedOut: waited 20 s", 1000)


def test_end_of_a_lease_is_kept_with_how_long_it_stood() -> None:
    archive, clock = MemoryArchive(), FakeClock()
    lease = replace(LEASE, granted_usec=clock.realtime_usec() - 3_000_000)
    HistoryRecorder(archive, clock).publish(LeaseEnded(lease, LeaseEnd.EXPIRED))
    (entry,) = archive.noted
    assert (entry.kind, entry.duration_usec, entry.detail) == (EntryKind.END, 3_000_000, "expired")
    assert entry.at_usec == clock.realtime_usec()


def test_a_lease_stood_for_as_long_as_a_clock_that_nobody_sets_says() -> None:
    (entry,) = kept_of(LeaseEnded(replace(LEASE, granted_usec=5), LeaseEnd.RELEASED, held_sec=1.5))
    assert entry.duration_usec == 1_500_000


def test_what_speaks_of_state_is_not_kept() -> None:
    assert kept_of(SummaryChanged()) == []
    assert kept_of(ConsumersChanged(frozenset({"tts"}))) == []
