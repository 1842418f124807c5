"""Who holds what, and what is promised: the daemon's memory, kept by one owner.

The ledger knows no clock and does no I/O. Its owner (the arbiter) tells it what happened and when; it keeps the books
consistent and hands out frozen views for decisions. Invariants, checked by the state machine in its tests:

- a consumer is claimed exactly while it is leased, loading, or promised to the request whose job runs;
- a lease stands on a consumer that is claimed, and its devices are the consumer's;
- at most one job runs on a device;
- ids and tokens lead to leases that stand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from gpumand.domain import budget
from gpumand.domain.consumer import ConsumerSpec, Residency, SchedulerSettings
from gpumand.domain.device import Devices, Reading, Sample, devices_text
from gpumand.domain.errors import DeviceUnavailable, NoSuchDevice, NoSuchLease
from gpumand.domain.lease import Lease, LeaseLifetime, Owner
from gpumand.domain.name_suggestions import no_such_consumer
from gpumand.domain.view import ConsumerState, Job, View

TokenKey = tuple[int, LeaseLifetime, str, str, str]

LINGER_SEC = 30.0
"""How long the footprint of a consumer that was never seen stays reserved after it was loaded or leased."""

BACKOFF_FIRST_SEC, BACKOFF_MAX_SEC = 10.0, 300.0

UNTOLD = frozenset(
    {
        "changed_at",
        "unit_moved_at",
        "idle_since",
        "loading_since",
        "says_loaded",
        "since_usec",
        "claimed_at",
        "baseline_mib",
        "shown",
        "failures",
        "retry_at",
        "unasked",
        "jobs",
        "needed_since",
        "times",
    }
)
"""What of a consumer's state is seen by those who ask only; a change of anything else is announced."""


def backoff_sec(failures: int) -> float:
    """How long a consumer is left alone after so many failed loads in a row: 10 s, doubling to 5 min."""
    return float(min(BACKOFF_MAX_SEC, BACKOFF_FIRST_SEC * 2.0 ** min(failures - 1, 10))) if failures > 0 else 0.0


