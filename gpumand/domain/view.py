"""What a decision looks at: everything at one moment, frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gpumand.domain.consumer import UNKNOWN_MIB, ConsumerSpec, EvictionMethod, Residency, SchedulerSettings
from gpumand.domain.device import Devices, Sample
from gpumand.domain.footprint import Footprint
from gpumand.domain.learning import Learned

IN_VRAM = frozenset({Residency.RESIDENT, Residency.LOADING, Residency.UNLOADING, Residency.UNKNOWN})
"""Residencies under which a consumer may hold its footprint. Unknown is not zero."""


NOTHING_MEASURED, NOTHING_LEARNED = Footprint(), Learned()


@dataclass(frozen=True)
class ConsumerState:
    """What is known of a consumer now.

    Attributes:
        spec: as configured.
        residency: see Residency.
        devices: the devices it is on, is loaded to, or was last on, together; () when nothing is known.
        leases: how many leases stand on it.
        pinned: never evicted unless forced.
        worked_usec: when its last lease ended, CLOCK_REALTIME; 0 = never. Real work.
        probed_usec: when it says itself that it last worked; counts only where ``worked_usec`` is 0.
        changed_at: monotonic seconds of the last change that we made or saw; a probe begun before it is stale.
        unit_moved_at: when we last began or ended to load or evict it, or to start or stop its unit; what was heard
            of the unit before is stale.
        idle_since: monotonic seconds of its last change of residency or end of a lease, whichever was later.
        loading_since: monotonic seconds since when a start that nobody asked us for goes on, with interruptions;
            None when there is none.
        says_loaded: its health route said so the last time.
        since_usec: CLOCK_REALTIME of the last change of residency.
        claimed_at: monotonic seconds since when its footprint is spoken for (loading, promised or leased); None when
            it is not.
        baseline_mib: what no known process held on each of its devices at ``claimed_at``; None when that was unknown.
        shown: its footprint has been seen since it became resident, so that live figures contain it.
        failures: loads that failed in a row.
        retry_at: monotonic seconds before which no new load is tried.
        unasked: it is loading although nobody asked us for it.
        error: one line; "" when all is well.
        jobs: how much work it said it has, the last time it was asked; None = unknown.
        needed_since: monotonic seconds since when somebody needs its room and its work is in the way; None when nobody.
        memory: what it was measured to hold.
        times: what was learned of how long things take with it.
    """

    spec: ConsumerSpec
    residency: Residency = Residency.UNKNOWN
    devices: Devices = ()
    leases: int = 0
    pinned: bool = False
    worked_usec: int = 0
    probed_usec: int = 0
    changed_at: float = 0.0
    unit_moved_at: float = 0.0
    idle_since: float = 0.0
    loading_since: float | None = None
    says_loaded: bool = False
    since_usec: int = 0
    claimed_at: float | None = None
    baseline_mib: Mapping[int, int | None] = field(default_factory=dict)
    shown: bool = False
    failures: int = 0
    retry_at: float = 0.0
    unasked: bool = False
    error: str = ""
    jobs: int | None = None
    needed_since: float | None = None
    memory: Footprint = NOTHING_MEASURED
    times: Learned = NOTHING_LEARNED

    @property
    def name(self) -> str:
        """Its configured name."""
        return self.spec.name

    @property
    def footprint_mib(self) -> int:
        """MiB it needs resident: declared, or where that is left to us, the most it held in its last stays."""
        measured_mib = self.memory.peak_mib if self.spec.vram_auto else None
        return measured_mib or self.spec.vram_resident_mib

    @property
    def footprint_known(self) -> bool:
        """Whether anybody knows what it needs; where nobody does, ``footprint_mib`` is more than any device has."""
        return self.footprint_mib < UNKNOWN_MIB

    @property
    def host_mib(self) -> int:
        """MiB of host RAM that it holds while it is parked."""
        declared_mib = self.spec.parked_host_mib
        return self.footprint_mib * self.spec.device_count if declared_mib is None else declared_mib

    @property
    def methods(self) -> tuple[EvictionMethod, ...]:
        """Those of its methods that would take anything back now: one that is parked gives no more by its route."""
        if self.residency is not Residency.PARKED:
            return self.spec.evict
        return tuple(method for method in self.spec.evict if method is not EvictionMethod.HTTP)

    @property
    def last_used_usec(self) -> int:
        """When it last worked: a finished lease beats what a probe reports; 0 = never."""
        return self.worked_usec or self.probed_usec

    @property
    def claimed(self) -> bool:
        """Whether its footprint is spoken for."""
        return self.claimed_at is not None

    def having(self, **changes: Any) -> ConsumerState:
        """The same with other values in some fields.

        What dataclasses.replace does, at a tenth of what it costs with so many fields (and without slots, which it
        needs for that): it is done for every lease that comes and goes, again and again.
        """
        assert changes.keys() <= self.__dict__.keys(), "a consumer's state has no such field"
        other = object.__new__(ConsumerState)
        other.__dict__.update(self.__dict__)
        other.__dict__.update(changes)
        return other

    def on(self, device: int) -> bool:
        """Whether it may hold memory on that device."""
        return not self.devices or device in self.devices


@dataclass(frozen=True, slots=True)
class Job:
    """What is being done on devices: evictions and the load they are for, or one eviction by hand.

    While one runs, nothing else is evicted or loaded there: the newcomer is measuring what is free (vLLM aborts when
    a neighbour frees memory while it profiles, vllm#56830).

    Attributes:
        devices: where, all of them at once.
        consumer: the consumer being loaded, or the one being evicted by hand.
        evicting: victims not yet evicted, in order.
        takes_slot: whether a request waits for it, so that a lease will stand on the devices when it ends.
        beside: further devices that its victims are on: nothing else is begun there either.
        parking: those of its victims that are to be parked, and for whom host RAM is spoken for.
    """

    devices: Devices
    consumer: str
    evicting: tuple[str, ...] = ()
    takes_slot: bool = False
    beside: Devices = ()
    parking: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class View:
    """Everything at one moment.

    Attributes:
        settings: the rules' numbers.
        devices: one sample a device, by index; never empty (a placeholder where no source knows any).
        consumers: by name.
        leases: how many leases stand on each device.
        jobs: what is being done, by device; a job on several stands at each of them.
        now: monotonic seconds.
        evict_failed: consumers that gave nothing back a moment ago, for the request at hand.
        wanted: how far ahead in the queue the first request for a consumer is (0 = next); filled in by policies that
            look at it.
        may_overlap: devices on which loads may run beside leases.
        host_available_mib: host RAM that is available, as the kernel says; None = unknown.
        loading: those that are loading.
    """

    settings: SchedulerSettings
    devices: Mapping[int, Sample]
    consumers: Mapping[str, ConsumerState]
    leases: Mapping[int, int] = field(default_factory=dict)
    jobs: Mapping[int, Job] = field(default_factory=dict)
    now: float = 0.0
    evict_failed: frozenset[str] = frozenset()
    wanted: Mapping[str, int] = field(default_factory=dict)
    may_overlap: frozenset[int] = frozenset()
    host_available_mib: int | None = None
    loading: tuple[ConsumerState, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Find once who is loading: everybody who is not resident asks for that."""
        loading = tuple(state for state in self.consumers.values() if state.residency is Residency.LOADING)
        object.__setattr__(self, "loading", loading)

    def on(self, devices: Devices) -> tuple[ConsumerState, ...]:
        """Consumers that may hold memory on any of these devices."""
        apart = frozenset(devices).isdisjoint
        return tuple(one for one in self.consumers.values() if not one.devices or not apart(one.devices))

    def slots_taken(self, device: int) -> int:
        """Leases that stand on the device, and those that will when its job ends."""
        job = self.jobs.get(device)
        return self.leases.get(device, 0) + (1 if job is not None and job.takes_slot and device in job.devices else 0)
