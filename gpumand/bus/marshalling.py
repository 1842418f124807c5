"""Converts gpumand's values into D-Bus types; org.gpumand1.Manager.xml documents the keys and types.

Unknown values are left out. Text is sanitized here, since an error line may come from a consumer's HTTP response or
from a log: the bus closes the connection of a client that sends invalid UTF-8 or a NUL.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from dbus_fast import Variant

from gpumand.bus.wire_text import text
from gpumand.domain.device import ProcessUse
from gpumand.domain.driver_release import ReleaseReport
from gpumand.domain.events import EvictionReport
from gpumand.domain.footprint import Footprint
from gpumand.domain.history import HistoryEntry
from gpumand.domain.learning import Duration, LearnedTimes
from gpumand.domain.lease import Lease, Owner
from gpumand.domain.request import Grant, ManualResult, PlannedEviction, PlanReport, SparedConsumer
from gpumand.domain.status import (
    MAX_FOREIGN,
    ConsumerStatus,
    DeviceStatus,
    HeldProcess,
    Stats,
    Status,
    WaitingStatus,
)
from gpumand.domain.telemetry import Telemetry

Entry = dict[str, Variant]

EVICTION_SIGNATURE = "sstssa{sv}"

_INTEGER_LIMITS = {"u": (0, 2**32 - 1), "t": (0, 2**64 - 1), "i": (-(2**31), 2**31 - 1)}

# Most flags are false and many texts are empty; Variants are never changed, so that one of each is enough.
_EMPTY_TEXT, _TRUE, _FALSE = Variant("s", ""), Variant("b", True), Variant("b", False)


@lru_cache(maxsize=256)
def _text_variant(value: str) -> Variant:
    """A text as a Variant; the same few names and words are in most messages."""
    return Variant("s", text(value))


def variant(signature: str, value: Any) -> Variant:
    """Return a Variant that can always be marshalled: text is sanitized, integers are clamped to their type."""
    if signature == "s":
        return _text_variant(value) if value else _EMPTY_TEXT
    if signature == "b":
        return _TRUE if value else _FALSE
    if signature == "as":
        return Variant("as", [text(item) for item in value])
    if signature in _INTEGER_LIMITS:
        lowest, highest = _INTEGER_LIMITS[signature]
        return Variant(signature, value if lowest <= value <= highest else min(max(value, lowest), highest))
    return Variant(signature, value)


def status_entry(status: Status) -> Entry:
    """Return the reply of ``GetStatus``."""
    return _entry(
        ("version", "s", status.version),
        ("degraded", "s", status.degraded),
        ("devices", "aa{sv}", [_device(device) for device in status.devices]),
        ("consumers", "aa{sv}", [consumer_entry(consumer) for consumer in status.consumers]),
        ("leases", "aa{sv}", [_lease(lease, status.reserved_used_mib.get(lease.id)) for lease in status.leases]),
        ("queue", "aa{sv}", [_waiting(request) for request in status.queue]),
        ("stats", "a{sv}", _stats(status.stats)),
        ("configured_usec", "t", status.configured_usec),
        ("driver_state", "s", status.driver_state),
        ("history_usec", "at", list(status.history_usec)),
        ("concurrent_leases", "u", status.concurrent_leases or None),
    )


def grant_entry(grant: Grant) -> Entry:
    """Return the ``grant`` dictionary of ``Acquire``."""
    return _entry(
        ("consumer", "s", grant.lease.public_consumer),
        ("device", "s", grant.lease.device),
        ("waited_usec", "t", grant.waited_usec),
        ("evicted", "as", grant.evicted),
        ("loaded", "b", grant.loaded),
        ("expires_usec", "t", grant.lease.expires_usec),
        ("endpoint", "s", grant.endpoint),
        *_reserved(grant.lease),
    )


def plan_entry(plan: PlanReport) -> Entry:
    """Return the reply of ``Plan``."""
    return _entry(
        ("consumer", "s", plan.consumer),
        ("verdict", "s", plan.verdict),
        ("device", "s", plan.device),
        ("resident", "b", plan.resident),
        ("load", "b", plan.load),
        ("need_mib", "t", plan.need_mib),
        ("free_mib", "t", plan.free_mib),
        ("evictions", "aa{sv}", [_planned(eviction) for eviction in plan.evictions]),
        ("spared", "aa{sv}", [_spared(spared) for spared in plan.spared]),
        ("error", "s", plan.error),
        ("message", "s", plan.message),
        ("unnamed_mib", "t", plan.unnamed_mib),
        ("expected_usec", "t", _usec(plan.expected_sec)),
        ("victims_usec", "t", _usec(plan.victims_sec)),
    )


def history_entry(entry: HistoryEntry) -> Entry:
    """Return one entry of the reply of ``GetHistory``."""
    return _entry(
        ("at_usec", "t", entry.at_usec),
        ("kind", "s", entry.kind),
        ("consumer", "s", entry.consumer),
        ("device", "s", entry.device),
        ("duration_usec", "t", entry.duration_usec),
        ("mib", "t", entry.mib),
        ("method", "s", entry.method),
        ("trigger", "s", entry.trigger),
        ("detail", "s", entry.detail),
        ("uid", "u", entry.uid),
        ("lease", "s", entry.lease),
    )


def learned_entry(memory: Footprint, times: LearnedTimes) -> Entry:
    """Return a consumer's property ``Learned``."""
    return _entry(
        ("steady_mib", "t", _rounded(memory.steady_mib)),
        ("peak_mib", "t", memory.peak_mib),
        ("residual_mib", "t", _rounded(memory.residual_mib)),
        ("stays", "t", memory.stays),
        ("loads", "aa{sv}", [_duration("start", start, duration) for start, duration in times.loads.items()]),
        ("unloads", "aa{sv}", [_duration("method", method, duration) for method, duration in times.unloads.items()]),
        ("holds", "a{sv}", _duration("", "", times.hold)),
    )