class Ledger:
    """The books.

    Args:
        changed: told the name of every consumer whose state changed in a way that is announced to clients.

    Attributes:
        settings: the rules' numbers.
        changes: counts what changes a view; between two that are equal, views are.
    """

    def __init__(self, settings: SchedulerSettings, changed: Callable[[str], None] = lambda _name: None) -> None:
        self.settings = settings
        self._changed = changed
        self._consumers: dict[str, ConsumerState] = {}
        self._leases: dict[str, Lease] = {}
        self._tokens: dict[TokenKey, str] = {}
        self._jobs: dict[int, Job] = {}
        self._devices: dict[int, Sample] = {0: placeholder(None)}
        self.changes = 0
        self._host_available_mib: int | None = None

    # -- what there is -------------------------------------------------------------------------------------------

    @property
    def consumers(self) -> Mapping[str, ConsumerState]:
        """All consumers by name."""
        return self._consumers

    @property
    def leases(self) -> Mapping[str, Lease]:
        """All standing leases by id."""
        return self._leases

    @property
    def jobs(self) -> Mapping[int, Job]:
        """What is being done, by device."""
        return self._jobs

    @property
    def devices(self) -> Mapping[int, Sample]:
        """The last sample of each device; a placeholder without figures where no source knows any."""
        return self._devices

    def consumer(self, name: str) -> ConsumerState:
        """One consumer. Raises NoSuchConsumer."""
        if name not in self._consumers:
            raise no_such_consumer(name, self._consumers)
        return self._consumers[name]

    def lease(self, lease_id: str) -> Lease:
        """One lease. Raises NoSuchLease."""
        if lease_id not in self._leases:
            raise NoSuchLease("no such lease stands")
        return self._leases[lease_id]

    def lease_by_token(self, owner: Owner, lifetime: LeaseLifetime, token: str) -> Lease | None:
        """The lease that the same token of the same owner got before."""
        lease_id = self._tokens.get(token_key(owner, lifetime, token)) if token else None
        return self._leases.get(lease_id) if lease_id else None

    def device_index(self, wanted: str) -> int:
        """Index of the device named by index or UUID. Raises NoSuchDevice, or DeviceUnavailable when none is known."""
        for index, sample in self._devices.items():
            if wanted in (str(index), sample.uuid):
                return index
        if all(not sample.uuid for sample in self._devices.values()):
            raise DeviceUnavailable(
                f"device {wanted!r} cannot be looked up: {next(iter(self._devices.values())).error}"
            )
        raise NoSuchDevice(f"no device {wanted!r} is known")

    def uuids(self, devices: Devices) -> tuple[str, ...]:
        """Of these devices, in their order; () where not all are known."""
        found = [self._devices[device].uuid for device in devices if device in self._devices]
        return tuple(found) if len(found) == len(devices) and all(found) else ()

    def devices_named(self, wanted: str) -> Devices:
        """Indices of the devices named by index or UUID, with commas between them; "" = none. Raises as above."""
        return tuple(sorted({self.device_index(one.strip()) for one in wanted.split(",")})) if wanted else ()

    def view(
        self,
        now: float,
        evict_failed: frozenset[str] = frozenset(),
        wanted: Mapping[str, int] | None = None,
        may_overlap: frozenset[int] = frozenset(),
    ) -> View:
        """Everything at one moment, for a decision; see View for what is passed on."""
        return View(
            settings=self.settings,
            devices=dict(self._devices),
            consumers=dict(self._consumers),
            leases=self._leases_by_device(),
            jobs=dict(self._jobs),
            now=now,
            evict_failed=evict_failed,
            wanted=wanted or {},
            may_overlap=may_overlap,
            host_available_mib=self._host_available_mib,
        )

    def _leases_by_device(self) -> dict[int, int]:
        """Lease slots in use.

        A lease that a consumer's own unit holds for as long as it runs takes none: it says that the consumer must not
        be evicted, not that it is at work, and would keep everybody else from the device for as long.
        """
        used: dict[int, int] = {}
        for lease in self._leases.values():
            state = self._consumers[lease.consumer]
            is_own = lease.lifetime is LeaseLifetime.UNIT and lease.owner.unit == state.spec.unit
            for device in () if is_own else state.devices:
                used[device] = used.get(device, 0) + 1
        return used

    # -- configuration and readings ------------------------------------------------------------------------------

    def configure(self, settings: SchedulerSettings, specs: Iterable[ConsumerSpec]) -> None:
        """Put a configuration in force. A consumer that is gone stays while it is claimed, so that its leases hold."""
        self.changes += 1
        self.settings = settings
        wanted = {spec.name: spec for spec in specs}
        for name, spec in wanted.items():
            old = self._consumers.get(name)
            pinned = spec.pinned if old is None or old.pinned == old.spec.pinned else old.pinned
            self._put(replace(old, spec=spec, pinned=pinned) if old else ConsumerState(spec, pinned=pinned))
        self.prune(wanted)

    def take_reading(self, reading: Reading, total_mib: int | None) -> None:
        """Note what the source showed.

        Args:
            reading: the reading; where it has no devices at all a placeholder stands in, so that consumers can be
                scheduled by declared footprints.
            total_mib: the configured size of device 0, for when the source cannot say.
        """
        samples = {sample.index: sample for sample in reading.devices} or {0: placeholder(total_mib, reading.error)}
        self._follow({sample.uuid: index for index, sample in samples.items() if sample.uuid})
        self._devices = {index: self._sized(sample, total_mib) for index, sample in samples.items()}
        self.changes += 1

    def note_host_ram(self, available_mib: int | None) -> None:
        """Note how much host RAM is available; None = unknown."""
        if available_mib != self._host_available_mib:
            self.changes += 1
            self._host_available_mib = available_mib

    def _follow(self, index_of: Mapping[str, int]) -> None:
        """A device is its UUID: where its index is another now, as after one before it was pulled, all moves along.

        What a job works on stays where the job is; it is located by its processes when the job is over.
        """
        moved = {
            index: index_of[sample.uuid]
            for index, sample in self._devices.items()
            if index_of.get(sample.uuid, index) != index
        }
        for state in list(self._consumers.values()) if moved else ():
            if not moved.keys().isdisjoint(state.devices) and not self._is_in_a_job(state.name):
                devices = tuple(sorted(moved.get(device, device) for device in state.devices))
                baseline_mib = {moved.get(device, device): mib for device, mib in state.baseline_mib.items()}
                self.update(state.name, devices=devices, baseline_mib=baseline_mib)
        for lease in list(self._leases.values()):
            self._follow_lease(lease, index_of)

    def _follow_lease(self, lease: Lease, index_of: Mapping[str, int]) -> None:
        """A lease from before our start says by UUID where its consumer is; else it is where its consumer is."""
        state = self._consumers[lease.consumer]
        known = len(lease.uuids) > 0 and index_of.keys() >= set(lease.uuids) and not self._is_in_a_job(state.name)
        devices = tuple(sorted(index_of[uuid] for uuid in lease.uuids)) if known else state.devices
        if devices != state.devices:
            self.update(state.name, devices=devices, baseline_mib={})
        text = devices_text(devices) or lease.device
        if text != lease.device:
            uuids = tuple(sorted(lease.uuids, key=lambda uuid: index_of.get(uuid, -1)))
            self._leases[lease.id] = replace(lease, device=text, uuids=uuids)

    def _sized(self, sample: Sample, total_mib: int | None) -> Sample:
        """With the device's size as far as anybody knows it: a card does not shrink when its driver fails."""
        if sample.total_mib is not None:
            return sample
        former = self._devices.get(sample.index)
        if former is not None and former.uuid and former.uuid == sample.uuid and former.total_mib is not None:
            return replace(sample, total_mib=former.total_mib)
        return replace(sample, total_mib=total_mib) if sample.index == 0 else sample

    def prune(self, configured: Iterable[str]) -> None:
        """Forget consumers that are no longer configured and that nothing holds any more."""
        wanted = set(configured)
        for name, state in list(self._consumers.items()):
            if name not in wanted and not state.claimed and not self._is_in_a_job(name):
                self.changes += 1
                del self._consumers[name]
                self._changed(name)

    def _is_in_a_job(self, name: str) -> bool:
        return any(name == job.consumer or name in job.evicting for job in self._jobs.values())

    # -- state of consumers --------------------------------------------------------------------------------------

    def update(self, name: str, **changes: Any) -> ConsumerState:
        """Change fields of a consumer's state."""
        state = self._consumers[name] = self._consumers[name].having(**changes)
        self.changes += 1
        if not UNTOLD.issuperset(changes):
            self._changed(name)
        return state

    def claim(self, name: str, devices: Devices, now: float) -> None:
        """Speak for a consumer's footprint on its devices: from here on it counts as used until live figures show it.

        One that is resident and was seen is in the figures already.
        """
        claim = self._claim(self._consumers[name], devices, now)
        if claim:
            self.update(name, **claim)

    def _claim(self, state: ConsumerState, devices: Devices, now: float) -> dict[str, Any]:
        """What a claim changes; nothing where its footprint is spoken for already."""
        if state.claimed:
            return {}
        shown = state.shown and state.residency is Residency.RESIDENT and state.devices in ((), devices)
        return {"devices": devices, "claimed_at": now, "baseline_mib": self._baseline_mib(devices), "shown": shown}

    def rebase(self, name: str) -> None:
        """Count a claim's growth from here on: what others held meanwhile is gone."""
        state = self._consumers[name]
        if state.devices:
            self.update(name, baseline_mib=self._baseline_mib(state.devices), shown=False)

    def _baseline_mib(self, devices: Devices) -> dict[int, int | None]:
        return {one: budget.unattributed_mib(self._devices[one]) for one in devices if one in self._devices}

    def unclaim(self, name: str, now: float) -> None:
        """Stop speaking for it, unless a lease, a load or a job still does, or its last request may still load it."""
        state = self._consumers[name]
        is_promised = any(job.consumer == name and name not in job.evicting for job in self._jobs.values())
        is_used = state.leases or state.residency is Residency.LOADING or is_promised
        if state.claimed and not is_used and not _may_still_load(state, now):
            self.update(name, claimed_at=None, baseline_mib={})

    # -- jobs ----------------------------------------------------------------------------------------------------

    def begin(self, job: Job) -> None:
        """Start a job on its devices, all of them at once; there must be none on any."""
        assert job.devices, "a job is somewhere"
        self.changes += 1
        for device in (*job.devices, *job.beside):
            assert device not in self._jobs, "one job at a time on a device"
            self._jobs[device] = job

    def replace_job(self, job: Job) -> None:
        """Note that a running job has got further, or reaches other devices beside its own."""
        former = self._jobs[job.devices[0]]
        assert (former.consumer, former.devices) == (job.consumer, job.devices)
        self._end(former)
        self.begin(job)

    def end(self, device: int) -> None:
        """The job on this device is over, on all of its devices."""
        self._end(self._jobs[device])

    def _end(self, job: Job) -> None:
        self.changes += 1
        for device in (*job.devices, *job.beside):
            del self._jobs[device]

    # -- leases --------------------------------------------------------------------------------------------------

    def add_lease(self, lease: Lease, devices: Devices, now: float) -> None:
        """Let a lease stand on a consumer."""
        self._leases[lease.id] = lease
        if lease.token:
            self._tokens[token_key(lease.owner, lease.lifetime, lease.token)] = lease.id
        state = self._consumers[lease.consumer]
        self.update(lease.consumer, leases=state.leases + 1, **self._claim(state, devices, now))

    def renew_lease(self, lease: Lease) -> None:
        """Put a lease with a new expiry in place of the one with the same id."""
        assert lease.id in self._leases
        self._leases[lease.id] = lease

    def remove_lease(self, lease_id: str, now: float, worked_usec: int) -> Lease:
        """End a lease; its consumer counts as used until this moment. Raises NoSuchLease."""
        lease = self.lease(lease_id)
        del self._leases[lease_id]
        key = token_key(lease.owner, lease.lifetime, lease.token)
        if self._tokens.get(key) == lease_id:
            del self._tokens[key]
        state = self._consumers[lease.consumer]
        self.update(lease.consumer, leases=state.leases - 1, worked_usec=worked_usec, idle_since=now)
        self.unclaim(lease.consumer, now)
        return lease

    def _put(self, state: ConsumerState) -> None:
        self.changes += 1
        self._consumers[state.name] = state
        self._changed(state.name)


