"""From plain answers to values. Every function raises Mismatch for what is not as the interface says."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gpumand.client.errors import Mismatch
from gpumand.client.fields import Fields
from gpumand.client.values import (
    Consumer,
    Device,
    Event,
    Eviction,
    ForeignProcess,
    Grant,
    HistoryEntry,
    LeaseEnded,
    LeaseGranted,
    Outcome,
    Plan,
    PlannedEviction,
    RunningChanged,
    Spared,
    StandingLease,
    Status,
    WaitingRequest,
)

if TYPE_CHECKING:
    from gpumand.bus.connection import Signal


def grant_of(lease: str, answer: object) -> Grant:
    """Of Acquire."""
    read = Fields("the grant", answer)
    return Grant(
        lease,
        read.text("consumer"),
        read.text("device", ""),
        read.text("endpoint", ""),
        read.texts("evicted"),
        read.flag("loaded", False),
        read.seconds("waited_usec", 0),
        read.time("expires_usec"),
    )


def status_of(answer: object) -> Status:
    """Of GetStatus."""
    read = Fields("the status", answer)
    return Status(
        read.text("version"),
        read.text("degraded"),
        tuple(map(_device, read.tables("devices"))),
        tuple(map(_consumer, read.tables("consumers"))),
        tuple(map(_lease, read.tables("leases"))),
        tuple(map(_waiting, read.tables("queue"))),
        read.table("stats").numbers(),
    )


def _device(read: Fields) -> Device:
    return Device(
        read.number("index"),
        read.text("uuid"),
        read.text("name"),
        read.text("source", ""),
        read.known("total_mib"),
        read.known("used_mib"),
        read.known("free_mib"),
        read.known("reserved_mib"),
        read.known("foreign_mib"),
        read.time("sampled_usec"),
        read.text("error", ""),
        tuple(map(_foreign, read.tables("foreign"))),
    )


def _foreign(read: Fields) -> ForeignProcess:
    return ForeignProcess(
        read.number("pid"),
        read.text("name", ""),
        read.text("unit", ""),
        read.known("uid"),
        read.text("user", ""),
        read.known("used_mib"),
    )


def _consumer(read: Fields) -> Consumer:
    return Consumer(
        read.text("name"),
        read.text("residency"),
        read.text("device", ""),
        read.known("vram_resident_mib"),
        read.known("used_mib"),
        read.number("leases"),
        read.time("last_used_usec"),
        read.flag("pinned"),
        read.flag("vram_managed", False),
        read.text("unit", ""),
        read.text("error", ""),
        read.text("doing", ""),
        read.time("since_usec"),
        read.text("endpoint", ""),
    )


def _lease(read: Fields) -> StandingLease:
    return StandingLease(
        read.text("id"),
        read.text("consumer"),
        read.text("device", ""),
        read.number("owner_uid"),
        read.text("owner", ""),
        read.text("lifetime"),
        read.time("granted_usec"),
        read.time("expires_usec"),
        read.text("reason", ""),
    )


def _waiting(read: Fields) -> WaitingRequest:
    return WaitingRequest(
        read.text("consumer"),
        read.number("position"),
        read.number("priority"),
        read.seconds("waited_usec"),
        read.text("waiting_for", ""),
        read.known("owner_uid"),
        read.text("reason", ""),
    )


def plan_of(answer: object) -> Plan:
    """Of Plan."""
    read = Fields("the plan", answer)
    victims = [
        PlannedEviction(
            one.text("consumer"),
            one.known("expected_mib"),
            one.text("method", ""),
            one.text("why", ""),
            one.flag("parks", False),
        )
        for one in read.tables("evictions")
    ]
    return Plan(
        read.text("consumer"),
        read.text("verdict"),
        read.text("device", ""),
        read.flag("resident"),
        read.flag("load"),
        read.known("need_mib"),
        read.known("free_mib"),
        tuple(victims),
        tuple(Spared(one.text("consumer"), one.text("why", "")) for one in read.tables("spared")),
        read.text("error", ""),
        read.text("message", ""),
    )


def outcome_of(answer: object) -> Outcome:
    """Of Load and Evict."""
    read = Fields("the outcome", answer)
    return Outcome(
        read.text("consumer"),
        read.text("device", ""),
        read.flag("changed"),
        read.texts("evicted"),
        read.text("method", ""),
        read.number("freed_mib", 0),
        read.seconds("duration_usec", 0),
    )


def history_of(answer: list[Any]) -> tuple[HistoryEntry, ...]:
    """Of GetHistory."""
    return tuple(_entry(Fields("an entry of the history", one)) for one in answer)


def _entry(read: Fields) -> HistoryEntry:
    duration_usec = read.known("duration_usec")
    return HistoryEntry(
        read.time("at_usec"),
        read.text("kind"),
        read.text("consumer"),
        read.text("device", ""),
        None if duration_usec is None else duration_usec / 1_000_000,
        read.known("mib"),
        read.text("method", ""),
        read.text("trigger", ""),
        read.text("detail", ""),
        read.known("uid"),
        read.text("lease", ""),
    )


_NAMES = {
    "EvictionOccurred": ("consumer", "device", "freed_mib", "method", "trigger", "details"),
    "EvictionFailed": ("consumer", "device", "freed_mib", "method", "trigger", "details"),
    "LeaseGranted": ("lease", "consumer"),
    "LeaseEnded": ("lease", "consumer", "reason"),
    "NameOwnerChanged": ("name", "before", "now"),
}


def event_of(signal: Signal) -> Event | None:
    """Of a signal; None for one that is not known here."""
    names = _NAMES.get(signal.member)
    if names is None:
        return None
    if len(names) != len(signal.body):
        raise Mismatch(f"the signal {signal.member} has {len(signal.body)} arguments")
    read = Fields(f"the signal {signal.member}", dict(zip(names, signal.body, strict=True)))
    return _EVENTS[signal.member](read)


def _eviction(read: Fields, succeeded: bool) -> Eviction:
    details = read.table("details")
    return Eviction(
        read.text("consumer"),
        succeeded,
        read.text("device"),
        read.number("freed_mib"),
        read.text("method"),
        read.text("trigger"),
        details.known("expected_mib"),
        details.seconds("duration_usec", 0),
        details.text("why", ""),
        details.text("error", ""),
    )


_EVENTS: dict[str, Callable[[Fields], Event]] = {
    "EvictionOccurred": lambda read: _eviction(read, True),
    "EvictionFailed": lambda read: _eviction(read, False),
    "LeaseGranted": lambda read: LeaseGranted(read.text("lease"), read.text("consumer")),
    "LeaseEnded": lambda read: LeaseEnded(read.text("lease"), read.text("consumer"), read.text("reason")),
    "NameOwnerChanged": lambda read: RunningChanged(bool(read.text("now"))),
}