def _duration(key: str, word: str, duration: Duration) -> Entry:
    return _entry(
        (key, "s", word or None),
        ("count", "t", duration.count),
        ("mean_usec", "t", int(duration.mean_sec * 1e6)),
        ("max_usec", "t", int(duration.max_sec * 1e6)),
    )


def _usec(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1e6)


def _rounded(mib: float | None) -> int | None:
    return None if mib is None else round(mib)


def outcome_entry(outcome: ManualResult) -> Entry:
    """Return the reply of ``Load`` and ``Evict``."""
    return _entry(
        ("consumer", "s", outcome.consumer),
        ("device", "s", outcome.device),
        ("changed", "b", outcome.changed),
        ("evicted", "as", outcome.evicted),
        ("method", "s", outcome.method),
        ("freed_mib", "t", outcome.freed_mib),
        ("duration_usec", "t", outcome.duration_usec),
    )


def release_entry(report: ReleaseReport) -> Entry:
    """Return the reply of ``ReleaseGpu``."""
    return _entry(
        ("until_usec", "t", report.until_usec),
        ("holders", "aa{sv}", [_holder(process) for process in report.holders[:MAX_FOREIGN]]),
    )


def _holder(process: ProcessUse) -> Entry:
    return _foreign(process) | _entry(("consumer", "s", process.consumer or None))


def eviction_body(report: EvictionReport) -> tuple[Any, ...]:
    """Return the body of the signals about evictions, with the signature EVICTION_SIGNATURE."""
    details = _entry(
        ("expected_mib", "t", report.expected_mib),
        ("duration_usec", "t", report.duration_usec),
        ("verified", "b", report.verified),
        ("tried", "as", report.tried),
        ("why", "s", report.why),
        ("error", "s", report.error),
    )
    # A difference of two readings, which may be negative; the type on the bus is unsigned.
    freed_mib = max(0, report.freed_mib)
    return (text(report.consumer), report.device, freed_mib, report.method, text(report.trigger), details)


