"""What is shown of the books: the status, and a decision as a report."""

from __future__ import annotations

from collections.abc import Mapping

from gpumand.arbiter.scheduler import Scheduler
from gpumand.arbiter.state import ArbiterState
from gpumand.arbiter.waiting_request import Waiting
from gpumand.domain import budget
from gpumand.domain.consumer import Residency
from gpumand.domain.device import Sample, devices_text
from gpumand.domain.planning import Decision
from gpumand.domain.request import PlanReport
from gpumand.domain.status import MAX_FOREIGN, ConsumerStatus, DeviceStatus, Status, Summary, WaitingStatus
from gpumand.domain.view import ConsumerState, View
from gpumand.domain.wording import NO_FOOTPRINT
from gpumand.version import VERSION


def status_of(arbiter_state: ArbiterState, scheduler: Scheduler) -> Status:
    """One consistent snapshot of everything."""
    view = arbiter_state.view()
    return Status(
        version=VERSION,
        degraded=arbiter_state.degraded,
        devices=tuple(_device(view, sample) for sample in view.devices.values()),
        consumers=tuple(_consumer(arbiter_state, view.devices, state) for state in view.consumers.values()),
        leases=tuple(arbiter_state.ledger.leases.values()),
        queue=tuple(_waiting(arbiter_state, entry, place) for place, entry in enumerate(scheduler, start=1)),
        stats=arbiter_state.stats,
        configured_usec=arbiter_state.configured_usec,
    )


def summary_of(arbiter_state: ArbiterState, scheduler: Scheduler) -> Summary:
    """The Manager's properties, at a cost that does not grow with what is going on."""
    return Summary(
        arbiter_state.degraded, len(scheduler), len(arbiter_state.ledger.leases), arbiter_state.stats.evictions
    )


def consumer_status_of(arbiter_state: ArbiterState, name: str) -> ConsumerStatus:
    """One consumer of the status. Raises NoSuchConsumer."""
    return _consumer(arbiter_state, arbiter_state.ledger.devices, arbiter_state.state(name))


def _device(view: View, sample: Sample) -> DeviceStatus:
    return DeviceStatus(
        index=sample.index,
        uuid=sample.uuid,
        name=sample.name,
        source=sample.source,
        total_mib=sample.total_mib,
        used_mib=sample.used_mib,
        free_mib=sample.free_mib,
        reserved_mib=_reserved_mib(view, sample),
        foreign_mib=budget.foreign_mib(sample),
        sampled_usec=sample.sampled_usec,
        error=sample.error,
        foreign=tuple(budget.foreign_processes(sample)[:MAX_FOREIGN]),
    )


def _reserved_mib(view: View, sample: Sample) -> int | None:
    """What is promised; all of it where nobody knows how much."""
    reserved_mib = budget.told_mib(sum(budget.reserved_by_consumer(view, sample.index).values()))
    return sample.total_mib if reserved_mib is None else reserved_mib


def _consumer(arbiter_state: ArbiterState, devices: Mapping[int, Sample], state: ConsumerState) -> ConsumerStatus:
    held = [sample.held_by(state.name) for sample in devices.values()]
    known = [mib for mib in held if mib is not None]
    return ConsumerStatus(
        name=state.name,
        residency=str(state.residency),
        device=devices_text(state.devices),
        vram_resident_mib=state.footprint_mib if state.footprint_known else None,
        used_mib=sum(known) if known else None,
        leases=state.leases,
        last_used_usec=state.last_used_usec,
        pinned=state.pinned,
        vram_managed=state.spec.vram_managed,
        unit=state.spec.unit,
        error="; ".join(filter(None, (state.error, "" if state.footprint_known else NO_FOOTPRINT))),
        memory=state.memory,
        times=state.times,
        vram_auto=state.spec.vram_auto,
        doing=_doing(arbiter_state, state),
        since_usec=state.since_usec,
        endpoint=state.spec.url,
        evict=tuple(map(str, state.spec.evict)),
        lazy=state.spec.lazy,
        busy=None if state.spec.busy is None or state.jobs is None else state.jobs > 0,
    )


def _doing(arbiter_state: ArbiterState, state: ConsumerState) -> str:
    """What is being done with it, for a progress line."""
    if state.residency not in (Residency.LOADING, Residency.UNLOADING):
        return ""
    seconds = max(0.0, (arbiter_state.clock.realtime_usec() - state.since_usec) / 1e6)
    started = " (started by somebody else)" if state.unasked else ""
    return f"{state.residency} for {seconds:.0f} s{started}"


def _waiting(arbiter_state: ArbiterState, entry: Waiting, position: int) -> WaitingStatus:
    request = entry.request
    return WaitingStatus(
        consumer=request.consumer,
        position=position,
        priority=request.priority,
        waited_usec=int((arbiter_state.clock.monotonic() - request.arrived_at) * 1e6),
        waiting_for=entry.waiting_for,
        owner_uid=request.owner.uid,
        reason=request.options.reason,
    )


def report_of(consumer: str, decision: Decision) -> PlanReport:
    """A decision, for people and for the bus."""
    return PlanReport(
        consumer=consumer,
        verdict=decision.verdict,
        device=devices_text(decision.place),
        resident=decision.resident,
        load=decision.load,
        need_mib=decision.need_mib,
        free_mib=None if decision.free_mib is None else max(0, decision.free_mib),
        evictions=decision.evictions,
        spared=decision.spared,
        error=decision.error.dbus_name if decision.error else "",
        message=decision.message,
    )
