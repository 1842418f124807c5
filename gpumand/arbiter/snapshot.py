"""Builds the status, its summary and plan reports from the arbiter's state."""

from __future__ import annotations

from collections.abc import Mapping

from gpumand.arbiter.consumer_statuses import ConsumerStatuses
from gpumand.arbiter.scheduler import Scheduler
from gpumand.arbiter.state import ArbiterState
from gpumand.arbiter.telemetry import current_telemetry, driver_state_of
from gpumand.arbiter.waiting_request import WaitingRequest
from gpumand.domain import budget
from gpumand.domain.consumer import ConsumerSpec
from gpumand.domain.decision import Decision, with_advice
from gpumand.domain.device import ProcessUse, Sample, format_devices
from gpumand.domain.request import PlanReport
from gpumand.domain.reservation import is_reservation, public_name
from gpumand.domain.reserved_memory import excess_mib, excess_processes
from gpumand.domain.status import (
    MAX_FOREIGN,
    MAX_PROCESSES,
    DeviceStatus,
    HeldProcess,
    Status,
    Summary,
    WaitingStatus,
)
from gpumand.domain.unread_devices import Access, access
from gpumand.domain.view import View
from gpumand.version import VERSION


def status_of(state: ArbiterState, scheduler: Scheduler, consumers: ConsumerStatuses) -> Status:
    """A consistent snapshot of devices, consumers, leases, queue and statistics."""
    view = state.view()
    return Status(
        version=VERSION,
        degraded=state.degraded,
        devices=tuple(_device(state, view, sample) for sample in view.devices.values()),
        consumers=consumers.all(),
        leases=tuple(state.ledger.leases.values()),
        queue=tuple(_waiting(state, entry, place) for place, entry in enumerate(scheduler, start=1)),
        stats=state.stats,
        configured_usec=state.configured_usec,
        reserved_used_mib=_reserved_used_mib(state),
        driver_state=driver_state_of(state),
        history_usec=state.history.times_usec,
        concurrent_leases=view.settings.concurrent_leases,
    )


def _reserved_used_mib(state: ArbiterState) -> dict[str, int]:
    """MiB that the processes of each reservation hold, by lease id; those that are unknown are left out."""
    used: dict[str, int] = {}
    for lease in state.ledger.leases.values():
        if lease.reservation is not None:
            held = [sample.held_by(lease.consumer) for sample in state.ledger.devices.values()]
            if all(mib is not None for mib in held):
                used[lease.id] = sum(mib or 0 for mib in held)
    return used


def summary_of(state: ArbiterState, scheduler: Scheduler) -> Summary:
    """The properties of the Manager object, in constant time."""
    return Summary(state.degraded, len(scheduler), len(state.ledger.leases), state.stats.evictions)


def _device(state: ArbiterState, view: View, sample: Sample) -> DeviceStatus:
    return DeviceStatus(
        index=sample.index,
        uuid=sample.uuid,
        name=sample.name,
        source=sample.source,
        total_mib=sample.total_mib,
        used_mib=sample.used_mib,
        free_mib=sample.free_mib,
        reserved_mib=_reserved_mib(view, sample),
        foreign_mib=_foreign_mib(view, sample),
        sampled_usec=sample.sampled_usec,
        error=sample.error,
        foreign=tuple(_foreign_processes(view, sample)[:MAX_FOREIGN]),
        processes=_held_processes(state, sample),
        aliases=sample.aliases,
        pool=str(sample.pool),
        integrated=sample.integrated,
        attribution=sample.attribution,
        attribution_gap=sample.attribution_gap,
        asleep=state.is_asleep(sample),
        unnamed_mib=budget.unnamed_mib(sample),
        unchecked=access(sample) is Access.NO_SOURCE,
        telemetry=current_telemetry(state, sample),
        history=state.history.device(sample.index),
    )


def _foreign_mib(view: View, sample: Sample) -> int | None:
    """MiB that belong to no consumer; what a program holds beyond its reservation is among them."""
    foreign_mib = budget.foreign_mib(sample)
    return None if foreign_mib is None else foreign_mib + sum(excess_mib(view, sample.index).values())


def _foreign_processes(view: View, sample: Sample) -> list[ProcessUse]:
    foreign = [*budget.foreign_processes(sample), *excess_processes(view, sample.index)]
    return sorted(foreign, key=lambda process: (process.used_mib is None, -(process.used_mib or 0), process.pid))


def _held_processes(state: ArbiterState, sample: Sample) -> tuple[HeldProcess, ...]:
    """The processes of consumers and of reservations, the largest first."""
    held = [one for one in sample.processes if one.consumer or one.shared]
    held.sort(key=lambda one: (one.used_mib is None, -(one.used_mib or 0), one.pid))
    reserved = {lease.consumer: lease.id for lease in state.ledger.leases.values() if lease.reservation is not None}
    return tuple(
        HeldProcess(one, lease=reserved.get(one.consumer, ""))
        if is_reservation(one.consumer)
        else HeldProcess(one, one.shared or (one.consumer,))
        for one in held[:MAX_PROCESSES]
    )


def _reserved_mib(view: View, sample: Sample) -> int | None:
    """Reserved MiB on a device; the whole device if an amount is unknown."""
    reserved_mib = budget.reportable_mib(sum(budget.reserved_by_consumer(view, sample.index).values()))
    return sample.total_mib if reserved_mib is None else reserved_mib


def _waiting(state: ArbiterState, entry: WaitingRequest, position: int) -> WaitingStatus:
    request = entry.request
    return WaitingStatus(
        consumer=public_name(request.consumer),
        position=position,
        priority=request.priority,
        waited_usec=int((state.clock.monotonic() - request.arrived_at) * 1e6),
        waiting_for=with_advice(entry.waiting_for, entry.advice),
        owner_uid=request.owner.uid,
        reason=request.options.reason,
        vram_mib=request.options.vram_mib,
        whole_device=request.options.whole_device,
        id=entry.id,
        owner=request.owner if request.owner.bus_name else None,
    )


def report_of(spec: ConsumerSpec, decision: Decision, devices: Mapping[int, Sample]) -> PlanReport:
    """A decision as a plan report for clients. A reservation is neither resident nor loaded.

    Args:
        spec: the requested consumer.
        decision: what would be decided.
        devices: the last sample of each device.
    """
    samples = [devices[device] for device in decision.place or devices if device in devices]
    # Where programs without the GPU count as well, this amount says nothing about programs on the GPU.
    unnamed = [None if sample.counts_host_ram else budget.unnamed_mib(sample) for sample in samples]
    is_consumer = spec.reservation is None
    return PlanReport(
        consumer=public_name(spec.name),
        verdict=decision.verdict,
        device=format_devices(decision.place),
        resident=decision.resident and is_consumer,
        load=decision.load and is_consumer,
        need_mib=decision.need_mib,
        free_mib=None if decision.free_mib is None else max(0, decision.free_mib),
        evictions=decision.evictions,
        spared=decision.spared,
        error=decision.error.dbus_name if decision.error else "",
        message=decision.explanation,
        unnamed_mib=None if not unnamed or None in unnamed else sum(mib or 0 for mib in unnamed),
    )