def owner_label(owner: Owner) -> str:
    """Return a readable name of a lease's owner: its unit, else its pid, else its unique bus name."""
    return owner.unit or (f"pid {owner.pid}" if owner.pid else owner.bus_name)


def _entry(*fields: tuple[str, str, Any]) -> Entry:
    return {key: variant(signature, value) for key, signature, value in fields if value is not None}


def _device(device: DeviceStatus) -> Entry:
    return _entry(
        ("index", "u", device.index),
        ("uuid", "s", device.uuid),
        ("name", "s", device.name),
        ("source", "s", device.source),
        ("total_mib", "t", device.total_mib),
        ("used_mib", "t", device.used_mib),
        ("free_mib", "t", device.free_mib),
        ("reserved_mib", "t", device.reserved_mib),
        ("foreign_mib", "t", device.foreign_mib),
        ("sampled_usec", "t", device.sampled_usec),
        ("error", "s", device.error),
        ("foreign", "aa{sv}", [_foreign(process) for process in device.foreign]),
        ("processes", "aa{sv}", [_held_process(one) for one in device.processes] or None),
        ("pool", "s", device.pool),
        ("integrated", "b", device.integrated),
        ("attribution", "s", device.attribution),
        ("attribution_gap", "s", device.attribution_gap or None),
        ("asleep", "b", device.asleep),
        *_telemetry(device.telemetry),
        ("history", "a{sai}", {name: list(values) for name, values in device.history.items()} or None),
        ("aliases", "as", device.aliases),
        ("unnamed_mib", "t", device.unnamed_mib),
        ("unchecked", "b", device.unchecked or None),
    )


def _telemetry(telemetry: Telemetry) -> tuple[tuple[str, str, Any], ...]:
    return (
        ("utilization_percent", "u", telemetry.utilization_percent),
        ("temperature_celsius", "i", telemetry.temperature_celsius),
        ("temperature_limit_celsius", "i", telemetry.temperature_limit_celsius),
        ("power_watts", "d", telemetry.power_watts),
        ("power_limit_watts", "d", telemetry.power_limit_watts),
    )


def _foreign(process: ProcessUse) -> Entry:
    return _entry(
        ("pid", "u", process.pid),
        ("name", "s", process.name),
        ("unit", "s", process.unit),
        ("uid", "u", process.uid),
        ("user", "s", process.user),
        ("used_mib", "t", process.used_mib),
        ("container", "s", process.container or None),
    )


def _held_process(held: HeldProcess) -> Entry:
    owners = (("consumers", "as", held.consumers or None), ("lease", "s", held.lease or None))
    return _foreign(held.process) | _entry(*owners)


def consumer_entry(consumer: ConsumerStatus) -> Entry:
    """Return a consumer in the reply of ``GetStatus``."""
    return _entry(
        ("name", "s", consumer.name),
        ("residency", "s", consumer.residency),
        ("device", "s", consumer.device),
        ("vram_resident_mib", "t", consumer.vram_resident_mib),
        ("used_mib", "t", consumer.used_mib),
        ("vram_auto", "b", consumer.vram_auto),
        ("measured_mib", "t", consumer.memory.peak_mib),
        ("leases", "u", consumer.leases),
        ("last_used_usec", "t", consumer.last_used_usec),
        ("pinned", "b", consumer.pinned),
        ("vram_managed", "b", consumer.vram_managed),
        ("unit", "s", consumer.unit),
        ("container", "s", consumer.container or None),
        ("error", "s", consumer.error),
        ("retry_usec", "t", consumer.retry_usec or None),
        ("doing", "s", consumer.doing),
        ("since_usec", "t", consumer.since_usec),
        ("endpoint", "s", consumer.endpoint),
        ("preset", "s", consumer.preset or None),
        ("fleet", "s", consumer.fleet or None),
        ("priority", "i", consumer.priority),
        ("evict", "as", consumer.evict),
        ("lazy", "b", consumer.lazy),
        ("busy", "b", consumer.busy),
        *_shared(consumer),
        ("used_mib_history", "ai", list(consumer.used_mib_history) or None),
        ("unit_state", "s", consumer.unit_state or None),
        ("used_by_device", "a{st}", {str(index): mib for index, mib in consumer.used_by_device.items()} or None),
    )


