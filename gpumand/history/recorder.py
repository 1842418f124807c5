"""From events to what is kept of them: entries of the history, and the demand log."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from gpumand.domain.events import (
    Event,
    EvictionFailed,
    EvictionOccurred,
    EvictionReport,
    LeaseEnded,
    LoadFinished,
    RequestGranted,
    RequestRefused,
)
from gpumand.domain.history import Entry, EntryKind
from gpumand.history.demand_log import Demand, DemandLog
from gpumand.ports import Archive, Clock

MAX_OPEN = 4096
"""Leases whose beginning is remembered for the demand log; there are never that many at once."""


@dataclass(frozen=True, slots=True)
class _Begun:
    arrived_usec: int
    priority: int | None = None


class HistoryRecorder:
    """Listens to the arbiter's events."""

    def __init__(self, archive: Archive, clock: Clock, demand_log: DemandLog | None = None) -> None:
        self._demand_log = demand_log
        self._archive = archive
        self._clock = clock
        self._begun: OrderedDict[str, _Begun] = OrderedDict()

    def publish(self, event: Event) -> None:
        """Keep what an event says, where it is of the kind that is kept."""
        now_usec = self._clock.realtime_usec()
        entry = _entry(event, now_usec)
        if entry is not None:
            self._archive.note(entry)
        if isinstance(event, RequestGranted):
            self._begin(event, now_usec)
        elif isinstance(event, LeaseEnded):
            self._note_demand(event, now_usec)

    def _begin(self, event: RequestGranted, now_usec: int) -> None:
        self._begun[event.lease.id] = _Begun(now_usec - event.waited_usec, event.priority)
        if len(self._begun) > MAX_OPEN:
            self._begun.popitem(last=False)

    def _note_demand(self, event: LeaseEnded, now_usec: int) -> None:
        """A lease that was taken up from before our start began to be wanted at a time we do not know: its grant's."""
        lease = event.lease
        begun = self._begun.pop(lease.id, _Begun(lease.granted_usec))
        if self._demand_log is not None:
            hold_sec, client = event.stood_sec(now_usec), str(lease.owner.uid)
            self._demand_log.note(Demand(begun.arrived_usec / 1e6, lease.consumer, hold_sec, client, begun.priority))

    async def log_demand_to(self, demand_log: DemandLog | None) -> None:
        """Use another log from now on, or none."""
        former, self._demand_log = self._demand_log, demand_log
        if former is not None:
            await former.close()

    async def close(self) -> None:
        """Finish what was asked for; nothing is to be published any more."""
        await self.log_demand_to(None)
        await self._archive.close()


def _entry(event: Event, now_usec: int) -> Entry | None:
    """What is kept of an event; None for one that only speaks of state."""
    entry: Entry | None = None
    match event:
        case EvictionOccurred(report):
            entry = _eviction(EntryKind.EVICTION, report, now_usec)
        case EvictionFailed(report):
            entry = _eviction(EntryKind.EVICTION_FAILED, report, now_usec)
        case LoadFinished(consumer, device, duration_usec, error):
            kind = EntryKind.LOAD_FAILED if error else EntryKind.LOAD
            entry = Entry(now_usec, kind, consumer, device, duration_usec, detail=error)
        case RequestGranted():
            entry = _grant(event, now_usec)
        case RequestRefused(consumer, uid, error, message):
            detail = f"{error.rpartition('.')[2]}: {message}"
            entry = Entry(now_usec, EntryKind.REFUSAL, consumer, detail=detail, uid=uid)
        case LeaseEnded():
            entry = _end(event, now_usec)
    return entry


def _eviction(kind: EntryKind, report: EvictionReport, now_usec: int) -> Entry:
    return Entry(
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


def _grant(event: RequestGranted, now_usec: int) -> Entry:
    lease = event.lease
    return Entry(
        now_usec,
        EntryKind.GRANT,
        event.consumer,
        lease.device,
        event.waited_usec,
        detail=lease.reason,
        uid=lease.owner.uid,
        lease=lease.id,
    )


def _end(event: LeaseEnded, now_usec: int) -> Entry:
    lease, held_usec = event.lease, int(event.stood_sec(now_usec) * 1e6)
    return Entry(
        now_usec,
        EntryKind.END,
        lease.consumer,
        lease.device,
        held_usec,
        detail=str(event.reason),
        uid=lease.owner.uid,
        lease=lease.id,
    )
