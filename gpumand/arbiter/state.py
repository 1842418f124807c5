"""The state that all arbiter modules share: the ledger, the clock, VRAM readings and the announcement of changes."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import replace

from gpumand.arbiter import log_messages
from gpumand.arbiter.running_readings import RunningReadings
from gpumand.domain import budget
from gpumand.domain.backfill import BackfillAccounting
from gpumand.domain.consumer import Settings
from gpumand.domain.device import Devices, ProcessUse, Reading, Sample, with_newer_samples
from gpumand.domain.driver_power import NO_POWER, DriverPower, DriverState
from gpumand.domain.events import (
    ConsumersChanged,
    DevicesChanged,
    Event,
    LeaseDegraded,
    LeaseRestored,
    SummaryChanged,
)
from gpumand.domain.fast_copy import copy_with
from gpumand.domain.lease_health import reason_for_degraded
from gpumand.domain.ledger import Ledger
from gpumand.domain.load_overlap import OverlapExperiment
from gpumand.domain.orphans import Orphans, processes_of
from gpumand.domain.reservation import Holder, public_names
from gpumand.domain.residency_states import Residency
from gpumand.domain.status import Stats
from gpumand.domain.telemetry import TelemetryHistory
from gpumand.domain.unread_devices import unchecked
from gpumand.domain.view import ConsumerState, View
from gpumand.ports import Clock, HolderProcesses, HostMemory, Retrying, VramSource

log = logging.getLogger(__name__)

Publish = Callable[[Event], None]

SUMMARY_CHANGED = SummaryChanged()

_DURATION = re.compile(r" for \d+ s\b")


class ArbiterState:
    """The ledger together with a clock, a VRAM source and a subscriber for events.

    Changes are collected and announced together by ``publish_changes``, at a moment when the state is consistent:
    subscribers read properties when they receive an event, and must not see a half-finished change.

    Attributes:
        settings: the configuration in force.
        configured_usec: when that configuration was read, CLOCK_REALTIME in microseconds.
        publish: sends an event to all subscribers.
        stats: counters since the daemon started.
        driver_state: whether readings are taken.
        driver_power: power states of the driver's cards, when they were last looked at.
        driver_rests: asked before each reading, whether it leaves out the devices of the driver.
        resting_devices: the devices that readings leave out, since only others are in use.
        readings: the readings that are running.
        sampled_at: when the newest reading was taken, in monotonic seconds.
        source_error: why the last reading failed, "" when it did not.
        overtakings: which leases have overtaken which waiting requests.
        overlapping: measurements that decide whether loads may overlap with leases.
        wanted: consumers that waiting requests need, with their rank in the queue.
        orphans: processes that stopped units have left behind.
        history: the last readings, for graphs.
        ledger: consumers, leases, jobs and devices.
        queue_length: number of waiting requests.
        announced_leases: ids of the leases whose grant was published.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        source: VramSource,
        memory: HostMemory,
        holders: HolderProcesses,
        publish: Publish,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.configured_usec = clock.realtime_usec()
        self.publish = publish
        self.stats = Stats()
        self.driver_state, self.driver_power = DriverState.OPEN, NO_POWER
        self.driver_rests: Callable[[], bool] = lambda: False
        self.resting_devices: Devices = ()
        self.readings = RunningReadings()
        self.sampled_at = float("-inf")
        self.source_error = ""
        self._source, self._memory, self._holders = source, memory, holders
        self._valid_from = float("-inf")
        self._changed_consumers: set[str] = set()
        self._changed_leases: dict[str, None] = {}
        self.announced_leases: set[str] = set()
        self.overtakings, self.overlapping = BackfillAccounting(), OverlapExperiment()
        self.orphans, self.history = Orphans(), TelemetryHistory()
        self.queue_positions: Mapping[str, int] = {}
        self.queue_length = 0
        self._announced_counts: tuple[object, ...] = ()
        self._summary_devices: Mapping[int, Sample] = {}
        self._announced_devices: Mapping[int, Sample] = {}
        self._announced_device_fields: tuple[tuple[object, ...], ...] = ()
        self.ledger = Ledger(settings.scheduler, self._changed_consumers.add)
        self.ledger.configure(settings.scheduler, settings.consumers.values())

    def view(self, evict_failed: frozenset[str] = frozenset()) -> View:
        """An immutable view of everything, for a decision.

        Args:
            evict_failed: consumers that must not be chosen as victims, since their eviction has just failed.
        """
        may_overlap = self.overlapping.devices_allowed(self.ledger.settings, self.ledger.devices)
        now, realtime_usec = self.clock.monotonic(), self.clock.realtime_usec()
        return self.ledger.view(now, evict_failed, self.queue_positions, may_overlap, realtime_usec)

    def consumer(self, name: str) -> ConsumerState:
        """One consumer's state. Raises NoSuchConsumer."""
        return self.ledger.consumer(name)

    def count(self, **more: int) -> None:
        """Add to counters of the statistics, by the names of their attributes."""
        self.stats = copy_with(self.stats, **{name: getattr(self.stats, name) + by for name, by in more.items()})

    def count_grant(self, waited_usec: int) -> None:
        """Add a granted request to the counters."""
        stats = self.stats
        self.stats = copy_with(stats, grants=stats.grants + 1, wait_usec=stats.wait_usec + waited_usec)

    def set_residency(
        self,
        name: str,
        residency: Residency,
        *,
        error: str | None = None,
        own_move: bool = True,
        unit_moved: bool = True,
    ) -> None:
        """Set the residency of a consumer.

        Args:
            name: the consumer.
            residency: its new residency.
            error: one line, "" to clear the error; None leaves it unchanged.
            own_move: gpumand caused the change, so health answers requested before now are outdated.
            unit_moved: unit states observed before now are outdated as well. False where the unit was started or
                stopped a while ago and a newer state may have arrived since.
        """
        consumer, now = self.consumer(name), self.clock.monotonic()
        if own_move:
            self.ledger.update(name, changed_at=now, reports_loaded=False, jobs=None)
            if unit_moved:
                self.ledger.update(name, unit_changed_at=now)
        if error is not None and error != consumer.error:
            self.ledger.update(name, error=error)
        if residency is not consumer.residency:
            footprint_seen = consumer.footprint_seen and residency is Residency.RESIDENT
            since_usec = self.clock.realtime_usec()
            self.ledger.update(
                name, residency=residency, since_usec=since_usec, idle_since=now, footprint_seen=footprint_seen
            )
            log.debug("consumer %s: %s, was %s", name, residency, consumer.residency)
            if not (own_move and residency is Residency.LOADING):
                self._update_lease_health(name, consumer.residency)

    def _update_lease_health(self, name: str, before: Residency) -> None:
        """Note which leases a change of a consumer's residency degrades or restores."""
        consumer = self.consumer(name)
        reason = reason_for_degraded(before, consumer) if consumer.leases else None
        if reason is not None:
            self._changed_leases |= dict.fromkeys(self.ledger.set_degraded(name, reason))

    async def sample(self, only: Devices = (), *, again: bool = False) -> None:
        """Read VRAM, and host RAM where a consumer can be parked; the reading begins after this call.

        Args:
            only: devices to read, for readings in quick succession; () = all. A reading of some devices leaves the
                samples of the others, and ``sampled_at``, as they are.
            again: the last reading failed, and a decision waits for this one: a source that failed as a whole is
                opened again at once instead of after its delay, also beside others that work.
        """
        if again and isinstance(self._source, Retrying):
            self._source.retry()
        if any(consumer.spec.parks for consumer in self.ledger.consumers.values()):
            self.ledger.update_host_ram(await self._memory.available_mib())
        if self.driver_state is DriverState.RELEASED:
            return  # the last samples stay; the driver must not be opened now
        self.driver_state = DriverState.OPEN
        self._holders.follow(self._reservation_holders())
        only = only if set(only) < set(self.ledger.devices) else ()
        rested = self.driver_rests()
        with self.readings.one():
            reading = await self._source.read(only)
        if rested and not self.driver_rests() and not only:
            # A request has come for devices that this reading does not show as they are now. The caller decides on
            # what is stored when this returns, so it gets a reading of all devices.
            await self.sample()
            return
        self.store_reading(reading, is_partial=bool(only) and not reading.error)

    def _reservation_holders(self) -> dict[str, Holder]:
        """The programs whose processes count against a reservation, by its name, in the order of the requests."""
        return {
            name: consumer.spec.reservation.holder
            for name, consumer in self.ledger.consumers.items()
            if consumer.spec.reservation is not None
        }

    def store_reading(self, reading: Reading, *, is_partial: bool = False) -> None:
        """Store a reading, unless a newer one is stored already or ``invalidate_readings`` was called since.

        Args:
            reading: the samples.
            is_partial: devices that are not in it keep their last sample.
        """
        taken_at = max((sample.taken_at for sample in reading.devices), default=self.clock.monotonic())
        # Several callers read at the same time, so readings may arrive out of order.
        if taken_at < self._valid_from or (taken_at < self.sampled_at and not is_partial):
            return
        reading = self._with_newest_samples(reading, is_partial=is_partial)
        before = self.degraded if self.sampled_at > float("-inf") else ""  # before the first reading: not degraded
        if not is_partial:
            self.sampled_at = taken_at
        self.source_error = reading.error
        self.ledger.apply_reading(self.orphans.separate(reading), self.settings.gpu.total_mib)
        if _without_durations(self.degraded) != _without_durations(before):
            log_messages.degraded(self.degraded)

    def _with_newest_samples(self, reading: Reading, *, is_partial: bool) -> Reading:
        """The reading with the newest sample of each device: a reading of one device may have overtaken it."""
        known = self.ledger.devices
        newer = [one for one in reading.devices if one.index not in known or known[one.index].taken_at <= one.taken_at]
        if is_partial:
            return replace(reading, devices=with_newer_samples(known.values(), newer))
        if len(newer) == len(reading.devices):
            return reading
        overtaken = {one.index for one in reading.devices} - {one.index for one in newer}
        return replace(reading, devices=with_newer_samples(reading.devices, (known[index] for index in overtaken)))

    def processes_of(self, name: str) -> list[ProcessUse]:
        """The processes of a consumer that hold memory, by the last reading."""
        return processes_of(name, self.ledger.devices.values())

    def unnamed_mib(self) -> int | None:
        """MiB on all devices that belong to no consumer, such as those of a container; None where unknown."""
        unnamed = [budget.unattributed_mib(sample) for sample in self.ledger.devices.values()]
        known = [mib for mib in unnamed if mib is not None]
        return sum(known) if len(known) == len(unnamed) else None

    def mark_orphans(self, name: str) -> list[ProcessUse]:
        """Count the consumer's processes as foreign, since its unit is stopped; returns them."""
        found = self.processes_of(name)
        if found:
            self.orphans.add(name, self.ledger.devices.values())
            reading = Reading(tuple(self.ledger.devices.values()), self.source_error)
            self.ledger.apply_reading(self.orphans.separate(reading), self.settings.gpu.total_mib)
        return found

    def invalidate_readings(self) -> None:
        """Discard driver handles and readings from before now, including a reading that is still running."""
        self._source.reopen()
        self._valid_from = self.clock.monotonic()

    def device(self, index: int) -> Sample:
        """The last sample of a device; a sample without values and with an error when the device is gone."""
        gone = replace(self.ledger.devices[min(self.ledger.devices)], index=index, total_mib=None, used_mib=None)
        gone = replace(gone, free_mib=None, processes=(), attributed=False, error="the device is gone")
        return self.ledger.devices.get(index, gone)

    def is_asleep(self, sample: Sample) -> bool:
        """Whether a card is suspended: by its sample, or, while its driver is closed, by the kernel."""
        is_resting = self.driver_state is DriverState.RESTING or sample.index in self.resting_devices
        return sample.asleep or (is_resting and self.driver_power.is_suspended(sample.aliases))

    def set_driver_power(self, power: DriverPower) -> None:
        """Note the power states of the cards; a card that fell asleep or woke is announced with the next changes."""
        if power != self.driver_power:
            self.driver_power, self._announced_devices = power, {}

    @property
    def degraded(self) -> str:
        """Why VRAM cannot be read, in one line; "" when it can."""
        if self.driver_state is DriverState.RELEASED:
            return "driver-released: an administrator has released the GPU driver. Take it again: gpumanctl gpu take"
        if self.driver_state is DriverState.RESTING and self.sampled_at == float("-inf"):
            return ""  # the cards sleep since the start of the daemon, so nothing was read and nothing has failed
        if self.source_error:
            return "; ".join(filter(None, (self.source_error, unchecked(self.ledger.devices.values()))))
        return "; ".join(f"device {one.index}: {one.error}" for one in self.ledger.devices.values() if one.error)

    def publish_changes(self) -> None:
        """Announce what has changed since the last call."""
        if self._changed_consumers:
            names = public_names(self._changed_consumers)
            self._changed_consumers.clear()
            if names:
                self.publish(ConsumersChanged(names))
        # Every reading replaces the mapping of samples, so the same object means that nothing can have changed.
        if self.ledger.devices is not self._announced_devices:
            self._publish_device_changes()
        self._publish_summary_changes()
        if self._changed_leases:
            self._publish_lease_health()

    def _publish_summary_changes(self) -> None:
        # The samples decide whether the state is degraded; like the devices, they are compared by identity. A released
        # driver is degraded, too.
        counts = (
            self.queue_length,
            len(self.ledger.leases),
            self.stats.evictions,
            self.source_error,
            self.driver_state,
        )
        if counts != self._announced_counts or self.ledger.devices is not self._summary_devices:
            self._announced_counts, self._summary_devices = counts, self.ledger.devices
            self.publish(SUMMARY_CHANGED)

    def explain_loss(self, name: str, more: str) -> None:
        """Add to the reason why the leases on a consumer are degraded, and announce it."""
        reasons = {lease.degraded for lease in self.ledger.leases.values() if lease.consumer == name}
        for reason in filter(None, reasons):
            self._changed_leases |= dict.fromkeys(self.ledger.set_degraded(name, f"{reason}; {more}"))
        self.publish_changes()

    def _publish_lease_health(self) -> None:
        """Announce degraded and restored leases; one whose grant is not announced yet follows with its grant."""
        changed = tuple(self._changed_leases)
        self._changed_leases.clear()
        for lease_id in changed:
            lease = self.ledger.leases.get(lease_id)
            if lease is not None and lease_id in self.announced_leases:
                self.publish(LeaseDegraded(lease) if lease.degraded else LeaseRestored(lease))
                log_messages.lease_health(lease)

    def _publish_device_changes(self) -> None:
        """Announce devices in which something other than a reading has changed."""
        self._announced_devices = devices = self.ledger.devices
        seen = tuple(
            (one.index, one.uuid, one.name, one.total_mib, one.error, one.pool, one.attribution, self.is_asleep(one))
            for one in devices.values()
        )
        if seen != self._announced_device_fields:
            self._announced_device_fields = seen
            self.publish(DevicesChanged())


def _without_durations(error: str) -> str:
    """The error without its "for N s": a driver call that hangs is logged once, not again with each longer duration."""
    return _DURATION.sub("", error)