def _may_still_load(state: ConsumerState, now: float) -> bool:
    """What was loaded, or asked to load, takes its memory when it pleases, also after its lease has ended.

    A lazy consumer loads on a request that its client sent, though the client has died meanwhile; a unit is active
    from its first moment on. Nobody tells when it is done, so its room is kept until it is seen, for a while at most.
    """
    is_pending = state.residency in (Residency.RESIDENT, Residency.UNKNOWN, Residency.PARKED) and not state.shown
    return is_pending and now < state.idle_since + LINGER_SEC


def placeholder(total_mib: int | None, error: str = "") -> Sample:
    """A device nobody could read, so that the rules have something to reckon with."""
    return Sample(
        index=0,
        uuid="",
        name="",
        source="none",
        total_mib=total_mib,
        used_mib=None,
        free_mib=None,
        error=error or "no device was read yet",
    )


def token_key(owner: Owner, lifetime: LeaseLifetime, token: str) -> TokenKey:
    """Who is the same owner: the user, and where a lease is bound to more than that, the connection or the unit's run.

    A script's second ``busctl call`` is another connection of the same user: for a ttl lease it is the same owner.
    """
    bus_name = owner.bus_name if lifetime is LeaseLifetime.CONNECTION else ""
    run = f"{owner.unit}/{owner.invocation_id}" if lifetime is LeaseLifetime.UNIT else ""
    return owner.uid, lifetime, bus_name, run, token
