"""Builds the status, its summary and plan reports from the arbiter's state."""

from __future__ import annotations

from collections.abc import Mapping

from gpumand.arbiter.scheduler import Scheduler
from gpumand.arbiter.state import ArbiterState
from gpumand.arbiter.telemetry import current_telemetry, driver_state_of
from gpumand.arbiter.waiting_request import WaitingRequest
from gpumand.domain import budget, location, shared_units
from gpumand.domain.consumer import ConsumerSpec, Residency
from gpumand.domain.decision import Decision, with_advice
from gpumand.domain.device import ProcessUse, Sample, format_devices
from gpumand.domain.errors import NoSuchConsumer
from gpumand.domain.request import PlanReport
from gpumand.domain.reservation import is_reservation, public_name
from gpumand.domain.reserved_memory import excess_mib, excess_processes
from gpumand.domain.status import (
    MAX_FOREIGN,
    MAX_PROCESSES,
    AnnouncedConsumer,
    ConsumerStatus,
    DeviceStatus,
    HeldProcess,
    Status,
    Summary,
    WaitingStatus,
)
from gpumand.domain.unread_devices import Access, access
from gpumand.domain.view import ConsumerState, View
from gpumand.domain.wording import FOOTPRINT_UNKNOWN
from gpumand.version import VERSION


def status_of(state: ArbiterState, scheduler: Scheduler) -> Status:
    """A consistent snapshot of devices, consumers, leases, queue and statistics."""
    view = state.view()
    return Status(
        version=VERSION,
        degraded=state.degraded,
        devices=tuple(_device(state, view, sample) for sample in view.devices.values()),
        consumers=tuple(
            _consumer(state, view.devices, consumer)
            for consumer in view.consumers.values()
            if consumer.spec.reservation is None
        ),
        leases=tuple(state.ledger.leases.values()),
        queue=tuple(_waiting(state, entry, place) for place, entry in enumerate(scheduler, start=1)),
        stats=state.stats,
        configured_usec=state.configured_usec,
        reserved_used_mib=_reserved_used_mib(state),
        driver_state=driver_state_of(state),
        history_usec=state.history.times_usec,
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


def consumer_status_of(state: ArbiterState, name: str) -> ConsumerStatus:
    """The status of one consumer. Raises NoSuchConsumer."""
    if is_reservation(name):
        raise NoSuchConsumer("a reservation is shown as a lease")
    return _consumer(state, state.ledger.devices, state.consumer(name))


def announced_consumer_of(state: ArbiterState, name: str) -> AnnouncedConsumer:
    """The announced values of one consumer, which change with every lease. Raises NoSuchConsumer."""
    if is_reservation(name):
        raise NoSuchConsumer("a reservation is shown as a lease")
    consumer = state.consumer(name)
    spec = consumer.spec
    return AnnouncedConsumer(
        consumer.name,
        str(consumer.residency),
        format_devices(consumer.devices),
        consumer.footprint_mib if consumer.footprint_known else None,
        consumer.leases,
        consumer.last_used_usec,
        consumer.pinned,
        spec.vram_managed,
        spec.unit,
        _problems(state.ledger.devices, consumer),
        spec.vram_auto,
        spec.container,
    )


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


def _consumer(state: ArbiterState, devices: Mapping[int, Sample], consumer: ConsumerState) -> ConsumerStatus:
    held = [sample.held_by(consumer.name) for sample in devices.values()]
    known = [mib for mib in held if mib is not None]
    return ConsumerStatus(
        name=consumer.name,
        residency=str(consumer.residency),
        device=format_devices(consumer.devices),
        vram_resident_mib=consumer.footprint_mib if consumer.footprint_known else None,
        used_mib=sum(known) if known else None,
        shared_with=_sharing(state, consumer),
        shared_mib=sum(one.shared_mib(consumer.name) for one in devices.values()),
        unit_state=consumer.unit_activity if consumer.spec.service else "",
        used_by_device={index: mib for index, mib in zip(devices, held, strict=True) if mib},
        leases=consumer.leases,
        last_used_usec=consumer.last_used_usec,
        pinned=consumer.pinned,
        vram_managed=consumer.spec.vram_managed,
        unit=consumer.spec.unit,
        container=consumer.spec.container,
        error=_problems(devices, consumer),
        memory=consumer.memory,
        times=consumer.times,
        vram_auto=consumer.spec.vram_auto,
        doing=_activity(state, consumer),
        since_usec=consumer.since_usec,
        endpoint=consumer.spec.url,
        preset=consumer.spec.preset,
        fleet=consumer.spec.fleet,
        evict=tuple(map(str, consumer.spec.evict)),
        lazy=consumer.spec.lazy,
        used_mib_history=state.history.held_mib(consumer.name),
        busy=None if consumer.spec.busy is None or consumer.jobs is None else consumer.jobs > 0,
    )


def _sharing(state: ArbiterState, consumer: ConsumerState) -> tuple[str, ...]:
    """Names of the other consumers in its unit or container."""
    ledger = state.ledger
    if consumer.name not in ledger.in_shared_units:
        return ()
    return tuple(one.name for one in shared_units.others_in_unit(ledger.consumers, consumer, ledger.sharing))


def _problems(devices: Mapping[int, Sample], consumer: ConsumerState) -> str:
    if not consumer.error and not consumer.spec.devices and consumer.footprint_known:
        return ""
    unknown = "" if consumer.footprint_known else FOOTPRINT_UNKNOWN
    problems = (consumer.error, unknown, location.misplacement(devices, consumer) if consumer.spec.devices else "")
    return "; ".join(filter(None, problems))


def _activity(state: ArbiterState, consumer: ConsumerState) -> str:
    """The load or unload in progress and its duration, in one line; "" when there is none."""
    if consumer.residency not in (Residency.LOADING, Residency.UNLOADING):
        return ""
    seconds = max(0.0, (state.clock.realtime_usec() - consumer.since_usec) / 1e6)
    started = " (not started by gpumand)" if consumer.external_load else ""
    return f"{consumer.residency} for {seconds:.0f} s{started}"


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