def _shared(consumer: ConsumerStatus) -> tuple[tuple[str, str, Any], ...]:
    """The entries that only a consumer in a shared unit has."""
    if not consumer.shared_with:
        return ()
    return ("shared_with", "as", consumer.shared_with), ("shared_mib", "t", consumer.shared_mib)


def _reserved(lease: Lease) -> tuple[tuple[str, str, Any], ...]:
    """The entries that only a reservation has."""
    reservation = lease.reservation
    if reservation is None:
        return ()
    return (
        ("vram_mib", "t", None if reservation.whole_device else reservation.vram_mib),
        ("all", "b", reservation.whole_device),
        ("program", "s", reservation.holder.program),
    )


def _lease(lease: Lease, reserved_used_mib: int | None) -> Entry:
    return _entry(
        ("id", "s", lease.id),
        ("consumer", "s", lease.public_consumer),
        ("device", "s", lease.device),
        ("owner_uid", "u", lease.owner.uid),
        ("owner", "s", owner_label(lease.owner)),
        ("owner_user", "s", lease.owner.user or None),
        ("owner_program", "s", lease.owner.program or None),
        ("lifetime", "s", lease.lifetime),
        ("granted_usec", "t", lease.granted_usec),
        ("expires_usec", "t", lease.expires_usec),
        ("reason", "s", lease.reason),
        ("restore", "b", lease.restore or None),
        ("degraded", "s", lease.degraded or None),
        *_reserved(lease),
        ("used_mib", "t", reserved_used_mib),
        ("exclusive", "b", lease.exclusive or None),
        ("yielded", "b", lease.yielded or None),
        ("yields", "s", lease.yields or None),
    )


def _waiting(request: WaitingStatus) -> Entry:
    return _entry(
        ("consumer", "s", request.consumer),
        ("position", "u", request.position),
        ("priority", "i", request.priority),
        ("waited_usec", "t", request.waited_usec),
        ("waiting_for", "s", request.waiting_for),
        ("owner_uid", "u", request.owner_uid),
        ("reason", "s", request.reason),
        ("vram_mib", "t", request.vram_mib or None),
        ("all", "b", request.whole_device or None),
        ("id", "s", request.id or None),
        *_waiting_owner(request.owner),
    )


def _waiting_owner(owner: Owner | None) -> tuple[tuple[str, str, Any], ...]:
    """The entries that only the request of a client has."""
    if owner is None:
        return ()
    return (
        ("owner", "s", owner_label(owner)),
        ("owner_user", "s", owner.user or None),
        ("owner_program", "s", owner.program or None),
    )


def _stats(stats: Stats) -> Entry:
    return _entry(
        ("evictions", "t", stats.evictions),
        ("eviction_failures", "t", stats.eviction_failures),
        ("grants", "t", stats.grants),
        ("refusals", "t", stats.refusals),
        ("loads", "t", stats.loads),
        ("load_failures", "t", stats.load_failures),
        ("wait_usec", "t", stats.wait_usec),
        ("load_usec", "t", stats.load_usec),
        ("unload_usec", "t", stats.unload_usec),
    )


def _planned(eviction: PlannedEviction) -> Entry:
    return _entry(
        ("consumer", "s", eviction.consumer),
        ("expected_mib", "t", eviction.expected_mib),
        ("method", "s", eviction.method),
        ("why", "s", eviction.why),
        ("parks", "b", eviction.parks),
    )


def _spared(spared: SparedConsumer) -> Entry:
    return _entry(("consumer", "s", spared.consumer), ("why", "s", spared.why))
