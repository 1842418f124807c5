"""Converts plain answers of the daemon into values.

Every function raises Mismatch for an answer that does not match the D-Bus interface.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gpumand.bus.signal_arguments import SIGNAL_ARGUMENTS
from gpumand.client.errors import Mismatch
from gpumand.client.fields import Fields
from gpumand.client.values import (
    Consumer,
    Device,
    Event,
    Eviction,
    ForeignProcess,
    Grant,
    HeldProcess,
    HistoryEntry,
    LeaseDegraded,
    LeaseEnded,
    LeaseGranted,
    LeaseRestored,
    LeaseReturned,
    LeaseWanted,
    LeaseYielded,
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
    """The value of an answer of Acquire."""
    fields = Fields("the grant", answer)
    return Grant(
        lease,
        fields.text("consumer"),
        fields.text("device", ""),
        fields.text("endpoint", ""),
        fields.strings("evicted"),
        fields.flag("loaded", False),
        fields.seconds("waited_usec", 0),
        fields.time("expires_usec"),
        fields.optional_number("vram_mib"),
        fields.flag("all", False),
    )


def status_of(answer: object) -> Status:
    """The value of an answer of GetStatus."""
    fields = Fields("the status", answer)
    return Status(
        fields.text("version"),
        fields.text("degraded"),
        tuple(map(_device, fields.tables("devices"))),
        tuple(map(_consumer, fields.tables("consumers"))),
        tuple(map(_lease, fields.tables("leases"))),
        tuple(map(_waiting, fields.tables("queue"))),
        fields.table("stats").numbers(),
    )


def _device(fields: Fields) -> Device:
    return Device(
        fields.number("index"),
        fields.text("uuid"),
        fields.text("name"),
        fields.text("source", ""),
        fields.optional_number("total_mib"),
        fields.optional_number("used_mib"),
        fields.optional_number("free_mib"),
        fields.optional_number("reserved_mib"),
        fields.optional_number("foreign_mib"),
        fields.time("sampled_usec"),
        fields.text("error", ""),
        tuple(map(_foreign, fields.tables("foreign"))),
        fields.text("pool", "vram"),
        fields.flag("integrated", False),
        fields.text("attribution", ""),
        fields.flag("asleep", False),
        fields.strings("aliases"),
        fields.optional_number("utilization_percent"),
        fields.optional_number("temperature_celsius"),
        fields.optional_number("temperature_limit_celsius"),
        fields.optional_real("power_watts"),
        fields.optional_real("power_limit_watts"),
        fields.optional_number("unnamed_mib"),
        fields.flag("unchecked", False),
        tuple(map(_held, fields.tables("processes"))),
        fields.text("attribution_gap", ""),
    )


def _foreign(fields: Fields) -> ForeignProcess:
    return ForeignProcess(
        fields.number("pid"),
        fields.text("name", ""),
        fields.text("unit", ""),
        fields.optional_number("uid"),
        fields.text("user", ""),
        fields.optional_number("used_mib"),
        fields.text("container", ""),
    )


def _held(fields: Fields) -> HeldProcess:
    one = _foreign(fields)
    return HeldProcess(
        one.pid,
        one.name,
        one.unit,
        one.uid,
        one.user,
        one.used_mib,
        one.container,
        fields.strings("consumers"),
        fields.text("lease", ""),
    )


def _consumer(fields: Fields) -> Consumer:
    return Consumer(
        fields.text("name"),
        fields.text("residency"),
        fields.text("device", ""),
        fields.optional_number("vram_resident_mib"),
        fields.optional_number("used_mib"),
        fields.number("leases"),
        fields.time("last_used_usec"),
        fields.flag("pinned"),
        fields.flag("vram_managed", False),
        fields.text("unit", ""),
        fields.text("error", ""),
        fields.text("doing", ""),
        fields.time("since_usec"),
        fields.text("endpoint", ""),
        fields.text("preset", ""),
        fields.text("container", ""),
        fields.text("fleet", ""),
        fields.optional_number("priority"),
        fields.time("retry_usec"),
    )


def _lease(fields: Fields) -> StandingLease:
    return StandingLease(
        fields.text("id"),
        fields.text("consumer"),
        fields.text("device", ""),
        fields.number("owner_uid"),
        fields.text("owner", ""),
        fields.text("lifetime"),
        fields.time("granted_usec"),
        fields.time("expires_usec"),
        fields.text("reason", ""),
        fields.optional_number("vram_mib"),
        fields.flag("all", False),
        fields.text("program", ""),
        fields.optional_number("used_mib"),
        fields.flag("restore", False),
        fields.text("degraded", ""),
        fields.flag("exclusive", False),
        fields.flag("yielded", False),
        fields.text("yields", ""),
    )


def _waiting(fields: Fields) -> WaitingRequest:
    return WaitingRequest(
        fields.text("consumer"),
        fields.number("position"),
        fields.number("priority"),
        fields.seconds("waited_usec"),
        fields.text("waiting_for", ""),
        fields.optional_number("owner_uid"),
        fields.text("reason", ""),
        fields.optional_number("vram_mib"),
        fields.flag("all", False),
        fields.text("id", ""),
    )


def plan_of(answer: object) -> Plan:
    """The value of an answer of Plan."""
    fields = Fields("the plan", answer)
    victims = [
        PlannedEviction(
            entry.text("consumer"),
            entry.optional_number("expected_mib"),
            entry.text("method", ""),
            entry.text("why", ""),
            entry.flag("parks", False),
        )
        for entry in fields.tables("evictions")
    ]
    return Plan(
        fields.text("consumer"),
        fields.text("verdict"),
        fields.text("device", ""),
        fields.flag("resident"),
        fields.flag("load"),
        fields.optional_number("need_mib"),
        fields.optional_number("free_mib"),
        tuple(victims),
        tuple(Spared(entry.text("consumer"), entry.text("why", "")) for entry in fields.tables("spared")),
        fields.text("error", ""),
        fields.text("message", ""),
        fields.optional_number("unnamed_mib"),
        fields.optional_seconds("expected_usec"),
        fields.optional_seconds("victims_usec"),
    )


def outcome_of(answer: object) -> Outcome:
    """The value of an answer of Load or Evict."""
    fields = Fields("the outcome", answer)
    return Outcome(
        fields.text("consumer"),
        fields.text("device", ""),
        fields.flag("changed"),
        fields.strings("evicted"),
        fields.text("method", ""),
        fields.number("freed_mib", 0),
        fields.seconds("duration_usec", 0),
    )


def history_of(answer: list[Any]) -> tuple[HistoryEntry, ...]:
    """The values of an answer of GetHistory."""
    return tuple(_entry(Fields("an entry of the history", entry)) for entry in answer)


def _entry(fields: Fields) -> HistoryEntry:
    duration_usec = fields.optional_number("duration_usec")
    return HistoryEntry(
        fields.time("at_usec"),
        fields.text("kind"),
        fields.text("consumer"),
        fields.text("device", ""),
        None if duration_usec is None else duration_usec / 1_000_000,
        fields.optional_number("mib"),
        fields.text("method", ""),
        fields.text("trigger", ""),
        fields.text("detail", ""),
        fields.optional_number("uid"),
        fields.text("lease", ""),
    )


_NAMES = {**SIGNAL_ARGUMENTS, "NameOwnerChanged": ("name", "before", "now")}


def event_of(signal: Signal) -> Event | None:
    """The value of a signal; None for a signal that this version does not know."""
    names = _NAMES.get(signal.member)
    if names is None:
        return None
    if len(names) != len(signal.body):
        raise Mismatch(f"the signal {signal.member} has {len(signal.body)} arguments")
    fields = Fields(f"the signal {signal.member}", dict(zip(names, signal.body, strict=True)))
    return _EVENTS[signal.member](fields)


def _eviction(fields: Fields, succeeded: bool) -> Eviction:
    details = fields.table("details")
    return Eviction(
        fields.text("consumer"),
        succeeded,
        fields.text("device"),
        fields.number("freed_mib"),
        fields.text("method"),
        fields.text("trigger"),
        details.optional_number("expected_mib"),
        details.seconds("duration_usec", 0),
        details.text("why", ""),
        details.text("error", ""),
    )


_EVENTS: dict[str, Callable[[Fields], Event]] = {
    "EvictionOccurred": lambda fields: _eviction(fields, True),
    "EvictionFailed": lambda fields: _eviction(fields, False),
    "EvictionDeferred": lambda fields: replace(_eviction(fields, False), deferred=True),
    "LeaseGranted": lambda fields: LeaseGranted(fields.text("lease"), fields.text("consumer")),
    "LeaseEnded": lambda fields: LeaseEnded(fields.text("lease"), fields.text("consumer"), fields.text("reason")),
    "LeaseDegraded": lambda fields: LeaseDegraded(fields.text("lease"), fields.text("consumer"), fields.text("reason")),
    "LeaseRestored": lambda fields: LeaseRestored(fields.text("lease"), fields.text("consumer")),
    "LeaseWanted": lambda fields: LeaseWanted(fields.text("lease"), fields.text("by"), fields.time("since_usec")),
    "LeaseYielded": lambda fields: LeaseYielded(fields.text("lease"), fields.text("consumer")),
    "LeaseReturned": lambda fields: LeaseReturned(fields.text("lease"), fields.text("consumer")),
    "NameOwnerChanged": lambda fields: RunningChanged(bool(fields.text("now"))),
}
