"""The input of a decision: devices, consumers, leases and jobs at one moment, immutable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpumand.domain.consumer import STOPPING, UNKNOWN_MIB, ConsumerSpec, EvictionMethod, SchedulerSettings
from gpumand.domain.device import Devices, Sample
from gpumand.domain.fast_copy import copy_with
from gpumand.domain.footprint import Footprint
from gpumand.domain.learning import LearnedTimes
from gpumand.domain.lease import Lease
from gpumand.domain.partial_load import PartialLoad
from gpumand.domain.residency_states import Residency
from gpumand.domain.turns import NO_TURN, Turn

IN_VRAM = frozenset({Residency.RESIDENT, Residency.LOADING, Residency.UNLOADING, Residency.UNKNOWN})
"""Residencies in which a consumer may hold its footprint. Unknown is not zero."""


GONE_AFTER_PROBES = 3
"""A server that restarts its listener refuses one or two health checks; after this many in a row it has ended."""


NOTHING_MEASURED, NOTHING_LEARNED = Footprint(), LearnedTimes()


UNANNOUNCED_FIELDS = frozenset(
    {
        "changed_at",
        "unit_changed_at",
        "idle_since",
        "loading_since",
        "reports_loaded",
        "since_usec",
        "claimed_at",
        "baseline_mib",
        "claimed_for_start",
        "container_baseline_mib",
        "footprint_seen",
        "grew_at",
        "in_container",
        "failures",
        "retry_at",
        "external_load",
        "jobs",
        "blocking_since",
        "refused_probes",
        "has_served",
        "unit_activity",
        "memory_missing",
        "unload_pending",
        "unload_deferred",
        "start_overdue",
        "sleeping",
        "times",
        "turn",
    }
)
"""Fields of ConsumerState whose changes are not announced to clients: no announced property depends on them."""


@dataclass(frozen=True, slots=True)
class StopBlocker:
    """Why a unit that several consumers share must not be stopped; ``ends`` = waiting for the end of that helps."""

    reason: str
    ends: bool


@dataclass(frozen=True)
class ConsumerState:
    """What is known of a consumer at one moment.

    Attributes:
        spec: the consumer as configured.
        residency: see Residency.
        devices: the devices that it is on, is being loaded to, or was last on, together; () = unknown.
        leases: number of active leases on it.
        pinned: never evicted unless forced.
        lease_ended_usec: CLOCK_REALTIME of the end of its last lease, which is proof of work; 0 = never.
        reported_used_usec: CLOCK_REALTIME at which it last worked by its own report; counts only where
            ``lease_ended_usec`` is 0.
        changed_at: monotonic seconds of the last change that the daemon made or saw; an older probe is stale.
        unit_changed_at: monotonic seconds at which the daemon last began or ended to load, evict, start or stop it;
            an older state of its unit is stale.
        idle_since: monotonic seconds of its last change of residency or end of a lease, whichever was later.
        loading_since: monotonic seconds since when a load that the daemon did not start is going on, with
            interruptions; None = none.
        reports_loaded: its last health answer reported the model as loaded.
        since_usec: CLOCK_REALTIME of the last change of residency.
        claimed_at: monotonic seconds since when its footprint is reserved (it is loading, planned or leased); None =
            it is not.
        baseline_mib: MiB of unnamed memory on each of its devices at ``claimed_at``; None = unknown.
        claimed_for_start: its footprint is reserved because its unit was started, by gpumand or not, and no lease has
            followed.
        container_baseline_mib: MiB held by containers on each of its devices at ``claimed_at``.
        footprint_seen: its footprint has been visible since it became resident, so that readings contain it.
        grew_at: monotonic seconds at which its memory last grew since it was claimed; None = it has not.
        in_container: its memory appeared in a container's cgroup instead of its unit, so that readings of the unit
            say nothing about it.
        failures: number of loads that failed in a row.
        retry_at: monotonic seconds before which no new load is tried.
        external_load: it is loading, and the daemon did not start that.
        error: one line; "" where there is none.
        jobs: number of jobs in its last busy answer; None = unknown.
        blocking_since: monotonic seconds since when its own work blocks a request that needs its VRAM; None = none.
        refused_probes: number of health checks in a row that found its port closed.
        unit_activity: state of its unit or container as last reported, such as "active"; "" = none was reported.
        has_served: its server has answered in the current run of its unit.
        memory_missing: it counts as resident, but the last reading shows that it holds no model.
        unload_pending: an unload or a stop was not done in time and may still be carried out.
        unload_deferred: its last unload freed nothing while clients were connected, so that while they are it counts
            as busy for its grace period.
        direct_work: it has no busy check, but clients are connected while its processes compute, so that it counts
            as busy for its grace period.
        unload_clients: connections of clients while an unload that it accepted has freed nothing for too long; 0 = the
            unload is not late, or none is in progress.
        sleeping: its server reports that it has put its model to sleep, and wakes it for a request.
        partial: how much of its model is in VRAM by the report of its server, where that is not all of it.
        start_overdue: it counts as resident only because its start took longer than ``load_timeout_sec``.
        memory: what it was measured to hold.
        times: learned durations of its loads, evictions and leases.
        turn: the time after its last load in which it is not evicted while clients use it.
        stop_blocker: why its unit must not be stopped, where other consumers share it; only in views.
    """

    spec: ConsumerSpec
    residency: Residency = Residency.UNKNOWN
    devices: Devices = ()
    leases: int = 0
    pinned: bool = False
    lease_ended_usec: int = 0
    reported_used_usec: int = 0
    changed_at: float = 0.0
    unit_changed_at: float = 0.0
    idle_since: float = 0.0
    loading_since: float | None = None
    reports_loaded: bool = False
    since_usec: int = 0
    claimed_at: float | None = None
    baseline_mib: Mapping[int, int | None] = field(default_factory=dict)
    claimed_for_start: bool = False
    container_baseline_mib: Mapping[int, int] = field(default_factory=dict)
    footprint_seen: bool = False
    grew_at: float | None = None
    in_container: bool = False
    failures: int = 0
    retry_at: float = 0.0
    external_load: bool = False
    error: str = ""
    jobs: int | None = None
    blocking_since: float | None = None
    refused_probes: int = 0
    has_served: bool = False
    unit_activity: str = ""
    memory_missing: bool = False
    unload_pending: bool = False
    unload_deferred: bool = False
    direct_work: bool = False
    unload_clients: int = 0
    start_overdue: bool = False
    sleeping: bool = False
    partial: PartialLoad | None = None
    memory: Footprint = NOTHING_MEASURED
    times: LearnedTimes = NOTHING_LEARNED
    turn: Turn = NO_TURN
    stop_blocker: StopBlocker | None = None

    @property
    def name(self) -> str:
        """Its configured name."""
        return self.spec.name

    @property
    def footprint_mib(self) -> int:
        """MiB that it needs to be resident: declared, or with vram_auto the most it held in its last stays."""
        measured_mib = self.memory.peak_mib if self.spec.vram_auto else None
        return measured_mib or self.spec.vram_resident_mib

    @property
    def footprint_known(self) -> bool:
        """Whether its footprint is known; an unknown ``footprint_mib`` is more than any device has."""
        return self.footprint_mib < UNKNOWN_MIB

    @property
    def host_mib(self) -> int:
        """MiB of host RAM that it holds while it is parked."""
        declared_mib = self.spec.parked_host_mib
        return self.footprint_mib * self.spec.device_count if declared_mib is None else declared_mib

    @property
    def usable_methods(self) -> tuple[EvictionMethod, ...]:
        """The eviction methods that would free memory now: once it is parked, its route has freed its part already."""
        if self.residency is not Residency.PARKED and self.stop_blocker is None:
            return self.spec.evict
        unusable = {EvictionMethod.HTTP} if self.residency is Residency.PARKED else set[EvictionMethod]()
        unusable |= set(STOPPING) if self.stop_blocker is not None else set()
        return tuple(method for method in self.spec.evict if method not in unusable)

    @property
    def last_used_usec(self) -> int:
        """CLOCK_REALTIME of its last work; a finished lease counts before its own report; 0 = never."""
        return self.lease_ended_usec or self.reported_used_usec

    @property
    def is_doubtful(self) -> bool:
        """Whether its residency must be verified before a lease on it is granted."""
        return (
            self.memory_missing
            or self.unload_pending
            or self.start_overdue
            or self.refused_probes > 0
            or self._is_unwatched_start
        )

    @property
    def _is_unwatched_start(self) -> bool:
        """Whether its unit was started by another program, and only its growing memory can show that it still loads."""
        is_start = self.claimed and self.claimed_for_start and not self.footprint_seen
        return is_start and self.spec.health is None and self.spec.load is None and not self.in_container

    @property
    def server_is_gone(self) -> bool:
        """Whether its server has ended although its unit may be active: its port was closed several times in a row.

        A unit whose server has not answered yet may still be starting it.
        """
        return self.refused_probes >= GONE_AFTER_PROBES and (self.has_served or not self.spec.service)

    @property
    def claimed(self) -> bool:
        """Whether its footprint is reserved."""
        return self.claimed_at is not None

    @property
    def is_merely_reserved(self) -> bool:
        """Whether its footprint is reserved only because its last request may still load the model.

        Such a reservation protects no client: it ends with an eviction like any other use of the memory. One of
        unknown size is waited for instead, since it would make every other request evict the consumer. So is the
        first memory of a unit that was just started: until then an eviction could not be verified.
        """
        is_changing = self.residency in (Residency.LOADING, Residency.UNLOADING)
        can_end = self.footprint_known and self.spec.reservation is None
        is_starting = self.claimed_for_start and self.grew_at is None
        return self.claimed and not self.leases and not is_changing and not is_starting and can_end

    def with_changes(self, **changes: Any) -> ConsumerState:
        """A copy with other values in some fields."""
        return copy_with(self, **changes)

    def may_be_on(self, device: int) -> bool:
        """Whether it may hold memory on that device."""
        return not self.devices or device in self.devices


@dataclass(frozen=True, slots=True)
class Job:
    """A job on devices: evictions and the load that they make room for, or one manual eviction.

    While a job runs, nothing else is evicted or loaded on its devices: the service that is starting measures what is
    free (vLLM aborts when a neighbour frees memory while it profiles, vllm#56830).

    Attributes:
        devices: the devices of the job, all taken at once.
        consumer: the consumer being loaded, or the one being evicted manually.
        evicting: victims not yet evicted, in order.
        takes_slot: whether a request waits for it, so that a lease follows on these devices when it ends.
        extra_devices: further devices that its victims are on; nothing else is begun there either.
        parking: the victims that are to be parked, for which host RAM is reserved.
        exclusive: the lease that follows is exclusive.
    """

    devices: Devices
    consumer: str
    evicting: tuple[str, ...] = ()
    takes_slot: bool = False
    extra_devices: Devices = ()
    parking: tuple[str, ...] = ()
    exclusive: bool = False


@dataclass(frozen=True, slots=True)
class StandingLease:
    """What a decision needs to know of one active lease.

    Attributes:
        consumer: the leased consumer.
        takes_slot: whether it counts as a lease on its devices (see ``Ledger``).
        exclusive: whether nothing else is leased there.
    """

    consumer: str
    takes_slot: bool = True
    exclusive: bool = False


@dataclass(frozen=True, slots=True)
class View:
    """Everything that a decision depends on, at one moment.

    Attributes:
        settings: the ``[scheduler]`` table.
        devices: the sample of each device, by index; never empty (a placeholder where the source knows none).
        consumers: all consumers, by name.
        leases: number of lease slots in use, by device.
        jobs: running jobs, by device; a job on several devices is listed under each.
        now: monotonic seconds.
        evict_failed: consumers that freed nothing a moment ago, for the request that is being decided.
        queue_positions: position in the queue (0 = next) of the first request for each consumer; used by ``adaptive``.
        may_overlap: devices on which loads may run during leases.
        host_available_mib: MiB of host RAM that the kernel reports as available; None = unknown.
        consumer_leases: the active leases on each leased consumer, the oldest first; for messages.
        realtime_usec: CLOCK_REALTIME, in which leases expire; for messages.
        respects_turns: consumers that have their turn are not evicted.
        exclusive: the consumers with an exclusive lease, by device.
    """

    settings: SchedulerSettings
    devices: Mapping[int, Sample]
    consumers: Mapping[str, ConsumerState]
    leases: Mapping[int, int] = field(default_factory=dict)
    jobs: Mapping[int, Job] = field(default_factory=dict)
    now: float = 0.0
    evict_failed: frozenset[str] = frozenset()
    queue_positions: Mapping[str, int] = field(default_factory=dict)
    may_overlap: frozenset[int] = frozenset()
    host_available_mib: int | None = None
    consumer_leases: Mapping[str, tuple[Lease, ...]] = field(default_factory=dict)
    realtime_usec: int = 0
    respects_turns: bool = True
    exclusive: Mapping[int, str] = field(default_factory=dict)
    _loading: list[ConsumerState] | None = field(default=None, init=False, repr=False, compare=False)
    _claimed: list[ConsumerState] | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def loading(self) -> Sequence[ConsumerState]:
        """The consumers that are loading, searched once: every decision about one that is not resident needs them."""
        if self._loading is None:
            loading = [state for state in self.consumers.values() if state.residency is Residency.LOADING]
            object.__setattr__(self, "_loading", loading)
            return loading
        return self._loading

    @property
    def claimed(self) -> Sequence[ConsumerState]:
        """The consumers whose footprint is reserved, searched once; few of thousands are."""
        if self._claimed is None:
            claimed = [state for state in self.consumers.values() if state.claimed_at is not None]
            object.__setattr__(self, "_claimed", claimed)
            return claimed
        return self._claimed

    def consumers_on(self, devices: Devices) -> tuple[ConsumerState, ...]:
        """Consumers that may hold memory on any of these devices."""
        return tuple(one for one in self.consumers.values() if any(self.is_on(one, device) for device in devices))

    def is_on(self, state: ConsumerState, device: int) -> bool:
        """Whether a consumer may hold memory on a device: where it was placed, or where the driver shows it."""
        return state.may_be_on(device) or (device in self.devices and self.devices[device].shows(state.name))

    def devices_of(self, state: ConsumerState) -> Devices:
        """The devices of a consumer together with those on which the driver shows its memory; () = unknown."""
        shown = [device for device, sample in self.devices.items() if sample.shows(state.name)]
        return tuple(sorted({*state.devices, *shown}))

    def may_be_reclaimed(self, state: ConsumerState) -> bool:
        """Whether its reservation ends when another request needs the memory: no lease, load or job depends on it."""
        return state.is_merely_reserved and all(job.consumer != state.name for job in self.jobs.values())

    def turn_until(self, state: ConsumerState) -> float | None:
        """Until when the consumer has its turn if no client leases it meanwhile; None = it has none now."""
        return state.turn.holds_until(self.now, state.idle_since) if self.respects_turns else None

    def exclusive_holder(self, device: int) -> str:
        """The consumer that has the device for itself, by an exclusive lease or the job for one; "" = none."""
        job = self.jobs.get(device)
        is_promised = job is not None and job.exclusive and device in job.devices
        return self.exclusive.get(device, job.consumer if job is not None and is_promised else "")

    def slots_taken(self, device: int) -> int:
        """Lease slots in use on the device, including the one that its job reserves."""
        job = self.jobs.get(device)
        return self.leases.get(device, 0) + (1 if job is not None and job.takes_slot and device in job.devices else 0)
