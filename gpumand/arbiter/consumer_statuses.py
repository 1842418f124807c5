"""The status of each consumer, made again only where something has changed: ``GetStatus`` reports thousands of them."""

from __future__ import annotations

from collections.abc import Mapping

from gpumand.arbiter.state import ArbiterState
from gpumand.domain import busyness, location, shared_units
from gpumand.domain.device import Sample, format_devices
from gpumand.domain.errors import NoSuchConsumer
from gpumand.domain.reservation import is_reservation
from gpumand.domain.residency_states import Residency
from gpumand.domain.status import AnnouncedConsumer, ConsumerStatus
from gpumand.domain.telemetry import Series
from gpumand.domain.view import ConsumerState
from gpumand.domain.wording import FOOTPRINT_UNKNOWN

IN_PROGRESS = frozenset({Residency.LOADING, Residency.UNLOADING})
"""Residencies whose status depends on the time."""

Observed = tuple[tuple[tuple[int, int | None], ...], int, Series, tuple[str, ...], str]
"""What the status depends on apart from the consumer's own state: MiB held on each device, MiB shared with others,
MiB held at earlier readings, the consumers in the same unit, and its problems."""


class ConsumerStatuses:
    """Makes the status of consumers. The same object means that nothing has changed.

    Args:
        state: the arbiter's state.
    """

    def __init__(self, state: ArbiterState) -> None:
        self._state = state
        self._known: dict[str, tuple[ConsumerState, Observed, ConsumerStatus]] = {}

    def all(self) -> tuple[ConsumerStatus, ...]:
        """The status of every consumer, without reservations."""
        consumers = self._state.ledger.consumers
        if len(self._known) > len(consumers):
            self._known = {name: known for name, known in self._known.items() if name in consumers}
        return tuple([self._status(one) for one in consumers.values() if one.spec.reservation is None])

    def of(self, name: str) -> ConsumerStatus:
        """The status of one consumer. Raises NoSuchConsumer."""
        if is_reservation(name):
            raise NoSuchConsumer("a reservation is shown as a lease")
        return self._status(self._state.consumer(name))

    def _status(self, consumer: ConsumerState) -> ConsumerStatus:
        observed = self._observed(consumer)
        known = self._known.get(consumer.spec.name)
        if known is not None and known[0] is consumer and known[1] == observed:
            return known[2]
        status = _status_of(self._state, consumer, observed)
        # The duration of a load and the pause after a failed one pass by themselves.
        if consumer.residency not in IN_PROGRESS and not status.retry_usec:
            self._known[consumer.spec.name] = consumer, observed, status
        return status

    def _observed(self, consumer: ConsumerState) -> Observed:
        name, samples = consumer.spec.name, self._state.ledger.devices
        held = tuple([(index, sample.held_by(name)) for index, sample in samples.items()])
        # Without a process that holds memory for it, there is nothing that it could share.
        shared_mib = sum([one.shared_mib(name) for one in samples.values() if one.shows(name)])
        history = self._state.history.held_mib(name)
        return held, shared_mib, history, _sharing(self._state, consumer), _problems(samples, consumer)


def _status_of(state: ArbiterState, consumer: ConsumerState, observed: Observed) -> ConsumerStatus:
    held, shared_mib, history, shared_with, problems = observed
    known = [mib for _, mib in held if mib is not None]
    return ConsumerStatus(
        name=consumer.name,
        residency=str(consumer.residency),
        device=format_devices(consumer.devices),
        vram_resident_mib=consumer.footprint_mib if consumer.footprint_known else None,
        used_mib=sum(known) if known else None,
        shared_with=shared_with,
        shared_mib=shared_mib,
        unit_state=consumer.unit_activity if consumer.spec.service else "",
        used_by_device={index: mib for index, mib in held if mib},
        leases=consumer.leases,
        last_used_usec=consumer.last_used_usec,
        pinned=consumer.pinned,
        vram_managed=consumer.spec.vram_managed,
        unit=consumer.spec.unit,
        container=consumer.spec.container,
        error=problems,
        memory=consumer.memory,
        times=consumer.times,
        vram_auto=consumer.spec.vram_auto,
        doing=_activity(state, consumer),
        since_usec=consumer.since_usec,
        endpoint=consumer.spec.url,
        preset=consumer.spec.preset,
        fleet=consumer.spec.fleet,
        priority=consumer.spec.priority,
        evict=tuple(map(str, consumer.spec.evict)),
        lazy=consumer.spec.lazy,
        used_mib_history=history,
        busy=_is_busy(consumer),
        retry_usec=_retry_usec(state, consumer),
    )


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


def _retry_usec(state: ArbiterState, consumer: ConsumerState) -> int:
    """When the pause after failed loads ends; 0 = it has ended, or there is none."""
    left_sec = consumer.retry_at - state.clock.monotonic()
    return state.clock.realtime_usec() + round(left_sec * 1e6) if left_sec > 0 else 0


def _is_busy(consumer: ConsumerState) -> bool | None:
    """Whether it reports work, or puts an unload off for its clients; None = unknown."""
    is_known = consumer.spec.busy is not None or consumer.unload_deferred or consumer.direct_work
    return consumer.jobs > 0 if is_known and consumer.jobs is not None else None


def _sharing(state: ArbiterState, consumer: ConsumerState) -> tuple[str, ...]:
    """Names of the other consumers in its unit or container."""
    ledger = state.ledger
    if consumer.name not in ledger.in_shared_units:
        return ()
    return tuple(one.name for one in shared_units.others_in_unit(ledger.consumers, consumer, ledger.sharing))


def _problems(devices: Mapping[int, Sample], consumer: ConsumerState) -> str:
    if not consumer.error and not consumer.spec.devices and consumer.footprint_known and consumer.partial is None:
        return ""
    unknown = "" if consumer.footprint_known else FOOTPRINT_UNKNOWN
    place = location.misplacement(devices, consumer) if consumer.spec.devices else ""
    problems = (consumer.error, unknown, place, location.computed_on_cpu(devices, consumer))
    return "; ".join(filter(None, problems))


def _activity(state: ArbiterState, consumer: ConsumerState) -> str:
    """The load or unload in progress and its duration, or that an unload is put off, in one line; "" = neither."""
    if busyness.is_deferring(consumer) and consumer.unload_deferred:
        return f"{busyness.describe_work(consumer)}: it accepted an unload and freed nothing"
    if consumer.residency not in IN_PROGRESS:
        return ""
    seconds = max(0.0, (state.clock.realtime_usec() - consumer.since_usec) / 1e6)
    started = " (not started by gpumand)" if consumer.external_load else ""
    unfreed = busyness.describe_unfreed(consumer)
    return f"{consumer.residency} for {seconds:.0f} s{started}{unfreed and f': {unfreed}'}"
