"""The ledger: current state of devices, consumers, leases and jobs, kept consistent by a single owner.

The ledger has no clock and does no I/O. Its owner (the arbiter) reports each event with its time; the ledger keeps its
records consistent and returns frozen views for decisions. Invariants:

- a consumer is claimed exactly while it is leased, loading, or reserved for the request whose job runs;
- an active lease belongs to a claimed consumer and is on the devices of that consumer;
- at most one job runs on a device;
- ids and tokens refer to active leases.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

from gpumand.domain import claims, device_lookup, last_readings, lease_slots, moved_devices, shared_units
from gpumand.domain.consumer import ConsumerSpec, SchedulerSettings
from gpumand.domain.device import Devices, Reading, Sample, format_devices, placeholder_sample
from gpumand.domain.fast_copy import copy_with
from gpumand.domain.job_table import JobTable
from gpumand.domain.lease import Lease, LeaseLifetime, Owner
from gpumand.domain.lease_table import LeaseTable
from gpumand.domain.name_suggestions import no_such_consumer
from gpumand.domain.residency_states import Residency
from gpumand.domain.turns import NO_TURN
from gpumand.domain.view import UNANNOUNCED_FIELDS, ConsumerState, Job, StandingLease, View


class Ledger:
    """The records of devices, consumers, leases and jobs.

    Args:
        settings: settings of the scheduler.
        changed: called with the name of every consumer whose state changed in a way that is announced to clients.

    Attributes:
        settings: settings of the scheduler.
        revision: incremented by every change that affects a view; views of the same revision are equal.
        learned: how many of these changes only concern the learned durations of a consumer.
        counted: how many of them only concern the number of leases of a consumer that is leased before and after.
        own_leases: by consumer, how many of them are the begin or the end of its only lease, where all of its memory is
            part of the readings. They matter to requests for other consumers only, which may need its memory.
        sharing: groups of consumers that the same processes were found to belong to under this configuration.
    """

    def __init__(self, settings: SchedulerSettings, changed: Callable[[str], None] = lambda _name: None) -> None:
        self.settings = settings
        self._on_change = changed
        self._consumers: dict[str, ConsumerState] = {}
        self._leases = LeaseTable()
        self._jobs = JobTable()
        self._requested_reservations: set[str] = set()
        self._devices: dict[int, Sample] = {0: placeholder_sample(None)}
        self.sharing: frozenset[frozenset[str]] = frozenset()
        self._has_new_source = False
        self._in_shared_units: frozenset[str] | None = None
        self.revision = self.learned = self.counted = 0
        self.own_leases: dict[str, int] = {}
        self._host_available_mib: int | None = None

    # -- lookup -------------------------------------------------------------------------------------------------

    @property
    def consumers(self) -> Mapping[str, ConsumerState]:
        """All consumers by name."""
        return self._consumers

    @property
    def leases(self) -> Mapping[str, Lease]:
        """All active leases by id."""
        return self._leases.by_id

    @property
    def leases_by_consumer(self) -> Mapping[str, tuple[Lease, ...]]:
        """The active leases on each leased consumer, the oldest first."""
        return self._leases.by_consumer

    @property
    def jobs(self) -> Mapping[int, Job]:
        """Running jobs by device."""
        return self._jobs.by_device

    @property
    def devices(self) -> Mapping[int, Sample]:
        """The last sample of each device; a placeholder without values where no source knows any device."""
        return self._devices

    def consumer(self, name: str) -> ConsumerState:
        """State of one consumer. Raises NoSuchConsumer."""
        state = self._consumers.get(name)
        if state is None:
            raise no_such_consumer(name, self._consumers)
        return state

    def lease(self, lease_id: str) -> Lease:
        """One lease. Raises NoSuchLease."""
        return self._leases.require(lease_id)

    def lease_count_of(self, uid: int) -> int:
        """Number of active leases of a user."""
        return self._leases.count_of(uid)

    def lease_by_token(self, owner: Owner, lifetime: LeaseLifetime, token: str) -> Lease | None:
        """The active lease that an earlier request with the same token and owner received, or None."""
        return self._leases.by_token(owner, lifetime, token)

    def uuids(self, devices: Devices) -> tuple[str, ...]:
        """UUIDs of these devices, in the same order; () where one is unknown."""
        return device_lookup.uuids(self._devices, devices)

    def resolve_devices(self, wanted: str) -> Devices:
        """Resolve a comma-separated list of indices and UUIDs; "" = none. Raises NoSuchDevice, DeviceUnavailable."""
        return device_lookup.resolve(self._devices, wanted)

    def view(
        self,
        now: float,
        evict_failed: frozenset[str] = frozenset(),
        queue_positions: Mapping[str, int] | None = None,
        may_overlap: frozenset[int] = frozenset(),
        realtime_usec: int = 0,
    ) -> View:
        """A frozen copy of the state at this moment, for a decision; View describes the arguments."""
        return View(
            settings=self.settings,
            devices=dict(self._devices),
            consumers=shared_units.with_stop_blockers(self._consumers, now, self.sharing, self.in_shared_units),
            leases=lease_slots.used(self._leases, self._consumers),
            jobs=dict(self._jobs.by_device),
            now=now,
            evict_failed=evict_failed,
            queue_positions=queue_positions or {},
            may_overlap=may_overlap,
            host_available_mib=self._host_available_mib,
            consumer_leases=self._leases.by_consumer,
            realtime_usec=realtime_usec,
            exclusive=lease_slots.exclusive(self._leases, self._consumers),
        )

    @property
    def in_shared_units(self) -> frozenset[str]:
        """Names of the consumers whose unit, container or processes other consumers share."""
        if self._in_shared_units is None:
            self._in_shared_units = shared_units.in_shared_units(self._consumers)
        return self._in_shared_units.union(*self.sharing) if self.sharing else self._in_shared_units

    def standing(self, lease: Lease) -> StandingLease:
        """What a decision needs to know of a lease."""
        return lease_slots.standing(lease, self._consumers)

    # -- configuration and readings ------------------------------------------------------------------------------

    def configure(self, settings: SchedulerSettings, specs: Iterable[ConsumerSpec]) -> None:
        """Apply a configuration. A removed consumer stays as long as it is claimed, so that its leases stay valid."""
        self.revision += 1
        self.settings = settings
        self.sharing = shared_units.sharing_in(self._devices.values())
        wanted = {spec.name: spec for spec in specs}
        for name, spec in wanted.items():
            old = self._consumers.get(name)
            # A pin set by an administrator survives a reload; one that equals the configuration follows it.
            pinned = spec.pinned if old is None or old.pinned == old.spec.pinned else old.pinned
            self._set_state(replace(old, spec=spec, pinned=pinned) if old else ConsumerState(spec, pinned=pinned))
        self.prune(wanted)

    def apply_reading(self, reading: Reading, total_mib: int | None) -> None:
        """Replace the samples of all devices.

        Args:
            reading: the new reading; where it has no devices, a placeholder is used, so that consumers can still be
                scheduled by declared footprints.
            total_mib: configured size of device 0, for when the source cannot report it.
        """
        former = {} if self._has_new_source else self._devices
        self._has_new_source = False
        samples = last_readings.complete(reading, former, total_mib)
        # Before the samples are replaced: the old ones know which index each UUID had.
        self._follow_moved_devices({sample.uuid: index for index, sample in samples.items() if sample.uuid})
        samples = device_lookup.with_totals(samples, self._devices, total_mib)
        self._devices = claims.without_containers(samples, self._consumers.values())
        self.sharing |= shared_units.sharing_in(self._devices.values())
        self.revision += 1

    def expect_new_source(self) -> None:
        """Note that the next reading is of another source, whose devices have nothing to do with the former ones."""
        self._has_new_source = True

    def update_host_ram(self, available_mib: int | None) -> None:
        """Set the available host RAM in MiB; None = unknown."""
        if available_mib != self._host_available_mib:
            self.revision += 1
            self._host_available_mib = available_mib

    def _follow_moved_devices(self, index_of: Mapping[str, int]) -> None:
        """Move consumers and leases to the new index of their device.

        A consumer with a running job stays where the job is; its processes show its devices when the job is over.
        """
        moved = moved_devices.moves(self._devices, index_of)
        for state in list(self._consumers.values()) if moved else ():
            changes = moved_devices.consumer_changes(state, moved)
            if changes and not self._jobs.concerns(state.name):
                self.update(state.name, **changes)
        for lease in list(self.leases.values()):
            self._follow_moved_lease(lease, index_of)

    def _follow_moved_lease(self, lease: Lease, index_of: Mapping[str, int]) -> None:
        """A lease restored after a restart names its devices by UUID; any other lease is where its consumer is."""
        if lease.yielded:
            return  # its consumer may be elsewhere, for others
        state = self._consumers[lease.consumer]
        has_job = self._jobs.concerns(state.name)
        devices = (() if has_job else moved_devices.devices_of(lease, index_of)) or state.devices
        if devices != state.devices:
            self.update(state.name, devices=devices, baseline_mib={})
        renamed = moved_devices.with_devices(lease, devices, index_of)
        if renamed is not lease:
            self._leases.replace(renamed)

    def prune(self, configured: Collection[str]) -> None:
        """Remove consumers that are not configured any more and are neither claimed nor part of a job."""
        if len(self._consumers) == len(configured):
            return  # all that are configured are here, so there are no others; this is called for every lease
        # A lease that was given back does not claim its consumer, but names it.
        wanted = {*configured, *(lease.consumer for lease in self.leases.values() if lease.yielded)}
        for name, state in list(self._consumers.items()):
            is_requested = name in self._requested_reservations
            if name not in wanted and not state.claimed and not self._jobs.concerns(name) and not is_requested:
                self.revision += 1
                self._in_shared_units = None
                del self._consumers[name]
                self._on_change(name)

    # -- reservations --------------------------------------------------------------------------------------------

    def add_reservation(self, spec: ConsumerSpec) -> None:
        """Add the consumer that stands for a reservation, for a request that waits or for a lease to be restored.

        It stays until ``drop_reservation``, and after that as long as it is claimed.
        """
        assert spec.name not in self._consumers, "every reservation has a name of its own"
        self._requested_reservations.add(spec.name)
        self._set_state(ConsumerState(spec, residency=Residency.UNLOADED))

    def drop_reservation(self, name: str, configured: Collection[str]) -> None:
        """Note that no request waits for a reservation any more: without a lease or a job it is removed."""
        self._requested_reservations.discard(name)
        self.prune(configured)

    # -- state of consumers --------------------------------------------------------------------------------------

    def update(self, name: str, **changes: Any) -> ConsumerState:
        """Change fields of the state of a consumer and return the new state."""
        state = self._consumers[name] = copy_with(self._consumers[name], **changes)
        self.revision += 1
        if changes.keys() == {"times"}:
            self.learned += 1
        if not UNANNOUNCED_FIELDS.issuperset(changes):
            self._on_change(name)
        return state

    def claim(self, name: str, devices: Devices, now: float, *, for_start: bool = False) -> None:
        """Reserve the footprint of a consumer on its devices: it counts as used until VRAM readings show it.

        The footprint of a resident consumer that readings have shown is already part of the readings.
        """
        claim = claims.changes(self._devices, self._consumers[name], devices, now)
        if claim:
            self.update(name, **claim, claimed_for_start=for_start)
        elif for_start and not self._consumers[name].leases:
            # It was reserved before: in the start phase of its unit, or for its last request before the unit restarted.
            self.update(name, claimed_for_start=True, grew_at=None)

    def reset_baseline(self, name: str) -> None:
        """Measure the growth of a claim from now on, after evictions have changed the memory of other processes."""
        state = self._consumers[name]
        if state.devices:
            self.update(name, footprint_seen=False, **claims.baseline(self._devices, state.devices))

    def release_claim(self, name: str, now: float) -> None:
        """Release a claim, unless a lease, load or job still needs it, or its last request may still load the model."""
        state = self._consumers[name]
        if not claims.may_still_load(state, now, state.idle_since):
            self.end_claim(name)

    def end_claim(self, name: str) -> None:
        """Release a claim that no lease, load or job needs, of a consumer that loads nothing for its last request."""
        state = self._consumers[name]
        is_used = state.leases or state.residency is Residency.LOADING or self._jobs.is_for(name)
        if state.claimed and not is_used:
            self.update(name, **claims.NO_CLAIM)

    def set_in_container(self, name: str, *, in_container: bool) -> None:
        """Note whether the consumer's memory is in a container, where readings of its unit do not show it."""
        self.update(name, in_container=in_container)
        if in_container:
            self._devices = claims.without_containers(self._devices, self._consumers.values())

    def move(self, name: str, devices: Devices) -> None:
        """Move a consumer, its claim and its leases to the devices on which its model was loaded."""
        claim = claims.baseline(self._devices, devices) if self._consumers[name].claimed else {}
        self.update(name, devices=devices, **claim)
        for lease in self._leases.by_consumer.get(name, ()):
            self._leases.replace(replace(lease, device=format_devices(devices), uuids=self.uuids(devices)))

    # -- jobs ----------------------------------------------------------------------------------------------------

    def begin_job(self, job: Job) -> None:
        """Start a job on all of its devices; none of them may have a job."""
        self.revision += 1
        self._jobs.begin(job)

    def replace_job(self, job: Job) -> None:
        """Replace a running job by its next step, which may involve other additional devices."""
        self.revision += 1
        self._jobs.replace(job)

    def end_job(self, device: int) -> None:
        """End the job on this device, and on all other devices of the same job."""
        self.revision += 1
        self._jobs.end(device)

    # -- leases --------------------------------------------------------------------------------------------------

    def add_lease(self, lease: Lease, devices: Devices, now: float) -> None:
        """Add an active lease and claim its consumer."""
        self._leases.add(lease)
        if lease.yielded:
            self.revision += 1
        else:
            self._lease_consumer(lease, devices, now)

    def _lease_consumer(self, lease: Lease, devices: Devices, now: float) -> None:
        state = self._consumers[lease.consumer]
        claim = claims.changes(self._devices, state, devices, now)
        self.update(lease.consumer, leases=state.leases + 1, claimed_for_start=False, **claim)
        self._note_lease_change(lease, state)

    def yield_lease(self, lease_id: str, now: float) -> Lease:
        """Give the consumer of a lease back for a while: it is no longer claimed by it, and may be evicted."""
        lease = replace(self.lease(lease_id), yielded=True, degraded="")
        self._leases.replace(lease)
        state = self._consumers[lease.consumer]
        self.update(lease.consumer, leases=state.leases - 1, turn=NO_TURN)
        self.release_claim(lease.consumer, now)
        return lease

    def return_lease(self, lease_id: str, devices: Devices, now: float) -> Lease:
        """Undo ``yield_lease`` when the consumer is resident again, on these devices."""
        former = self.lease(lease_id)
        assert former.yielded, "only a lease that was given back is returned"
        lease = replace(former, yielded=False, device=format_devices(devices), uuids=self.uuids(devices))
        self._leases.replace(lease)
        self._lease_consumer(lease, devices, now)
        return lease

    def renew_lease(self, lease: Lease) -> None:
        """Replace the lease with the same id by one with a new expiry."""
        self._leases.replace(lease)

    def name_owner(self, lease_id: str, user: str, program: str) -> None:
        """Set the names of a lease's owner, which are looked up in the background; an ended lease is ignored."""
        lease = self.leases.get(lease_id)
        if lease is not None:
            self.revision += 1
            self._leases.replace(replace(lease, owner=replace(lease.owner, user=user, program=program)))

    def set_degraded(self, name: str, reason: str) -> tuple[str, ...]:
        """Set why a leased consumer is not resident, "" = it is; returns the ids of the leases whose reason changed."""
        changed = [lease for lease in self._leases.by_consumer.get(name, ()) if lease.degraded != reason]
        for lease in changed:
            self.revision += 1
            self._leases.replace(replace(lease, degraded=reason))
        return tuple(lease.id for lease in changed)

    def remove_lease(self, lease_id: str, now: float, lease_ended_usec: int) -> Lease:
        """Remove a lease; ``lease_ended_usec`` becomes the time of last use of its consumer. Raises NoSuchLease."""
        lease = self._leases.remove(lease_id)
        if lease.yielded:
            self.revision += 1
            return lease
        state = self._consumers[lease.consumer]
        is_used = state.leases > 1 or state.residency is Residency.LOADING or self._jobs.is_for(state.name)
        changes = {} if is_used else claims.changes_at_end(state, now)
        self.update(
            lease.consumer, leases=state.leases - 1, lease_ended_usec=lease_ended_usec, idle_since=now, **changes
        )
        self._note_lease_change(lease, state)
        return lease

    def _note_lease_change(self, lease: Lease, before: ConsumerState) -> None:
        """Count a change that only concerns the leases of a consumer, after the begin or the end of a lease."""
        after = self._consumers[lease.consumer]
        if lease.exclusive or lease.reservation is not None or before.claimed_for_start:
            return
        if before.leases and after.leases and before.claimed:
            self.counted += 1
        elif before.footprint_seen and after.footprint_seen and before.devices == after.devices:
            self.own_leases[lease.consumer] = self.own_leases.get(lease.consumer, 0) + 1

    def _set_state(self, state: ConsumerState) -> None:
        self.revision += 1
        self._in_shared_units = None
        self._consumers[state.name] = state
        self._on_change(state.name)
