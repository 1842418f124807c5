"""Records events of the arbiter: as history entries in the archive, and as lines of the demand log."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from gpumand.domain.events import (
    Event,
    EvictionDeferred,
    EvictionFailed,
    EvictionOccurred,
    EvictionReport,
    LeaseEnded,
    LoadFinished,
    RequestGranted,
    RequestRefused,
)
from gpumand.domain.history import EntryKind, HistoryEntry
from gpumand.domain.lease import Lease
from gpumand.history.demand_log import DemandEntry, DemandLog
from gpumand.ports import Archive, Clock

MAX_ACTIVE_LEASES = 4096
"""Maximum number of leases whose request is remembered for the demand log; far above the limit on leases."""


RECORDED = frozenset(
    {EvictionOccurred, EvictionFailed, EvictionDeferred, LoadFinished, RequestGranted, RequestRefused, LeaseEnded}
)
"""The types of events that have a history entry."""


@dataclass(frozen=True, slots=True)
class _GrantedRequest:
    arrived_usec: int
    priority: int | None = None


class HistoryRecorder:
    """Receives the events of the arbiter and records them."""

    def __init__(self, archive: Archive, clock: Clock, demand_log: DemandLog | None = None) -> None:
        self._demand_log = demand_log
        self._archive = archive
        self._clock = clock
        self._granted: OrderedDict[str, _GrantedRequest] = OrderedDict()

    def publish(self, event: Event) -> None:
        """Record an event, if it is of a kind that is recorded."""
        if type(event) not in RECORDED:
            return
        now_usec = self._clock.realtime_usec()
        entry = _entry(event, now_usec)
        if entry is not None:
            self._archive.add(entry)
        if isinstance(event, RequestGranted):
            if self._demand_log is not None:
                self._remember_grant(event, now_usec)
        elif isinstance(event, LeaseEnded):
            self._record_demand(event, now_usec)

    def _remember_grant(self, event: RequestGranted, now_usec: int) -> None:
        self._granted[event.lease.id] = _GrantedRequest(now_usec - event.waited_usec, event.priority)
        # Bounded, in case the end of a lease is never reported: the oldest grant is dropped.
        if len(self._granted) > MAX_ACTIVE_LEASES:
            self._granted.popitem(last=False)

    def _record_demand(self, event: LeaseEnded, now_usec: int) -> None:
        """Add an ended lease to the demand log.

        The arrival of a request from before the daemon started, or before the log was configured, is unknown; the time
        of the grant is used instead.
        """
        lease = event.lease
        granted = self._granted.pop(lease.id, _GrantedRequest(lease.granted_usec))
        # A reservation is no use of a consumer, and a simulation of consumers could not replay it.
        if self._demand_log is not None and lease.reservation is None:
            hold_sec, client = event.duration_sec(now_usec), str(lease.owner.uid)
            self._demand_log.append(
                DemandEntry(granted.arrived_usec / 1e6, lease.consumer, hold_sec, client, granted.priority)
            )

    async def set_demand_log(self, demand_log: DemandLog | None) -> None:
        """Switch to another demand log, or to none."""
        former, self._demand_log = self._demand_log, demand_log
        if former is not None:
            await former.close()

    async def close(self) -> None:
        """Write what is pending; no event may be published afterwards."""
        await self.set_demand_log(None)
        await self._archive.close()


def _entry(event: Event, now_usec: int) -> HistoryEntry | None:
    """The history entry for an event; None for an event that only reports a change of state."""
    entry: HistoryEntry | None = None
    match event:
        case EvictionOccurred(report):
            entry = _eviction(EntryKind.EVICTION, report, now_usec)
        case EvictionFailed(report):
            entry = _eviction(EntryKind.EVICTION_FAILED, report, now_usec)
        case EvictionDeferred(report):
            entry = _eviction(EntryKind.EVICTION_DEFERRED, report, now_usec)
        case LoadFinished(consumer, device, duration_usec, error):
            kind = EntryKind.LOAD_FAILED if error else EntryKind.LOAD
            entry = HistoryEntry(now_usec, kind, consumer, device, duration_usec, detail=error)
        case RequestGranted():
            entry = _grant(event, now_usec)
        case RequestRefused(consumer, uid, error, message):
            detail = f"{error.rpartition('.')[2]}: {message}"
            entry = HistoryEntry(now_usec, EntryKind.REFUSAL, consumer, detail=detail, uid=uid)
        case LeaseEnded():
            entry = _end(event, now_usec)
    return entry


def _eviction(kind: EntryKind, report: EvictionReport, now_usec: int) -> HistoryEntry:
    return HistoryEntry(
        now_usec,
        kind,
        report.consumer,
        report.device,
        report.duration_usec,
        report.freed_mib if report.verified else None,
        report.method,
        report.trigger,
        report.error or report.why,
    )


def _grant(event: RequestGranted, now_usec: int) -> HistoryEntry:
    lease = event.lease
    return HistoryEntry(
        now_usec,
        EntryKind.GRANT,
        event.consumer,
        lease.device,
        event.waited_usec,
        detail="; ".join(filter(None, (_describe_reservation(lease), lease.reason))),
        uid=lease.owner.uid,
        lease=lease.id,
    )


def _end(event: LeaseEnded, now_usec: int) -> HistoryEntry:
    lease, held_usec = event.lease, int(event.duration_sec(now_usec) * 1e6)
    return HistoryEntry(
        now_usec,
        EntryKind.END,
        lease.public_consumer,
        lease.device,
        held_usec,
        detail=str(event.reason),
        uid=lease.owner.uid,
        lease=lease.id,
    )


def _describe_reservation(lease: Lease) -> str:
    """What a lease without a consumer reserves, and for which program; "" for a lease on a consumer."""
    reservation = lease.reservation
    if reservation is None:
        return ""
    amount = "the whole device" if reservation.whole_device else f"{reservation.vram_mib} MiB"
    return f"{amount} reserved" + (f" for {reservation.holder.program}" if reservation.holder.program else "")
